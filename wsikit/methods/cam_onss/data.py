"""Patches with labels: which classes are in a patch, and nothing on where they lie.

Labels come from a table where one is given, else from file names (the last brackets, in the way of the data set), else,
for patches that have a mask and no label, from the mask. Every patch has a label and every label a patch; what lacks
the other is an error. Masks are for scoring and for choosing the epoch: nothing is learned from them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from wsikit.errors import ConfigError
from wsikit.methods.cam_onss.classes import ClassSchema
from wsikit.methods.cam_onss.files import CODE, PatchFile, label_in_name, patch_files
from wsikit.methods.cam_onss.masks import Mask, check_size, read_mask
from wsikit.methods.cam_onss.tables import Row, read_rows
from wsikit.training.images import ImageFile, ImageSet, TrainingImage, kept_where_small, other_mpp
from wsikit.training.names import barcode
from wsikit.training.tables import SHOWN, refuse, rows_of_files

__all__ = ["LabelledPatch", "PatchData", "read_patches"]


@dataclass(frozen=True, eq=False, kw_only=True)
class LabelledPatch(TrainingImage):
    """One patch and the classes in it."""

    present: tuple[bool, ...]
    """(K,) which classes are somewhere in it, at least one."""
    schema: ClassSchema = field(repr=False)
    truth: Path | None = field(default=None, repr=False)
    """Its mask, if there is one."""

    def mask(self) -> Mask | None:
        """(H, W) uint8 indices of ``schema.colours``; None where there is no mask. Raises ConfigError (bad_mask)."""
        return None if self.truth is None else read_mask(self.truth, self.schema, self.source.size)


@dataclass(frozen=True, eq=False)
class PatchData(ImageSet[LabelledPatch]):
    """Labelled patches, at least one. Made by ``read_patches``."""

    def said(self) -> list[tuple[object, ...]]:
        """Schema, names, labels, groups and splits, and the files of masks."""
        classes = self[0].schema.model_dump_json()
        return [
            (one.name, one.present, one.patient, one.slide, one.split, one.truth and _sha256(one.truth), classes)
            for one in self
        ]


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def read_patches(
    path: str | Path | None, schema: ClassSchema, *, labels: str | Path | None = None, mpp: float | None = None
) -> PatchData:
    """All patches of a data set, with their labels; pixels and masks are read when they are asked for.

    Args:
        path: a folder as ``wsikit.methods.cam_onss.files`` knows them, or a table in the folder of its images.
        schema: the classes.
        labels: a table, where labels are not in the names: the column image (file name, or path from the folder; the
            suffix may be left out), and one column of 0 and 1 for each class, or ``labels`` with codes; and patient,
            slide, split where they are known.
        mpp: um per px that the patches are meant to have; a file that says another is warned of.

    Raises:
        ConfigError: code bad_patches: nothing there, a patch without a label or a label without a patch, a label that
            names no class or that the schema does not have, names or folders that contradict one another; code
            bad_mask: a mask of another size than its image, or, where it is read for its label, that is none.
        SlideOpenError: a file that is no 8-bit colour image, or is unreadable.
        AnnotationError: a table that cannot be read.
    """
    root, table = _found(path, labels)
    files = patch_files(root)
    opened = {file.path: ImageFile.open(file.path) for file in files}
    for file in files:
        if file.mask is not None:
            check_size(file.mask, opened[file.path][0].size)
    rows = _table_rows(table, files, root, schema) if table else _name_rows(files, schema)
    patches = [_labelled(file, opened[file.path][0], rows[file.path], schema) for file in files if file.path in rows]
    without = [file.path.name for file in files if file.path not in rows]
    warnings = other_mpp({path.name: own for path, (_, own) in opened.items() if own is not None}, mpp)
    if not patches:
        raise _no_class(f"every patch of {root}")
    if without:
        listed = ", ".join(without[:SHOWN]) + (", ..." if len(without) > SHOWN else "")
        warnings.append(f"{len(without)} patches were left out, since their masks hold no class: {listed}")
    return PatchData(kept_where_small(patches), "table" if table else "names", (*warnings, *_odd(patches)))


def _found(path: str | Path | None, labels: str | Path | None) -> tuple[Path, Path | None]:
    """The folder and the table, which exist."""
    if path is None:
        raise ConfigError("no data is given", code=CODE, remedy="data=FOLDER")
    root, table = Path(path), Path(labels) if labels is not None else None
    for given in (root, table):
        if given is not None and not given.exists():
            raise ConfigError(f"{given} does not exist", code=CODE, remedy="mind the folder that it is meant from")
    if root.suffix.lower() in (".csv", ".tsv") and root.is_file():
        root, table = root.parent, table or root
    if not root.is_dir():
        raise ConfigError(
            f"{root} is neither a folder nor a table (.csv, .tsv)", code=CODE, remedy="give the folder of the patches"
        )
    return root, table


def _table_rows(table: Path, files: Sequence[PatchFile], root: Path, schema: ClassSchema) -> dict[Path, Row]:
    rows = rows_of_files(read_rows(table, schema), [file.path for file in files], root, CODE)
    refuse(
        [file.path.name for file in files if file.path not in rows],
        f"images of {root} have no row in {table}",
        "add rows for them, or move them elsewhere",
        CODE,
    )
    for file in files:
        row = rows[file.path]
        if not any(row.present):
            raise _no_class(f"{row.where}: {file.path.name}")
        if None not in (row.split, file.split) and row.split != file.split:
            raise ConfigError(
                f"{row.where} says the split {row.split}, {file.path.name} lies in the folder of {file.split}",
                code=CODE,
                remedy="move the image, or leave the column split out",
            )
    return rows


def _name_rows(files: Sequence[PatchFile], schema: ClassSchema) -> dict[Path, Row]:
    """Rows from names, else from masks; a patch whose mask holds no class has none."""
    said = {file: label_in_name(file.path, schema) for file in files}
    refuse(
        [file.path.name for file, present in said.items() if present is None and file.mask is None],
        "images have no label: neither brackets in their names, nor a mask",
        "give a table of labels with the columns image and labels (the codes of the classes)",
        CODE,
    )
    rows = {}
    for file, present in said.items():
        if present is not None and not any(present):
            raise _no_class(str(file.path))
        present = present or _in_mask(file, schema)
        if any(present):
            rows[file.path] = Row(file.path.name, file.path.name, present)
    return rows


def _in_mask(file: PatchFile, schema: ClassSchema) -> tuple[bool, ...]:
    assert file.mask is not None
    held = np.bincount(read_mask(file.mask, schema).ravel(), minlength=len(schema.classes))
    return tuple(bool(count) for count in held[: len(schema.classes)])


def _no_class(where: str) -> ConfigError:
    return ConfigError(
        f"{where} has no class: its label is all 0",
        code=CODE,
        remedy="take the patch out: every patch that is learned from holds at least one class",
    )


def _labelled(file: PatchFile, source: ImageFile, row: Row, schema: ClassSchema) -> LabelledPatch:
    slide, patient = barcode(file.path.name)
    return LabelledPatch(
        name=file.path.name,
        source=source,
        patient=row.patient or patient,
        slide=row.slide or slide,
        split=row.split or file.split,
        present=row.present,
        schema=schema,
        truth=file.mask,
    )


def _odd(patches: Sequence[LabelledPatch]) -> list[str]:
    """What to warn of: classes that no patch to learn from holds, and labels that tell nothing."""
    learned = np.array([one.present for one in patches if one.split in (None, "train")])
    if not len(learned):
        return []
    codes = np.array(patches[0].schema.codes)
    never, always = codes[~learned.any(axis=0)].tolist(), codes[learned.all(axis=0)].tolist()
    found = [f"no patch to learn from holds {', '.join(never)}"] if never else []
    return [*found, *([f"all patches to learn from hold {', '.join(always)}"] if always else [])]
