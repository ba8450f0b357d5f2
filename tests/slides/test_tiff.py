"""The direct TIFF reader says what OpenSlide says, shows its pixels to the last bit, and believes no header."""

import io
import os
import pickle
import struct
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest import mock

import imagecodecs
import numpy as np
import openslide
import pytest
import simplejpeg
import tifffile
from broken import APERIO, MPP_HALF, cut, empty_tile, picture, scramble, set_tag, tile_bytes, tiled
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from wsikit.errors import PixelReadError, SlideOpenError
from wsikit.slides import Reader, open_reader, open_slide
from wsikit.slides.jpeg import JpegTiles
from wsikit.slides.resample import area_average
from wsikit.slides.tiff import TiffReader
from wsikit.slides.tiles import TileReader

RGB = picture(700, 500)
SVS = {"description": APERIO.format(mpp="0.5")}
ADOBE = b"\xff\xee\0\x0eAdobe\0\x64\0\0\0\0"
JFIF = b"\xff\xe0\0\x10JFIF\0\1\1\0\0\1\0\1\0\0"

Change = Callable[[int, bytes], bytes]


def encoded(pixels: np.ndarray, subsampling: str = "420", *, rgb: bool = False) -> bytes:
    """A JPEG without JFIF or Adobe segment, YCbCr or RGB components."""
    if rgb:
        data = bytes(imagecodecs.jpeg8_encode(pixels, level=85, colorspace="RGB", outcolorspace="RGB"))
        assert data[2:4] == b"\xff\xee"
        return data[:2] + data[18:]
    data = simplejpeg.encode_jpeg(np.ascontiguousarray(pixels), quality=85, colorsubsampling=subsampling)
    assert data[2:4] == b"\xff\xe0"
    return data[:2] + data[20:]


def jpeg_file(
    path: Path,
    downsamples: tuple[int, ...] = (1,),
    *,
    tile: int = 128,
    subsampling: str = "420",
    rgb: bool = False,
    change: Change = lambda _, data: data,
    tables: bytes = b"",
    pixels: np.ndarray = RGB,
    bigtiff: bool = False,
    byteorder: str | None = None,
    **options: object,
) -> Path:
    """A pyramid whose JPEG tiles are encoded here; ``change`` may alter tile i of level 0."""
    with tifffile.TiffWriter(path, bigtiff=bigtiff, byteorder=byteorder) as writer:
        for downsample in downsamples:
            level = np.ascontiguousarray(pixels[::downsample, ::downsample])
            height, width = level.shape[:2]
            padded = np.pad(level, ((0, -height % tile), (0, -width % tile), (0, 0)), mode="edge")
            boxes = [(y, x) for y in range(0, height, tile) for x in range(0, width, tile)]
            jpegs = [encoded(padded[y : y + tile, x : x + tile], subsampling, rgb=rgb) for y, x in boxes]
            writer.write(
                iter([change(i, jpeg) for i, jpeg in enumerate(jpegs)] if downsample == 1 else jpegs),
                shape=level.shape,
                dtype=np.uint8,
                tile=(tile, tile),
                compression="jpeg",
                photometric="rgb" if rgb else "ycbcr",
                subsampling=None if rgb else {"444": (1, 1), "422": (2, 1), "420": (2, 2)}[subsampling],
                subfiletype=int(downsample > 1),
                metadata=None,
                **MPP_HALF | ({"extratags": [(347, 7, len(tables), tables, True)]} if tables else {}) | options,
            )
    return path


def jpeg2000_file(path: Path, compression: int, change: Change = lambda _, data: data) -> Path:
    """An SVS of JPEG 2000 codestreams of 128 px."""
    options = {"level": 45, "codecformat": "J2K", "colorspace": "UNSPECIFIED", "mct": compression == 33005}
    padded = np.pad(RGB, ((0, 12), (0, 68), (0, 0)), mode="edge")
    boxes = [(y, x) for y in range(0, 500, 128) for x in range(0, 700, 128)]
    tiles = [imagecodecs.jpeg2k_encode(padded[y : y + 128, x : x + 128].copy(), **options) for y, x in boxes]
    layout = {"tile": (128, 128), "compression": compression, "photometric": "rgb", "metadata": None}
    changed = iter([change(i, bytes(tile)) for i, tile in enumerate(tiles)])
    tifffile.imwrite(path, changed, shape=RGB.shape, dtype=np.uint8, **layout, **SVS)
    return path


