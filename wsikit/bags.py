"""Bags of patch features for weakly supervised learning: one per slide or per patient, from the files of an embed run.

Features stay on disk until a bag is asked for. What would make a result worthless is refused when the bags are listed:
a patient whose slides stand in two splits, a patient with two labels, vectors of different encoders side by side.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

from wsikit.errors import ConfigError
from wsikit.geometry import Region
from wsikit.predictions import Bag

FILES = ("features.zarr", "features.h5")
"""What an embed run writes, in the order of preference: both hold the same."""
MPP_SPREAD = 1.15
"""Largest ratio of two slides' mpp in one set: for one wish, levels from 2 % finer to 10 % coarser are read as is."""


class SlideRow(Protocol):
    """What a manifest says of a slide; ``wsikit.find_slides`` gives these."""

    @property
    def slide_id(self) -> str:
        """Folder of the slide in the run's output."""
        ...

    @property
    def patient(self) -> str | None:
        """Who the slide is of."""
        ...

    @property
    def split(self) -> str | None:
        """Which part of the data it belongs to: train, validation, test, or a fold."""
        ...

    @property
    def label(self) -> str | None:
        """The one weak label."""
        ...

    @property
    def part_of(self) -> str | None:
        """Another row's slide that this file is only a part of."""
        ...


Row = TypeVar("Row", bound=SlideRow)


@dataclass(frozen=True, slots=True)
class FeatureFile:
    """The patch features of one slide on disk."""

    slide_id: str
    path: Path
    attributes: Mapping[str, Any] = field(repr=False)
    """What ``wsikit embed`` wrote beside them: encoder, mpp, patch, and so on."""

    @classmethod
    def of(cls, out: Path, slide_id: str) -> FeatureFile:
        """Find and open what an embed run wrote of a slide.

        Raises:
            ConfigError: there is none (code no_features), or it is no whole file of wsikit's.
        """
        folder = out / slide_id
        path = next((folder / name for name in FILES if (folder / name).exists()), None)
        if path is None:
            raise ConfigError(
                f"the slide {slide_id!r} has no features in {out}: neither {' nor '.join(FILES)} is in its folder",
                code="no_features",
                remedy="run `wsikit embed` with the same manifest; summary.csv says which slides failed and why",
            )
        return cls(slide_id, path, _attributes(path))

    def read(self) -> tuple[NDArray[np.float32], tuple[Region, ...]]:
        """(N, D) features and the N regions that they are of."""
        features, corners = _arrays(self.path)
        side, mpp = int(self.attributes["patch"]), float(self.attributes["mpp"])
        return features, tuple(Region(x, y, side, side, mpp) for x, y in corners.tolist())


def _attributes(path: Path) -> dict[str, Any]:
    try:
        if path.suffix == ".h5":
            import h5py

            with h5py.File(path) as file:
                attributes: dict[str, Any] = json.loads(file.attrs["wsikit"])
        else:
            import zarr

            attributes = dict(zarr.open_group(path, mode="r").attrs)
    except (OSError, KeyError, ValueError) as error:
        raise ConfigError(f"{path} is no file of features that wsikit wrote: {error}", code="no_features") from error
    lacking = {"encoder", "mpp", "patch"} - set(attributes)
    if lacking:
        raise ConfigError(f"{path} does not say its {', '.join(sorted(lacking))}", code="no_features")
    return attributes


def _arrays(path: Path) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    if path.suffix == ".h5":
        import h5py

        with h5py.File(path) as file:
            return file["features"][:], file["corners"][:]
    import zarr

    group: Any = zarr.open_group(path, mode="r")
    return group["features"][:], group["corners"][:]


@dataclass(frozen=True, slots=True)
class Bags(Sequence[Bag]):
    """Bags that are read when they are asked for. Made by ``load_bags``."""

    names: tuple[str, ...]
    """Slide or patient of each bag."""
    files: tuple[tuple[FeatureFile, ...], ...]
    """The slides of each bag."""
    targets: tuple[int | None, ...]
    """Label of each bag, an index into ``labels``."""
    labels: tuple[str, ...]
    """Names of the labels."""

    def __len__(self) -> int:
        return len(self.names)

    @overload
    def __getitem__(self, index: int) -> Bag: ...
    @overload
    def __getitem__(self, index: slice) -> Bags: ...
    def __getitem__(self, index: int | slice) -> Bag | Bags:
        if isinstance(index, slice):
            return Bags(self.names[index], self.files[index], self.targets[index], self.labels)
        parts = [(file, *file.read()) for file in self.files[index]]
        return Bag(
            self.names[index],
            np.concatenate([features for _, features, _ in parts]),
            tuple(region for _, _, regions in parts for region in regions),
            self.targets[index],
            tuple(file.slide_id for file, _, regions in parts for _ in regions),
        )

    @property
    def encoder(self) -> Mapping[str, Any]:
        """What the vectors come from: the encoder's name and identity, mpp, patch and overlap."""
        attributes = self.files[0][0].attributes
        return {key: attributes[key] for key in ("encoder", "mpp", "patch")} | {"overlap": attributes.get("overlap", 0)}


