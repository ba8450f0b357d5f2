"""Tissue masks against slow references, and detection on planted and real slides."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import shapely
from hypothesis import example, given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage
from skimage.filters import apply_hysteresis_threshold

from wsikit import tissue as tissue_module
from wsikit.errors import ConfigError, PixelReadError, UnsuitableSlideError
from wsikit.geometry import Region
from wsikit.slides import Pixels, Slide, open_slide
from wsikit.slides import slide as slide_module
from wsikit.slides.array import ArrayReader, array_slide
from wsikit.tissue import TissueMask, find_tissue

GLASS = (243, 243, 244)
PINK = (200, 120, 170)


def random_mask(seed: int, width: int, height: int, share: float, mpp: float) -> TissueMask:
    return TissueMask(np.random.default_rng(seed).random((height, width)) < share, mpp)


masks = st.builds(
    random_mask,
    st.integers(0, 999),
    st.integers(1, 12),
    st.integers(1, 12),
    st.sampled_from([0.0, 0.2, 0.5, 0.8, 1.0]),
    st.sampled_from([0.5, 1.0, 2.0, 3.7, 8.0]),
)
regions = st.builds(
    Region,
    st.integers(-30, 60),
    st.integers(-30, 60),
    st.integers(1, 60),
    st.integers(1, 60),
    st.sampled_from([0.25, 0.499, 0.5, 1.0, 2.0]),
)


def glass(width: int, height: int) -> Pixels:
    """A blank slide with a scanner's noise."""
    noise = np.random.default_rng(3).integers(-3, 4, (height, width, 1))
    return (np.array(GLASS) + noise).astype(np.uint8)


def planted(width: int = 1200, height: int = 900, mpp: float = 1.0) -> tuple[Slide, NDArray[np.bool_]]:
    """A slide with one disc of tissue, and where the disc is."""
    pixels = glass(width, height)
    y, x = np.mgrid[:height, :width]
    disc = (x - 700) ** 2 + (y - 400) ** 2 < 250**2
    pixels[disc] = PINK
    return array_slide(pixels, mpp), disc


def brute_coverage(mask: TissueMask, region: Region) -> float:
    scale = region.mpp / mask.mpp
    x0, y0, x1, y1 = (v * scale for v in (region.x, region.y, region.x1, region.y1))
    overlaps = (
        max(0.0, min(x1, i + 1) - max(x0, i)) * max(0.0, min(y1, j + 1) - max(y0, j))
        for j, i in np.argwhere(mask.array).tolist()
    )
    return math.fsum(overlaps) / ((x1 - x0) * (y1 - y0))


@given(masks, regions)
def test_coverage_is_the_overlap_with_every_pixel_of_the_mask(mask: TissueMask, region: Region) -> None:
    assert mask.coverage(region) == pytest.approx(brute_coverage(mask, region), abs=1e-9)


@given(width=st.integers(1, 40), height=st.integers(1, 40), side=st.integers(1, 300), seed=st.integers(0, 99))
def test_a_whole_mask_covers_what_its_sums_say(width: int, height: int, side: int, seed: int) -> None:
    """Bit for bit, though they are not added up."""
    whole, summed = (TissueMask(np.ones((height, width), np.bool_), 8.0) for _ in range(2))
    vars(summed)["_everywhere"] = False
    x, y = np.random.default_rng(seed).integers(-200, 1500, (2, 20))
    np.testing.assert_array_equal(whole.coverages(x, y, side, 0.31), summed.coverages(x, y, side, 0.31))


@given(masks, st.lists(regions, min_size=1, max_size=5), st.integers(1, 40), st.sampled_from([0.25, 0.499, 1.0]))
def test_many_coverages_are_each_ones_coverage(mask: TissueMask, places: list[Region], side: int, mpp: float) -> None:
    x, y = np.array([r.x for r in places]), np.array([r.y for r in places])
    each = [mask.coverage(Region(r.x, r.y, side, side, mpp)) for r in places]
    assert mask.coverages(x, y, side, mpp) == pytest.approx(np.array(each), abs=1e-9)