def split_tables(data: bytes) -> tuple[bytes, bytes]:
    """A JPEG's tables as a stream of their own, and what is left of it."""
    tables, rest, at = b"", b"", 2
    while data[at + 1] != 0xDA:
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        if data[at + 1] in (0xDB, 0xC4):
            tables += data[at:end]
        else:
            rest += data[at:end]
        at = end
    return b"\xff\xd8" + tables + b"\xff\xd9", b"\xff\xd8" + rest + data[at:]


def with_shared_tables(path: Path) -> Path:
    tables, _ = split_tables(encoded(RGB[:128, :128], rgb=True))
    return jpeg_file(path, rgb=True, change=lambda _, data: split_tables(data)[1], tables=tables)


def inserted(segment: bytes) -> Change:
    """Put a segment behind the start of image."""
    return lambda _, data: data[:2] + segment + data[2:]


def left_out(path: Path) -> Path:
    return empty_tile(jpeg_file(path), 5)


MAKERS: dict[str, Callable[[Path], Path]] = {
    "420-128.tif": lambda p: jpeg_file(p, (1, 2, 4)),
    "444-240.tif": lambda p: jpeg_file(p, (1, 2, 4), tile=240, subsampling="444"),
    "422-256.tif": lambda p: jpeg_file(p, (1, 3), tile=256, subsampling="422"),
    "420-512.svs": lambda p: jpeg_file(p, (1, 4), tile=512, **SVS),
    "rgb-256.svs": lambda p: jpeg_file(p, (1, 4), tile=256, rgb=True, **SVS),
    "bigtiff.tif": lambda p: jpeg_file(p, (1, 2), bigtiff=True),
    "left-out.tif": left_out,
    "shared-tables.tif": with_shared_tables,
    "rgb-jfif.tif": lambda p: jpeg_file(p, rgb=True, change=inserted(JFIF)),
    "rgb-adobe.tif": lambda p: jpeg_file(p, rgb=True, change=inserted(ADOBE + b"\0")),
    "rgb-adobe-lies.tif": lambda p: jpeg_file(p, rgb=True, change=inserted(ADOBE + b"\1")),
    "ycbcr-adobe.tif": lambda p: jpeg_file(p, change=inserted(ADOBE + b"\1")),
    "ycbcr-adobe-lies.tif": lambda p: jpeg_file(p, change=inserted(ADOBE + b"\0")),
    "ycbcr-jfif.tif": lambda p: jpeg_file(p, change=inserted(JFIF)),
    "deflate.tif": lambda p: tiled(p, [RGB, RGB[::2, ::2]], compression="zlib"),
    "deflate-predictor.tif": lambda p: tiled(p, [RGB], compression="zlib", predictor=True),
    "lzw.svs": lambda p: tiled(p, [RGB], compression="lzw", predictor=True, **SVS),
    "none.tif": lambda p: tiled(p, [RGB, RGB[::2, ::2]], compression=None),
    "33003.svs": lambda p: jpeg2000_file(p, 33003),
    "33005.svs": lambda p: jpeg2000_file(p, 33005),
}
REAL = ["cmu-1-small-region.svs", "odd/boxes.tiff", "odd/small.svs"]
STATED = ("sizes", "downsamples", "mpp", "mpp_source", "vendor", "properties", "bounds", "background", "is_field")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiff")
    for name, make in MAKERS.items():
        make(folder / name)
    return folder


@pytest.fixture(scope="module", params=[*MAKERS, *REAL])
def path(request: pytest.FixtureRequest, made: Path) -> Path:
    if request.param in MAKERS:
        return made / request.param
    return request.getfixturevalue("data") / "slides" / request.param


