"""Splits are whole, disjoint, near their shares, and no patient is on two sides."""

from __future__ import annotations

import time
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsikit.errors import ConfigError
from wsikit.training.splits import SHARES, Member, split_members

NAMES = tuple(SHARES)


def members(*sizes: int, kind: str = "patient", **facts: Any) -> list[Member]:
    """One patient (or slide) for each size, with so many images."""
    owners = [f"p{number}" for number, size in enumerate(sizes) for _ in range(size)]
    return [Member(f"i{index}", **{kind: owner}, **facts) for index, owner in enumerate(owners)]


@given(
    st.lists(st.integers(1, 8), min_size=3, max_size=40), st.integers(0, 2**32), st.sampled_from(["patient", "slide"])
)
def test_each_member_is_in_one_split_and_no_owner_in_two(sizes: list[int], seed: int, kind: str) -> None:
    all_of_them = members(*sizes, kind=kind)
    splits = split_members(all_of_them, seed=seed)
    assert splits.grouped_by == kind
    found = [index for name in NAMES for index in splits.of(name)]
    assert sorted(found) == list(range(len(all_of_them)))
    sides = {(getattr(m, kind), split) for m, split in zip(all_of_them, splits.assigned, strict=True)}
    assert len(sides) == len(sizes)
    assert {split for _, split in sides} == set(NAMES)


@pytest.mark.parametrize("sizes", [(1, 1), (5, 3, 2, 1, 1)])
def test_a_share_of_0_is_no_split(sizes: tuple[int, ...]) -> None:
    for seed in range(5):
        splits = split_members(members(*sizes), {"train": 0.6, "validation": 0.4, "test": 0.0}, seed)
        assert set(splits.assigned) == {"train", "validation"}


def test_members_that_say_test_are_for_testing_though_its_share_is_0() -> None:
    said = [*members(1, 1, split="train"), Member("t", "p9", split="test")]
    shares = {"train": 0.6, "validation": 0.4, "test": 0.0}
    splits = split_members(said, shares)
    assert splits.of("test") == [2]
    assert not any("'test'" in warning for warning in split_members(said[:2], shares).warnings)


owner = st.one_of(st.none(), st.sampled_from("abcdefgh"))


@given(st.lists(st.tuples(owner, owner), min_size=30, max_size=60), st.integers(0, 1000))
def test_whatever_is_known_stays_together(owners: list[tuple[str | None, str | None]], seed: int) -> None:
    """Some say their patient, some their slide, some neither."""
    some = [Member(str(index), patient, slide) for index, (patient, slide) in enumerate(owners)]
    some += [Member(f"alone{index}") for index in range(3)]
    splits = split_members(some, seed=seed)
    for kind in ("patient", "slide"):
        sides = {(getattr(m, kind), split) for m, split in zip(some, splits.assigned, strict=True) if getattr(m, kind)}
        assert len(sides) == len({name for name, _ in sides})
    assert (splits.grouped_by, bool(splits.warnings)) == ("image", True)


@given(st.lists(st.integers(1, 5), min_size=60, max_size=120), st.integers(0, 1000))
def test_shares_are_close_where_groups_are_small(sizes: list[int], seed: int) -> None:
    splits = split_members(members(*sizes), seed=seed)
    for name, share in SHARES.items():
        assert abs(len(splits.of(name)) - share * sum(sizes)) <= max(sizes)
    assert splits.warnings == ()


@pytest.mark.parametrize("seed", range(5))
def test_shares_of_single_images_are_exact(seed: int) -> None:
    splits = split_members([Member(str(index)) for index in range(100)], seed=seed)
    assert [len(splits.of(name)) for name in NAMES] == [70, 15, 15]


def test_the_same_seed_gives_the_same_split_and_others_others() -> None:
    some = members(*[3, 5, 2, 8, 1] * 6)
    found = [split_members(some, seed=seed).assigned for seed in (0, 0, 1, 2, 3)]
    assert found[0] == found[1]
    assert len(set(found)) == 4


def test_large_patients_fall_to_small_splits_too() -> None:
    """Sorting by size alone would put the largest into train whatever the seed."""
    some = members(8, *[2] * 46)
    where = Counter(split_members(some, seed=seed).assigned[0] for seed in range(200))
    assert where["validation"] > 10
    assert where["test"] > 10
    assert where["train"] > 100


def test_members_of_one_name_stay_together() -> None:
    some = [Member(str(index % 20)) for index in range(40)]
    assigned = split_members(some).assigned
    assert assigned[:20] == assigned[20:]


