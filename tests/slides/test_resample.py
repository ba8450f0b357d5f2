"""Area averaging against a slow independent reference, and its independence of how a region is cut."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsikit.slides import resample
from wsikit.slides.resample import SUBPIXEL, area_average, source_box

SOURCE = np.random.default_rng(0).integers(0, 256, (90, 110, 3)).astype(np.uint8)
ratios = st.floats(1.0, 7.0, allow_nan=False)


def shares(start: int, count: int, ratio: float, size: int) -> np.ndarray:
    """(count, size) exact share of every source pixel in every output pixel, by fractions."""
    table = np.zeros((count, size))
    for i in range(count):
        low, high = Fraction(ratio) * (start + i), Fraction(ratio) * (start + i + 1)
        for j in range(max(0, int(low) - 1), min(size, int(high) + 2)):
            table[i, j] = max(Fraction(0), min(high, Fraction(j + 1)) - max(low, Fraction(j))) / Fraction(ratio)
    return table


def slow(box: tuple[int, int, int, int], ratio: float) -> np.ndarray:
    x, y, width, height = box
    rows, columns = shares(y, height, ratio, SOURCE.shape[0]), shares(x, width, ratio, SOURCE.shape[1])
    return np.einsum("ij,jkc,lk->ilc", rows, SOURCE.astype(float), columns)


def average(box: tuple[int, int, int, int], ratio: float) -> np.ndarray:
    return area_average(SOURCE, (0, 0), ratio, box)


@st.composite
def boxes(draw: st.DrawFn, ratio: float) -> tuple[int, int, int, int]:
    """An output box whose source lies inside ``SOURCE`` with a pixel to spare."""
    most = [int((side - 2) / ratio) for side in (SOURCE.shape[1], SOURCE.shape[0])]
    x, y = (draw(st.integers(0, side - 1)) for side in most)
    return x, y, draw(st.integers(1, min(12, most[0] - x))), draw(st.integers(1, min(12, most[1] - y)))


@settings(max_examples=60, deadline=None)
@given(st.data(), ratios)
def test_within_one_grey_level_of_exact_fractions(data: st.DataObject, ratio: float) -> None:
    box = data.draw(boxes(ratio))
    assert np.abs(average(box, ratio) - slow(box, ratio)).max() <= 1.0


@settings(max_examples=60, deadline=None)
@given(st.data(), ratios)
def test_a_pixel_does_not_depend_on_the_box(data: st.DataObject, ratio: float) -> None:
    x, y, width, height = data.draw(boxes(ratio))
    i, j = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
    alone = average((x + i, y + j, 1, 1), ratio)
    assert np.array_equal(average((x, y, width, height), ratio)[j, i], alone[0, 0])


@settings(max_examples=40, deadline=None)
@given(st.data(), ratios)
def test_a_pixel_does_not_depend_on_the_origin_of_the_source(data: st.DataObject, ratio: float) -> None:
    x, y, *_ = box = data.draw(boxes(ratio))
    left, top = max(0, int(x * ratio) - 1), max(0, int(y * ratio) - 1)
    cropped = area_average(SOURCE[top:, left:], (left, top), ratio, box)
    assert np.array_equal(cropped, average(box, ratio))


def parts(index: int, ratio: float) -> list[tuple[int, int]]:
    """(source pixel, its weight in 1/256) of one output pixel."""
    low, high = (int(np.rint((index + k) * (ratio * 256))) for k in (0, 1))
    pixels = range(low // 256, -(-high // 256))
    return [(p, min(high, 256 * p + 256) - max(low, 256 * p)) for p in pixels]


def exact(box: tuple[int, int, int, int], ratio: float) -> np.ndarray:
    """Pixel by pixel in whole numbers, rounded half up."""
    x, y, width, height = box
    averaged = np.zeros((height, width, 3), np.uint8)
    for j in range(height):
        for i in range(width):
            weighted = [(wy * wx, SOURCE[py, px]) for py, wy in parts(y + j, ratio) for px, wx in parts(x + i, ratio)]
            area = sum(weight for weight, _ in weighted)
            total = sum(weight * pixel.astype(np.int64) for weight, pixel in weighted)
            averaged[j, i] = (total + area // 2) // area
    return averaged


@settings(max_examples=40, deadline=None)
@given(st.data(), ratios | st.integers(1, 6).map(float))
def test_equal_to_whole_numbers_pixel_by_pixel(data: st.DataObject, ratio: float) -> None:
    box = data.draw(boxes(ratio))
    assert np.array_equal(average(box, ratio), exact(box, ratio))


@settings(max_examples=40, deadline=None)
@given(st.data(), st.integers(1, 6))
def test_whole_ratio_equals_the_generic_path(data: st.DataObject, ratio: int) -> None:
    box = data.draw(boxes(float(ratio)))
    assert np.array_equal(average(box, float(ratio)), resample._any_ratio(SOURCE, (0, 0), float(ratio), box))


@pytest.mark.parametrize("ratio", [2.0, 1.3])
def test_more_rows_than_are_made_at_once(ratio: float, monkeypatch: pytest.MonkeyPatch) -> None:
    box = (1, 1, 30, 40)
    whole = average(box, ratio)
    monkeypatch.setattr(resample, "BLOCK", 7)
    assert np.array_equal(average(box, ratio), whole)


@given(ratios)
@settings(max_examples=40, deadline=None)
def test_one_colour_stays_that_colour(ratio: float) -> None:
    plain = np.full((60, 60, 3), 201, np.uint8)
    assert (area_average(plain, (0, 0), ratio, (1, 1, 5, 5)) == 201).all()


def test_white_does_not_overflow_at_large_ratios() -> None:
    white = np.full((1030, 1030, 3), 255, np.uint8)
    for ratio in (1024.0, 1023.7):
        assert (area_average(white, (0, 0), ratio, (0, 0, 1, 1)) == 255).all()


def test_half_is_rounded_up() -> None:
    source = np.zeros((2, 2, 3), np.uint8)
    source[0, 0] = 2  # mean 0.5
    assert (area_average(source, (0, 0), 2.0, (0, 0, 1, 1)) == 1).all()


@given(st.data(), st.sampled_from([1.0, 2.0, 1.9999999, 2.0000001, 3 * 1.1, 1.28, 11.7028]))
def test_the_source_box_is_what_the_rounded_edges_cover(data: st.DataObject, ratio: float) -> None:
    x, y = (data.draw(st.integers(-1000, 100_000)) for _ in range(2))
    width, height = (data.draw(st.integers(1, 5000)) for _ in range(2))
    x0, y0, x1, y1 = source_box(ratio, (x, y, width, height))
    for first, last, low, high in ((x, x + width, x0, x1), (y, y + height, y0, y1)):
        left, right = (int(np.rint(edge * (ratio * SUBPIXEL))) for edge in (first, last))
        assert low * SUBPIXEL <= left < (low + 1) * SUBPIXEL
        assert (high - 1) * SUBPIXEL < right <= high * SUBPIXEL