@pytest.fixture(scope="module")
def both(path: Path) -> Iterator[tuple[TiffReader, Reader]]:
    direct, reference = open_reader(path, "tiff"), open_reader(path, "openslide")
    yield direct, reference
    direct.close()
    reference.close()


def test_it_says_what_openslide_says(both: tuple[TiffReader, Reader]) -> None:
    direct, reference = both
    assert {name: getattr(direct, name) for name in STATED} == {name: getattr(reference, name) for name in STATED}
    assert direct.associated() == reference.associated()


def test_it_is_served_by_default(path: Path) -> None:
    with open_slide(path, 0.5) as slide:
        assert isinstance(slide.reader, TileReader)


def test_whole_levels_equal_openslide(path: Path, both: tuple[TiffReader, Reader]) -> None:
    with openslide.OpenSlide(path) as slide:
        for level, size in enumerate(slide.level_dimensions):
            assert np.array_equal(both[0].read(level, 0, 0, *size), region(slide, level, 0, 0, *size))


def region(slide: openslide.OpenSlide, level: int, x: int, y: int, width: int, height: int) -> np.ndarray:
    """OpenSlide's pixels over white, the position in level-0 pixels."""
    rgba = np.asarray(slide.read_region((x, y), level, (width, height)))
    assert set(np.unique(rgba[..., 3])) <= {0, 255}
    return np.where(rgba[..., 3:] == 255, rgba[..., :3], 255)


@settings(max_examples=15)
@given(data=st.data())
def test_regions_equal_openslide(path: Path, both: tuple[TiffReader, Reader], data: st.DataObject) -> None:
    direct = both[0]
    exact = [level for level, downsample in enumerate(direct.downsamples) if downsample == int(downsample)]
    level = data.draw(st.sampled_from(exact))
    (width, height), scale = direct.sizes[level], int(direct.downsamples[level])
    x, y = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
    w, h = data.draw(st.integers(1, min(300, width - x))), data.draw(st.integers(1, min(300, height - y)))
    with openslide.OpenSlide(path) as slide:
        expected = region(slide, level, x * scale, y * scale, w, h)
    assert np.array_equal(direct.read(level, x, y, w, h), expected)


def test_tiles_are_the_pixels_of_read(both: tuple[TiffReader, Reader]) -> None:
    direct = both[0]
    for level, (width, height) in enumerate(direct.sizes):
        tile_width, tile_height = direct.tile_size(level)
        rows, columns = direct.tile_bytes(level).shape
        assert (columns, rows) == (-(-width // tile_width), -(-height // tile_height))
        pixels = np.zeros((rows * tile_height, columns * tile_width, 3), np.uint8)
        out = np.empty((tile_height, tile_width, 3), np.uint8)
        for row in range(rows):
            for column in range(columns):
                direct.read_tile(level, column, row, out)
                pixels[row * tile_height :, column * tile_width :][:tile_height, :tile_width] = out
        assert np.array_equal(pixels[:height, :width], direct.read(level, 0, 0, width, height))


def test_a_tile_is_a_jpeg_of_its_own_for_every_decoder(path: Path, both: tuple[TiffReader, Reader]) -> None:
    direct = both[0]
    if direct.codec(0) != "jpeg":
        with pytest.raises(ValueError, match="not stored as JPEG"):
            direct.tile_jpeg(0, 0, 0)
        return
    tile_width, tile_height = direct.tile_size(0)
    out = np.empty((tile_height, tile_width, 3), np.uint8)
    direct.read_tile(0, 0, 0, out)
    jpeg = direct.tile_jpeg(0, 0, 0)
    assert np.array_equal(imagecodecs.jpeg8_decode(jpeg), out)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(jpeg)).convert("RGB")), out)
    offset, length = tile_bytes(path, 0)
    stored = path.read_bytes()[offset : offset + length]
    # the compressed data are the file's, bit for bit
    assert jpeg.endswith(stored[stored.index(b"\xff\xda") :])


