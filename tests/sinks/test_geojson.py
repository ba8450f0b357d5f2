"""The GeoJSON sink: frames, validity at 0.01 px, stable ids and bytes, splitting, and QuPath's contract throughout."""

from __future__ import annotations

import dataclasses
import gzip
import json
import tracemalloc
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from shapely.geometry import shape

from tests.conformance.qupath import assert_qupath
from wsikit.annotations.geojson_text import NAMESPACE, snapped, star_shaped
from wsikit.errors import ConfigError, PredictionError
from wsikit.features import FeatureKind, Features
from wsikit.predictions import Label
from wsikit.sinks import SinkContext
from wsikit.sinks.geojson import GeoJSONSink

CONTEXT = SinkContext(
    slide_id="case 1",
    slide_mpp=0.25,
    bounds_offset=(0, 0),
    mpp=0.5,
    size=(4000, 4000),
    labels=(Label("Nucleus", (10, 200, 30)), Label('odd "näme"', (1, 2, 3))),
    model="test",
    layers=(),
    has_scores=False,
    overview=np.zeros((4, 4, 3), np.uint8),
    overview_mpp=500.0,
)
BOX = shapely.box(10, 20, 30, 40)
RING = BOX.difference(shapely.box(15, 25, 20, 30))
BOW_TIE = shapely.Polygon([(0, 0), (10, 10), (10, 0), (0, 6)])
TWO = shapely.MultiPolygon([shapely.box(0, 0, 2, 2), shapely.box(10, 10, 15, 15)])


def features(geometries: Sequence[Any], kind: FeatureKind = "detection", label: int = 0, **more: Any) -> Features:
    array = np.empty(len(geometries), object)
    array[:] = geometries
    return Features(kind, array, np.full(len(geometries), label, np.int64), **more)


def export(folder: Path, *parts: Features, context: SinkContext = CONTEXT) -> tuple[list[dict[str, Any]], GeoJSONSink]:
    """Write, check against QuPath's contract and read back."""
    sink = GeoJSONSink(folder / "objects.geojson")
    sink.begin(context)
    for part in parts:
        sink.write(part)
    sink.commit()
    assert_qupath(sink.path)
    found: list[dict[str, Any]] = json.loads(sink.path.read_bytes())["features"]
    return found, sink


