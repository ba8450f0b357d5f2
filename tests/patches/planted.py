"""A slide of noise and datasets of its patches: every pixel is known."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from wsikit.patches import FORMATS, PatchRows, PatchSet, PatchSource, open_patches
from wsikit.patches.images import encode
from wsikit.slides import Pixels, Slide
from wsikit.slides.array import array_slide

SIDE, STEP = 16, 12


@dataclass(frozen=True)
class Planted:
    """A slide, what its patches share, and their rows; ``images`` are the pixels that must come back."""

    slide: Slide
    patches: PatchSet
    rows: PatchRows
    images: list[Pixels]

    def part(self, start: int, stop: int) -> PatchRows:
        rows, cut = self.rows, slice(start, stop)
        verbatim = None if rows.verbatim is None else rows.verbatim[cut]
        return PatchRows(rows.corners[cut], rows.xy[cut], rows.tissue[cut], rows.data[cut], verbatim)

    def write(self, out: Path, name: str, *, pieces: Sequence[int] = (), **options: Any) -> Path:
        """Write all rows in pieces that end at the given rows."""
        writer = self.writer(out, name, **options)
        writer.begin(self.patches)
        ends = [0, *sorted(pieces), len(self.images)]
        for start, stop in itertools.pairwise(ends):
            writer.write(self.part(start, stop))
        writer.commit()
        return Path(writer.path)

    def writer(self, out: Path, name: str, **options: Any) -> Any:
        made = FORMATS.load(name)
        return made(out / made.filename.format(slide_id=self.patches.slide_id), **options)

    def open(self, path: Path, name: str) -> PatchSource:
        return open_patches(path, name, slide=self.slide)


def planted(count: int = 20, *, seed: int = 0, level: int = 1, slide_id: str = "case 1.a", **about: Any) -> Planted:
    """``count`` patches of a level of a slide of 160 x 120 px at 0.25 um per px with levels 1, 2 and 4."""
    random = np.random.default_rng(seed)
    pixels = random.integers(0, 256, (120, 160, 3)).astype(np.uint8)
    slide = array_slide(pixels, 0.25, levels=3, path=f"{slide_id}.svs")
    mpp = slide.levels[level].mpp
    across = (slide.levels[level].width - SIDE) // STEP + 1
    index = np.arange(count)
    corners = np.stack([index % across, index // across], axis=1) * STEP
    plane = slide.read(slide.plane(mpp))
    images = [plane[y : y + SIDE, x : x + SIDE].copy() for x, y in corners.tolist()]
    assert all(image.shape == (SIDE, SIDE, 3) for image in images), "too many patches for this slide"
    patches = PatchSet(
        slide_id, slide.path.name, 0.25, (160, 120), mpp, SIDE, STEP, level, "png", made={"by": "a test"}
    )
    rows = PatchRows(
        corners,
        corners * (mpp / 0.25),
        random.random(count).astype(np.float32),
        [encode(image, "png") for image in images],
        random.random(count) < 0.5,
    )
    return Planted(slide, replace(patches, **about), rows, images)


def assert_same(source: PatchSource, wanted: Planted, *, verbatim: bool = True) -> None:
    """All that a format keeps is what was written."""
    assert source.patches == wanted.patches
    assert len(source) == len(wanted.images)
    np.testing.assert_array_equal(source.corners, wanted.rows.corners)
    np.testing.assert_array_equal(source.xy, wanted.rows.xy)
    np.testing.assert_array_equal(source.tissue, wanted.rows.tissue)  # type: ignore[attr-defined]
    if verbatim:
        np.testing.assert_array_equal(source.verbatim, wanted.rows.verbatim)  # type: ignore[attr-defined]
    for index, image in enumerate(wanted.images):
        np.testing.assert_array_equal(source.read(index), image)
