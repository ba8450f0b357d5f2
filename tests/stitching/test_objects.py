"""Who owns an object, who wins at a seam, and that nothing depends on how the slide was read."""

from __future__ import annotations

import gzip
import itertools
from pathlib import Path

import geojson
import numpy as np
import pytest
import shapely
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.conformance.qupath import assert_qupath
from tests.planted import BlobPredictor, Box, PointPredictor, ShakyPredictor, scene
from wsikit.geometry import Region, TileSpec
from wsikit.pipeline.run import RunReport, run
from wsikit.predictions import Objects, Predictor
from wsikit.sinks.geojson import GeoJSONSink
from wsikit.slides import Slide
from wsikit.stitching.objects import BAND, ObjectCollector, ObjectMerge
from wsikit.tissue import TissueMask

SIDES = (1, 128, 100_000)
"""Super-tiles of one window, of four, and of everything."""


def features(slide: Slide, predictor: Predictor, out: Path, **options: object) -> tuple[bytes, RunReport]:
    """The GeoJSON text of a run over the whole slide."""
    sink = GeoJSONSink(out / "objects.geojson.gz")
    report = run(slide, predictor, sink, mask=TissueMask.whole(slide), **options)  # type: ignore[arg-type]
    assert_qupath(sink.path)
    return gzip.decompress(sink.path.read_bytes()), report


def polygons(text: bytes) -> list[shapely.Polygon]:
    return [shapely.geometry.shape(feature["geometry"]) for feature in geojson.loads(text)["features"]]


SEAMS: dict[str, Box] = {
    "inside a core": (20, 20, 10, 10),
    "on a vertical seam": (59, 20, 10, 10),
    "on a horizontal seam": (20, 59, 10, 10),
    "on a corner of four": (59, 59, 10, 10),
    "centroid exactly on a seam": (60, 20, 9, 9),
    "centroid exactly on a corner": (60, 60, 9, 9),
    "one pixel right of a seam": (64, 20, 10, 10),
    "one pixel left of a seam": (54, 20, 10, 10),
    "at the slide's corner": (0, 0, 7, 7),
    "at the slide's far corner": (193, 193, 7, 7),
    "as large as the halo": (52, 52, 24, 24),
    "as wide as the halo, one high": (116, 70, 24, 1),
}


@pytest.mark.parametrize("name", SEAMS)
@pytest.mark.parametrize("side", SIDES)
def test_an_object_anywhere_at_a_seam_is_found_once_and_whole(tmp_path: Path, name: str, side: int) -> None:
    x, y, w, h = SEAMS[name]
    text, report = features(scene(200, 200, [SEAMS[name]]), BlobPredictor(), tmp_path, supertile=side)
    (found,) = polygons(text)
    assert found.bounds == (x, y, x + w, y + h)
    assert report.merged.seam_conflicts == 0


@pytest.mark.parametrize("side", SIDES)
def test_an_object_that_reaches_far_from_its_centroid_is_whole(tmp_path: Path, side: int) -> None:
    head, tail = (54, 20, 8, 8), (62, 23, 16, 1)
    text, _ = features(scene(200, 200, [head, tail]), BlobPredictor(), tmp_path, supertile=side)
    (found,) = polygons(text)
    assert found.bounds == (54, 20, 78, 28)


@st.composite
def planted_boxes(draw: st.DrawFn) -> list[Box]:
    """Boxes up to the halo in size, at least two pixels apart."""
    boxes: list[Box] = []
    for _ in range(draw(st.integers(0, 14))):
        w, h = draw(st.integers(1, 24)), draw(st.integers(1, 24))
        x, y = draw(st.integers(0, 230 - w)), draw(st.integers(0, 150 - h))
        apart = all(x + w + 2 <= a or a + c + 2 <= x or y + h + 2 <= b or b + d + 2 <= y for a, b, c, d in boxes)
        if apart:
            boxes.append((x, y, w, h))
    return boxes


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    boxes=planted_boxes(),
    phase=st.tuples(st.integers(0, 63), st.integers(0, 63)),
    side=st.sampled_from([1, 128, 192, 1000]),
    batch_size=st.integers(1, 9),
)
def test_every_planted_object_comes_out_once_in_the_same_bytes(
    tmp_path: Path, boxes: list[Box], phase: tuple[int, int], side: int, batch_size: int
) -> None:
    slide = scene(230, 150, boxes)
    text, _ = features(slide, BlobPredictor(phase=phase), tmp_path, supertile=side, batch_size=batch_size)
    once, _ = features(slide, BlobPredictor(phase=phase), tmp_path, supertile=10_000, batch_size=64)
    assert text == once
    found = sorted(shape.bounds for shape in polygons(text))
    assert found == sorted((float(x), float(y), float(x + w), float(y + h)) for x, y, w, h in boxes)


