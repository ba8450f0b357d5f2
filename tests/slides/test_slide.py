"""``Slide``: a continuous pyramid, resolution rules, and bad tiles that are listed and never painted over."""

from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsikit.errors import PixelReadError, ResolutionError, SlideOpenError
from wsikit.geometry import Region
from wsikit.slides import Slide
from wsikit.slides import slide as slide_module
from wsikit.slides.array import ArrayReader, array_slide
from wsikit.slides.openslide import stated_mpp

PIXELS = np.random.default_rng(0).integers(0, 256, (300, 400, 3)).astype(np.uint8)
MPPS = st.sampled_from([0.5, 0.61, 0.75, 1.0, 1.3, 2.0, 2.7, 5.0])


def region_of(data: st.DataObject, slide: Slide, mpp: float) -> Region:
    """A region that may reach outside the slide."""
    width, height = slide.size_at(mpp)
    x, y = data.draw(st.integers(-9, width)), data.draw(st.integers(-9, height))
    return Region(x, y, data.draw(st.integers(1, 60)), data.draw(st.integers(1, 60)), mpp)


@settings(max_examples=60, deadline=None)
@given(st.data(), MPPS)
def test_a_part_reads_as_in_the_whole(data: st.DataObject, mpp: float) -> None:
    slide = array_slide(PIXELS, 0.5, levels=3, background=(1, 2, 3))
    whole = region_of(data, slide, slide.resolve(mpp))
    x, y = data.draw(st.integers(0, whole.width - 1)), data.draw(st.integers(0, whole.height - 1))
    width, height = data.draw(st.integers(1, whole.width - x)), data.draw(st.integers(1, whole.height - y))
    part = Region(whole.x + x, whole.y + y, width, height, whole.mpp)
    rows, columns = part.slices(whole)
    assert np.array_equal(slide.read(part), slide.read(whole)[rows, columns])


@settings(max_examples=30, deadline=None)
@given(st.data(), st.sampled_from([0.61, 0.77, 1.3, 2.7]))
def test_resampled_pixels_match_exact_means(data: st.DataObject, mpp: float) -> None:
    slide = array_slide(PIXELS, 0.5)
    ratio = mpp / 0.5
    width, height = (int(side / ratio) for side in (400, 300))
    x, y = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
    got = slide.read(Region(x, y, 1, 1, mpp))[0, 0]
    exact = np.einsum("i,j,ijc->c", covered(y, ratio, 300), covered(x, ratio, 400), PIXELS.astype(float)) / ratio**2
    assert np.abs(exact - got).max() <= 1


def covered(index: int, ratio: float, size: int) -> np.ndarray:
    """(size,) how much of every source pixel lies under one output pixel."""
    source = np.arange(size)
    return np.clip(np.minimum(source + 1, (index + 1) * ratio) - np.maximum(source, index * ratio), 0, 1)


def test_strips_equal_one_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    slide = array_slide(PIXELS, 0.5)
    region = Region(-3, -2, 190, 160, 0.93)
    whole = slide.read(region)
    monkeypatch.setattr(slide_module, "MAX_READ_PIXELS", 20_000)
    with mock.patch.object(slide.reader, "read", wraps=slide.reader.read) as read:
        assert np.array_equal(slide.read(region), whole)
    assert read.call_count > 5


def test_a_resampled_read_of_the_whole_slide_holds_a_few_rows_of_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slide_module, "STRIP_TILES", 3)
    slide = array_slide(PIXELS, 0.5, tile=(16, 16))
    with mock.patch.object(slide.reader, "read", wraps=slide.reader.read) as read:
        slide.read(slide.plane(0.93))
    boxes = [call.args[1:] for call in read.call_args_list]
    assert max(height for *_, height in boxes) <= 3 * 16 + 2
    # nothing is decoded twice but the pixels that two strips share
    assert sum(height for *_, height in boxes) <= 300 + len(boxes)


def test_a_read_up_to_the_border_stays_on_the_slide() -> None:
    # 400 and 300 px are a whole number of times 1.25: a margin beyond them would copy the whole read once more
    slide = array_slide(PIXELS, 0.5)
    with mock.patch.object(slide_module, "_blank", side_effect=AssertionError("read beyond the border")):
        slide.read(slide.plane(0.625))