def unpacked(path: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(gzip.decompress(path.read_bytes()))["features"]
    return found


def discs(count: int, seed: int = 0) -> Features:
    """``count`` polygons of 24 vertices with two measurements."""
    rng = np.random.default_rng(seed)
    angle = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    unit = np.stack([np.cos(angle), np.sin(angle)], -1)
    xy = rng.uniform(100, 9000, (count, 1, 2)) + rng.uniform(8, 12, (count, 24, 1)) * unit
    measured = {"Area um^2": rng.uniform(10, 90, count), "Score": rng.uniform(0, 1, count)}
    return Features("detection", shapely.polygons(xy), np.zeros(count, np.int64), measured)


def test_coordinates_are_level_0_pixels_less_the_bounds_offset(tmp_path: Path) -> None:
    moved = dataclasses.replace(CONTEXT, bounds_offset=(7, 3))
    cells = features([BOX], "cell", nuclei=np.array([shapely.box(12, 22, 14, 24)], object))
    [cell], _ = export(tmp_path, cells, context=moved)
    assert shape(cell["geometry"]).bounds == (3, 17, 23, 37)
    assert shape(cell["nucleusGeometry"]).bounds == (5, 19, 7, 21)


def test_coordinates_are_rounded_to_a_hundredth_of_a_pixel(tmp_path: Path) -> None:
    [point], _ = export(tmp_path, features([shapely.Point(1.23456, -0.001)]))
    assert json.dumps(point["geometry"]["coordinates"]) == "[1.23, 0.0]"


def test_holes_are_kept(tmp_path: Path) -> None:
    [found], _ = export(tmp_path, features([RING]))
    assert shape(found["geometry"]).equals(RING)


def test_geometries_of_all_types_keep_their_order_and_shape(tmp_path: Path) -> None:
    given_ = [shapely.Point(5, 6), TWO, RING, shapely.Point(7, 8), BOX]
    found, _ = export(tmp_path, features(given_, "annotation"))
    assert all(shape(f["geometry"]).equals(g) for f, g in zip(found, given_, strict=True))


@pytest.mark.parametrize("kind", ["detection", "cell", "annotation", "tile"])
def test_the_type_stands_in_the_properties_and_only_annotations_are_locked(tmp_path: Path, kind: FeatureKind) -> None:
    [found], _ = export(tmp_path, features([BOX], kind))
    assert found["properties"]["objectType"] == kind
    assert found["properties"].get("isLocked", False) == (kind == "annotation")


def test_a_label_comes_with_its_name_and_colour(tmp_path: Path) -> None:
    [found], _ = export(tmp_path, features([BOX], label=1))
    assert found["properties"]["classification"] == {"name": 'odd "näme"', "color": [1, 2, 3]}


def test_no_label_is_no_classification(tmp_path: Path) -> None:
    [found], _ = export(tmp_path, features([BOX], label=-1))
    assert found["properties"] == {"objectType": "detection"}


def test_names_are_written(tmp_path: Path) -> None:
    found, _ = export(tmp_path, features([BOX, TWO], "annotation", names=("tissue 1", 'a "b" ü')))
    assert [f["properties"]["name"] for f in found] == ["tissue 1", 'a "b" ü']


def test_measurements_have_six_digits_and_nan_is_left_out(tmp_path: Path) -> None:
    values = {"a b": np.array([1 / 3, np.nan, 123456789.4]), "c": np.array([np.nan, np.nan, -1.23456789e-7])}
    found, _ = export(tmp_path, features([BOX, RING, shapely.Point(1, 1)], measurements=values))
    measured = [f["properties"].get("measurements") for f in found]
    assert measured == [{"a b": 0.333333}, None, {"a b": 123456789.0, "c": -1.23457e-7}]


@given(st.floats(allow_nan=False, allow_infinity=False, min_value=-1e12, max_value=1e12))
def test_a_measurement_is_within_half_a_unit_of_its_sixth_digit(value: float) -> None:
    from wsikit.annotations.geojson_text import _significant

    [found] = _significant(np.array([value]))
    assert abs(found - value) <= max(abs(value) * 5e-6, 1e-22)


def test_an_outline_that_crosses_itself_becomes_its_largest_part(tmp_path: Path) -> None:
    [found], sink = export(tmp_path, features([BOW_TIE]))
    parts = shapely.get_parts(shapely.make_valid(BOW_TIE))
    assert shape(found["geometry"]).area == pytest.approx(max(p.area for p in parts), abs=0.1)
    assert (sink.written, sink.repaired, sink.dropped) == (1, 1, 0)


def test_a_mended_outline_is_moved_by_the_offset_too(tmp_path: Path) -> None:
    moved = dataclasses.replace(CONTEXT, bounds_offset=(100, 200))
    [here], _ = export(tmp_path, features([BOW_TIE]))
    [there], _ = export(
        tmp_path, features([shapely.transform(BOW_TIE, lambda xy: xy + np.array([100, 200]))]), context=moved
    )
    assert there["geometry"] == here["geometry"]


def test_a_mended_outline_has_no_negative_zero(tmp_path: Path) -> None:
    crossed = shapely.transform(BOW_TIE, lambda xy: xy - 0.001)
    [found], sink = export(tmp_path, features([crossed], "annotation"))
    assert sink.repaired == 1
    assert "-0.0" not in json.dumps(found["geometry"])


def test_an_annotation_that_crosses_itself_keeps_all_its_parts(tmp_path: Path) -> None:
    [found], sink = export(tmp_path, features([BOW_TIE], "annotation"))
    assert shape(found["geometry"]).area == pytest.approx(shapely.make_valid(BOW_TIE).area, abs=0.1)
    assert sink.repaired == 1


def test_a_detection_of_two_parts_is_cut_to_the_larger_and_counted(tmp_path: Path) -> None:
    [found], sink = export(tmp_path, features([TWO]))
    assert shape(found["geometry"]).bounds == (10, 10, 15, 15)
    assert sink.repaired == 1


def test_a_detection_in_a_multipolygon_of_one_part_is_not_called_repaired(tmp_path: Path) -> None:
    [found], sink = export(tmp_path, features([shapely.MultiPolygon([BOX])]))
    assert shape(found["geometry"]).equals(BOX)
    assert sink.repaired == 0


@pytest.mark.parametrize("nothing", [None, shapely.Polygon(), shapely.box(5, 5, 5.001, 90), shapely.Point()])
def test_what_has_no_extent_is_dropped_and_counted(tmp_path: Path, nothing: Any) -> None:
    found, sink = export(tmp_path, features([nothing, BOX]))
    assert len(found) == 1
    assert (sink.written, sink.dropped) == (1, 1)


def test_a_cell_without_nucleus_has_no_nucleus_member(tmp_path: Path) -> None:
    cells = features([BOX, RING], "cell", nuclei=np.array([shapely.Polygon(), shapely.box(11, 21, 14, 24)], object))
    found, _ = export(tmp_path, cells)
    assert ["nucleusGeometry" in f for f in found] == [False, True]


rings = st.lists(st.tuples(*[st.floats(0, 40).map(lambda v: v / 7)] * 2), min_size=3, max_size=12)


@settings(deadline=None, max_examples=150)
@given(st.lists(rings, min_size=1, max_size=6), st.booleans())
def test_whatever_the_rings_what_is_kept_is_valid_on_the_grid(drawn: list[Any], single: bool) -> None:
    geometries = np.array([shapely.Polygon(ring) for ring in drawn], object)
    kept, _ = snapped(geometries, (3, 1), single=single)
    for before, after in zip(geometries, kept, strict=True):
        if after is None:
            # a strip narrower than the grid is all that may vanish
            assert shapely.make_valid(before).buffer(-0.02).is_empty
            continue
        xy = shapely.get_coordinates(after)
        assert after.is_valid
        assert np.array_equal(xy, np.round(xy, 2))
        assert after.geom_type == "Polygon" or not single


@settings(deadline=None, max_examples=60)
@given(st.lists(rings, min_size=1, max_size=4))
def test_annotations_keep_their_area_to_the_grid(drawn: list[Any]) -> None:
    valid = [shapely.make_valid(shapely.Polygon(ring)) for ring in drawn]
    polygons = np.array([g for g in valid if g.geom_type in ("Polygon", "MultiPolygon")], object)
    kept, _ = snapped(polygons, (0, 0), single=False)
    for before, after in zip(polygons, kept, strict=True):
        area = 0.0 if after is None else after.area
        assert abs(area - before.area) <= 0.011 * before.length + 0.001


def test_ids_are_uuid5_of_slide_kind_label_and_written_coordinates(tmp_path: Path) -> None:
    [found], _ = export(tmp_path, features([BOX], label=1))
    coordinates = json.dumps([[[float(v) for v in p] for p in found["geometry"]["coordinates"][0]]])
    name = f'case 1\ndetection\nodd "näme"\n{coordinates.replace(" ", "")}'
    assert found["id"] == str(uuid.uuid5(NAMESPACE, name))


def test_ids_differ_by_slide_kind_label_and_geometry(tmp_path: Path) -> None:
    parts = [features([BOX]), features([BOX], label=1), features([BOX], "tile"), features([RING])]
    found, _ = export(tmp_path, *parts)
    other, _ = export(tmp_path, *parts, context=dataclasses.replace(CONTEXT, slide_id="case 2"))
    assert len({f["id"] for f in found + other}) == 8


@pytest.mark.parametrize("sizes", [(6000,), (1, 2999, 3000), (1,) * 700 + (5300,)])
def test_compressed_bytes_depend_only_on_the_features_and_their_order(tmp_path: Path, sizes: tuple[int, ...]) -> None:
    whole = discs(6000)
    outputs = []
    for name, cuts in (("a", (100,) * 60), ("b", sizes)):
        sink = GeoJSONSink(tmp_path / f"{name}.geojson.gz")
        sink.begin(CONTEXT)
        start = 0
        for size in cuts:
            part = slice(start, start + size)
            measured = {key: values[part] for key, values in whole.measurements.items()}
            sink.write(Features(whole.kind, whole.geometries[part], whole.labels[part], measured))
            start += size
        sink.commit()
        outputs.append(sink.path.read_bytes())
    assert outputs[0] == outputs[1]


def test_the_gzip_header_holds_neither_time_nor_name(tmp_path: Path) -> None:
    sink = GeoJSONSink(tmp_path / "a.geojson.gz")
    sink.begin(CONTEXT)
    sink.commit()
    head = sink.path.read_bytes()[:10]
    assert head[3] == 0  # no flags: no name, no comment
    assert head[4:8] == bytes(4)  # time


def _split(folder: Path, count: int, split: int | None, name: str = "objects.geojson.gz") -> GeoJSONSink:
    sink = GeoJSONSink(folder / name, split=split)
    sink.begin(CONTEXT)
    sink.write(discs(count))
    sink.commit()
    return sink


def test_split_parts_are_complete_files_of_at_most_so_many_features(tmp_path: Path) -> None:
    sink = _split(tmp_path, 10, 4)
    assert [path.name for path in sink.paths] == [f"objects-00{n}.geojson.gz" for n in (1, 2, 3)]
    for path in sink.paths:
        assert_qupath(path)
    assert [len(unpacked(path)) for path in sink.paths] == [4, 4, 2]


def test_split_changes_no_feature(tmp_path: Path) -> None:
    read = [unpacked(path) for path in _split(tmp_path, 10, 3).paths]
    [whole] = [unpacked(path) for path in _split(tmp_path, 10, None).paths]
    assert [feature for part in read for feature in part] == whole


def test_exactly_as_many_features_as_the_split_stay_in_one_file(tmp_path: Path) -> None:
    assert [path.name for path in _split(tmp_path, 4, 4).paths] == ["objects.geojson.gz"]


@pytest.mark.parametrize(("counts", "left"), [((10, 5), 2), ((10, 2), 1), ((2, 10), 3)])
def test_a_rerun_removes_stale_parts(tmp_path: Path, counts: tuple[int, int], left: int) -> None:
    for count in counts:
        paths = _split(tmp_path, count, 4).paths
    assert sorted(tmp_path.iterdir()) == sorted(paths)
    assert len(paths) == left


def test_a_numbered_neighbour_is_not_taken_for_a_part(tmp_path: Path) -> None:
    _split(tmp_path, 2, None, "case-001.geojson.gz")
    _split(tmp_path, 2, None, "case.geojson.gz")
    assert (tmp_path / "case-001.geojson.gz").exists()


def test_memory_does_not_grow_with_the_number_of_features(tmp_path: Path) -> None:
    batch = discs(2000)
    sink = GeoJSONSink(tmp_path / "a.geojson.gz")
    sink.begin(CONTEXT)
    peaks = []
    tracemalloc.start()
    for _ in range(4):
        tracemalloc.reset_peak()
        sink.write(batch)
        peaks.append(tracemalloc.get_traced_memory()[1])
    tracemalloc.stop()
    sink.abort()
    assert max(peaks[2:]) < 1.15 * max(peaks[:2]) + (1 << 20)


BROKEN: list[tuple[str, dict[str, Any], str]] = [
    ("label beyond the labels", {"label": 2}, "below 2"),
    ("label below -1", {"label": -2}, "below 2"),
    ("measurement too short", {"measurements": {"a": np.zeros(2)}}, "'a'"),
    ("infinite measurement", {"measurements": {"a": np.array([np.inf])}}, "infinity"),
    ("nuclei of a detection", {"nuclei": np.array([BOX], object)}, "nuclei go with cells"),
    ("too many names", {"names": ("a", "b")}, "names"),
]


@pytest.mark.parametrize(("change", "message"), [b[1:] for b in BROKEN], ids=[b[0] for b in BROKEN])
def test_features_that_break_their_contract_are_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(PredictionError, match=message):
        export(tmp_path, features([BOX], **change))


@pytest.mark.parametrize("wrong", [shapely.GeometryCollection([shapely.Point(0, 0)]), shapely.Point(np.inf, 0)])
def test_geometries_that_are_collections_or_not_finite_are_refused(tmp_path: Path, wrong: Any) -> None:
    with pytest.raises(PredictionError):
        export(tmp_path, features([BOX, wrong]))


def test_another_suffix_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"\.geojson\.gz"):
        GeoJSONSink("objects.json")