def test_windows_of_another_core_find_the_same_objects(tmp_path: Path) -> None:
    boxes = [(x, y, 9, 7) for x in range(5, 300, 29) for y in range(3, 200, 23)]
    slide = scene(320, 220, boxes)
    small, _ = features(slide, BlobPredictor(core=64), tmp_path)
    large, _ = features(slide, BlobPredictor(core=512), tmp_path)
    assert sorted(p.wkt for p in polygons(small)) == sorted(p.wkt for p in polygons(large))


def test_order_is_by_row_of_cores_then_y_then_x(tmp_path: Path) -> None:
    boxes = [(150, 10, 5, 5), (10, 30, 5, 5), (100, 10, 5, 5), (30, 100, 5, 5), (10, 70, 5, 5)]
    text, _ = features(scene(200, 200, boxes), BlobPredictor(), tmp_path)
    corners = [shape.bounds[:2] for shape in polygons(text)]
    assert corners == [(100, 10), (150, 10), (10, 30), (10, 70), (30, 100)]


@pytest.mark.parametrize("side", SIDES)
def test_two_versions_of_an_object_at_a_seam_become_one_and_are_counted(tmp_path: Path, side: int) -> None:
    boxes = ((59, 20, 10, 10), (20, 20, 10, 10), (123, 90, 10, 10))
    text, report = features(scene(200, 200, []), ShakyPredictor(boxes=boxes), tmp_path, supertile=side)
    assert len(polygons(text)) == len(boxes)
    assert report.merged.seam_conflicts == 2
    # the higher score stays: the version drawn by the window to whose middle it had to move right
    assert {p.bounds for p in polygons(text)} >= {(61, 20, 71, 30), (125, 90, 135, 100)}


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("y", [20, 59])
def test_two_versions_at_the_seam_of_two_bands_become_one(tmp_path: Path, side: int, y: int) -> None:
    seam = 64 * BAND
    text, report = features(
        scene(seam + 100, 200, []), ShakyPredictor(boxes=((seam - 5, y, 10, 10),)), tmp_path, supertile=side
    )
    assert len(polygons(text)) == 1
    assert report.merged.seam_conflicts >= 1


