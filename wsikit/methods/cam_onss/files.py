"""Folders of patches: which files are images, which are their masks, which split they are in, and what names say.

A folder holds images, or ``img/`` and ``mask/``; or it holds one such folder for each split (``train`` or ``training``,
``val``, ``valid`` or ``validation``, ``test``). Other folders, as those of pseudo masks, are left alone.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from wsikit.errors import ConfigError
from wsikit.methods.cam_onss.classes import ClassSchema, Dialect
from wsikit.training.images import SUFFIXES, image_paths
from wsikit.training.names import SPLITS
from wsikit.training.tables import refuse

CODE = "bad_patches"
IMAGES = ("img", "images")
MASKS = ("mask", "masks")
BRACKETS = re.compile(r"\[([^\[\]]*)\]")
FORMS: dict[Dialect, tuple[str, str]] = {
    "spaces": (r"[01]( [01])*", "[1 0 0 1]"),
    "joined": (r"[01]+", "[1001]"),
    "underscores": (r"[01](_[01])*|[01](, ?[01])*", "[1_0_0_1] or [1, 0, 0, 1]"),
    "any": (r"[01]([ ,_]*[01])*", "[1 0 0 1]"),
}
"""Dialect -> what stands between the brackets, and an example."""


@dataclass(frozen=True, slots=True)
class PatchFile:
    """One patch of a folder."""

    path: Path
    mask: Path | None
    split: str | None
    """train, validation or test; None where the folder says nothing."""


def patch_files(root: Path) -> list[PatchFile]:
    """All patches of a folder, split by split, by name.

    Raises:
        ConfigError: code bad_patches: no images; images beside folders of splits, or two folders of one split; two
            images whose names differ by no more than their folder or suffix (pseudo masks go by these names); a mask
            without an image.
    """
    found = [file for folder, split in _parts(root) for file in _of_folder(folder, split)]
    if not found:
        raise ConfigError(
            f"{root} holds no image ({', '.join(SUFFIXES)})",
            code=CODE,
            remedy=f"give the folder that holds the images, {IMAGES[0]}/, or one folder for each split",
        )
    seen: dict[str, PatchFile] = {}
    for file in found:
        other = seen.setdefault(file.path.stem, file)
        if other is not file:
            raise ConfigError(
                f"two images have the name {file.path.stem}: {other.path} and {file.path}",
                code=CODE,
                remedy="rename one, or take one out if it is the same patch: it would be learned and tested on",
            )
    return found


def _parts(root: Path) -> list[tuple[Path, str | None]]:
    """The folders of splits, in the order train, validation, test; else the folder itself."""
    found: dict[str, Path] = {}
    for folder in sorted(path for path in root.iterdir() if path.is_dir()):
        split = SPLITS.get(folder.name.lower())
        if split is not None and found.setdefault(split, folder) != folder:
            raise ConfigError(
                f"{root} has two folders of the split {split}: {found[split].name} and {folder.name}",
                code=CODE,
                remedy="move one of them elsewhere",
            )
    if not found:
        return [(root, None)]
    refuse(
        [path.name for path in image_paths(root)],
        f"images lie in {root} beside its folders {', '.join(folder.name for folder in found.values())}",
        "move them into the folder of their split",
        CODE,
    )
    return [(found[split], split) for split in dict.fromkeys(SPLITS.values()) if split in found]


def _of_folder(folder: Path, split: str | None) -> list[PatchFile]:
    images, masks = (_within(folder, names) for names in (IMAGES, MASKS))
    paths = image_paths(images or folder)
    known = {path.stem: path for path in (image_paths(masks) if masks else [])}
    found = [PatchFile(path, known.pop(path.stem, None) or known.pop(_bare(path.stem), None), split) for path in paths]
    refuse(
        [path.name for path in known.values()],
        f"masks of {masks} belong to no image in {images or folder}",
        "give a mask the name of its image, or move it elsewhere",
        CODE,
    )
    return found


def _within(folder: Path, names: tuple[str, ...]) -> Path | None:
    return next((folder / name for name in names if (folder / name).is_dir()), None)


def _bare(stem: str) -> str:
    """A name without its last brackets and what parts them from it."""
    matches = list(BRACKETS.finditer(stem))
    return stem[: matches[-1].start()].rstrip(" _-") if matches else stem


def label_in_name(path: Path, schema: ClassSchema) -> tuple[bool, ...] | None:
    """(K,) which classes the last brackets of a file name say to be present; None where it has no brackets.

    Raises:
        ConfigError: code bad_patches: what stands there is no label, is written in another data set's way, or has not
            one digit for each class.
    """
    matches = BRACKETS.findall(path.stem)
    if not matches:
        return None
    form, example = FORMS[schema.dialect]
    if re.fullmatch(form, matches[-1].strip()) is None:
        raise ConfigError(
            f"{path}: [{matches[-1]}] is no label of {schema.name}, which are written as {example}",
            code=CODE,
            remedy="choose the schema of this data set: the order of the classes may differ, too",
        )
    digits = re.findall("[01]", matches[-1])
    if len(digits) != len(schema.classes):
        raise ConfigError(
            f"{path}: [{matches[-1]}] has {len(digits)} digits, {schema.name} has {len(schema.classes)} classes, "
            f"{', '.join(schema.codes)}",
            code=CODE,
            remedy="choose the schema of this data set",
        )
    return tuple(digit == "1" for digit in digits)
