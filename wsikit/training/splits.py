"""Which images train a model, which choose its epoch, and which measure it: never two that share a patient."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from wsikit.errors import ConfigError
from wsikit.training.images import TrainingImage

SHARES: Mapping[str, float] = {"train": 0.7, "validation": 0.15, "test": 0.15}
"""Split -> share of the members."""
SHARE_TOLERANCE = 0.1
"""A split whose share differs by more from what was asked for is worth a warning."""
GroupedBy = Literal["patient", "slide", "image", "given"]


@dataclass(frozen=True, slots=True)
class Member:
    """One image of a data set."""

    name: str
    patient: str | None = None
    slide: str | None = None
    split: str | None = None
    """Where the data set says it itself."""


@dataclass(frozen=True, slots=True)
class Splits:
    """Where each member went. Made by ``split_members``."""

    assigned: tuple[str, ...]
    """Split of each member, in their order."""
    grouped_by: GroupedBy
    """What was kept together: patients, slides, or nothing but the image; given where the data set said it."""
    warnings: tuple[str, ...] = ()
    """What a reader of the figures must know, a sentence each."""

    def of(self, name: str) -> list[int]:
        """Indices of the members in a split, rising; none where no member is in it."""
        return [index for index, split in enumerate(self.assigned) if split == name]

    @property
    def record(self) -> dict[str, Any]:
        """For the card of a model: how it was split, how many went where, the warnings."""
        sizes = {name: self.assigned.count(name) for name in dict.fromkeys(self.assigned)}
        return {"grouped_by": self.grouped_by, "sizes": sizes, "warnings": list(self.warnings)}


def split_members(members: Sequence[Member], shares: Mapping[str, float] = SHARES, seed: int = 0) -> Splits:
    """Deal members out to splits, or check the splits that they say.

    By patient where every member has one, else by slide, else by image; where only some say their patient or slide,
    what shares one stays together all the same. The same members, shares and seed give the same splits.

    Args:
        members: the images, all with a split of their own or none.
        shares: split -> share of the members, together 1. A split with a share of 0 has those members that say it, or
            none; train's is above 0.
        seed: of the shuffle, from 0.

    Raises:
        ConfigError: a given split that shares a patient or slide with another (code split_leak), that not all members
            have or that is not among the shares; shares that do not add up; fewer groups than splits.
    """
    _check_shares(shares)
    by, warnings = _grouping(members)
    if not any(member.split for member in members):
        wanted = {name: share for name, share in shares.items() if share}
        assigned = _deal(_groups(members, by), wanted, seed)
        return Splits(assigned, by, (*warnings, *_far_off(assigned, shares)))
    given = _given(members, shares)
    lacking = tuple(
        f"no image is in the split {name!r}"
        for name, share in shares.items()
        if share and name not in {*given, "validation"}
    )
    if "validation" in given or "validation" not in shares:
        return Splits(given, "given", lacking)
    carved, said = _carved(members, given, shares, seed)
    return Splits(carved, "given", (*said, *lacking))


def split_images(images: Sequence[TrainingImage], *, validation: float, test: float, seed: int) -> Splits:
    """Of images with these shares for validation and test, the rest for training; see ``split_members``."""
    shares = {"train": 1 - validation - test, "validation": validation, "test": test}
    return split_members([Member(one.name, one.patient, one.slide, one.split) for one in images], shares, seed)


def _check_shares(shares: Mapping[str, float]) -> None:
    if not shares.get("train", 0) > 0:
        raise ConfigError(f"one of the splits is 'train', with a share above 0, got {dict(shares)}")
    if not all(share >= 0 for share in shares.values()) or not math.isclose(sum(shares.values()), 1, abs_tol=1e-6):
        raise ConfigError(f"shares are 0 or more and 1 together, got {dict(shares)}")


def _grouping(members: Sequence[Member]) -> tuple[Literal["patient", "slide", "image"], tuple[str, ...]]:
    """What all members say of themselves, and what to warn of."""
    without = sum(not member.patient for member in members)
    if not without:
        return "patient", ()
    whose = "no image says its patient" if without == len(members) else f"{without} of {len(members)} say no patient"
    if all(member.slide for member in members):
        return "slide", (
            f"split by slide, since {whose}: slides of one patient may sit on both sides, and figures be too good",
        )
    return "image", (
        f"split by image, since {whose}, nor all a slide: fields of one patient may sit on both sides, and figures be "
        "too good",
    )


def _groups(members: Sequence[Member], by: str) -> list[list[int]]:
    """Members that stay together, in the order of their first ones.

    By slide or image, members who share any of patient, slide and name are joined, and those joined to these in turn.
    """
    above: dict[tuple[str, str], tuple[str, str]] = {}

    def top(key: tuple[str, str]) -> tuple[str, str]:
        while above.setdefault(key, key) != key:
            above[key] = key = above[above[key]]
        return key

    firsts = []
    for member in members:
        known = [("patient", member.patient), ("slide", member.slide), ("image", member.name)]
        keys = [(kind, value) for kind, value in known[: 1 if by == "patient" else 3] if value]
        firsts.append(keys[0])
        for key in keys:
            above[top(key)] = top(keys[0])
    groups: dict[tuple[str, str], list[int]] = {}
    for index, key in enumerate(firsts):
        groups.setdefault(top(key), []).append(index)
    return list(groups.values())


def _deal(groups: Sequence[list[int]], shares: Mapping[str, float], seed: int) -> tuple[str, ...]:
    """Large groups first, each to a split that has room for it, the likelier the more room it has.

    Where none has, to the one with the most; the last groups go to splits that have nothing yet. So no split is
    larger than its share by as much as the last group put there, and large groups may fall to any that can hold them.
    """
    names = list(shares)
    if len(groups) < len(names):
        raise ConfigError(
            f"{len(groups)} groups of images cannot be split into {', '.join(names)}",
            remedy="give more patients, slides or images, or fewer splits",
        )
    generator = np.random.default_rng(seed)
    total = sum(map(len, groups))
    room = np.array([shares[name] * total for name in names])
    placed, filled = dict[int, int](), set[int]()
    order = [groups[i] for i in generator.permutation(len(groups))]
    for done, group in enumerate(sorted(order, key=len, reverse=True)):
        empty = np.isin(np.arange(len(names)), list(filled), invert=True)
        allowed = empty if len(groups) - done <= empty.sum() else np.ones(len(names), bool)
        fits = allowed & (room >= len(group))
        chance = np.where(fits, room, 0) if fits.any() else np.where(allowed & (room == room[allowed].max()), 1.0, 0)
        split = int(generator.choice(len(names), p=chance / chance.sum()))
        room[split] -= len(group)
        filled.add(split)
        placed.update(dict.fromkeys(group, split))
    return tuple(names[placed[index]] for index in range(total))


def _far_off(assigned: Sequence[str], shares: Mapping[str, float]) -> tuple[str, ...]:
    """A warning for each split whose share is far from what was asked for."""
    found = {name: assigned.count(name) / len(assigned) for name in shares}
    return tuple(
        f"{name} has {found[name]:.0%} of the images where {share:.0%} were asked for: its groups are large"
        for name, share in shares.items()
        if abs(found[name] - share) > SHARE_TOLERANCE
    )


def _given(members: Sequence[Member], shares: Mapping[str, float]) -> tuple[str, ...]:
    """The splits that members say, checked."""
    for member in members:
        if member.split not in shares:
            raise ConfigError(
                f"the image {member.name!r} is in the split {member.split or 'none'!r}, of {', '.join(shares)}",
                remedy="fill the column split for every image, or leave it out",
            )
    for kind in ("patient", "slide"):
        _refuse_shared(members, kind)
    said = tuple(str(member.split) for member in members)
    if "train" not in said:
        raise ConfigError("no image is in the split 'train'", remedy="fill the column split, or leave it out")
    return said


def _refuse_shared(members: Sequence[Member], kind: str) -> None:
    """As ``wsikit.bags.refuse_leaks``, for slides as for patients."""
    first: dict[str, Member] = {}
    for member in members:
        owner = getattr(member, kind)
        other = first.setdefault(owner, member) if owner else member
        if other.split != member.split:
            raise ConfigError(
                f"the {kind} {owner!r} stands in two splits: {other.name!r} in {other.split}, {member.name!r} in "
                f"{member.split}",
                code="split_leak",
                remedy=f"give all images of a {kind} the same split: a model would be tested on what it has seen",
            )


def _carved(
    members: Sequence[Member], given: tuple[str, ...], shares: Mapping[str, float], seed: int
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Given splits with one for validation taken from train, since a test split must not choose the epoch; warnings."""
    inside = [index for index, split in enumerate(given) if split == "train"]
    ours = [members[index] for index in inside]
    by, warnings = _grouping(ours)
    both = shares["train"] + shares["validation"]
    dealt = _deal(_groups(ours, by), {name: shares[name] / both for name in ("train", "validation")}, seed)
    said = f"no validation split was given: {dealt.count('validation')} images of train became it, by {by}"
    moved = dict(zip(inside, dealt, strict=True))
    return tuple(moved.get(index, split) for index, split in enumerate(given)), (said, *warnings)
