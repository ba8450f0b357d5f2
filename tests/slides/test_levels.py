"""What a pixel of a level is in level-0 pixels, where the sizes of levels were rounded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import example, given
from hypothesis import strategies as st
from scipy import ndimage

from wsikit.slides import Slide, open_slide
from wsikit.slides.array import ArrayReader
from wsikit.slides.levels import true_downsamples
from wsikit.tissue import find_tissue

LONG, SHORT = 10240, 515
SQUARES = [(96, 32), (320, 5024), (192, 10112)]
"""Corners across and along a strip of squares of 64 px: all of them whole pixels of the coarsest level, 1/16."""
ROUNDED: dict[str, Callable[[int, int], int]] = {
    "floor": lambda side, d: side // d,
    "ceil": lambda side, d: -(-side // d),
    "nearest": lambda side, d: max(1, (2 * side + d) // (2 * d)),
}


def mean_ratio(full: tuple[int, int], size: tuple[int, int]) -> float:
    """What OpenSlide and tiffslide say."""
    return sum(whole / side for whole, side in zip(full, size, strict=True)) / 2


def said(sizes: list[tuple[int, int]]) -> tuple[float, ...]:
    return true_downsamples(sizes, [mean_ratio(sizes[0], size) for size in sizes])


sides = st.integers(1, 200_000)


@given(sides, sides, st.sampled_from(list(ROUNDED)), st.sampled_from([2, 4, 8, 3]))
@example(515, 10240, "floor", 4)
@example(1, 1, "ceil", 2)
@example(132, 10240, "floor", 8)  # the mean of level 1/64 is a whole number, and not 64
def test_whole_steps_are_found_whatever_the_shape(width: int, height: int, how: str, step: int) -> None:
    scales = [step**k for k in range(4)]
    sizes = [tuple(max(1, ROUNDED[how](side, d)) for side in (width, height)) for d in scales]
    for size, scale, found in zip(sizes, scales, said(sizes), strict=True):
        # neighbouring whole numbers differ by a pixel over the whole level from here on
        if max(size) > 2 * scale:
            assert found == scale
        for full, side in zip((width, height), size, strict=True):
            assert abs(side * found - full) < 2 * max(found, scale)


@given(sides, st.integers(20, 4000), st.floats(1.5, 40), st.booleans())
def test_other_steps_are_those_of_the_long_side(height: int, width: int, scale: float, turned: bool) -> None:
    size = (round(width / scale), round(height / scale))
    if min(size) < 1:
        return
    sizes = [(width, height), size]
    if turned:
        sizes = [(y, x) for x, y in sizes]
    (full, side), _ = sorted(zip(*sizes, strict=True), key=lambda pair: -pair[1])
    # half a pixel was rounded, and whole numbers are believed within one
    assert abs(side * said(sizes)[1] - side * scale) <= 2 * scale
    assert abs(side * said(sizes)[1] - full) <= 2 * scale


def test_a_step_of_two_and_a_half_is_the_long_sides_ratio() -> None:
    assert said([(515, 10240), (206, 4096)])[1] == 2.5


@pytest.mark.parametrize(
    ("sizes", "stated"),
    [
        # filled up to whole tiles by the writer
        ([(1000, 1000), (256, 256)], 4.0),
        ([(10_000, 10_000), (256, 256)], 64.0),
        # of another shape: no rounding explains it
        ([(1000, 1000), (300, 200)], 25 / 6),
        ([(1000, 2000), (250, 500)], 3.99),
        ([(1000, 1000), (250, 250)], 4.0),
        ([(1000, 0), (250, 0)], float("nan")),
    ],
)
def test_what_the_sizes_do_not_explain_stays(sizes: list[tuple[int, int]], stated: float) -> None:
    assert true_downsamples(sizes, [1.0, stated])[1] == pytest.approx(stated, nan_ok=True, abs=0)


@pytest.mark.parametrize(
    ("scale", "before"), [(128, (1, 32)), (128, (1, 2, 4, 8, 16, 32, 64)), (243, (1, 3, 9, 27, 81)), (160, (1, 40))]
)
@pytest.mark.parametrize("how", ROUNDED)
def test_of_several_whole_numbers_the_pyramids_own_is_taken(scale: int, before: tuple[int, ...], how: str) -> None:
    sizes = [(ROUNDED[how](15_001, d), ROUNDED[how](12_345, d)) for d in (*before, scale)]
    assert said(sizes) == (*before, scale)


def strip(*, turned: bool) -> np.ndarray:
    """(H, W, 3) a long narrow slide of glass with ``SQUARES``."""
    pixels = np.full((LONG, SHORT, 3), 235, np.uint8)
    for x, y in SQUARES:
        pixels[y : y + 64, x : x + 64] = (40, 30, 90)
    return np.ascontiguousarray(pixels.swapaxes(0, 1)) if turned else pixels


def averaged(pixels: np.ndarray, scale: int, how: str) -> np.ndarray:
    """Means of ``scale`` x ``scale`` px; what does not make a whole one is dropped, or filled up with the border."""
    height, width = (ROUNDED[how](side, scale) for side in pixels.shape[:2])
    missing = [(0, max(0, n * scale - side)) for n, side in zip((height, width), pixels.shape[:2], strict=True)]
    filled = np.pad(pixels, [*missing, (0, 0)], "edge")[: height * scale, : width * scale]
    blocks = filled.reshape(height, scale, width, scale, 3)
    return blocks.mean((1, 3)).round().astype(np.uint8)


def write(path: Path, pixels: np.ndarray, how: str) -> Path:
    """A tiled pyramid at 0.5 um per px with steps of 4, in JPEG so that every reader takes it."""
    with tifffile.TiffWriter(path) as file:
        for scale in (1, 4, 16):
            file.write(
                averaged(pixels, scale, how),
                tile=(256, 256),
                photometric="rgb",
                compression="jpeg",
                subfiletype=int(scale > 1),
                resolution=(20_000 / scale, 20_000 / scale),
                resolutionunit="CENTIMETER",
                metadata=None,
            )
    return path


@pytest.fixture(scope="module", params=[(how, turned) for how in ("floor", "ceil") for turned in (False, True)])
def planted(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bool]:
    """A strip's file, and whether it is turned."""
    how, turned = request.param
    folder = tmp_path_factory.mktemp("strips")
    return write(folder / "strip.tif", strip(turned=turned), how), turned


