"""Which images train a model, which choose its epoch, and which measure it: never two that share a patient."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from wsikit.errors import ConfigError

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
        shares: split -> share of the members, above 0, together 1.
        seed: of the shuffle, from 0.

    Raises:
        ConfigError: a given split that shares a patient or slide with another (code split_leak), that not all members
            have or that is not among the shares; shares that do not add up; fewer groups than splits.
    """
    raise NotImplementedError