@given(masks, st.lists(regions, min_size=1, max_size=5), st.integers(1, 40), st.integers(1, 50), st.integers(1, 50))
def test_coverages_on_the_slide_are_those_of_what_lies_on_it(
    mask: TissueMask, places: list[Region], side: int, width: int, height: int
) -> None:
    x, y = np.array([r.x for r in places]), np.array([r.y for r in places])
    squares = [Region(r.x, r.y, side, side, 0.5).intersection(Region(0, 0, width, height, 0.5)) for r in places]
    each = [mask.coverage(square) if square else 0 for square in squares]
    assert mask.coverages(x, y, side, 0.5, (width, height)) == pytest.approx(np.array(each), abs=1e-9)


def at(mask: TissueMask, x: float, y: float, mpp: float) -> bool:
    i, j = math.floor(x * (mpp / mask.mpp)), math.floor(y * (mpp / mask.mpp))
    height, width = mask.array.shape
    return 0 <= i < width and 0 <= j < height and bool(mask.array[j, i])


@given(masks, regions)
@example(random_mask(1, 12, 12, 0.5, 0.5), Region(0, 0, 9, 9, 1.0))
def test_sample_is_the_mask_under_each_pixels_centre(mask: TissueMask, region: Region) -> None:
    found = mask.sample(region)
    assert found.shape == (region.height, region.width)
    for j in range(0, region.height, 3):
        for i in range(0, region.width, 3):
            assert found[j, i] == at(mask, region.x + i + 0.5, region.y + j + 0.5, region.mpp)


@given(masks, st.lists(st.tuples(st.floats(-40, 200), st.floats(-40, 200)), max_size=9))
def test_contains_looks_up_points(mask: TissueMask, points: list[tuple[float, float]]) -> None:
    xy = np.array(points, float).reshape(-1, 2)
    assert mask.contains(xy[:, 0], xy[:, 1], 0.499).tolist() == [at(mask, x, y, 0.499) for x, y in points]


def test_the_area_is_in_square_micrometres() -> None:
    assert TissueMask(np.ones((3, 5), bool), 2.0).area_um2 == 60


def blobs(seed: int) -> NDArray[np.bool_]:
    """Smooth pieces with holes; 120 x 100 pixels."""
    from scipy import ndimage

    smooth = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=(100, 120)), 6)
    found: NDArray[np.bool_] = smooth > 0
    return found


@pytest.mark.parametrize("seed", range(5))
def test_polygons_have_the_area_of_the_mask(seed: int) -> None:
    mask = TissueMask(blobs(seed), 4.0)
    slide = array_slide(np.zeros((800, 960, 3), np.uint8), 0.5)
    area = sum(polygon.area for polygon in mask.polygons(slide)) * slide.mpp**2
    assert area == pytest.approx(mask.area_um2, rel=0.03)


@pytest.mark.parametrize("seed", range(5))
def test_polygons_lie_where_the_mask_is(seed: int) -> None:
    mask = TissueMask(blobs(seed), 4.0)
    slide = array_slide(np.zeros((800, 960, 3), np.uint8), 0.5)
    union = shapely.union_all(mask.polygons(slide))
    y, x = np.mgrid[4:800:8, 4:960:8]  # the centres of the mask's pixels, in level-0 pixels
    assert (shapely.contains_xy(union, x, y) == mask.array).mean() > 0.97


def test_polygons_are_clipped_to_the_slide() -> None:
    slide = array_slide(np.zeros((55, 77, 3), np.uint8), 0.5)
    mask = TissueMask(np.ones((4, 5), bool), 8.0)  # 80 x 64 level-0 pixels
    (polygon,) = mask.polygons(slide)
    assert polygon.bounds == (0, 0, 77, 55)
    assert all(part.is_valid for part in mask.polygons(slide))


def test_holes_stay_holes() -> None:
    array = np.ones((40, 40), bool)
    array[10:30, 10:30] = False
    (polygon,) = TissueMask(array, 1.0).polygons(array_slide(np.zeros((40, 40, 3), np.uint8), 1.0))
    assert len(polygon.interiors) == 1
    assert not polygon.contains(shapely.Point(20, 20))


def test_no_tissue_has_no_polygons() -> None:
    slide = array_slide(np.zeros((40, 40, 3), np.uint8), 1.0)
    assert TissueMask(np.zeros((40, 40), bool), 1.0).polygons(slide) == []


