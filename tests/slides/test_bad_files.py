"""Every broken or odd file ends in its stable code, and no reader lets another exception out."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from broken import APERIO, RECIPES, RGB, Recipe, cut, empty_tile, flat, saved, scramble, tiled
from PIL import Image

from wsikit.errors import PixelReadError, SlideOpenError, WsikitError
from wsikit.slides import READERS, open_reader, open_slide, tried
from wsikit.slides.colour import over_background

DATA = os.environ.get("WSIKIT_DATA")
needs_data = pytest.mark.skipif(not DATA, reason="WSIKIT_DATA does not name the folder of real data")

DIRECT = {  # file: code of opening and reading it through the direct reader; what is not here it refuses
    "cmu-1-small-region.svs": None,
    "instanseg_HE_example.tif": None,
    "odd/boxes.tiff": "absurd_mpp",
    "odd/small.svs": None,
    "odd/unreadable.svs": "unreadable_pixels",
}
REAL = {  # file: (code of the whole, {reader: code of opening and reading through it alone})
    "cmu-1-small-region.svs": (None, {"openslide": None, "tiffslide": None, "image": "unreadable"}),
    "test3-DAPI-2-387.ndpi": (None, {"openslide": None, "tiffslide": None, "image": "unreadable"}),
    "kidney-48-5.tif": ("missing_mpp", {"openslide": "unreadable", "tiffslide": "unreadable", "image": "missing_mpp"}),
    "instanseg_HE_example.tif": (None, {"openslide": "unreadable", "tiffslide": None, "image": "unreadable"}),
    "pathml_small_dicom.dcm": ("unreadable", {}),
    "pathml_small_vectra.qptiff": (
        "unsupported_pixels",
        {"openslide": "unreadable", "tiffslide": "unsupported_pixels", "image": "unsupported_pixels"},
    ),
    "odd/boxes.tiff": ("absurd_mpp", {"openslide": "absurd_mpp", "tiffslide": "absurd_mpp", "image": "unreadable"}),
    "odd/boxes_0.dcm": (None, {"openslide": None, "tiffslide": "unreadable", "image": "unreadable"}),
    "odd/small.svs": (None, {"openslide": None, "tiffslide": None, "image": "unreadable"}),
    "odd/unreadable.svs": (
        "unreadable_pixels",
        {"openslide": "unreadable_pixels", "tiffslide": "unreadable_pixels", "image": "unreadable"},
    ),
    "odd/unopenable.tiff": ("unreadable", {}),
    "odd/derived_cmu-1-small-region_truncated60.svs": ("unreadable", {}),
    "odd/qupath_cells.tif": (
        "missing_mpp",
        {"openslide": "unreadable", "tiffslide": "unreadable", "image": "missing_mpp"},
    ),
    "odd/qupath_cells.ome.tif": (None, {"openslide": "unreadable", "tiffslide": "unreadable", "image": None}),
    "odd/qupath_cells-2c.ome.tif": ("unsupported_pixels", {"openslide": "unreadable"}),
    "odd/qupath_cells-gray16.tif": ("unsupported_pixels", {"openslide": "unreadable"}),
    "odd/qupath_cells-1.jp2": ("missing_mpp", {"openslide": "unreadable", "tiffslide": "unreadable"}),
    "odd/highdicom_sm_image.dcm": (None, {"openslide": None, "tiffslide": "unreadable", "image": "unreadable"}),
    "odd/highdicom_sm_image_jpegls.dcm": ("unreadable", {}),
    "odd/highdicom_sm_annotations.dcm": ("unreadable", {}),
}


def outcome(path: Path, reader: str | None = None) -> tuple[str | None, str]:
    """(code, message) of opening a slide and reading all of level 0."""
    try:
        with open_slide(path, reader=reader) as slide:
            slide.read(slide.plane(slide.mpp))
    except WsikitError as error:
        return error.code, str(error)
    return None, ""


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.name)
def test_recipe_ends_in_its_code(recipe: Recipe, tmp_path: Path) -> None:
    code, message = outcome(recipe.make(tmp_path / recipe.name))
    assert code == recipe.code, message
    assert recipe.mentions in message


@pytest.mark.parametrize("name", ["cut.tif", "scrambled-tile.tif"])
@pytest.mark.parametrize("reader", ["tiff", "openslide", "tiffslide"])
def test_every_slide_reader_raises_rather_than_painting_bad_tiles(name: str, reader: str, tmp_path: Path) -> None:
    recipe = next(r for r in RECIPES if r.name == name)
    # OpenSlide hashes the last level on opening, so a cut in a small file already shows there
    expected = "unreadable" if (name, reader) == ("cut.tif", "openslide") else "unreadable_pixels"
    assert outcome(recipe.make(tmp_path / name), reader)[0] == expected


@needs_data
@pytest.mark.parametrize("name", REAL)
def test_real_file_ends_in_its_code(name: str) -> None:
    code, message = outcome(Path(DATA or "") / "slides" / name)
    assert code == REAL[name][0], message


@needs_data
@pytest.mark.filterwarnings("ignore:hamamatsu-format:UserWarning")
@pytest.mark.parametrize(("name", "reader"), [(name, reader) for name in REAL for reader in READERS])
def test_real_file_through_each_reader(name: str, reader: str) -> None:
    whole, each = REAL[name]
    code, message = outcome(Path(DATA or "") / "slides" / name, reader)
    if reader in ("tiff", "tiff-scaled"):
        assert code == DIRECT.get(name, "unreadable"), message
    else:
        # an empty table: no reader takes the file, each ends in the code of the whole
        assert code == each.get(reader, whole), message


@needs_data
def test_table_covers_every_real_slide_file() -> None:
    folder = Path(DATA or "") / "slides"
    assert {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()} == set(REAL)


def test_message_lists_every_readers_reason(tmp_path: Path) -> None:
    path = tmp_path / "text.svs"
    path.write_text("no slide")
    with pytest.raises(SlideOpenError) as caught:
        open_reader(path)
    assert all(f"{name}: " in str(caught.value) for name in tried())
    assert caught.value.__cause__ is not None


@pytest.mark.parametrize("reader", ["tiff", "openslide", "tiffslide"])
def test_left_out_tile_is_background(reader: str, tmp_path: Path) -> None:
    path = empty_tile(tiled(tmp_path / "a.tif", [RGB]), 5)
    with open_slide(path, reader=reader) as slide:
        pixels = slide.read(slide.plane(slide.mpp))
    assert (pixels[128:256, 128:256] == 255).all()
    assert (pixels[:128] != 255).any(axis=-1).mean() > 0.9


@pytest.mark.parametrize("reader", ["tiff", "openslide", "tiffslide"])
def test_bad_tile_is_listed_and_the_rest_is_right(reader: str, tmp_path: Path) -> None:
    with open_slide(tiled(tmp_path / "good.tif", [RGB]), reader=reader) as slide:
        good = slide.read(slide.plane(slide.mpp)).copy()
    with open_slide(scramble(tiled(tmp_path / "bad.tif", [RGB]), 5), reader=reader) as slide:
        part = slide.read_partial(slide.plane(slide.mpp))
    assert [tile.box for tile in part.bad] == [(128, 128, 128, 128)]
    good[128:256, 128:256] = 255
    assert np.array_equal(part.pixels, good)


@pytest.mark.parametrize("reader", ["tiff", "openslide", "tiffslide"])
def test_reader_works_after_an_error(reader: str, tmp_path: Path) -> None:
    opened = open_reader(scramble(tiled(tmp_path / "bad.tif", [RGB]), 5), reader)
    before = opened.read(0, 0, 0, 128, 128)
    with pytest.raises(PixelReadError):
        opened.read(0, 130, 130, 10, 10)
    assert np.array_equal(opened.read(0, 0, 0, 128, 128), before)
    opened.close()


@pytest.mark.parametrize("reader", ["tiff", "openslide", "tiffslide"])
def test_a_bad_tile_does_not_disturb_other_threads(reader: str, tmp_path: Path) -> None:
    opened = open_reader(scramble(tiled(tmp_path / "bad.tif", [RGB]), 5), reader)
    good = opened.read(0, 0, 0, 128, 128)

    def read(i: int) -> bool:
        if i % 3:
            return np.array_equal(opened.read(0, 0, 0, 128, 128), good)
        with pytest.raises(PixelReadError):
            opened.read(0, 128, 128, 128, 128)
        return True

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(read, range(90)))
    opened.close()


def test_cut_file_keeps_the_tiles_that_are_there(tmp_path: Path) -> None:
    with open_slide(cut(tiled(tmp_path / "cut.tif", [RGB]), 0.6), reader="tiffslide") as slide:
        part = slide.read_partial(slide.plane(slide.mpp))
    assert 3 <= len(part.bad) <= 7
    assert (part.pixels[:128] != 255).any(axis=-1).mean() > 0.9


@pytest.mark.parametrize("reader", list(READERS))
def test_flipped_bytes_raise_only_our_errors(reader: str, tmp_path: Path) -> None:
    make = {
        "tiff": lambda path: tiled(path, [RGB, RGB[::2, ::2]]),
        "tiff-scaled": lambda path: tiled(path, [RGB, RGB[::2, ::2]], description=APERIO.format(mpp="0.5")),
        "openslide": lambda path: tiled(path, [RGB, RGB[::2, ::2]], description=APERIO.format(mpp="0.5")),
        "tiffslide": lambda path: tiled(path, [RGB, RGB[::2, ::2]]),
        "image": lambda path: saved(path, Image.fromarray(RGB)),
    }[reader]
    suffix = ".png" if reader == "image" else ".tif"
    sound = make(tmp_path / f"seed{suffix}").read_bytes()
    rng = np.random.default_rng(1)
    path = tmp_path / f"flipped{suffix}"
    for _ in range(60):
        data = bytearray(sound)
        # most of the structure lies at the front of these files
        for at in rng.integers(0, rng.choice([64, 1024, len(data)]), 3):
            data[at] = rng.integers(256)
        path.write_bytes(data)
        try:
            opened = open_reader(path, reader)
            opened.read(0, 0, 0, *(min(side, 300) for side in opened.sizes[0]))
        except (SlideOpenError, PixelReadError):
            continue
        opened.close()


def test_tile_past_the_end_says_that_the_file_was_cut(tmp_path: Path) -> None:
    opened = open_reader(cut(tiled(tmp_path / "cut.tif", [RGB]), 0.6), "tiffslide")
    with pytest.raises(PixelReadError, match="cut short"):
        opened.read(0, 384, 256, 16, 44)


def test_flat_tiff_in_separate_planes_is_read_as_colour(tmp_path: Path) -> None:
    planes = np.ascontiguousarray(np.moveaxis(RGB, -1, 0))
    opened = open_reader(flat(tmp_path / "a.tif", planes, planarconfig="separate"))
    assert np.array_equal(opened.read(0, 0, 0, 400, 300), RGB)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_transparent_pixels_of_an_image_are_white(suffix: str, tmp_path: Path) -> None:
    rgba = np.zeros((4, 6, 4), np.uint8)
    rgba[:, :3] = (10, 20, 30, 255)
    opened = open_reader(saved(tmp_path / f"a{suffix}", Image.fromarray(rgba)))
    pixels = opened.read(0, 0, 0, 6, 4)
    assert (pixels[:, :3] == (10, 20, 30)).all()
    assert (pixels[:, 3:] == 255).all()


def test_palette_png_is_read_as_its_colours(tmp_path: Path) -> None:
    image = Image.fromarray(RGB).quantize(32)
    opened = open_reader(saved(tmp_path / "a.png", image))
    assert np.array_equal(opened.read(0, 0, 0, 400, 300), np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("format", ["png", "jpg"])
def test_cut_image_is_unreadable_pixels(format: str, tmp_path: Path) -> None:
    path = cut(saved(tmp_path / f"a.{format}", Image.fromarray(RGB)), 0.5)
    with open_slide(path, mpp=0.5) as slide, pytest.raises(PixelReadError):
        slide.read(slide.plane(0.5))


def test_over_background_matches_floats() -> None:
    rng = np.random.default_rng(0)
    rgba = rng.integers(0, 256, (50, 50, 4)).astype(np.uint8)
    alpha = rgba[..., 3:] / 255
    slow = np.floor(rgba[..., :3] * alpha + np.array([255, 128, 3]) * (1 - alpha) + 0.5)
    assert np.abs(over_background(rgba, (255, 128, 3)) - slow).max() <= 1
    assert (over_background(rgba, (255, 128, 3)) == slow).mean() > 0.99
