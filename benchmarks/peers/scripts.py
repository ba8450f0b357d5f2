"""Writing the patches of a slide's tissue to files the way that people do it without a toolkit."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from worker import Case, Position

MIN_TISSUE = 0.5
QUALITY = 80
DOWNSAMPLE = 16
"""Of the overview in which tissue is looked for."""


def openslide_jpeg(case: Case) -> dict[str, Any]:
    """Otsu on the saturation of an overview; OpenSlide and Pillow, a handle per thread, one JPEG per patch."""
    return _by_openslide(case, "jpg", quality=QUALITY)


def openslide_png(case: Case) -> dict[str, Any]:
    """The same with PNG, which many scripts write."""
    return _by_openslide(case, "png", compress_level=1)


def _by_openslide(case: Case, suffix: str, **options: int) -> dict[str, Any]:
    from openslide import OpenSlide

    mask = _tissue(case.path)
    side = case.size // DOWNSAMPLE
    wanted = {
        (x, y)
        for x, y in case.positions()
        if mask[y // DOWNSAMPLE :][:side, x // DOWNSAMPLE :][:, :side].mean() >= MIN_TISSUE
    }

    def work(positions: Iterator[Position], _sink: Any) -> None:
        with OpenSlide(case.path) as slide:
            for x, y in positions:
                if (x, y) in wanted:
                    patch = slide.read_region((x, y), 0, (case.size, case.size)).convert("RGB")
                    patch.save(Path(case.out or "") / f"{x}_{y}.{suffix}", **options)

    case.by_rows(work)
    return {"patches": len(wanted)}


def _tissue(path: str) -> NDArray[np.bool_]:
    from openslide import OpenSlide

    with OpenSlide(path) as slide:
        width, height = slide.dimensions
        overview = slide.get_thumbnail((width // DOWNSAMPLE, height // DOWNSAMPLE)).convert("HSV")
    saturation = np.asarray(overview)[..., 1]
    return saturation > _otsu(np.bincount(saturation.ravel(), minlength=256))


def _otsu(counts: NDArray[np.int64]) -> int:
    """The threshold that parts a histogram into the two most different classes (Otsu 1979)."""
    levels = np.arange(len(counts), dtype=np.float64)
    below, total = counts.cumsum(), counts.sum()
    mass, all_mass = (counts * levels).cumsum(), (counts * levels).sum()
    with np.errstate(divide="ignore", invalid="ignore"):
        between = (all_mass * below - total * mass) ** 2 / (below * (total - below))
    return int(np.nanargmax(between))


def dzsave(case: Case) -> dict[str, Any]:
    """libvips writes all tiles of one level, leaving out those that are glass."""
    import pyvips

    image = pyvips.Image.tiffload(case.path, access="sequential")
    target = Path(case.out or "") / "tiles"
    background = image.getpoint(0, 0)
    image.dzsave(
        str(target),
        depth="one",
        tile_size=case.size,
        overlap=0,
        suffix=f".jpg[Q={QUALITY}]",
        skip_blanks=5,
        background=background,
    )
    return {"patches": sum(len(files) for _, _, files in os.walk(str(target) + "_files"))}


def _import(name: str) -> Any:
    return lambda: __import__(name)


PREPARE = {
    "openslide_jpeg": _import("openslide"),
    "openslide_png": _import("openslide"),
    "dzsave": _import("pyvips"),
}
PACKAGES = {
    "openslide_jpeg": ["openslide-python", "openslide-bin", "pillow"],
    "openslide_png": ["openslide-python", "openslide-bin", "pillow"],
    "dzsave": ["pyvips", "pyvips-binary"],
}