def test_a_tile_left_out_is_background_and_no_jpeg(made: Path) -> None:
    direct = open_reader(made / "left-out.tif", "tiff")
    assert direct.tile_bytes(0)[0, 5] == 0
    out = np.zeros((128, 128, 3), np.uint8)
    direct.read_tile(0, 5, 0, out)
    assert (out == 255).all()
    assert direct.tile_jpeg(0, 5, 0) is None


def test_levels_in_sub_ifds_are_levels(tmp_path: Path) -> None:
    path = tmp_path / "a.ome.tif"
    levels = [RGB, np.ascontiguousarray(RGB[::2, ::2]), np.ascontiguousarray(RGB[::4, ::4])]
    options = {"tile": (128, 128), "compression": "jpeg", "photometric": "rgb"}
    with tifffile.TiffWriter(path, ome=True) as writer:
        ome = {"axes": "YXS", "PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5}
        writer.write(levels[0], subifds=2, metadata=ome, **options)
        for level in levels[1:]:
            writer.write(level, subfiletype=1, **options)
    direct, reference = open_reader(path, "tiff"), open_reader(path, "tiffslide")
    assert direct.sizes == ((700, 500), (350, 250), (175, 125))
    assert {name: getattr(direct, name) for name in STATED} == {name: getattr(reference, name) for name in STATED}
    for level, size in enumerate(direct.sizes):
        assert np.array_equal(direct.read(level, 0, 0, *size), reference.read(level, 0, 0, *size))


@pytest.mark.parametrize("name", ["instanseg_HE_example.tif", "big-endian"])
def test_what_only_tiffslide_opens_is_read_as_by_it(name: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    if name == "big-endian":
        path = jpeg_file(tmp_path / "a.tif", byteorder=">")
    else:
        path = request.getfixturevalue("data") / "slides" / name
    with pytest.raises(SlideOpenError):
        open_reader(path, "openslide")
    direct, reference = open_reader(path, "tiff"), open_reader(path, "tiffslide")
    assert {name: getattr(direct, name) for name in STATED} == {name: getattr(reference, name) for name in STATED}
    assert np.array_equal(direct.read(0, 0, 0, *direct.sizes[0]), reference.read(0, 0, 0, *direct.sizes[0]))


def test_openslide_serves_ndpi_and_info_says_why(data: Path) -> None:
    path = data / "slides" / "test3-DAPI-2-387.ndpi"
    assert open_reader(path).name == "openslide"
    with pytest.raises(SlideOpenError, match="hamamatsu"):
        TiffReader(path)


def test_holes_in_a_lower_aperio_level_are_openslides_to_fill(tmp_path: Path) -> None:
    path = jpeg_file(tmp_path / "a.svs", (1, 2), **SVS)
    with tifffile.TiffFile(path) as tiff:
        counts = (0, *tiff.pages[1].databytecounts[1:])
    set_tag(path, "TileByteCounts", counts, page=1)
    with pytest.raises(SlideOpenError, match="leaves out tiles"):
        TiffReader(path)
    assert open_reader(path).name == "openslide"


def test_subsampled_jpeg_2000_is_openslides_to_read(tmp_path: Path) -> None:
    def subsample(_: int, data: bytes) -> bytes:
        return data[:46] + b"\2" + data[47:]

    with pytest.raises(SlideOpenError, match="subsampled"):
        TiffReader(jpeg2000_file(tmp_path / "a.svs", 33003, subsample))


def test_two_images_of_one_size_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SlideOpenError, match="2 tiled images are 700x500"):
        TiffReader(tiled(tmp_path / "a.tif", [RGB, RGB]))


def frame_of(data: bytes) -> int:
    """Position of SOF0."""
    return data.index(b"\xff\xc0\0\x11")


def of_size(width: int, height: int) -> Change:
    blank = np.zeros((height, width, 3), np.uint8)
    return lambda _, __: encoded(blank)


def grey(_: int, __: bytes) -> bytes:
    return simplejpeg.encode_jpeg(RGB[:128, :128, :1].copy(), colorspace="gray", colorsubsampling="gray")


def twelve_bits(_: int, data: bytes) -> bytes:
    at = frame_of(data)
    return data[: at + 4] + b"\x0c" + data[at + 5 :]


def arithmetic(_: int, data: bytes) -> bytes:
    at = frame_of(data)
    return data[: at + 1] + b"\xc9" + data[at + 2 :]


BAD_JPEG: dict[str, tuple[Change, str]] = {
    "6000 px": (of_size(6000, 6000), "6000x6000 px"),
    "smaller": (of_size(64, 64), "64x64 px"),
    "oblong": (of_size(128, 64), "128x64 px"),
    "grey": (grey, "1 x 8 bits"),
    "12 bits": (twelve_bits, "3 x 12 bits"),
    "arithmetic": (arithmetic, "SOF9"),
    "half": (lambda _, d: d[: len(d) // 2], "Premature end"),
    "no end": (lambda _, d: d[:-2], "Premature end"),
    "half with an end": (lambda _, d: d[: len(d) // 2] + b"\xff\xd9", "premature end of data segment"),
    "header only": (lambda _, d: d[:300], "cut short"),
    "start only": (lambda _, d: d[:2], "cut short"),
    "no scan": (lambda _, d: d[:2] + b"\xff\xd9", "no scan"),
    "no frame": (lambda _, d: d[: frame_of(d)] + d[frame_of(d) + 19 :], "0 frame headers"),
    "two frames": (lambda _, d: d[: frame_of(d) + 19] + d[frame_of(d) :], "2 frame headers"),
    "random": (lambda _, d: np.random.default_rng(0).bytes(len(d)), "no JPEG"),
    "text": (lambda _, d: b"no picture", "no JPEG"),
}


@pytest.mark.parametrize("name", BAD_JPEG)
def test_a_bad_jpeg_tile_is_named_with_its_reason(name: str, tmp_path: Path) -> None:
    change, reason = BAD_JPEG[name]
    path = jpeg_file(tmp_path / "a.tif", change=lambda i, data: change(i, data) if i == 7 else data)
    direct, sound = open_reader(path, "tiff"), open_reader(jpeg_file(tmp_path / "b.tif"), "tiff")
    with pytest.raises(PixelReadError, match=rf"a\.tif: the tile of level 0 at \(128, 128\) .*{reason}"):
        direct.read(0, 100, 100, 100, 100)
    # nothing else is touched
    assert np.array_equal(direct.read(0, 256, 0, 300, 500), sound.read(0, 256, 0, 300, 500))


@pytest.mark.parametrize("name", ["6000 px", "smaller", "grey", "12 bits", "arithmetic"])
def test_a_wrong_header_is_refused_before_anything_is_decoded(name: str, tmp_path: Path) -> None:
    change, _ = BAD_JPEG[name]
    path = jpeg_file(tmp_path / "a.tif", change=lambda i, data: data if i else change(i, data))
    direct = open_reader(path, "tiff")
    with mock.patch.object(simplejpeg, "decode_jpeg") as decode, pytest.raises(PixelReadError):
        direct.read(0, 0, 0, 10, 10)
    decode.assert_not_called()


def test_progressive_tiles_are_read(tmp_path: Path) -> None:
    def progressive(_: int, data: bytes) -> bytes:
        buffer = io.BytesIO()
        Image.open(io.BytesIO(data)).save(buffer, "jpeg", quality=85, progressive=True)
        return buffer.getvalue()

    path = jpeg_file(tmp_path / "a.tif", change=progressive)
    with openslide.OpenSlide(path) as slide:
        assert np.array_equal(open_reader(path, "tiff").read(0, 0, 0, 700, 500), region(slide, 0, 0, 0, 700, 500))


BAD_JPEG_2000: dict[str, tuple[Change, str]] = {
    "half": (lambda _, d: d[: len(d) // 2], "opj"),
    "no end": (lambda _, d: d[:-2], "opj"),
    "60000 px": (lambda _, d: d[:8] + struct.pack(">II", 60_000, 60_000) + d[16:], "60000x60000"),
    "one component": (lambda _, d: d[:41] + b"\1" + d[42:], "1 components"),
    "16 bits": (lambda _, d: d[:42] + b"\x0f" + d[43:], "16 bits"),
    "1 px parts": (lambda _, d: d[:24] + struct.pack(">II", 1, 1) + d[32:], "parts of 1x1"),
    "header only": (lambda _, d: d[:30], "no JPEG 2000"),
    "random": (lambda _, d: np.random.default_rng(0).bytes(len(d)), "no JPEG 2000"),
}


@pytest.mark.parametrize("name", BAD_JPEG_2000)
def test_a_bad_jpeg_2000_tile_is_named_with_its_reason(name: str, tmp_path: Path) -> None:
    change, reason = BAD_JPEG_2000[name]
    path = jpeg2000_file(tmp_path / "a.svs", 33005, lambda i, data: change(i, data) if i == 7 else data)
    direct = open_reader(path, "tiff")
    with pytest.raises(PixelReadError, match=rf"at \(128, 128\) .*{reason}"):
        direct.read(0, 130, 130, 10, 10)
    assert direct.read(0, 0, 0, 128, 128).std() > 10


@pytest.mark.parametrize("compression", ["zlib", "lzw"])
def test_a_scrambled_lossless_tile_is_an_error(compression: str, tmp_path: Path) -> None:
    path = scramble(tiled(tmp_path / "a.tif", [RGB], compression=compression), 7)
    with pytest.raises(PixelReadError, match=r"at \(128, 128\)"):
        open_reader(path, "tiff").read(0, 130, 130, 10, 10)


@pytest.mark.parametrize("compression", ["zlib", "lzw", None])
def test_a_short_lossless_tile_is_an_error(compression: str | None, tmp_path: Path) -> None:
    path = tiled(tmp_path / "a.tif", [RGB], compression=compression)
    with tifffile.TiffFile(path) as tiff:
        counts = list(tiff.pages[0].databytecounts)
    counts[7] //= 2
    set_tag(path, "TileByteCounts", tuple(counts))
    with pytest.raises(PixelReadError, match=r"at \(128, 128\)"):
        open_reader(path, "tiff").read(0, 130, 130, 10, 10)


def test_a_tile_past_the_end_says_that_the_file_was_cut(tmp_path: Path) -> None:
    path = jpeg_file(tmp_path / "a.tif", (1, 8))
    direct = open_reader(path, "tiff")
    offset, length = tile_bytes(path, 23)
    os.truncate(path, offset + length // 2)
    with pytest.raises(PixelReadError, match="bytes could be read"):
        direct.read(0, 690, 490, 1, 1)
    with pytest.raises(PixelReadError, match="cut short"):
        open_reader(cut(jpeg_file(tmp_path / "b.tif"), 0.6), "tiff").read(0, 690, 490, 1, 1)


@pytest.mark.parametrize("count", [2**32 - 1, 2**31])
def test_an_absurd_byte_count_is_an_error(count: int, tmp_path: Path) -> None:
    path = jpeg_file(tmp_path / "a.tif")
    with tifffile.TiffFile(path) as tiff:
        counts = [count, *tiff.pages[0].databytecounts[1:]]
    set_tag(path, "TileByteCounts", tuple(counts))
    # a sparse file is as large as its table says, and costs nothing
    os.truncate(path, 2**33)
    direct = open_reader(path, "tiff")
    with pytest.raises(PixelReadError, match=f"takes {count} bytes"):
        direct.read(0, 0, 0, 1, 1)


def image_directory(tags: list[tuple[int, int, int, int]], following: int) -> bytes:
    entries = b"".join(struct.pack("<HHII", *tag) for tag in tags)
    return struct.pack("<H", len(tags)) + entries + struct.pack("<I", following)


def ifd_loop(path: Path) -> Path:
    path.write_bytes(b"II*\0\x08\0\0\0" + image_directory([(256, 4, 1, 1)], 8))
    return path


def a_million_ifds(path: Path) -> Path:
    size = len(image_directory([(256, 4, 1, 1)], 0))
    chain = np.frombuffer(image_directory([(256, 4, 1, 1)], 0) * 1_000_000, np.uint8).reshape(-1, size).copy()
    following = np.arange(1, 1_000_001, dtype="<u4") * size + 8
    chain[:, -4:] = following[:, None].view(np.uint8)
    path.write_bytes(b"II*\0\x08\0\0\0" + chain.tobytes())
    return path


STRUCTURES: dict[str, Callable[[Path], Path]] = {
    "a loop": ifd_loop,
    "a million": a_million_ifds,
    "2^31 wide": lambda p: set_tag(jpeg_file(p), "ImageWidth", 2**31),
    "2^31 square": lambda p: set_tag(set_tag(jpeg_file(p), "ImageWidth", 2**31), "ImageLength", 2**31),
    "tiles of 0 px": lambda p: set_tag(jpeg_file(p), "TileWidth", 0),
    "tiles of 1 px": lambda p: set_tag(set_tag(jpeg_file(p), "TileWidth", 1), "TileLength", 1),
    "tiles of 10^6 px": lambda p: set_tag(set_tag(jpeg_file(p), "TileWidth", 60_000), "TileLength", 60_000),
    "turned": lambda p: jpeg_file(p, extratags=[(274, 3, 1, 6, True)]),
    "no IFD": lambda p: p.write_bytes(b"II*\0\0\0\0\0") and p,
    "IFD past the end": lambda p: p.write_bytes(b"II+\0\x08\0\0\0" + b"\xff" * 8) and p,
}


@pytest.mark.parametrize("name", STRUCTURES)
def test_a_false_structure_is_refused_at_once(name: str, tmp_path: Path) -> None:
    path = STRUCTURES[name](tmp_path / "a.tif")
    began = time.monotonic()
    with pytest.raises(SlideOpenError) as caught:
        TiffReader(path)
    assert time.monotonic() - began < 2
    assert caught.value.code == "unreadable"


def test_damaged_shared_tables_are_refused(tmp_path: Path) -> None:
    path = jpeg_file(tmp_path / "a.tif", tables=b"\xff\xd8\xff\xdb\xff\xff\0\xff\xd9")
    with pytest.raises(SlideOpenError, match="0xdb of the JPEG's header is cut short"):
        TiffReader(path)


def test_threads_share_nothing_that_changes_pixels(made: Path) -> None:
    direct = open_reader(made / "444-240.tif", "tiff")
    boxes = [(x, y, 90, 70) for x in range(0, 600, 50) for y in range(0, 400, 50)]
    expected = [direct.read(0, *box) for box in boxes]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda box: direct.read(0, *box), boxes * 3))
    assert all(np.array_equal(a, b) for a, b in zip(found, expected * 3, strict=True))


def test_closing_while_others_read_gives_right_pixels_or_our_error(made: Path) -> None:
    path, others = made / "420-128.tif", made / "444-240.tif"
    expected = open_reader(path, "tiff").read(0, 0, 0, 128, 128)

    def read(direct: Reader) -> bool:
        try:
            for _ in range(200):
                if not np.array_equal(direct.read(0, 0, 0, 128, 128), expected):
                    return False
        except SlideOpenError as error:
            return "was closed" in str(error)
        return True

    with ThreadPoolExecutor(4) as pool:
        for _ in range(10):
            direct = open_reader(path, "tiff")
            found = [pool.submit(read, direct) for _ in range(3)]
            direct.close()
            # a descriptor of the same number, and other bytes behind it
            with others.open("rb"):
                assert all(future.result() for future in found)


def test_no_descriptor_is_left_open(made: Path, tmp_path: Path) -> None:
    listed = Path("/proc/self/fd")
    if not listed.is_dir():
        pytest.skip("needs /proc")
    refused = tiled(tmp_path / "a.tif", [RGB, RGB])
    open_reader(made / "420-128.tif", "tiff").close()
    before = len(list(listed.iterdir()))
    for _ in range(5):
        open_reader(made / "420-128.tif", "tiff").close()
        with pytest.raises(SlideOpenError):
            TiffReader(refused)
    assert len(list(listed.iterdir())) == before


def test_out_of_another_shape_is_a_programmers_error(made: Path) -> None:
    direct = open_reader(made / "420-128.tif", "tiff")
    with pytest.raises(ValueError, match="128, 128, 3"):
        direct.read_tile(0, 0, 0, np.empty((64, 64, 3), np.uint8))
    with pytest.raises(ValueError, match="128, 128, 3"):
        direct.read_tile(0, 0, 0, np.empty((128, 256, 3), np.uint8)[:, ::2])


def test_a_header_is_read_once_for_tiles_that_share_it() -> None:
    tiles = JpegTiles((128, 128), rgb=False)
    out = np.empty((128, 128, 3), np.uint8)
    with mock.patch.object(tiles, "_read_header", wraps=tiles._read_header) as read_header:
        for x in (0, 128, 256):
            tiles.decode(encoded(RGB[:128, x : x + 128]), out)
    assert read_header.call_count == 1


def scaled_levels(path: Path) -> Reader:
    with open_slide(path, 0.5, scaled=True) as slide:
        return slide.reader


def test_scaled_levels_lie_between_the_stored_ones(made: Path) -> None:
    scaled = scaled_levels(made / "420-512.svs")
    assert scaled.name == "tiff-scaled"
    assert scaled.downsamples == (1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
    assert scaled.sizes == ((700, 500), (350, 250), (175, 125), (87, 62), (43, 31), (21, 15))
    assert [scaled.tile_size(level)[0] for level in range(6)] == [512, 256, 512, 256, 128, 64]


def test_only_jpeg_is_scaled(made: Path) -> None:
    for name in ("33005.svs", "deflate.tif"):
        assert scaled_levels(made / name).sizes == open_reader(made / name).sizes


def test_tiles_that_a_scale_does_not_divide_are_not_scaled_by_it(tmp_path: Path) -> None:
    path = jpeg_file(tmp_path / "a.tif", tile=144, subsampling="444")
    assert scaled_levels(path).downsamples == (1.0, 2.0, 4.0, 8.0)
    with mock.patch("wsikit.slides.tiff_scaled.SCALES", (2, 5)):
        assert scaled_levels(path).downsamples == (1.0, 2.0)


def test_scaled_levels_are_close_to_area_averages(data: Path) -> None:
    # the largest of what the docstring states for tissue; CMU-1 is RGB in JPEG, the other YCbCr 4:2:0
    for name, mean, most in (("cmu-1-small-region.svs", 0.2, 25), ("instanseg_HE_example.tif", 1.0, 25)):
        path = data / "slides" / name
        with open_slide(path) as slide, open_slide(path, scaled=True) as scaled:
            full = slide.reader.read(0, 0, 0, slide.width, slide.height)
            for level in scaled.levels[1:]:
                scale = int(level.downsample)
                expected = area_average(full, (0, 0), scale, (0, 0, level.width, level.height)).astype(int)
                off = np.abs(scaled.reader.read(level.index, 0, 0, level.width, level.height) - expected)
                assert off.mean() < mean
                assert off.max() <= most


def test_scaled_levels_have_no_jpeg_of_their_own(made: Path) -> None:
    scaled = open_reader(made / "420-128.tif", scaled=True)
    assert scaled.tile_jpeg(0, 0, 0) is not None
    with pytest.raises(ValueError, match="not stored"):
        scaled.tile_jpeg(3, 0, 0)


def test_a_slide_with_scaled_levels_pickles_with_them(made: Path) -> None:
    slide = open_slide(made / "420-128.tif", scaled=True)
    again = pickle.loads(pickle.dumps(slide))
    assert again.levels == slide.levels
    assert again.reader.name == "tiff-scaled"


def test_a_bad_tile_is_bad_on_its_scaled_level(tmp_path: Path) -> None:
    path = scramble(jpeg_file(tmp_path / "a.tif", subsampling="444"), 7)
    with open_slide(path, scaled=True) as slide:
        part = slide.read_partial(slide.plane(slide.levels[1].mpp))
    assert [bad.box for bad in part.bad] == [(64, 64, 64, 64)]


def test_files_that_cannot_be_scaled_open_as_ever(data: Path) -> None:
    assert open_reader(data / "slides" / "test3-DAPI-2-387.ndpi", scaled=True).name == "openslide"