def corners(slide: Slide, mpp: float) -> list[tuple[float, ...]]:
    """Boxes of what is dark at a resolution, in level-0 pixels."""
    plane = slide.plane(mpp)
    labels, _ = ndimage.label(slide.read(plane).mean(2) < 140)
    scale = plane.mpp / slide.mpp
    boxes = [(x.start, y.start, x.stop, y.stop) for y, x in ndimage.find_objects(labels)]
    return [tuple(v * scale for v in box) for box in boxes]


@pytest.mark.parametrize("reader", ["tiff", "tiff-scaled", "openslide", "tiffslide", "openslide, isolated"])
def test_what_lies_far_along_a_strip_is_found_where_it_is(planted: tuple[Path, bool], reader: str) -> None:
    path, turned = planted
    expected = [(y, x, y + 64, x + 64) if turned else (x, y, x + 64, y + 64) for x, y in SQUARES]
    with open_slide(path, reader=reader) as slide:
        scales = [1, 2, 4, 8, 16, 32, 64, 128] if reader == "tiff-scaled" else [1, 4, 16]
        assert [level.downsample for level in slide.levels] == scales
        for level in slide.levels[: scales.index(16) + 1]:
            assert sorted(corners(slide, level.mpp)) == sorted(expected)
        # between two levels: read from the finer one, whose rounding must not add up either
        off = np.subtract(sorted(corners(slide, 2.6)), sorted(expected))
        assert np.abs(off).max() <= 5.2


@pytest.mark.parametrize("turned", [False, True])
def test_the_tissue_mask_of_a_needle_lies_on_its_tissue(tmp_path: Path, turned: bool) -> None:
    pixels = np.full((LONG, SHORT, 3), 240, np.uint8)
    noise = np.random.default_rng(0).integers(-20, 20, (500, 300, 3))
    pixels[9500:10_000, 100:400] = (np.array((200, 120, 170)) + noise).astype(np.uint8)
    path = write(tmp_path / "needle.tif", pixels.swapaxes(0, 1) if turned else pixels, "floor")
    with open_slide(path) as slide:
        (outline,) = find_tissue(slide).polygons(slide)
    x0, y0, x1, y1 = outline.bounds
    middle = ((x0 + x1) / 2, (y0 + y1) / 2)
    assert middle == pytest.approx((9750, 250) if turned else (250, 9750), abs=10)


def test_levels_in_memory_are_corrected_too() -> None:
    base = strip(turned=False)
    reader = ArrayReader([averaged(base, scale, "floor") for scale in (1, 4, 16)], 0.5)
    assert reader.downsamples != (1.0, 4.0, 16.0)
    assert [level.downsample for level in Slide(reader).levels] == [1.0, 4.0, 16.0]