def test_bad_tiles_of_several_strips_are_listed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    slide = array_slide(PIXELS, 0.5, tile=(64, 64), bad={(0, 1, 1)})
    monkeypatch.setattr(slide_module, "MAX_READ_PIXELS", 5_000)
    assert [b.box for b in slide.read_partial(slide.plane(0.93)).bad] == [(64, 64, 64, 64)]


def test_resampling_reads_the_nearest_finer_level() -> None:
    slide = array_slide(PIXELS, 0.5, levels=3)
    with mock.patch.object(slide.reader, "read", wraps=slide.reader.read) as read:
        slide.read(Region(0, 0, 9, 9, 1.5))
    assert {call.args[0] for call in read.call_args_list} == {1}


@pytest.mark.parametrize("wanted", [0.985, 1.0, 1.019])
def test_a_wish_within_two_percent_of_a_level_reads_it_unresampled(wanted: float) -> None:
    slide = array_slide(PIXELS, 0.5, levels=2)
    region = Region(2, 3, 20, 10, slide.resolve(wanted))
    assert region.mpp == 1.0
    assert np.array_equal(slide.read(region), slide.reader.read(1, 2, 3, 20, 10))


@pytest.mark.parametrize("wanted", [0.97, 1.03, 0.7])
def test_a_wish_between_levels_stays_as_it_is(wanted: float) -> None:
    assert array_slide(PIXELS, 0.5, levels=2).resolve(wanted) == wanted


def test_slightly_finer_than_level_0_is_level_0() -> None:
    assert array_slide(PIXELS, 0.54).resolve(0.5) == 0.54


def test_ten_percent_finer_is_refused() -> None:
    with pytest.raises(ResolutionError, match=r"nothing finer than 0\.56") as caught:
        array_slide(PIXELS, 0.56).resolve(0.5)
    assert caught.value.code == "resolution_unavailable"


def test_reading_finer_than_level_0_is_refused() -> None:
    with pytest.raises(ResolutionError):
        array_slide(PIXELS, 0.5).read(Region(0, 0, 5, 5, 0.4))


@pytest.mark.parametrize(
    ("mpp", "code"),
    [
        (None, "missing_mpp"),
        ((0.0, 0.0), "absurd_mpp"),
        ((float("nan"), 0.5), "absurd_mpp"),
        ((-0.5, -0.5), "absurd_mpp"),
        ((352.8, 352.8), "absurd_mpp"),
        ((0.5, 0.52), "anisotropic_mpp"),
    ],
)
def test_bad_mpp_is_an_error_that_an_override_answers(mpp: tuple[float, float] | None, code: str) -> None:
    with pytest.raises(ResolutionError) as caught:
        Slide(ArrayReader([PIXELS], mpp))
    assert caught.value.code == code
    assert "--mpp-override" in caught.value.remedy
    slide = Slide(ArrayReader([PIXELS], mpp), 0.25)
    assert (slide.mpp, slide.mpp_source) == (0.25, "override")


@pytest.mark.parametrize("override", [0.0, -1.0, float("nan"), float("inf"), 500.0])
def test_an_absurd_override_is_refused(override: float) -> None:
    with pytest.raises(ResolutionError, match="override"):
        array_slide(PIXELS, 0.5, mpp_override=override)


def test_nearly_square_pixels_give_the_mean() -> None:
    assert Slide(ArrayReader([PIXELS], (0.5, 0.502))).mpp == pytest.approx(0.501)


@pytest.mark.parametrize(
    ("texts", "mpp"),
    [
        (("0.25", "0.25"), (0.25, 0.25)),
        (("0,25", "0,25"), (0.25, 0.25)),
        (("0", "0"), (0.0, 0.0)),
        (("about", "0.5"), None),
        (("", ""), None),
    ],
)
def test_mpp_properties_never_crash(texts: tuple[str, str], mpp: tuple[float, float] | None) -> None:
    found, source = stated_mpp({"openslide.mpp-x": texts[0], "openslide.mpp-y": texts[1]})
    assert found == mpp
    assert mpp is not None or repr(texts[0]) in source


def test_read_of_a_bad_tile_raises_and_names_it() -> None:
    slide = array_slide(PIXELS, 0.5, tile=(64, 64), bad={(0, 2, 1)})
    with pytest.raises(PixelReadError, match="x=128 y=64 64x64") as caught:
        slide.read(Region(100, 50, 200, 200, 0.5))
    assert caught.value.code == "unreadable_pixels"