def test_a_split_of_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match="at least 1"):
        GeoJSONSink("objects.geojson", split=0)


def rings(*polygons: shapely.Polygon) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    _, xy, (starts, _) = shapely.to_ragged_array(list(polygons))
    return xy, starts


def test_nuclei_are_star_shaped_whichever_way_they_turn() -> None:
    shapes = discs(200).geometries
    assert star_shaped(*rings(*shapes, *shapely.reverse(shapes))).all()


def test_a_pentagram_turns_one_way_and_is_not_star_shaped() -> None:
    angle = 2 * np.pi * np.arange(0, 10, 2) / 5
    pentagram = shapely.Polygon(100 + 10 * np.stack([np.cos(angle), np.sin(angle)], 1))
    assert star_shaped(*rings(BOX, pentagram, BOX)).tolist() == [True, False, True]
    assert not shapely.is_valid(pentagram)


@settings(max_examples=300)
@given(
    corners=st.lists(st.tuples(st.integers(0, 12), st.integers(0, 12)), min_size=3, max_size=9),
    shift=st.sampled_from([0, 0.13, 1e5, 123456.78]),
)
def test_what_is_star_shaped_is_valid(corners: list[tuple[int, int]], shift: float) -> None:
    ring = shapely.Polygon(np.round(np.array(corners) * 0.01 + shift, 2))
    found = star_shaped(*rings(BOX, ring, BOX)).tolist()
    assert found[::2] == [True, True]
    assert not found[1] or shapely.is_valid(ring)
