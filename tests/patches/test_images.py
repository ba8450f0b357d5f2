"""Encoding and decoding single patches."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from wsikit.errors import ConfigError, PixelReadError
from wsikit.patches.images import decode, encode
from wsikit.slides import open_slide

NOISE = np.random.default_rng(0).integers(0, 256, (24, 40, 3)).astype(np.uint8)


def test_png_keeps_every_pixel() -> None:
    np.testing.assert_array_equal(decode(encode(NOISE, "png")), NOISE)
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(encode(NOISE, "png")))), NOISE)


def test_a_slice_of_a_larger_array_is_encoded() -> None:
    np.testing.assert_array_equal(decode(encode(NOISE[3:20, 5:31], "png")), NOISE[3:20, 5:31])


def test_colours_stay_where_they_are() -> None:
    """Red is red: neither channels nor colour spaces are swapped."""
    flat = np.zeros((16, 16, 3), np.uint8)
    flat[:, :8], flat[:, 8:] = (200, 30, 60), (30, 60, 200)
    for data in (encode(flat, "jpeg", 95), encode(flat, "png")):
        assert np.abs(decode(data).astype(int) - flat).max() < 6
        assert np.abs(np.asarray(Image.open(io.BytesIO(data))).astype(int) - flat).max() < 6


def test_chroma_is_not_subsampled() -> None:
    """Single columns of alternating stains: 4:2:0 would mix them."""
    stripes = np.zeros((16, 16, 3), np.uint8)
    stripes[:, ::2], stripes[:, 1::2] = (180, 60, 140), (90, 80, 190)
    assert np.abs(decode(encode(stripes, "jpeg", 95)).astype(int) - stripes).mean() < 4


def test_tissue_at_the_default_quality_is_near(cmu: Path) -> None:
    with open_slide(cmu) as slide:
        tissue = np.ascontiguousarray(slide.reader.read(0, 800, 800, 512, 512))
    error = decode(encode(tissue, "jpeg")).astype(float) - tissue
    assert 10 * np.log10(255**2 / np.mean(error**2)) > 38


@pytest.mark.parametrize("encoding", ["jpeg", "png"])
def test_bytes_cut_short_are_never_pixels(encoding: Any) -> None:
    data = encode(NOISE, encoding)
    for keep in range(0, len(data) - 12, 7):
        with pytest.raises(PixelReadError):
            decode(data[:keep])


def test_what_is_no_rgb_of_the_right_size_is_refused() -> None:
    for mode in ("L", "CMYK"):
        file = io.BytesIO()
        Image.fromarray(NOISE).convert(mode).save(file, "JPEG")
        with pytest.raises(PixelReadError):
            decode(file.getvalue(), np.empty_like(NOISE))
        with pytest.raises(PixelReadError):
            decode(file.getvalue())
    for wrong in ({"side": 24}, {"out": np.empty((40, 24, 3), np.uint8)}):
        with pytest.raises(PixelReadError):
            decode(encode(NOISE, "png"), **wrong)  # type: ignore[arg-type]


def test_what_cannot_be_asked_for_is_refused() -> None:
    for quality in (0, 101):
        with pytest.raises(ConfigError):
            encode(NOISE, "jpeg", quality)
    with pytest.raises(ConfigError):
        encode(NOISE, "gif")  # type: ignore[arg-type]