def test_a_whole_mask_covers_every_pixel_of_the_slide() -> None:
    slide = array_slide(np.zeros((301, 777, 3), np.uint8), 0.5)
    mask = TissueMask.whole(slide)
    assert mask.coverage(slide.plane(0.5)) == pytest.approx(1)
    assert mask.info["method"] == "whole"


@pytest.fixture
def field() -> Slide:
    return array_slide(np.full((200, 300, 3), 230, np.uint8), 2.0)


def half(value: int, dtype: type = np.uint8, shape: tuple[int, ...] = (20, 30)) -> NDArray[np.integer]:
    """The left half is ``value``, the right half 0."""
    array = np.zeros(shape, dtype)
    array[:, :15] = value
    return array


@pytest.mark.parametrize(
    "image",
    [
        Image.fromarray(half(1)),
        Image.fromarray(half(255)),
        Image.fromarray(half(1) > 0),
        Image.fromarray(half(1, np.uint16)),
        Image.fromarray(half(40_000, np.uint16)),
        Image.fromarray(half(1, shape=(20, 30, 3))),
        Image.merge("LA", (Image.fromarray(half(7)), Image.new("L", (30, 20), 255))),
        Image.merge("RGB", (*[Image.new("L", (30, 20))] * 2, Image.fromarray(half(1)))),
    ],
    ids=lambda image: image.mode,
)
def test_any_value_but_zero_is_tissue(tmp_path: Path, field: Slide, image: Image.Image) -> None:
    image.save(tmp_path / "mask.png")
    mask = TissueMask.from_image(tmp_path / "mask.png", field)
    columns = mask.array.shape[1] // 2
    assert mask.array[:, :columns].all()
    assert not mask.array[:, columns:].any()


def test_a_palette_counts_by_its_indices(tmp_path: Path, field: Slide) -> None:
    image = Image.fromarray(half(1)).convert("P")
    image.putpalette([0] * 768)
    image.save(tmp_path / "mask.png")
    assert TissueMask.from_image(tmp_path / "mask.png", field).array.mean() == 0.5


@pytest.mark.parametrize("size", [(300, 200), (30, 20), (600, 400), (31, 20), (3, 2)])
def test_a_mask_of_any_resolution_fits(tmp_path: Path, field: Slide, size: tuple[int, int]) -> None:
    Image.new("L", size, 9).save(tmp_path / "mask.png")
    mask = TissueMask.from_image(tmp_path / "mask.png", field)
    assert mask.coverage(field.plane(2.0)) == pytest.approx(1)


@pytest.mark.parametrize("size", [(200, 300), (30, 30), (300, 210)])
def test_a_mask_of_another_shape_is_refused(tmp_path: Path, field: Slide, size: tuple[int, int]) -> None:
    Image.new("L", size, 9).save(tmp_path / "mask.png")
    with pytest.raises(ConfigError, match=f"{size[0]}x{size[1]}, not the shape of a 300x200 slide") as caught:
        TissueMask.from_image(tmp_path / "mask.png", field)
    assert caught.value.code == "bad_mask"


@pytest.mark.parametrize("content", [None, b"", b"not an image", b"\x89PNG\r\n\x1a\n"])
def test_a_mask_that_cannot_be_read_is_refused(tmp_path: Path, field: Slide, content: bytes | None) -> None:
    path = tmp_path / "mask.png"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"mask\.png is not a readable image") as caught:
        TissueMask.from_image(path, field)
    assert caught.value.code == "bad_mask"
    assert caught.value.__cause__ is not None


def test_a_mask_cut_short_is_refused(tmp_path: Path, field: Slide) -> None:
    path = tmp_path / "mask.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (200, 300), np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:20_000])
    with pytest.raises(ConfigError, match="not a readable image"):
        TissueMask.from_image(path, field)


def test_a_disc_of_tissue_is_found() -> None:
    slide, disc = planted()
    found = find_tissue(slide).sample(slide.plane(1.0))
    assert (found & disc).sum() / (found | disc).sum() > 0.95


