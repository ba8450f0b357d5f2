"""One suite for every reader: a pixel has one value however it is reached, and nothing is painted over."""

import multiprocessing
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from wsikit.errors import SlideOpenError
from wsikit.geometry import Region
from wsikit.slides import Reader, Slide, open_reader, open_slide
from wsikit.slides.array import ArrayReader

DATA = os.environ.get("WSIKIT_DATA")
CMU, NDPI, HE = "cmu-1-small-region.svs", "test3-DAPI-2-387.ndpi", "instanseg_HE_example.tif"
CASES = [
    ("array", "array"),
    ("tiff", "whole.tif"),
    ("tiff", "fractional.tif"),
    ("tiff", CMU),
    ("openslide", "whole.tif"),
    ("openslide", "fractional.tif"),
    ("tiffslide", "whole.tif"),
    ("tiffslide", "fractional.tif"),
    ("image", "field.png"),
    ("image", "field.tif"),
    ("openslide", CMU),
    ("openslide", NDPI),
    ("openslide", "odd/boxes.tiff"),
    ("openslide", "odd/highdicom_sm_image.dcm"),
    ("tiffslide", CMU),
    ("tiffslide", NDPI),
    ("tiffslide", HE),
    ("tiffslide", "odd/boxes.tiff"),
    ("image", "kidney-48-5.tif"),
    ("image", "odd/qupath_cells.ome.tif"),
    ("image", "odd/qupath_cells-1.jp2"),
]
pytestmark = pytest.mark.filterwarnings("ignore:hamamatsu-format:UserWarning")


def picture(width: int, height: int) -> np.ndarray:
    rng = np.random.default_rng(3)
    y, x = np.mgrid[0:height, 0:width]
    waves = np.stack([np.sin(x / (9 + c)) * np.cos(y / (13 - c)) for c in range(3)], -1)
    return np.clip(150 + 60 * waves + rng.integers(-9, 9, (height, width, 3)), 0, 255).astype(np.uint8)


