"""Label images: exact in pixels there and back, placed on the slide, and refused where they do not fit."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from wsikit.annotations import instances, read_annotations, write_annotations
from wsikit.annotations.annotations import Item, gather
from wsikit.errors import AnnotationError

label_images = arrays(np.uint8, st.tuples(st.integers(1, 14), st.integers(1, 14)), elements=st.integers(0, 4))


def compact(image: Any) -> Any:
    """Labels renumbered 1, 2, ... in their order."""
    return np.unique(np.append(image.ravel(), 0), return_inverse=True)[1][:-1].reshape(image.shape)


def there(image: Any, folder: Path, suffix: str = ".png") -> Path:
    path = folder / f"labels{suffix}"
    Image.fromarray(image).save(path)
    return path


@settings(max_examples=200)
@given(image=label_images)
def test_pixels_are_the_same_there_and_back(image: Any) -> None:
    """Objects of several parts, with holes, touching by edges and corners."""
    size = image.shape[1], image.shape[0]
    with tempfile.TemporaryDirectory() as folder:
        annotations = read_annotations(there(image, Path(folder)), size=size)
        left_out = write_annotations(Path(folder) / "again.png", annotations, size=size)
        again = np.asarray(Image.open(Path(folder) / "again.png"))
    assert np.array_equal(again, compact(image))
    assert left_out == ()
    assert all(shapely.is_valid(features.geometries).all() for features in annotations.features)


@pytest.mark.parametrize(
    ("dtype", "suffix"), [(np.uint8, ".png"), (np.uint16, ".png"), (np.uint16, ".tif"), (np.int32, ".tiff")]
)
def test_depths(tmp_path: Path, dtype: Any, suffix: str) -> None:
    image = np.zeros((20, 30), dtype)
    top = min(np.iinfo(dtype).max, 100_000)
    image[2:5, 3:9], image[10:15, 10:20] = top, 7
    found = read_annotations(there(image, tmp_path, suffix)).features[0]
    assert [shape.bounds for shape in found.geometries] == [(10, 10, 20, 15), (3, 2, 9, 5)]


@pytest.mark.parametrize(
    ("count", "suffix", "dtype"), [(200, ".png", "uint8"), (300, ".png", "uint16"), (70_000, ".tif", "int32")]
)
def test_as_many_bits_as_it_takes(tmp_path: Path, count: int, suffix: str, dtype: str) -> None:
    x, y = np.arange(count) % 300, np.arange(count) // 300
    drawn = gather([Item("detection", shape) for shape in shapely.box(x, y, x + 1, y + 1)])
    assert write_annotations(tmp_path / f"a{suffix}", drawn) == ()
    image = np.asarray(Image.open(tmp_path / f"a{suffix}"))
    assert image.dtype == dtype
    assert image.max() == count
    if suffix == ".tif":
        with pytest.raises(AnnotationError, match="16 bits"):
            write_annotations(tmp_path / "a.png", drawn)


def test_an_image_at_a_lower_resolution_is_placed_by_its_factor(tmp_path: Path) -> None:
    image = np.zeros((25, 50), np.uint8)
    image[5:10, 10:20] = 1
    path = there(image, tmp_path)
    (shape,) = read_annotations(path, size=(200, 99), downsample=4).polygons()
    assert shape.bounds == (40, 20, 80, 40)
    with pytest.raises(AnnotationError, match=r"50x25.*200x99") as caught:
        read_annotations(path, size=(200, 99))
    assert "--downsample" in caught.value.remedy
    left_out = write_annotations(tmp_path / "b.png", read_annotations(path, downsample=4), size=(200, 99), downsample=4)
    assert left_out == ()
    assert np.array_equal(np.asarray(Image.open(tmp_path / "b.png")), image)


def test_what_a_label_image_cannot_hold_is_said(tmp_path: Path) -> None:
    drawn = gather(
        [
            Item("annotation", shapely.box(0, 0, 10, 10), "Tumor", "a", (1, 2, 3), True, {"m": 1.0}),
            Item("detection", shapely.box(5, 5, 15, 15)),
            Item("detection", shapely.box(20.6, 3, 21.4, 8)),
            Item("detection", shapely.box(-5, 0, -2, 9)),
            Item("detection", shapely.Point(3, 3)),
        ]
    )
    said = write_annotations(tmp_path / "a.png", drawn)
    for what in ("classes", "names", "colours", "locks", "measurements", "1 x points and lines", "no detections"):
        assert any(what in sentence for sentence in said), what
    assert "2 x objects that hold no pixel's centre: left out" in said
    assert "1 x objects partly under later ones: cut" in said
    assert "1 x objects that reach outside the image: cut" in said


@pytest.mark.parametrize("mode", ["RGB", "F", "RGBA"])
def test_pictures_are_no_label_images(tmp_path: Path, mode: str) -> None:
    Image.new(mode, (8, 8)).save(tmp_path / "a.tif")
    with pytest.raises(AnnotationError, match=f"its mode is {mode}"):
        read_annotations(tmp_path / "a.tif")


@pytest.mark.parametrize(("suffix", "compression"), [(".png", None), (".tif", None), (".tif", "tiff_adobe_deflate")])
def test_what_is_written_is_read_though_pillow_allows_less(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str, compression: str | None
) -> None:
    """Pillow's limit of 178,956,970 px, made small."""
    image = np.zeros((20, 30), np.uint16)
    image[2:5, 3:9] = 7
    Image.fromarray(image).save(tmp_path / f"a{suffix}", **({"compression": compression} if compression else {}))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    (shape,) = read_annotations(tmp_path / f"a{suffix}").polygons()
    assert shape.bounds == (3, 2, 9, 5)
    assert Image.MAX_IMAGE_PIXELS == 100


@pytest.mark.parametrize("theirs", [100, 10_000])
def test_an_image_that_is_too_large_is_not_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, theirs: int
) -> None:
    path = there(np.zeros((20, 30), np.uint16), tmp_path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", theirs)
    monkeypatch.setattr(instances, "MAX_PIXELS", 599)
    with pytest.raises(AnnotationError, match=r"labels\.png is 30x20 px.* at most 599 px") as caught:
        read_annotations(path)
    assert "--downsample" in caught.value.remedy
    assert theirs == Image.MAX_IMAGE_PIXELS


def test_an_image_that_is_too_large_is_refused_before_it_is_made(tmp_path: Path) -> None:
    drawn = gather([Item("detection", shapely.box(0, 0, 9, 9))])
    with pytest.raises(AnnotationError, match="too large") as caught:
        write_annotations(tmp_path / "a.tif", drawn, size=(100_000, 100_000))
    assert "--downsample" in caught.value.remedy
