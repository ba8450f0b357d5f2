"""The contract of annotation formats, for every row of ``FORMATS``: what is not read again was said to be lost."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import shapely
from hypothesis import HealthCheck, assume, given, settings

from tests.annotations.drawn import annotated, comparable, of, parts
from tests.conformance.qupath import assert_qupath
from wsikit.annotations import FORMATS, Annotations, read_annotations, write_annotations
from wsikit.annotations.annotations import Item, default_color, gather
from wsikit.errors import AnnotationError

NAMES = {
    "geojson": "a.geojson.gz",
    "dsa": "a.json",
    "aperio": "a.xml",
    "asap": "a.xml",
    "csv": "a.csv",
    "dots": "a_points.png",
    "labels": "a.png",
}
VECTORS = [name for name in FORMATS if name not in ("dots", "labels")]


def geojson(item: Item) -> list[Item]:
    return [item] if item.kind == "annotation" else parts(item)


def dsa(item: Item) -> list[Item]:
    return [replace(part, nucleus=None) for part in parts(item)]


def drawing(item: Item) -> list[Item]:
    plain = replace(item, kind="annotation", locked=False, measurements={}, nucleus=None)
    line = isinstance(item.geometry, shapely.LineString) and len(item.geometry.coords) > 2
    return [] if line else parts(plain)


def asap(item: Item) -> list[Item]:
    if isinstance(item.geometry, shapely.MultiPoint):
        return [replace(item, kind="annotation", locked=False, measurements={})]
    return drawing(item)


def table(item: Item) -> list[Item]:
    bare = replace(item, kind="detection", color=None, locked=False, nucleus=None)
    dimension = shapely.get_dimensions(item.geometry)
    if dimension == 2:
        return [replace(bare, geometry=item.geometry.centroid)]
    return [] if dimension == 1 else parts(bare)


KEPT: dict[str, Callable[[Item], list[Item]]] = {
    "geojson": geojson,
    "dsa": dsa,
    "aperio": drawing,
    "asap": asap,
    "csv": table,
}
"""Format -> what it keeps of an object."""


def test_every_format_is_tested() -> None:
    assert set(NAMES) == set(FORMATS)
    assert set(KEPT) == set(VECTORS)


def there_and_back(annotations: Annotations, name: str, **frame: Any) -> tuple[Annotations, tuple[str, ...]]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / NAMES[name]
        left_out = write_annotations(path, annotations, format=name, **frame)
        if name == "geojson":
            assert_qupath(path)
        return read_annotations(path, **frame), left_out


def expected(annotations: Annotations, name: str) -> tuple[Any, bool]:
    """What a round trip gives, and whether that is all there was."""
    colors = {label.name: label.color for label in annotations.labels}
    kept = {label: default_color(label) for label in colors} if name == "csv" else colors
    items: Iterable[Item] = [part for item in annotations.items() for part in KEPT[name](item)]
    found = comparable(items, kept)
    return found, found == of(annotations)


@pytest.mark.parametrize("name", VECTORS)
@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(annotations=annotated())
def test_what_is_written_is_read_again(name: str, annotations: Annotations) -> None:
    found, left_out = there_and_back(annotations, name)
    wanted, whole = expected(annotations, name)
    assert of(found) == wanted
    assert (left_out == ()) == whole, left_out
    assert not found.notes


@pytest.mark.parametrize("name", VECTORS)
@settings(max_examples=15, suppress_health_check=[HealthCheck.too_slow])
@given(annotations=annotated())
def test_strict_writes_all_or_nothing(name: str, annotations: Annotations) -> None:
    _, whole = expected(annotations, name)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / NAMES[name]
        if whole:
            write_annotations(path, annotations, format=name, strict=True)
            assert path.exists()
            return
        with pytest.raises(AnnotationError) as caught:
            write_annotations(path, annotations, format=name, strict=True)
        assert caught.value.code == "not_representable"
        assert not list(Path(folder).iterdir())


@pytest.mark.parametrize("name", VECTORS)
@settings(max_examples=15, suppress_health_check=[HealthCheck.too_slow])
@given(annotations=annotated())
def test_the_bounds_offset_is_taken_off_and_added_back(name: str, annotations: Annotations) -> None:
    found, _ = there_and_back(annotations.moved(4096, 513), name, bounds_offset=(4096, 513))
    wanted, _ = expected(annotations.moved(4096, 513), name)
    assert of(found) == wanted


@pytest.mark.parametrize("name", list(FORMATS))
@settings(max_examples=10, suppress_health_check=[HealthCheck.too_slow])
@given(annotations=annotated())
def test_the_same_annotations_are_the_same_bytes(name: str, annotations: Annotations) -> None:
    areas = any(shapely.get_dimensions(features.geometries).max() == 2 for features in annotations.features)
    assume(name != "labels" or areas or not len(annotations))  # of points and lines alone there is no label image
    with tempfile.TemporaryDirectory() as folder:
        texts = []
        for place in ("one", "two"):
            path = Path(folder) / place / NAMES[name]
            path.parent.mkdir()
            write_annotations(path, annotations, format=name)
            texts.append(path.read_bytes())
    assert texts[0] == texts[1]


@pytest.mark.parametrize("name", list(FORMATS))
def test_no_annotations_are_a_file_like_any_other(name: str) -> None:
    found, left_out = there_and_back(Annotations((), ()), name)
    assert (len(found), left_out, found.notes) == (0, (), ())


@pytest.mark.parametrize("name", list(FORMATS))
@pytest.mark.parametrize(
    "content", [b"", b"\x00\x01\x02", b"{", b"<", b"[[[[", b"\xff\xfe<\x00a\x00", b"\x89PNG\r\n\x1a\n"]
)
def test_what_is_no_annotation_file_is_an_error_that_names_it(tmp_path: Path, name: str, content: bytes) -> None:
    path = tmp_path / NAMES[name]
    path.write_bytes(content)
    with pytest.raises(AnnotationError, match=path.name):
        read_annotations(path, format=name)


@pytest.mark.parametrize("name", list(FORMATS))
def test_a_truncated_file_is_an_error_or_holds_less(tmp_path: Path, name: str) -> None:
    whole = tmp_path / NAMES[name]
    square = Item("detection", shapely.box(1, 1, 9, 9), "Tumor", "one", None, False, {"a": 1.5})
    write_annotations(whole, gather([square] * 3), format=name)
    text = whole.read_bytes()
    for size in range(0, len(text), 7):
        whole.write_bytes(text[:size])
        try:
            found = read_annotations(whole, format=name)
        except AnnotationError:
            continue
        assert len(found) <= 3
        assert name in ("csv", "dots", "labels")


@pytest.mark.parametrize("name", list(FORMATS))
def test_a_missing_file_is_an_error(tmp_path: Path, name: str) -> None:
    with pytest.raises(AnnotationError, match=r"cannot be read|not a readable"):
        read_annotations(tmp_path / NAMES[name], format=name)