def write_pyramid(path: Path, levels: list[np.ndarray]) -> None:
    with tifffile.TiffWriter(path) as writer:
        for i, pixels in enumerate(levels):
            options = {"tile": (128, 128), "compression": "jpeg", "photometric": "rgb", "metadata": None}
            writer.write(pixels, subfiletype=int(i > 0), resolution=(20_000, 20_000), resolutionunit=3, **options)


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files with whole and with fractional downsamples, and two plain images."""
    folder = tmp_path_factory.mktemp("readers")
    base = picture(1200, 900)
    coarse = np.ascontiguousarray(base[::2, ::2])
    write_pyramid(folder / "whole.tif", [base, coarse, np.ascontiguousarray(base[::4, ::4])])
    # 1199 / 599 and 899 / 449: OpenSlide's downsample is 2.00195
    write_pyramid(folder / "fractional.tif", [np.ascontiguousarray(base[:899, :1199]), coarse[:449, :599].copy()])
    Image.fromarray(base[:300, :410]).save(folder / "field.png")
    tifffile.imwrite(folder / "field.tif", base[:300, :410], photometric="rgb")
    return folder


def opened(name: str, file: str, made: Path) -> Reader:
    if name == "array":
        pixels = picture(500, 400)
        return ArrayReader([pixels, pixels[::2, ::2].copy()], 0.5, tile=(64, 64), associated={"label": (3, 4)})
    path = made / file
    if not path.exists():
        if not DATA:
            pytest.skip("WSIKIT_DATA does not name the folder of real data")
        path = Path(DATA) / "slides" / file
    return open_reader(path, name)


@pytest.fixture(scope="module", params=CASES, ids=lambda case: f"{case[0]}-{Path(case[1]).name}")
def reader(request: pytest.FixtureRequest, made: Path) -> Iterator[Reader]:
    found = opened(*request.param, made)
    yield found
    found.close()


@pytest.fixture(params=[(n, f) for n, f in CASES if not f.startswith("odd/")], ids=lambda case: "-".join(case))
def fresh(request: pytest.FixtureRequest, made: Path) -> Iterator[Reader]:
    found = opened(*request.param, made)
    yield found
    found.close()


def box(data: st.DataObject, size: tuple[int, int], most: int = 300) -> tuple[int, int, int, int]:
    x, y = data.draw(st.integers(0, size[0] - 1)), data.draw(st.integers(0, size[1] - 1))
    width = data.draw(st.integers(1, min(most, size[0] - x)))
    height = data.draw(st.integers(1, min(most, size[1] - y)))
    return x, y, width, height


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_part_reads_as_in_the_whole(reader: Reader, data: st.DataObject) -> None:
    level = data.draw(st.integers(0, len(reader.sizes) - 1))
    x, y, width, height = box(data, reader.sizes[level])
    px, py, pw, ph = box(data, (width, height))
    whole = reader.read(level, x, y, width, height)
    part = reader.read(level, x + px, y + py, pw, ph)
    assert np.array_equal(part, whole[py : py + ph, px : px + pw])


def test_shape_dtype_and_contiguity(reader: Reader) -> None:
    for level, (width, height) in enumerate(reader.sizes):
        pixels = reader.read(level, 0, 0, min(width, 50), min(height, 30))
        assert pixels.shape == (min(height, 30), min(width, 50), 3)
        assert pixels.dtype == np.uint8
        assert pixels.flags.c_contiguous


def test_threads_read_what_one_thread_reads(reader: Reader) -> None:
    level = len(reader.sizes) - 1
    width, height = reader.sizes[level]
    boxes = [(level, x, y, min(60, width - x), min(60, height - y)) for x in (0, width // 2) for y in (0, height // 2)]
    boxes += [(0, *b[1:3], min(16, width - b[1]), min(16, height - b[2])) for b in boxes]
    serial = [reader.read(*b) for b in boxes]
    with ThreadPoolExecutor(4) as pool:
        threaded = list(pool.map(lambda b: reader.read(*b), boxes * 3))
    assert all(np.array_equal(a, b) for a, b in zip(serial * 3, threaded, strict=True))


def test_downsamples_are_ratios_of_sizes(reader: Reader) -> None:
    assert reader.downsamples[0] == 1.0
    assert list(reader.downsamples) == sorted(reader.downsamples)
    for (width, height), downsample in zip(reader.sizes, reader.downsamples, strict=True):
        assert abs(reader.sizes[0][0] / downsample - width) < 1
        assert abs(reader.sizes[0][1] / downsample - height) < 1


def test_tile_sizes_are_positive(reader: Reader) -> None:
    assert all(side > 0 for level in range(len(reader.sizes)) for side in reader.tile_size(level))


def test_associated_images_have_sizes(reader: Reader) -> None:
    assert all(name and width > 0 and height > 0 for name, (width, height) in reader.associated().items())


def test_mpp_has_a_source(reader: Reader) -> None:
    assert reader.mpp_source
    assert reader.vendor


def test_outside_is_background(reader: Reader) -> None:
    slide = Slide(reader, 0.5)
    pixels = slide.read(Region(-7, -5, 12, 9, 0.5))
    assert (pixels[:5] == reader.background).all()
    assert (pixels[:, :7] == reader.background).all()
    assert np.array_equal(pixels[5:, 7:], reader.read(0, 0, 0, 5, 4))


def test_read_after_close_raises(fresh: Reader) -> None:
    fresh.read(0, 0, 0, 4, 4)
    fresh.close()
    fresh.close()
    with pytest.raises(SlideOpenError, match="closed"):
        fresh.read(0, 0, 0, 4, 4)


@pytest.mark.parametrize("name", ["openslide", "tiffslide", "image"])
def test_pickled_slide_reads_the_same_in_another_process(name: str, made: Path) -> None:
    file = "field.png" if name == "image" else "whole.tif"
    with open_slide(made / file, mpp=0.4, reader=name) as slide:
        region = Region(31, 17, 90, 70, 0.8)
        here = slide.read(region)
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            there, used = pool.apply(read_elsewhere, (slide, region))
    assert used == name
    assert np.array_equal(here, there)


def read_elsewhere(slide: Slide, region: Region) -> tuple[np.ndarray, str]:
    return slide.read(region), slide.reader.name


@pytest.mark.parametrize("file", ["whole.tif", CMU, NDPI, "odd/boxes.tiff", "odd/small.svs"])
def test_openslide_and_tiffslide_agree_on_level_0(file: str, made: Path) -> None:
    one, two = opened("openslide", file, made), opened("tiffslide", file, made)
    width, height = one.sizes[0]
    whole = (0, 0, 0, min(width, 1500), min(height, 1500))
    assert np.array_equal(one.read(*whole), two.read(*whole))
    assert one.mpp == pytest.approx(two.mpp)


@pytest.mark.parametrize("file", ["whole.tif", NDPI])
def test_openslide_and_tiffslide_agree_on_whole_downsamples(file: str, made: Path) -> None:
    one, two = opened("openslide", file, made), opened("tiffslide", file, made)
    for level in range(min(len(one.sizes), len(two.sizes))):
        width, height = one.sizes[level]
        inner = (level, 3, 5, min(width - 3, 500), min(height - 5, 500))
        assert np.array_equal(one.read(*inner), two.read(*inner))


def test_openslide_resamples_fractional_downsamples_by_less_than_a_pixel(made: Path) -> None:
    one, two = opened("openslide", "fractional.tif", made), opened("tiffslide", "fractional.tif", made)
    assert one.downsamples[1] != int(one.downsamples[1])
    width, height = one.sizes[1]
    resampled, stored = (r.read(1, 0, 0, width, height).astype(int) for r in (one, two))
    # a shift of half a level-0 pixel at most: a quarter of the neighbour's difference, beside rounding
    steps = [np.abs(np.diff(stored, axis=axis, append=0)) for axis in (0, 1)]
    inner = np.s_[1:-1, 1:-1]
    assert np.abs(resampled - stored)[inner].mean() < 0.3 * sum(step[inner].mean() for step in steps)


def test_png_and_flat_tiff_hold_the_pixels_written(made: Path) -> None:
    expected = picture(1200, 900)[:300, :410]
    for file in ("field.png", "field.tif"):
        assert np.array_equal(opened("image", file, made).read(0, 0, 0, 410, 300), expected)
