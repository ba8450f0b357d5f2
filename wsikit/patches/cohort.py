"""Datasets of many slides: labels and splits by slide or patient, and bags of patches.

What would make a result worthless is refused when a dataset is opened, as for bags of features (``wsikit.bags``): a
patient whose slides stand in two splits, a bag with two labels, patches of different sizes or resolutions side by side.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from wsikit.annotations.points import delimiter_of
from wsikit.bags import MPP_SPREAD
from wsikit.errors import ConfigError
from wsikit.geometry import Region
from wsikit.patches import PatchSet, PatchSource
from wsikit.predictions import Bag, Batch, Encoder
from wsikit.slides import Pixels

SLIDE_COLUMNS = ("slide_id", "sample_id")
PATIENT_COLUMNS = ("patient", "patient_id", "case_id")
"""What tables call slides and patients (case_id: CLAM)."""


@dataclass(frozen=True, slots=True)
class SlideLabels:
    """What is said of one slide of a dataset: a ``wsikit.bags.SlideRow``."""

    slide_id: str
    patient: str | None
    split: str | None
    label: str | None
    part_of: str | None = None


class LabelTable:
    """A CSV of labels and splits with one row for each slide or for each patient; separated as ``delimiter_of`` says.

    Args:
        path: columns ``slide_id`` (or sample_id), else ``patient`` (or patient_id, case_id), and any others.

    Raises:
        ConfigError: it cannot be read, has neither column, or says two things of one slide or patient.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        try:
            text = self.path.read_bytes().decode("utf-8-sig")
            reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter_of(self.path, text))
            self.columns = tuple(reader.fieldnames or ())
            rows = [{key: (value or "").strip() or None for key, value in row.items() if key} for row in reader]
        except (OSError, ValueError, csv.Error, AttributeError) as error:
            raise ConfigError(f"the table {path} cannot be read: {error}") from error
        self.slide = next((name for name in self.columns if name.lower() in SLIDE_COLUMNS), None)
        self.patient = next((name for name in self.columns if name.lower() in PATIENT_COLUMNS), None)
        self.key = self.slide or self.patient
        if self.key is None:
            raise ConfigError(
                f"the table {path} names neither slides nor patients; it has {', '.join(self.columns) or 'no columns'}",
                remedy=f"one column is {', '.join((*SLIDE_COLUMNS, *PATIENT_COLUMNS))}",
            )
        self._rows: dict[str, dict[str, str | None]] = {}
        for row in rows:
            name = row.get(self.key)
            if name is not None and self._rows.setdefault(name, row) != row:
                raise ConfigError(f"the table {path} says two things of {name!r}")

    def of(self, patches: PatchSet) -> Mapping[str, str | None]:
        """The row of a slide. Raises ConfigError (code unlisted_slide) where there is none."""
        name = patches.slide_id if self.slide else patches.patient
        row = self._rows.get(name) if name is not None else None
        if row is None:
            what = f"slide {patches.slide_id!r}" + ("" if self.slide else f" (patient {patches.patient!r})")
            raise ConfigError(
                f"the table {self.path} has no row for the {what}",
                code="unlisted_slide",
                remedy=f"add it, the column is {self.key}; or open only the slides that are meant",
            )
        return row


def slide_labels(
    sources: Sequence[PatchSource], *, label: str = "label", split: str = "split", table: str | Path | None = None
) -> list[SlideLabels]:
    """Patient, split and label of every source.

    Args:
        sources: one for each slide.
        label: column of the label, in the table or, where that has none, in the dataset.
        split: column of the split, likewise.
        table: a CSV, see ``LabelTable``.

    Raises:
        ConfigError: a broken table, a slide without a row, or a column that was asked for and is nowhere.
    """
    found = LabelTable(table) if table is not None else None
    columns = set(found.columns if found else ())
    for name, default in ((label, "label"), (split, "split")):
        if name not in columns and name != default and not all(name in s.patches.columns for s in sources):
            raise ConfigError(f"neither the dataset nor the table has a column {name!r}")
    labels = []
    for source in sources:
        patches, row = source.patches, found.of(source.patches) if found else {}
        own = {**patches.columns, "label": patches.label, "split": patches.split}
        said = {name: row.get(name) if name in columns else own.get(name) or None for name in (label, split)}
        patient = row.get(found.patient) if found and found.patient else patches.patient
        labels.append(SlideLabels(patches.slide_id, patient, said[split], said[label]))
    return labels


def refuse_mixtures(sources: Sequence[PatchSource]) -> None:
    """Raise ConfigError (code mixed_patches) where patches differ in size or, by more than 15 %, in resolution."""
    sets = [source.patches for source in sources]
    finest, coarsest = min(sets, key=lambda s: s.mpp), max(sets, key=lambda s: s.mpp)
    smallest, largest = min(sets, key=lambda s: s.patch), max(sets, key=lambda s: s.patch)
    if smallest.patch != largest.patch or coarsest.mpp > MPP_SPREAD * finest.mpp:
        one, two = (smallest, largest) if smallest.patch != largest.patch else (finest, coarsest)
        raise ConfigError(
            f"{one.slide_id!r} has patches of {one.patch} px at {one.mpp:.4g} um/px, {two.slide_id!r} has some of "
            f"{two.patch} px at {two.mpp:.4g} um/px",
            code="mixed_patches",
            remedy="make the patches of all slides with one --size and one --mpp",
        )


@dataclass(frozen=True, slots=True)
class Images(Sequence[Pixels]):
    """The images of some sources, one after another, read when they are asked for."""

    sources: tuple[PatchSource, ...]

    def __len__(self) -> int:
        return sum(map(len, self.sources))

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(f"there are {len(self)} patches, {index} was asked for")
        index %= len(self)
        for source in self.sources:
            if index < len(source):
                return source.read(index)
            index -= len(source)
        raise AssertionError("unreachable")


@dataclass(frozen=True, slots=True)
class PatchBag:
    """The patches of one slide or patient and their one weak label: a ``Bag`` whose features are images yet."""

    name: str
    """Slide or patient."""
    images: Images
    """N patches, (H, W, 3) uint8, read when they are asked for."""
    label: int | None = None
    """Index of the bag's label, or None where it is unknown."""

    def __len__(self) -> int:
        return len(self.images)

    @property
    def regions(self) -> tuple[Region, ...]:
        """N regions, each on the lattice of its own slide."""
        return tuple(
            Region(x, y, source.patches.patch, source.patches.patch, source.patches.mpp)
            for source in self.images.sources
            for x, y in source.corners.tolist()
        )

    @property
    def slides(self) -> tuple[str, ...]:
        """The slide of each of the N patches."""
        return tuple(source.patches.slide_id for source in self.images.sources for _ in range(len(source)))

    def batches(self, batch_size: int = 64) -> Iterator[Batch]:
        """All patches in order. Memory holds one batch."""
        regions = self.regions
        for start in range(0, len(self), batch_size):
            yield Batch(np.stack(self.images[start : start + batch_size]), regions[start : start + batch_size])

    def embedded(self, encoder: Encoder, batch_size: int = 64) -> Bag:
        """The bag of features for weakly supervised learning.

        Args:
            encoder: as its ``prepare`` returned it, where it binds something to a slide.
            batch_size: patches that are encoded at once.
        """
        features = [np.empty((0, encoder.width), np.float32), *map(encoder.embed, self.batches(batch_size))]
        return Bag(self.name, np.concatenate(features), self.regions, self.label, self.slides)
