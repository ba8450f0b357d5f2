"""Codecs of the pyramid writer, and pieces whose tiles do not repeat; its geometry is tested with the samples."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import openslide
import pytest
import tifffile

from wsikit.errors import ConfigError
from wsikit.slides.pyramid import Codec, write_pyramid


def picture(side: int = 700) -> np.ndarray:
    """Smooth in brightness, with chroma that changes from pixel to pixel."""
    y, x = np.mgrid[0:side, 0:side]
    smooth = np.stack([60 + 120 * x / side, 50 + 150 * y / side, 200 - 100 * (x + y) / (2 * side)], -1)
    smooth[:, ::2, 0] += 40
    smooth[:, ::2, 2] -= 40
    return smooth.astype(np.uint8)


def level0(path: Path) -> np.ndarray:
    with openslide.OpenSlide(path) as slide:
        return np.asarray(slide.read_region((0, 0), 0, slide.dimensions).convert("RGB"))


@pytest.mark.parametrize(
    ("codec", "quality", "compression", "photometric", "subsampling"),
    [
        ("jpeg444", 90, 7, 6, (1, 1)),
        ("jpeg420", 90, 7, 6, (2, 2)),
        ("jpeg2000", 40, 33005, 2, None),
    ],
)
def test_a_codec_is_what_the_file_says(
    tmp_path: Path, codec: Codec, quality: int, compression: int, photometric: int, subsampling: tuple[int, int] | None
) -> None:
    path = write_pyramid(tmp_path / "a.svs", picture(), size=(512, 512), mpp=0.5, codec=codec, quality=quality)
    with tifffile.TiffFile(path) as file:
        tiled = [page for page in file.pages if page.is_tiled]
        assert len(tiled) == 3
        for page in tiled:
            assert int(page.compression) == compression
            assert int(page.photometric) == photometric
            assert page.tags.valueof("YCbCrSubSampling", None) == subsampling


@pytest.mark.parametrize(("codec", "quality", "error"), [("jpeg444", 95, 6), ("jpeg420", 95, 25), ("jpeg2000", 45, 6)])
def test_openslide_shows_the_picture_in_its_colours(tmp_path: Path, codec: Codec, quality: int, error: float) -> None:
    source = picture(512)
    path = write_pyramid(tmp_path / "a.svs", source, size=(512, 512), mpp=0.5, codec=codec, quality=quality)
    assert np.abs(level0(path).astype(int) - source).mean() < error


def test_subsampling_loses_the_chroma_that_444_keeps(tmp_path: Path) -> None:
    source = picture(512).astype(int)
    losses = {
        codec: np.abs(
            level0(
                write_pyramid(
                    tmp_path / f"{codec}.svs", picture(512), size=(512, 512), mpp=0.5, codec=codec, quality=95
                )
            ).astype(int)
            - source
        )[..., 0].mean()
        for codec in ("jpeg444", "jpeg420")
    }
    assert losses["jpeg420"] > 3 * losses["jpeg444"]


def distinct_tiles(path: Path) -> int:
    with tifffile.TiffFile(path) as file:
        page = file.pages[0]
        return len(
            {
                file.filehandle.seek(o) and file.filehandle.read(n)
                for o, n in zip(page.dataoffsets, page.databytecounts, strict=True)
            }
        )


def test_tiles_of_an_odd_piece_do_not_repeat(tmp_path: Path) -> None:
    values = {"size": (2560, 2560), "mpp": 0.5, "downsamples": (4, 16)}
    odd = write_pyramid(tmp_path / "odd.svs", picture(1100), crop=1008, **values)
    even = write_pyramid(tmp_path / "even.svs", picture(1100), **values)
    assert distinct_tiles(odd) == 100
    assert distinct_tiles(even) == 64


def test_levels_of_an_odd_piece_are_still_area_averages(tmp_path: Path) -> None:
    path = write_pyramid(tmp_path / "a.svs", picture(700), size=(1300, 1300), mpp=0.5, crop=336, quality=95)
    with openslide.OpenSlide(path) as slide:
        coarse = np.asarray(slide.read_region((0, 0), 2, slide.level_dimensions[2]).convert("RGB"))
    rows = columns = 1300 // 16
    blocks = level0(path)[: rows * 16, : columns * 16].reshape(rows, 16, columns, 16, 3).mean((1, 3))
    assert np.abs(coarse - blocks).mean() < 3


@pytest.mark.parametrize(
    ("change", "said"),
    [({"codec": "png"}, "codec"), ({"crop": 1000}, "crop"), ({"crop": 128}, "crop")],
)
def test_wrong_values_are_refused(tmp_path: Path, change: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        write_pyramid(tmp_path / "a.svs", picture(), size=(512, 512), mpp=0.5, **change)  # type: ignore[arg-type]