def test_owners_that_are_chained_stay_together() -> None:
    chain = [Member("0", "a", "x"), Member("1", None, "x"), Member("2", None, "y"), Member("3", "a", "y"), Member("4")]
    rest = [Member(f"r{index}") for index in range(20)]
    for seed in range(10):
        assert len(set(split_members([*rest, *chain], seed=seed).assigned[20:24])) == 1


@pytest.mark.parametrize(
    ("some", "by", "said"),
    [
        (members(*[2] * 10), "patient", ()),
        (
            members(*[2] * 10, kind="slide"),
            "slide",
            ("no image says its patient", "slides of one patient may sit on both"),
        ),
        ([Member(str(i)) for i in range(20)], "image", ("no image says its patient", "fields of one patient may sit")),
        (
            [*members(*[2] * 9), Member("x"), Member("y")],
            "image",
            ("2 of 20 say no patient", "fields of one patient may sit"),
        ),
    ],
)
def test_what_is_not_known_is_warned_of(some: list[Member], by: str, said: tuple[str, ...]) -> None:
    splits = split_members(some)
    assert splits.grouped_by == by
    assert len(splits.warnings) == bool(said)
    assert all(part in splits.warnings[0] for part in said)


def test_a_split_far_from_its_share_is_warned_of() -> None:
    warnings = split_members(members(50, 1, 1)).warnings
    assert any("train has 96% of the images where 70% were asked for" in warning for warning in warnings)


@pytest.mark.parametrize("kind", ["patient", "slide"])
def test_a_given_split_that_shares_an_owner_is_refused(kind: str) -> None:
    some = [Member("a", **{kind: "p"}, split="train"), Member("b", **{kind: "p"}, split="test")]
    with pytest.raises(ConfigError, match=f"the {kind} 'p' stands in two splits: 'a' in train, 'b' in test") as caught:
        split_members(some)
    assert caught.value.code == "split_leak"


def test_a_given_split_is_kept() -> None:
    said = ["train", "test", "validation", "train", "test"]
    splits = split_members([Member(str(i), patient=str(i), split=split) for i, split in enumerate(said)])
    assert (list(splits.assigned), splits.grouped_by, splits.warnings) == (said, "given", ())


@pytest.mark.parametrize("seed", range(5))
def test_validation_is_carved_from_train_by_patient(seed: int) -> None:
    train, test = members(*[4] * 25, split="train"), [Member(f"t{i}", "other", split="test") for i in range(20)]
    splits = split_members([*train, *test], seed=seed)
    assert splits.of("test") == list(range(100, 120))
    assert abs(len(splits.of("validation")) - 100 * 0.15 / 0.85) <= 4
    sides = {(member.patient, split) for member, split in zip(train, splits.assigned, strict=False)}
    assert len(sides) == 25
    assert splits.grouped_by == "given"
    assert "images of train became it, by patient" in splits.warnings[0]


def test_a_given_split_without_a_test_is_warned_of() -> None:
    said = ["train", "validation"]
    splits = split_members([Member(split, split=split) for split in said])
    assert splits.warnings == ("no image is in the split 'test'",)
    assert splits.of("test") == []


@pytest.mark.parametrize(
    ("some", "said"),
    [
        ([Member("a", split="train"), Member("b")], "'b' is in the split 'none'"),
        (
            [Member("a", split="train"), Member("b", split="val")],
            "'b' is in the split 'val', of train, validation, test",
        ),
        ([Member("a", split="test")], "no image is in the split 'train'"),
        (members(5, 5), "2 groups of images cannot be split into train, validation, test"),
        ([], "0 groups"),
    ],
)
def test_what_cannot_be_split_is_refused(some: list[Member], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        split_members(some)


@pytest.mark.parametrize(
    "shares", [{"train": 0.7, "test": 0.2}, {"train": 1.2, "test": -0.2}, {"fit": 0.5, "test": 0.5}, {}]
)
def test_wrong_shares_are_refused(shares: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=r"shares are|one of the splits"):
        split_members(members(1, 1, 1, 1), shares)


def test_shares_may_have_two_splits() -> None:
    splits = split_members([Member(str(i)) for i in range(70)], {"train": 0.8, "test": 0.2})
    assert (len(splits.of("train")), len(splits.of("test"))) == (56, 14)


def test_the_record_says_how_it_was_split() -> None:
    record = split_members(members(*[1] * 20)).record
    assert record == {"grouped_by": "patient", "sizes": {"train": 14, "validation": 3, "test": 3}, "warnings": []}


@pytest.mark.parametrize("known", [1, 2])
def test_many_images_of_few_patients_are_fast(known: int) -> None:
    """Where only every second says its patient, images are joined one by one."""
    some = [Member(str(index), f"p{index % 18}" if index % known == 0 else None) for index in range(20_000)]
    before = time.process_time()
    split_members(some)
    assert time.process_time() - before < 3
