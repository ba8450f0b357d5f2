"""Coordinates of patches as HDF5, as CLAM and TRIDENT write and read them: no pixels.

``coords`` is (N, 2) int64, x, y of a patch's upper left corner in level-0 pixels of the full plane, which is
OpenSlide's. Its attributes are named as their writers name them:

* by CLAM (Lu et al. 2021, github.com/mahmoodlab/CLAM: written by ``wsi_core/WholeSlideImage.py``, read by
  ``Whole_Slide_Bag_FP`` of ``dataset_modules/dataset_h5.py``, which looks in ``patches/{slide_id}.h5``):
  ``patch_size``, ``patch_level``, ``downsample``, ``level_dim``, ``downsampled_level_dim``, ``name``, ``save_path``;
* by TRIDENT (Zhang et al. 2025, github.com/mahmoodlab/TRIDENT, ``trident/IO.py``, which writes
  ``patches/{slide_id}_patches.h5``): ``patch_size``, ``patch_size_level0``, ``level0_magnification``,
  ``target_magnification``, ``overlap``, ``level0_width``, ``level0_height``, ``name``, ``savetodir``.

CLAM's patches lie on a stored level. Where none has the mpp of the patches, its attributes of a level are left out, and
CLAM refuses to read pixels by this file rather than reading others. What others do not read: ``corners`` (N, 2) int64
on the lattice of ``mpp``, ``tissue`` (N,) float32, and all of PatchSet as JSON in the file's attribute ``wsikit``.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from wsikit.atomic import output_errors, replace_file
from wsikit.errors import ConfigError, OutputError
from wsikit.geometry import Level
from wsikit.patches import PatchRows, PatchSet
from wsikit.patches.record import KEY, REMEDY, Rows, described, patch_set
from wsikit.patches.slide import SlideHandle, SlidePatches, no_slide, other_slide
from wsikit.slides import Slide
from wsikit.slides.resolution import power


class CoordsPatches(SlidePatches):
    """Patches by a file of coordinates: wsikit's, CLAM's or TRIDENT's. Pixels come from the slide.

    Corners of CLAM and TRIDENT are level-0 pixels; on a coarser lattice they are moved to its nearest pixel (at most
    half of one). TRIDENT's patches get the true mpp of a level that is within 2 %, as everything in wsikit.

    Args:
        path: the HDF5 file.
        slide: the slide or its path. wsikit's own files can do without until pixels are read.

    Raises:
        ConfigError: code no_patches (no coordinates, or nothing says how large the patches are), no_slide (it is needed
            and not given), other_slide (its size is not the one that the file names).
    """

    def __init__(self, path: str | Path, slide: str | Path | Slide | SlideHandle | None = None) -> None:
        self.path = Path(path)
        handle = slide if slide is None or isinstance(slide, SlideHandle) else SlideHandle(slide)
        found = _read(self.path)
        self.coords: NDArray[np.int64] = found["coords"]
        """(N, 2) as they stand in the file: x, y in level-0 pixels."""
        self.tissue: NDArray[np.float32] | None = found["tissue"]
        """(N,) share of the patch that is tissue, where the file says so."""
        if found["own"] is not None:
            super().__init__(handle, patch_set(found["own"], self.path), found["corners"])
            return
        if handle is None:
            raise no_slide(self.path)
        patches = _foreign(self.path, found["attributes"], handle)
        scale = patches.slide_mpp / patches.mpp
        super().__init__(handle, patches, np.rint(self.coords * scale).astype(np.int64))

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.path, self.slide)


def _read(path: Path) -> dict[str, Any]:
    """coords, corners and tissue (or None), attributes of the coordinates, and what wsikit wrote of them (or None)."""
    import h5py

    try:
        with h5py.File(path) as file:
            coords = np.asarray(file["coords"][...]).reshape(-1, 2)
            attributes = dict(file["coords"].attrs)
            own = json.loads(file.attrs["wsikit"]) if "wsikit" in file.attrs else {}
            columns = {name: file[name][...] if name in file else None for name in ("corners", "tissue")}
    except (OSError, KeyError, ValueError, AttributeError) as error:
        raise ConfigError(f"{path} holds no coordinates: {error}", code="no_patches", remedy=REMEDY) from error
    # an embed run's features.h5 has coordinates too, and says other things of itself
    is_own = KEY in own and columns["corners"] is not None
    return {"coords": coords.astype(np.int64), "attributes": attributes, "own": own if is_own else None, **columns}


def _foreign(path: Path, attributes: Mapping[str, Any], handle: SlideHandle) -> PatchSet:
    """What CLAM's or TRIDENT's attributes and the slide say."""
    slide = handle.get()
    try:
        side = int(attributes["patch_size"])
        size = tuple(int(attributes[name]) for name in ("level0_width", "level0_height") if name in attributes)
        if "patch_level" in attributes:
            wanted = slide.levels[int(attributes["patch_level"])].mpp
        else:
            wanted = slide.mpp * int(attributes["patch_size_level0"]) / side
    except (KeyError, IndexError, ValueError, ZeroDivisionError) as error:
        raise ConfigError(
            f"{path} does not say how large its patches are on {slide.path.name}: {error}; it has "
            f"{', '.join(attributes) or 'no attributes'}",
            code="no_patches",
            remedy="CLAM writes patch_size and patch_level, TRIDENT patch_size and patch_size_level0",
        ) from error
    if size and size != (slide.width, slide.height):
        raise other_slide(slide, size)
    mpp = slide.resolve(wanted)
    level = next((level.index for level in slide.levels if level.mpp == mpp), None)
    patches = PatchSet(
        path.stem.removesuffix("_patches"),
        slide.path.name,
        slide.mpp,
        (slide.width, slide.height),
        mpp,
        side,
        side - int(attributes.get("overlap", 0)),
        level,
    )
    handle.close()
    return patches


class CoordsWriter:
    """Writes ``patches/{slide_id}.h5``.

    HDF5 makes the file in memory and it is written as any other: a full disk is an error of the system that way, inside
    HDF5 it ends the process.

    Args:
        path: the final file. One that exists is replaced at commit.

    Raises:
        OutputError: from begin and commit, where the disk refuses.
    """

    filename: ClassVar[str] = "patches/{slide_id}.h5"
    source = CoordsPatches
    has_pixels: ClassVar[bool] = False

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._patches: PatchSet | None = None

    def begin(self, patches: PatchSet) -> None:
        """Make the folder."""
        with output_errors(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
        self._patches, self._rows = patches, Rows()

    def write(self, rows: PatchRows) -> None:
        """Keep rows until commit: 28 bytes a patch."""
        self._begun()
        self._rows.add(rows, pixels=False)

    def commit(self) -> None:
        """Write the file and rename it to the final path."""
        patches = self._begun()
        replace_file(self.path, _file(patches, self._rows))
        self._patches = None

    def abort(self) -> None:
        """Forget what was written; nothing is on disk before commit."""
        self._patches = None

    def _begun(self) -> PatchSet:
        if self._patches is None:
            raise OutputError(f"{self.path}: call begin before write or commit", code="internal")
        return self._patches


def _file(patches: PatchSet, rows: Rows) -> bytes:
    import h5py

    columns = rows.columns()
    arrays = {
        "coords": np.rint(columns["xy"]).astype("<i8"),
        "corners": columns["corners"].astype("<i8"),
        "tissue": columns["tissue"].astype("<f4"),
    }
    memory = io.BytesIO()
    with h5py.File(memory, "w") as file:
        file.attrs["wsikit"] = json.dumps(described(patches), sort_keys=True)
        for name, values in arrays.items():
            # the same rows give the same bytes at any time
            file.create_dataset(name, data=values, track_times=False)
        file["coords"].attrs.update(
            attributes_of_coords(
                name=patches.slide_id,
                patch=patches.patch,
                overlap=patches.patch - patches.step,
                mpp=patches.mpp,
                slide_mpp=patches.slide_mpp,
                size=patches.slide_size,
                level=_level(patches),
            )
        )
        file["coords"].attrs.update({"save_path": "patches", "savetodir": "patches"})
    return memory.getvalue()


def _level(patches: PatchSet) -> Level | None:
    """The level that the patches are pixels of; its size to the pixel, or one less where its writer rounded down."""
    if patches.level is None:
        return None
    downsample = patches.mpp / patches.slide_mpp
    width, height = (round(side / downsample) for side in patches.slide_size)
    return Level(patches.level, width, height, downsample, patches.mpp)


def attributes_of_coords(
    *,
    name: str,
    patch: int,
    overlap: int,
    mpp: float,
    slide_mpp: float,
    size: tuple[int, int] | None,
    level: Level | None,
) -> dict[str, Any]:
    """What CLAM and TRIDENT look for beside coordinates.

    Args:
        name: slide id.
        patch: side of the patches in px at ``mpp``.
        overlap: of neighbouring patches in px at ``mpp``.
        mpp: of the patches, um per px.
        slide_mpp: um per level-0 px.
        size: (width, height) of the slide in level-0 px, where it is known.
        level: the stored level that the patches are pixels of, or None.
    """
    scale = mpp / slide_mpp
    attributes: dict[str, Any] = {
        "name": name,
        "patch_size": patch,
        "patch_size_level0": round(patch * scale),
        "level0_magnification": power(slide_mpp),
        "target_magnification": power(mpp),
        "overlap": overlap,
        "mpp": mpp,
        "level0_mpp": slide_mpp,
        "rounded": not float(scale).is_integer(),
    }
    if size is not None:
        attributes |= {"level0_width": size[0], "level0_height": size[1]}
    if level is not None:
        shape = np.array((level.width, level.height))
        attributes |= {"patch_level": level.index, "downsample": np.full(2, level.downsample)}
        attributes |= {"level_dim": shape, "downsampled_level_dim": shape}
    return attributes