@settings(max_examples=40, deadline=None)
@given(st.data(), st.sets(st.tuples(st.just(0), st.integers(0, 6), st.integers(0, 4)), min_size=1, max_size=5))
def test_partial_read_is_the_clean_copy_but_for_the_bad_tiles(data: st.DataObject, bad: set) -> None:
    slide = array_slide(PIXELS, 0.5, tile=(64, 64), bad=bad, background=(7, 8, 9))
    clean = PIXELS.copy()
    for _, column, row in bad:
        clean[row * 64 : (row + 1) * 64, column * 64 : (column + 1) * 64] = (7, 8, 9)
    expected = array_slide(clean, 0.5, background=(7, 8, 9))
    for _ in range(3):  # the second and third read know some of the bad tiles
        region = region_of(data, slide, data.draw(st.sampled_from([0.5, 0.8])))
        part = slide.read_partial(region)
        assert np.array_equal(part.pixels, expected.read(region))
        if region.mpp == 0.5:
            touched = {(c, r) for _, c, r in bad if touches(region, c, r)}
            assert {(b.box[0] // 64, b.box[1] // 64) for b in part.bad} == touched


def touches(region: Region, column: int, row: int) -> bool:
    x, y = column * 64, row * 64
    x1, y1 = min(x + 64, 400), min(y + 64, 300)
    return region.x < x1 and x < region.x1 and region.y < y1 and y < region.y1


def test_an_unknown_bad_tile_beside_a_known_one_is_listed() -> None:
    slide = array_slide(PIXELS, 0.5, tile=(64, 64), bad={(0, 0, 0), (0, 1, 0)})
    assert len(slide.read_partial(Region(0, 0, 10, 10, 0.5)).bad) == 1
    assert len(slide.read_partial(Region(0, 0, 128, 10, 0.5)).bad) == 2


def test_bad_tiles_are_in_level_0_pixels_too() -> None:
    slide = array_slide(PIXELS, 0.5, levels=2, tile=(64, 64), bad={(1, 1, 0)})
    (bad,) = slide.read_partial(slide.plane(1.0)).bad
    assert bad.level0() == (128.0, 0.0, 256.0, 128.0)


def test_a_closed_slide_raises_and_gives_no_background() -> None:
    slide = array_slide(PIXELS, 0.5)
    slide.close()
    with pytest.raises(SlideOpenError):
        slide.read_partial(Region(0, 0, 5, 5, 0.5))


def test_a_file_that_is_gone_is_not_a_bad_tile(tmp_path: Path) -> None:
    from broken import RGB, scramble, tiled

    from wsikit.slides import open_slide

    path = scramble(tiled(tmp_path / "a.tif", [RGB]), 5)
    with open_slide(path, reader="openslide") as slide:
        path.unlink()
        with pytest.raises(SlideOpenError, match="opened again"):
            slide.read_partial(slide.plane(slide.mpp))


def test_wholly_outside_is_background_without_reading() -> None:
    slide = array_slide(PIXELS, 0.5, background=(1, 2, 3))
    with mock.patch.object(slide.reader, "read") as read:
        assert (slide.read(Region(5000, 0, 4, 4, 0.5)) == (1, 2, 3)).all()
    read.assert_not_called()


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (40, 1)])
def test_tiny_slides_read_at_any_mpp(size: tuple[int, int]) -> None:
    slide = array_slide(PIXELS[: size[1], : size[0]], 0.5)
    for mpp in (0.5, 0.77, 8.0):
        width, height = slide.size_at(mpp)
        assert slide.read(slide.plane(mpp)).shape == (height, width, 3)


def test_bounds_offset_is_the_corner_of_the_bounds() -> None:
    assert array_slide(PIXELS, 0.5, bounds=(10, 20, 100, 100)).bounds_offset == (10, 20)
    assert array_slide(PIXELS, 0.5).bounds_offset == (0, 0)


def test_array_slide_levels_are_block_means() -> None:
    slide = array_slide(PIXELS, 0.5, levels=2)
    means = PIXELS.reshape(150, 2, 200, 2, 3).mean((1, 3))
    assert np.array_equal(slide.read(slide.plane(1.0)), np.floor(means + 0.5))