def drawn(region: Region, box: Box, score: float) -> Objects:
    """One object of a window: a box of the slide's lattice."""
    x, y, w, h = box[0] - region.x, box[1] - region.y, box[2], box[3]
    moments = [[h * w * x + h * w * (w - 1) // 2, w * h * y + w * h * (h - 1) // 2, w * h]]
    outline = np.array([shapely.box(x, y, x + w, y + h)], object)
    return Objects(region, outline, np.zeros(1, np.int64), np.array([score]), np.array(moments, np.int64), {})


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize(("end", "mine", "best"), [(64, 0.6, 1), (65, 0.6, 1), (62, 0.6, 1), (64, 0.95, 0)])
def test_a_version_that_ends_at_the_seam_and_one_that_goes_on_become_one(
    tmp_path: Path, axis: int, end: int, mine: float, best: int
) -> None:
    """One window cuts a nucleus at or before the seam, the next one draws the whole of it and owns that."""
    spec = TileSpec(0.5, core=64, halo=24)
    versions: list[Box] = [(50, 20, end - 50, 20), (50, 20, 30, 20)]
    collector = ObjectCollector(spec, [], tmp_path, 0)
    for place, (box, score) in enumerate(zip(versions, (mine, 0.9), strict=True)):
        x, y, w, h = box if axis == 0 else (box[1], box[0], box[3], box[2])
        cell = (place, 0) if axis == 0 else (0, place)
        collector.add(drawn(spec.patch_region(*cell), (x, y, w, h), score), spec.core_region(*cell))
    collector.save()
    merge = ObjectMerge(tmp_path)
    kept = [shape.area for records, _ in merge for shape in records.geometries]
    assert kept == [versions[best][2] * 20]
    assert merge.seam_conflicts == 1


@pytest.mark.parametrize("seed", range(3))
def test_no_two_objects_of_different_cores_overlap_by_half_whatever_windows_drew(tmp_path: Path, seed: int) -> None:
    """Against every pair of what came out; windows that draw boxes at random, anywhere that they see."""
    spec, rng = TileSpec(0.5, core=64, halo=24), np.random.default_rng(seed)
    collector = ObjectCollector(spec, [], tmp_path, 0)
    for column, row in np.ndindex(4, 3):
        region = spec.patch_region(column, row)
        for _ in range(12):
            w, h = rng.integers(8, 40, 2).tolist()
            x = int(rng.integers(region.x, region.x1 - w + 1))
            y = int(rng.integers(region.y, region.y1 - h + 1))
            collector.add(drawn(region, (x, y, w, h), float(rng.random())), spec.core_region(column, row))
    collector.save()
    shapes: list[shapely.Polygon] = []
    cores: list[tuple[int, int]] = []
    for records, _ in ObjectMerge(tmp_path):
        shapes += records.geometries.tolist()
        cores += map(tuple, records.cores.tolist())
    assert len(shapes) > 30
    for (a, mine), (b, other) in itertools.combinations(zip(shapes, cores, strict=True), 2):
        assert mine == other or a.intersection(b).area <= 0.5 * min(a.area, b.area)


def test_touching_neighbours_of_different_cores_are_no_conflict(tmp_path: Path) -> None:
    boxes = ((52, 20, 12, 10), (64, 20, 12, 10))
    text, report = features(scene(200, 200, []), ShakyPredictor(boxes=boxes, shift=0), tmp_path)
    assert len(polygons(text)) == 2
    assert report.merged.seam_conflicts == 0


@pytest.mark.parametrize("side", SIDES)
def test_a_point_at_a_seam_that_two_windows_see_apart_is_one_point(tmp_path: Path, side: int) -> None:
    boxes = [(62, 20, 4, 4), (20, 20, 4, 4), (62, 62, 4, 4)]
    text, report = features(scene(200, 200, boxes), PointPredictor(wobble=1.0), tmp_path, supertile=side)
    assert len(polygons(text)) == len(boxes)
    assert report.merged.seam_conflicts == 4  # one other version at the side, three at the corner


def test_points_come_out_at_the_centre_in_level_0_pixels(tmp_path: Path) -> None:
    text, _ = features(scene(200, 200, [(20, 30, 4, 6)]), PointPredictor(mpp=1.0), tmp_path)
    (point,) = polygons(text)
    assert (point.x, point.y) == (22.0, 33.0)


def test_coordinates_are_level_0_pixels_at_a_coarser_mpp(tmp_path: Path) -> None:
    text, _ = features(scene(400, 400, [(100, 200, 40, 20)]), BlobPredictor(mpp=1.0), tmp_path)
    (found,) = polygons(text)
    assert found.bounds == (100, 200, 140, 220)
    (feature,) = geojson.loads(text)["features"]
    assert feature["properties"]["measurements"]["Area um^2"] == 40 * 20 * 0.25


def test_bounds_are_taken_off_and_only_in_the_geojson(tmp_path: Path) -> None:
    slide = scene(400, 400, [(100, 200, 40, 20)], bounds=(30, 50, 300, 300))
    text, _ = features(slide, BlobPredictor(), tmp_path)
    (found,) = polygons(text)
    assert found.bounds == (70, 150, 110, 170)
    assert slide.bounds_offset == (30, 50)


def test_objects_off_the_tissue_are_left_out(tmp_path: Path) -> None:
    slide = scene(400, 200, [(50, 50, 10, 10), (350, 50, 10, 10)])
    left = np.zeros((50, 100), np.bool_)
    left[:, :50] = True
    sink = GeoJSONSink(tmp_path / "objects.geojson.gz")
    report = run(slide, BlobPredictor(core=512), sink, mask=TissueMask(left, 2.0))
    assert report.merged.objects == 1


def test_nothing_is_kept_that_touches_an_unreadable_tile(tmp_path: Path) -> None:
    boxes = [(10, 10, 10, 10), (70, 10, 10, 10), (58, 30, 10, 10), (60, 80, 8, 8)]
    slide = scene(200, 200, boxes, tile=(64, 64), bad=[(0, 1, 0)])
    text, report = features(slide, BlobPredictor(), tmp_path)
    assert sorted(p.bounds[:2] for p in polygons(text)) == [(10, 10), (60, 80)]
    assert report.status == "partial"
    assert [tile.level0() for tile in report.bad_tiles] == [(64, 0, 128, 64)]
