"""The lists of the MO layout: ``train_val_test.json``, {"train": [...], "val": [...], "test": [...]}, names of images
with or without their suffix."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from wsikit.errors import ConfigError
from wsikit.methods.points.images import CODE
from wsikit.training.names import SPLITS

LISTS = "train_val_test.json"
POINTS, INSTANCES = ("labels_point", "labels_points"), ("labels_instance", "labels_instances")


def is_mo(folder: Path) -> bool:
    """Whether a folder has what only this layout has."""
    return (folder / LISTS).is_file() or any((folder / name).is_dir() for name in (*POINTS, *INSTANCES))


def splits_of(folder: Path, files: Sequence[Path]) -> dict[Path, str] | None:
    """Image file -> split, for the images of the lists; None where there are no lists.

    Raises ConfigError (code bad_points): no lists of names by split, a name without an image, or an image twice.
    """
    path = folder / LISTS
    if not path.is_file():
        return None
    known = {name: file for file in files for name in (file.stem, file.name)}
    found: dict[Path, str] = {}
    for split, names in _lists(path).items():
        for name in names:
            if name not in known:
                raise ConfigError(
                    f"{path} names {name!r} for {split}, and there is no such image in {files[0].parent}",
                    code=CODE,
                    remedy="copy the image, or take its name out",
                )
            if found.setdefault(known[name], split) != split:
                raise ConfigError(
                    f"{path} has {name!r} in the lists of {found[known[name]]} and {split}",
                    code=CODE,
                    remedy="take it out of one: a model would be tested on what it has seen",
                )
    return found


def _lists(path: Path) -> dict[str, list[str]]:
    """Split -> names."""
    try:
        said = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} is no JSON that can be read: {error}", code=CODE, remedy="copy it again") from error
    lists = said.items() if isinstance(said, dict) else ()
    if not lists or not all(key in SPLITS and _names(names) for key, names in lists):
        raise ConfigError(
            f"{path} holds no lists of names by split",
            code=CODE,
            remedy='write {"train": ["a.png", ...], "val": [...], "test": [...]}',
        )
    return {SPLITS[key]: names for key, names in lists}


def _names(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)
