"""Dot images: a pixel for each point, there and back; points of areas lie inside; what cannot be kept is said."""

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

from wsikit.annotations import Annotations, read_annotations, write_annotations
from wsikit.annotations.annotations import Item, gather
from wsikit.annotations.dots import count_blobs
from wsikit.annotations.inside import points_of_areas, points_of_labels
from wsikit.errors import AnnotationError

pixels = st.tuples(st.integers(0, 19), st.integers(0, 11))
label_images = arrays(np.uint8, st.tuples(st.integers(1, 14), st.integers(1, 14)), elements=st.integers(0, 4))


def dots(folder: Path, at: Any, size: tuple[int, int] = (20, 12), value: int = 255, name: str = "a_points.png") -> Path:
    """A file with dots at these (column, row)."""
    image = np.zeros(size[::-1], np.uint8)
    for column, row in at:
        image[row, column] = value
    Image.fromarray(image).save(folder / name)
    return folder / name


def points(annotations: Annotations) -> list[tuple[float, float]]:
    return [(item.geometry.x, item.geometry.y) for item in annotations.items()]


def drawn(*shapes: shapely.Geometry) -> Annotations:
    return gather([Item("detection", shape) for shape in shapes])


def test_a_dot_is_the_middle_of_its_pixel(tmp_path: Path) -> None:
    found = read_annotations(dots(tmp_path, [(3, 4), (0, 0), (19, 11)]))
    assert points(found) == [(0.5, 0.5), (3.5, 4.5), (19.5, 11.5)]
    assert found.features[0].kind == "detection"
    assert not found.notes


@settings(max_examples=60)
@given(at=st.sets(pixels, max_size=12), downsample=st.sampled_from([1.0, 2.0, 0.5, 3.7]))
def test_dots_come_back(at: set[tuple[int, int]], downsample: float) -> None:
    size = 20 * downsample, 12 * downsample
    frame: Any = {"downsample": downsample, "size": size}
    with tempfile.TemporaryDirectory() as folder:
        found = read_annotations(dots(Path(folder), at), **frame)
        left_out = write_annotations(Path(folder) / "b_dots.png", found, **frame)
        first, again = (np.asarray(Image.open(Path(folder) / name)) for name in ("a_points.png", "b_dots.png"))
    assert left_out == ()
    assert np.array_equal(first, again)


@settings(max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 1900), st.integers(0, 1100)), max_size=12))
def test_points_move_by_half_a_pixel_at_most(at: list[tuple[int, int]]) -> None:
    wanted = np.array(at, float).reshape(-1, 2) / 100
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a_points.png"
        left_out = write_annotations(path, drawn(*shapely.points(wanted)), size=(20, 12))
        found = np.array(points(read_annotations(path))).reshape(-1, 2)
    pixels = {tuple(xy) for xy in np.floor(wanted).tolist()}
    assert {tuple(xy) for xy in np.floor(found).tolist()} == pixels
    assert any("another" in said for said in left_out) == (len(pixels) < len(wanted))


@settings(max_examples=100)
@given(image=label_images)
def test_labels_become_the_points_of_their_pixels(image: Any) -> None:
    """What ``convert`` writes, by outlines, is what is found in the label image itself."""
    with tempfile.TemporaryDirectory() as folder:
        labels, path = Path(folder) / "a.png", Path(folder) / "a_label_point.png"
        Image.fromarray(image).save(labels)
        size = image.shape[::-1]
        write_annotations(path, read_annotations(labels, size=size), size=size)
        found = points(read_annotations(path))
    assert sorted(found) == sorted(map(tuple, points_of_labels(image)[1].tolist()))


@settings(max_examples=100)
@given(image=label_images)
def test_the_point_of_an_object_is_its_pixel_nearest_to_its_middle(image: Any) -> None:
    numbers, found = points_of_labels(image)
    assert numbers.tolist() == np.setdiff1d(image, [0]).tolist()
    for number, (x, y) in zip(numbers, found, strict=True):
        rows, columns = np.nonzero(image == number)
        away = np.hypot(columns - columns.mean(), rows - rows.mean())
        assert image[int(y), int(x)] == number
        assert np.hypot(x - 0.5 - columns.mean(), y - 0.5 - rows.mean()) == pytest.approx(away.min(), abs=1e-6)


def test_a_crescent_has_its_point_inside() -> None:
    ring = np.zeros((21, 21), np.uint8)
    rows, columns = np.indices(ring.shape)
    ring[(np.hypot(rows - 10, columns - 10) < 9) & (np.hypot(rows - 10, columns - 10) > 6)] = 1
    (xy,) = points_of_labels(ring)[1]
    assert ring[10, 10] == 0
    assert ring[int(xy[1]), int(xy[0])] == 1


def test_an_area_without_a_pixel_has_no_point() -> None:
    shapes = np.array([shapely.box(0.6, 0.6, 1.4, 1.4), shapely.box(2, 2, 5, 5), shapely.box(-9, 0, -3, 4)], object)
    found = points_of_areas(shapes, 8, 8)
    assert np.isnan(found[[0, 2]]).all()
    assert found[1].tolist() == [3.5, 3.5]