def load_bags(
    out: str | Path,
    rows: Iterable[SlideRow],
    *,
    by: Literal["slide", "patient"] = "slide",
    split: str | None = None,
    labels: Sequence[str] | None = None,
) -> Bags:
    """The bags of an embed run.

    Args:
        out: the folder that ``wsikit embed -o`` wrote.
        rows: what the manifest says, from ``wsikit.find_slides(manifest)``; the same manifest gives the same slide ids.
        by: what makes a bag. The bag of a patient holds the patches of all their slides.
        split: only the bags of this split; all of them if not given.
        labels: names of the labels in their order; those of the manifest, sorted, if not given.

    Raises:
        ConfigError: a patient in two splits (code split_leak) or with two labels, a missing column, an unknown split or
            label, a slide without features (no_features), vectors that do not belong together (mixed_features).
    """
    listed = [row for row in rows if row.part_of is None]
    refuse_leaks(listed)
    names = tuple(labels) if labels is not None else tuple(sorted({row.label for row in listed if row.label}))
    groups: dict[str, list[SlideRow]] = {}
    for row in of_split(listed, split):
        groups.setdefault(owner_of(row, by), []).append(row)
    targets = tuple(target_of(name, group, names) for name, group in groups.items())
    files = tuple(tuple(FeatureFile.of(Path(out), row.slide_id) for row in group) for group in groups.values())
    _refuse_mixtures([file for group in files for file in group])
    return Bags(tuple(groups), files, targets, names)


def refuse_leaks(rows: Sequence[SlideRow]) -> None:
    """Raise ConfigError (code split_leak) where slides of one patient stand in two splits."""
    first: dict[str, SlideRow] = {}
    for row in rows:
        if row.patient is None:
            continue
        other = first.setdefault(row.patient, row)
        if other.split != row.split:
            raise ConfigError(
                f"the patient {row.patient!r} stands in two splits: {other.slide_id!r} in {other.split or 'none'}, "
                f"{row.slide_id!r} in {row.split or 'none'}",
                code="split_leak",
                remedy="give all slides of a patient the same split: a model would be tested on whom it has seen",
            )


def of_split(rows: Sequence[Row], split: str | None) -> list[Row]:
    """The rows of a split, all where None is asked for. Raises ConfigError where it has none."""
    if split is None:
        return list(rows)
    found = [row for row in rows if row.split == split]
    if not found:
        known = ", ".join(sorted({row.split for row in rows if row.split})) or "none: it needs a column split"
        raise ConfigError(f"no slide is in the split {split!r}; the manifest has {known}")
    return found


def owner_of(row: SlideRow, by: str) -> str:
    """Whose bag a slide belongs to, ``by`` slide or patient. Raises ConfigError where the patient is not known."""
    if by not in {"slide", "patient"}:
        raise ConfigError(f"bags are made by slide or by patient, got {by!r}")
    if by == "slide":
        return row.slide_id
    if not row.patient:
        raise ConfigError(
            f"the slide {row.slide_id!r} has no patient",
            remedy='fill the column patient of the manifest, or make bags by="slide"',
        )
    return row.patient


def target_of(name: str, rows: Sequence[SlideRow], labels: Sequence[str]) -> int | None:
    """Index of the one label of a bag, None where it has none. Raises ConfigError for two labels or an unknown one."""
    found = sorted({row.label or "none" for row in rows})
    if len(found) > 1:
        raise ConfigError(
            f"{name!r} has slides of different labels: {', '.join(found)}",
            remedy="a bag has one label: mend the manifest",
        )
    label = rows[0].label
    if label is not None and label not in labels:
        raise ConfigError(f"{name!r} has the label {label!r}; the labels are {', '.join(labels)}")
    return None if label is None else list(labels).index(label)


def _refuse_mixtures(files: Sequence[FeatureFile]) -> None:
    """Vectors of different encoders, patches or resolutions live in different spaces."""
    if not files:
        raise ConfigError("there is no slide to make bags of")
    first = files[0]
    for file in files:
        for key in ("encoder", "patch", "overlap"):
            one, two = first.attributes.get(key), file.attributes.get(key)
            if one != two:
                raise ConfigError(
                    f"{first.slide_id!r} and {file.slide_id!r} were embedded differently: {key} {_differing(one, two)}",
                    code="mixed_features",
                    remedy="embed all slides with one command into one folder",
                )
    scales = {float(file.attributes["mpp"]): file.slide_id for file in files}
    if max(scales) > MPP_SPREAD * min(scales):
        raise ConfigError(
            f"{scales[min(scales)]!r} was embedded at {min(scales):.4g} um/px, {scales[max(scales)]!r} at "
            f"{max(scales):.4g}: features of such different resolutions do not mix",
            code="mixed_features",
            remedy="embed all slides at one --mpp",
        )


def _differing(one: Any, two: Any) -> str:
    """Two values, or of two mappings the entries that differ."""
    if isinstance(one, Mapping) and isinstance(two, Mapping):
        keys = [key for key in {**one, **two} if one.get(key) != two.get(key)]
        one, two = {key: one.get(key) for key in keys}, {key: two.get(key) for key in keys}
    return f"{one} and {two}"