def ragged(seed: int, width: int, height: int, mpp: int) -> Pixels:
    """Pale and strong tissue with clefts of about 50 um and an outline to match, on glass."""
    rng = np.random.default_rng(seed)

    def noise(um: int) -> NDArray[np.float64]:
        """Made as coarse as its smoothing allows, then enlarged."""
        small = rng.normal(size=(height * mpp // um + 2, width * mpp // um + 2))
        return ndimage.zoom(ndimage.gaussian_filter(small, 2), um / mpp, order=1)[:height, :width]

    coarse, fine = noise(100), noise(12)
    shape = coarse / coarse.std() + fine / fine.std() > 0.4
    colour = np.where((fine > 0)[..., None], PINK, (222, 196, 212))
    pixels = np.where(shape[..., None], colour, GLASS) + rng.integers(-4, 5, (height, width, 3))
    return pixels.astype(np.uint8)


def test_the_mask_of_a_slide_of_some_mm_is_that_of_the_finest_but_for_its_outline(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    side, mpp = 1500, 2
    same, patches = [], []
    for seed in range(3):
        slide = array_slide(ragged(seed, side, side, mpp), mpp)
        mask = find_tissue(slide)
        with monkeypatch.context() as finest:
            finest.setattr(tissue_module, "COARSEST_MPP", mpp)
            reference = find_tissue(slide)
        assert reference.mpp < mask.mpp
        found, true = (m.sample(slide.plane(mpp)) for m in (mask, reference))
        same.append((found & true).sum() / (found | true).sum())
        # patches of 64 um, 256 px at 0.25 um, that are half tissue
        y, x = np.mgrid[0 : side - 32 : 32, 0 : side - 32 : 32].reshape(2, -1)
        chosen = [m.coverages(x, y, 32, mpp) >= 0.5 for m in (mask, reference)]
        patches.append((chosen[0] != chosen[1]).sum() / chosen[1].sum())
    assert np.mean(same) > 0.97
    assert np.min(same) > 0.96
    assert np.mean(patches) < 0.03


def test_the_mask_of_a_field_has_no_blocks() -> None:
    slide, disc = planted(4000, 3000, 0.25)
    mask = find_tissue(slide)
    assert mask.mpp == pytest.approx(2.0)
    found = mask.sample(slide.plane(0.25))
    assert (found ^ disc).sum() * 0.25**2 < 2 * math.pi * 250 * 0.25 * 10


@pytest.mark.parametrize("seed", range(5))
def test_pale_pixels_that_join_strong_ones_by_their_sides_are_kept(seed: int) -> None:
    values = ndimage.gaussian_filter(np.random.default_rng(seed).random((60, 80)), 1.5).astype(np.float32)
    low, high = np.quantile(values, [0.6, 0.95])
    expected = apply_hysteresis_threshold(values, low, high)
    assert 0 < expected.sum() < (values > low).sum()
    assert np.array_equal(tissue_module._joining(values, low, high), expected)


def test_a_blank_slide_has_no_tissue() -> None:
    assert find_tissue(array_slide(glass(1500, 1000), 0.5)).area_um2 == 0


def test_uneven_light_is_no_tissue() -> None:
    drift = np.linspace(0, 4, 1500)[None, :, None] * (-1, 0, 1)
    assert find_tissue(array_slide((np.array(GLASS) + drift).repeat(1000, axis=0).astype(np.uint8), 0.5)).area_um2 == 0


def test_pale_tissue_beside_strong_is_tissue() -> None:
    pixels = np.full((800, 1200, 3), (225, 195, 215), np.uint8)
    pixels[200:600, 100:700] = (120, 40, 130)
    assert find_tissue(array_slide(pixels, 1.0)).array.all()


@pytest.mark.parametrize("value", [255, 240])
def test_a_slide_of_one_value_has_no_tissue(value: int) -> None:
    assert find_tissue(array_slide(np.full((300, 400, 3), value, np.uint8), 0.5)).area_um2 == 0


def test_a_field_that_is_all_tissue_is_all_tissue() -> None:
    variation = np.random.default_rng(5).integers(-25, 26, (600, 800, 3))
    slide = array_slide((np.array(PINK) + variation).astype(np.uint8), 0.5)
    assert find_tissue(slide).array.mean() > 0.99


@pytest.mark.parametrize(("width", "height"), [(1, 1), (1, 700), (700, 1), (3, 2)])
def test_the_smallest_slides_have_a_mask(width: int, height: int) -> None:
    slide = array_slide(np.full((height, width, 3), PINK, np.uint8), 0.5)
    mask = find_tissue(slide)
    assert mask.array.shape == slide.size_at(mask.mpp)[::-1]


def test_specks_go_and_small_holes_are_filled() -> None:
    pixels = glass(1000, 800)
    pixels[200:600, 200:600] = PINK
    pixels[380:420, 380:420] = GLASS  # a hole of 40 um
    pixels[700:730, 850:880] = PINK  # a speck of 30 um
    mask = find_tissue(array_slide(pixels, 1.0))
    assert mask.coverage(Region(370, 370, 60, 60, 1.0)) == 1
    assert mask.coverage(Region(800, 650, 200, 150, 1.0)) == 0


def test_a_dark_slide_is_refused() -> None:
    pixels = np.full((400, 400, 3), 12, np.uint8)
    pixels[100:150, 100:150, 2] = 220
    with pytest.raises(UnsuitableSlideError, match="not a brightfield slide") as caught:
        find_tissue(array_slide(pixels, 0.5))
    assert caught.value.code == "not_brightfield"
    assert caught.value.remedy


def test_unreadable_tiles_are_listed_and_are_no_tissue() -> None:
    pixels = np.full((512, 512, 3), PINK, np.uint8)
    mask = find_tissue(array_slide(pixels, 2.0, tile=(128, 128), bad=[(0, 1, 2)]))
    assert [tile.box for tile in mask.bad] == [(128, 256, 128, 128)]
    assert mask.coverage(Region(128, 256, 128, 128, 2.0)) == 0
    assert mask.coverage(Region(384, 0, 128, 512, 2.0)) > 0.99


def test_a_slide_without_a_readable_pixel_is_refused() -> None:
    pixels = np.full((256, 256, 3), PINK, np.uint8)
    everything = [(0, column, row) for column in range(2) for row in range(2)]
    with pytest.raises(PixelReadError, match="no pixel"):
        find_tissue(array_slide(pixels, 2.0, tile=(128, 128), bad=everything))


class Counting(ArrayReader):
    """Remembers how large the reads are."""

    def __init__(self, *args: object) -> None:
        super().__init__(*args)  # type: ignore[arg-type]
        self.reads: list[tuple[int, int, int]] = []

    def read(self, level: int, x: int, y: int, width: int, height: int) -> Pixels:
        self.reads.append((level, width, height))
        return super().read(level, x, y, width, height)


def test_a_slide_of_one_level_is_read_in_strips(monkeypatch: pytest.MonkeyPatch) -> None:
    _, disc = planted(2400, 1800, 0.25)
    pixels = np.where(disc[..., None], np.array(PINK, np.uint8), np.array(GLASS, np.uint8))
    whole = find_tissue(Slide(ArrayReader([pixels], 0.25)))
    monkeypatch.setattr(slide_module, "MAX_READ_PIXELS", 200_000)
    reader = Counting([pixels], 0.25)
    assert np.array_equal(find_tissue(Slide(reader)).array, whole.array)
    # a strip has the rows that fit, and a pixel of margin above and below
    assert max(width * height for _, width, height in reader.reads) <= 200_000 + 4 * 2400
    assert sum(width * height for _, width, height in reader.reads) < 1.5 * 2400 * 1800


def test_a_coarse_level_is_read_where_there_is_one() -> None:
    slide, _ = planted(2400, 1800, 0.5)
    reader = Counting([slide.read(slide.plane(0.5)), slide.read(slide.plane(2.0))], 0.5)
    find_tissue(Slide(reader))
    assert {level for level, _, _ in reader.reads} == {1}


def test_the_real_slide(cmu: Path) -> None:
    with open_slide(cmu) as slide:
        mask = find_tissue(slide)
        assert 0.2 < mask.array.mean() < 0.6
        assert mask.coverage(Region(0, 0, 200, 200, slide.mpp)) == 0
        area = sum(polygon.area for polygon in mask.polygons(slide)) * slide.mpp**2
        assert area == pytest.approx(mask.area_um2, rel=0.03)


def test_the_fluorescence_slide_is_refused(data: Path) -> None:
    with open_slide(data / "slides" / "test3-DAPI-2-387.ndpi") as slide:
        with pytest.raises(UnsuitableSlideError) as caught:
            find_tissue(slide)
        assert caught.value.code == "not_brightfield"