def test_what_dots_cannot_hold_is_said(tmp_path: Path) -> None:
    annotations = gather(
        [
            Item("annotation", shapely.Point(3.5, 3.5), "Tumor", "a", (1, 2, 3), True, {"m": 1.0}),
            Item("detection", shapely.Point(3.7, 3.2)),
            Item("detection", shapely.MultiPoint([(6.5, 6.5), (8.5, 8.5)])),
            Item("detection", shapely.Point(-1, 3)),
            Item("detection", shapely.LineString([(0, 0), (5, 5)])),
            Item("detection", shapely.box(10, 5, 15, 10)),
            Item("detection", shapely.box(17.6, 3.6, 18.4, 4.4)),
        ]
    )
    said = write_annotations(tmp_path / "a_points.png", annotations)
    for what in (
        *("classes", "names", "colours", "locks", "measurements", "no detections", "1 x lines: left out"),
        *("1 x objects with several points", "2 x areas: a pixel inside", "1 x areas that hold no pixel's centre"),
        *("1 x points outside of the image", "1 x points in the pixel of another", "1 x points: moved"),
    ):
        assert any(what in sentence for sentence in said), (what, said)
    found = read_annotations(tmp_path / "a_points.png")
    assert points(found) == [(3.5, 3.5), (6.5, 6.5), (12.5, 7.5), (8.5, 8.5)]


def test_the_image_is_as_large_as_the_slide(tmp_path: Path) -> None:
    frame: Any = {"size": (101, 60), "downsample": 2.0}
    write_annotations(tmp_path / "a_dots.png", drawn(shapely.Point(100.5, 59)), **frame)
    assert Image.open(tmp_path / "a_dots.png").size == (51, 30)
    assert points(read_annotations(tmp_path / "a_dots.png", **frame)) == [(101, 59)]
    with pytest.raises(AnnotationError, match="51x30 px"):
        read_annotations(tmp_path / "a_dots.png", size=(101, 60))


@pytest.mark.parametrize("xy", [(3.0, 2.0), (3.5, 2.5), (3.99, 2.99)])
def test_without_a_slide_it_ends_with_the_last_point(tmp_path: Path, xy: tuple[float, float]) -> None:
    write_annotations(tmp_path / "a_dots.png", drawn(shapely.Point(xy)))
    assert Image.open(tmp_path / "a_dots.png").size == (4, 3)
    assert points(read_annotations(tmp_path / "a_dots.png")) == [(3.5, 2.5)]


@pytest.mark.parametrize("value", [1, 255])
def test_any_one_value_marks_a_dot(tmp_path: Path, value: int) -> None:
    found = read_annotations(dots(tmp_path, [(2, 2)], value=value))
    assert (points(found), found.notes) == ([(2.5, 2.5)], ())


def test_labels_that_are_called_dots_are_noted(tmp_path: Path) -> None:
    image = np.zeros((12, 20), np.uint8)
    image[2:5, 2:5], image[7:9, 10:14] = 1, 2
    Image.fromarray(image).save(tmp_path / "a_points.png")
    found = read_annotations(tmp_path / "a_points.png")
    assert len(found) == 17
    assert "2 values" in found.notes[0]
    assert "2 x 4 and more touching pixels" in found.notes[1]


def test_touching_points_are_no_blob_until_there_are_four() -> None:
    image = np.zeros((9, 9), np.uint8)
    image[2, 2:4], image[3, 4] = 255, 255
    assert count_blobs(image) == 0
    image[4, 5] = 255
    assert count_blobs(image) == 1


@pytest.mark.parametrize(
    ("name", "objects"),
    [
        *((name, 4) for name in ("a_label_point.png", "a_points.png", "a_point.png", "a_dots.PNG")),
        *((name, 1) for name in ("a.png", "dots.png", "a_label.png")),
    ],
)
def test_the_name_tells_dots_from_labels(tmp_path: Path, name: str, objects: int) -> None:
    """Four pixels of one value are four points, or one object in four parts."""
    path = dots(tmp_path, [(1, 1), (5, 5), (9, 1), (13, 5)], name=name)
    assert len(read_annotations(path)) == objects
    assert len(read_annotations(path, format="dots")) == 4


def test_dots_are_written_under_a_name_that_says_so(tmp_path: Path) -> None:
    with pytest.raises(AnnotationError, match=r"_label_point\.png"):
        write_annotations(tmp_path / "a.png", drawn(shapely.Point(1, 1)), format="dots")
    assert not list(tmp_path.iterdir())


def test_points_cannot_become_instances(tmp_path: Path) -> None:
    with pytest.raises(AnnotationError, match="none of 2 objects is an area") as caught:
        write_annotations(tmp_path / "a.png", drawn(shapely.Point(1, 1), shapely.Point(5, 5)))
    assert caught.value.code == "not_representable"
    assert "a_points.png" in caught.value.remedy
    assert not list(tmp_path.iterdir())
