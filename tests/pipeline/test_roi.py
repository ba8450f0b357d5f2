"""Regions of interest: exactly what lies inside, at the precision of the outline; and tissue that somebody drew."""

from __future__ import annotations

import gzip
import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.planted import INK, BlobPredictor, RampPredictor, scene
from wsikit.annotations import write_annotations
from wsikit.annotations.annotations import Item, gather
from wsikit.config import RunConfig, TileConfig
from wsikit.errors import AnnotationError, ConfigError
from wsikit.pipeline import batch as batch_module
from wsikit.pipeline.batch import all_complete, run_many
from wsikit.pipeline.inputs import SlideEntry, find_slides
from wsikit.pipeline.plan import plan
from wsikit.pipeline.run import RunReport, run
from wsikit.pipeline.settings import tissue_of
from wsikit.pipeline.tile import check_tiling
from wsikit.predictors import load_predictor
from wsikit.sinks.geojson import GeoJSONSink
from wsikit.sinks.omezarr import OmeZarrSink
from wsikit.slides import Slide, open_slide
from wsikit.tissue import TissueMask, find_tissue

SIDE = 300
BLOBS = [(12 + 24 * i, 9 + 27 * j, 10, 7) for i in range(11) for j in range(10)]
CORE = 64


def array(shapes: Sequence[shapely.Polygon]) -> Any:
    found = np.empty(len(shapes), object)
    found[:] = shapes
    return found


def objects(slide: Slide, mask: TissueMask, folder: Path, **options: Any) -> tuple[list[dict[str, Any]], RunReport]:
    sink = GeoJSONSink(folder / "objects.geojson")
    report = run(slide, BlobPredictor(), sink, mask=mask, **options)
    return json.loads(sink.path.read_bytes())["features"], report


def middle(feature: dict[str, Any]) -> tuple[float, float]:
    x0, y0, x1, y1 = shapely.geometry.shape(feature["geometry"]).bounds
    return (x0 + x1) / 2, (y0 + y1) / 2


corners = st.tuples(st.integers(-200, 3400), st.integers(-200, 3400)).map(lambda xy: (xy[0] / 10, xy[1] / 10))


@st.composite
def regions(draw: st.DrawFn) -> list[shapely.Polygon]:
    """One or two polygons with slanted edges, some with a hole, that touch the scene."""
    found = []
    for _ in range(draw(st.integers(1, 2))):
        shape = shapely.MultiPoint(draw(st.lists(corners, min_size=3, max_size=5, unique=True))).convex_hull
        if draw(st.booleans()):
            shape = shape.difference(shapely.box(*draw(corners), *draw(corners)).intersection(shape).buffer(-3))
        found += [p for p in shapely.get_parts(shape).tolist() if isinstance(p, shapely.Polygon)]
    plane = shapely.box(0, 0, SIDE, SIDE)
    return [shape for shape in found if shape.area > 1 and shape.intersects(plane)]


@settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
@given(region=regions().filter(bool))
def test_objects_are_kept_by_where_their_centre_lies(region: list[shapely.Polygon], tmp_path: Path) -> None:
    slide = scene(SIDE, SIDE, BLOBS)
    mask = TissueMask.whole(slide).limited(array(region), slide)
    found, report = objects(slide, mask, tmp_path)
    centres = [shapely.Point(x + w / 2, y + h / 2) for x, y, w, h in BLOBS]
    wanted = {(p.x, p.y) for p in centres if any(shapely.intersects(shape, p) for shape in region)}
    assert {middle(f) for f in found} == wanted
    # and no window was predicted for nothing, none left out
    boxes = [shapely.box(x, y, x + CORE, y + CORE) for x in range(0, SIDE, CORE) for y in range(0, SIDE, CORE)]
    union = shapely.union_all(array(region))
    shared = [shapely.intersection(box, union).area for box in boxes]
    # a tip that only just reaches into a window may count or not
    assert sum(area > 1e-3 for area in shared) <= report.patches <= sum(area > 0 for area in shared)
    plane = shapely.box(0, 0, SIDE, SIDE)
    assert report.tissue_um2 == pytest.approx(shapely.intersection(union, plane).area * 0.25, abs=1e-6)


@pytest.mark.parametrize("nudge", [-0.05, 0.05])
def test_a_twentieth_of_a_pixel_decides(nudge: float, tmp_path: Path) -> None:
    x, y, w, h = BLOBS[0]
    slide = scene(SIDE, SIDE, BLOBS)
    region = shapely.box(0, 0, x + w / 2 + nudge, y + h)
    found, _ = objects(slide, TissueMask.whole(slide).limited(array([region]), slide), tmp_path)
    assert len(found) == (1 if nudge > 0 else 0)


def test_a_region_on_the_lattice_runs_no_neighbours(tmp_path: Path) -> None:
    slide = scene(SIDE, SIDE, BLOBS)
    region = shapely.box(CORE, CORE, 2 * CORE, 2 * CORE)
    _, report = objects(slide, TissueMask.whole(slide).limited(array([region]), slide), tmp_path)
    assert report.patches == 1


def test_a_region_gives_the_objects_that_a_run_of_the_slide_gives_there(tmp_path: Path) -> None:
    slide = scene(SIDE, SIDE, BLOBS)
    whole = TissueMask.whole(slide)
    everything, _ = objects(slide, whole, tmp_path)
    region = shapely.Polygon([(31.3, 8), (290, 60.2), (155, 299), (80, 120)], [[(140, 80), (180, 90), (150, 140)]])
    wanted = [f for f in everything if region.contains(shapely.geometry.shape(f["geometry"]).centroid)]
    texts = []
    for side in (64, 128, 4096):
        found, _ = objects(slide, whole.limited(array([region]), slide), tmp_path, supertile=side)
        texts.append((tmp_path / "objects.geojson").read_bytes())
        assert found == wanted
    assert texts[0] == texts[1] == texts[2]
    assert 0 < len(wanted) < len(everything)


@settings(max_examples=10, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
@given(region=regions().filter(bool))
def test_score_maps_end_at_pixel_centres(region: list[shapely.Polygon], tmp_path: Path) -> None:
    slide = scene(SIDE, SIDE, BLOBS)
    sink = OmeZarrSink(tmp_path / "masks.ome.zarr")
    mask = TissueMask.whole(slide).limited(array(region), slide)
    run(slide, RampPredictor(), sink, mask=mask)
    classes = zarr.open_group(sink.path, mode="r")["labels/classes/0"][:]  # type: ignore[index]
    x, y = np.meshgrid(np.arange(SIDE) + 0.5, np.arange(SIDE) + 0.5)
    inside = np.zeros((SIDE, SIDE), bool)
    edge = np.zeros((SIDE, SIDE), bool)
    for shape in region:
        inside |= shapely.contains_xy(shape, x, y)
        edge |= shapely.distance(shapely.points(x, y), shape.boundary) < 1e-9
    assert np.array_equal(classes[~edge] > 0, inside[~edge])


def test_a_small_region_is_no_thin_tissue(tmp_path: Path) -> None:
    slide = scene(SIDE, SIDE, BLOBS)
    mask = TissueMask.whole(slide).limited(array([shapely.box(11, 8, 25, 20)]), slide)
    assert mask.coverages(np.array([0, 64]), np.array([0, 0]), 64, 0.5).tolist() == [1.0, 0.0]


def test_nuclei_of_a_region_of_a_real_slide_are_those_of_the_slide(cmu: Path, tmp_path: Path) -> None:
    ring = [(604.3, 1210), (1800, 1350.7), (1500, 2400), (700, 2000.1)]
    region = shapely.Polygon(ring, [[(1000, 1500), (1300, 1550), (1150, 1900)]])
    found, reports = [], []
    with open_slide(cmu) as slide:
        tissue = find_tissue(slide)
        for mask, side in ((tissue, 4096), (tissue.limited(array([region]), slide), 1024)):
            sink = GeoJSONSink(tmp_path / "objects.geojson")
            reports.append(run(slide, load_predictor("nuclei-classical"), sink, mask=mask, supertile=side))
            found.append({f["id"]: f for f in json.loads(sink.path.read_bytes())["features"]})
    everything, inside = found
    # thresholds are bound on the slide, not on the region
    assert reports[0].bound == reports[1].bound
    assert all(everything[key] == feature for key, feature in inside.items())
    # centroids are of pixels; those of outlines are within a pixel
    far = {
        key: region.contains(shapely.geometry.shape(f["geometry"]).centroid)
        for key, f in everything.items()
        if region.boundary.distance(shapely.geometry.shape(f["geometry"]).centroid) > 1
    }
    assert {key for key, kept in far.items() if kept} == set(inside) & set(far)
    assert len(inside) > 100


# many slides


@pytest.fixture
def blobs(monkeypatch: pytest.MonkeyPatch) -> RunConfig:
    monkeypatch.setattr(batch_module, "load_model", lambda *_, **__: BlobPredictor())
    return RunConfig(mpp_override=0.5, num_workers=1, cluster="threads", format=("geojson.gz",), tissue="whole")


def pictures(folder: Path, names: Sequence[str]) -> list[SlideEntry]:
    folder.mkdir()
    pixels = np.full((SIDE, SIDE, 3), 235, np.uint8)
    for x, y, w, h in BLOBS:
        pixels[y : y + h, x : x + w] = INK
    for name in names:
        Image.fromarray(pixels).save(folder / f"{name}.png")
    return find_slides(folder)


def draw(path: Path, *shapes: tuple[str, Any], **frame: Any) -> Path:
    path.parent.mkdir(exist_ok=True)
    kinds = {".xml": "asap"}
    write_annotations(
        path, gather([Item("annotation", s, c) for c, s in shapes]), format=kinds.get(path.suffix), **frame
    )
    return path


def count(out: Path, name: str) -> int:
    return len(json.loads(gzip.decompress((out / name / "objects.geojson.gz").read_bytes()))["features"])


LEFT, RIGHT = shapely.box(0, 0, 30, 300), shapely.box(200, 0, 300, 300)


@pytest.mark.parametrize("suffix", [".geojson", ".geojson.gz", ".xml"])
def test_a_folder_has_one_region_file_per_slide_and_a_slide_without_one_fails(
    blobs: RunConfig, tmp_path: Path, suffix: str
) -> None:
    entries = pictures(tmp_path / "in", ["a", "b"])
    draw(tmp_path / "roi" / f"a{suffix}", ("Tumor", LEFT), ("Stroma", RIGHT))
    config = blobs.model_copy(update={"roi": tmp_path / "roi", "roi_class": ("Tumor",)})
    a, b = run_many(entries, tmp_path / "out", config)
    assert (a["status"], b["status"], b["reason"]) == ("complete", "failed", "missing_roi")
    assert "b.geojson" in b["remedy"]
    assert count(tmp_path / "out", "a") == a["objects"] == 10
    assert a["tissue"]["roi"] == str(tmp_path / "roi" / f"a{suffix}")
    assert a["tissue"]["roi_class"] == "Tumor"
    assert len(a["tissue"]["roi_sha256"]) == 64


def test_a_region_file_that_changed_is_run_again_and_one_that_was_only_touched_is_not(
    blobs: RunConfig, tmp_path: Path
) -> None:
    entries = pictures(tmp_path / "in", ["a"])
    path = draw(tmp_path / "roi.geojson", ("Tumor", LEFT))
    config = blobs.model_copy(update={"roi": path})
    (first,) = run_many(entries, tmp_path / "out", config)
    os.utime(path, (1, 1))
    assert run_many(entries, tmp_path / "out", config) == [first]
    draw(path, ("Tumor", RIGHT))
    (second,) = run_many(entries, tmp_path / "out", config)
    assert (first["objects"], second["objects"]) == (10, 30)


def test_where_a_region_file_lies_does_not_matter_and_that_there_is_one_does(blobs: RunConfig, tmp_path: Path) -> None:
    entries = pictures(tmp_path / "in", ["a"])
    path = draw(tmp_path / "roi.geojson", ("Tumor", LEFT))
    (first,) = run_many(entries, tmp_path / "out", blobs.model_copy(update={"roi": path}))
    moved = path.rename(tmp_path / "moved.geojson")
    assert run_many(entries, tmp_path / "out", blobs.model_copy(update={"roi": moved})) == [first]
    empty = tmp_path / "empty"
    empty.mkdir()
    (record,) = run_many(entries, tmp_path / "other", blobs.model_copy(update={"roi": empty}))
    assert record["reason"] == "missing_roi"
    assert run_many(entries, tmp_path / "other", blobs)[0]["status"] == "complete"


def test_one_region_file_does_not_serve_two_slides(blobs: RunConfig, tmp_path: Path) -> None:
    entries = pictures(tmp_path / "in", ["a", "b"])
    config = blobs.model_copy(update={"roi": draw(tmp_path / "roi.geojson", ("Tumor", LEFT))})
    for act in (lambda: run_many(entries, tmp_path / "out", config), lambda: list(plan(entries, tmp_path, config))):
        with pytest.raises(ConfigError, match="2 slides"):
            act()
    assert not (tmp_path / "out").exists()


def test_a_region_file_of_a_folder_does_not_serve_two_slides(blobs: RunConfig, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for name in ("A", "B", "C"):
        pictures(tmp_path / "in" / name, ["slide"])
    pictures(tmp_path / "in" / "D", ["other"])
    entries = find_slides(tmp_path / "in")
    shared = draw(tmp_path / "roi" / "slide.geojson", ("Tumor", LEFT))
    config = blobs.model_copy(update={"roi": tmp_path / "roi"})
    said = r"slide\.geojson is one file, and 3 slides would be cut by it \(A__slide, B__slide, \.\.\.\)"
    for act in (lambda: run_many(entries, tmp_path / "out", config), lambda: list(plan(entries, tmp_path, config))):
        with pytest.raises(ConfigError, match=said) as refused:
            act()
        assert "A__slide.geojson" in refused.value.remedy
    assert not (tmp_path / "out").exists()
    with pytest.raises(ConfigError, match="would be cut by it"):
        check_tiling(entries, TileConfig(roi=tmp_path / "roi"))
    for name in ("A__slide", "B__slide", "C__slide", "other"):
        shutil.copy(shared, tmp_path / "roi" / f"{name}.geojson")
    shared.unlink()
    assert all_complete(run_many(entries, tmp_path / "out", config))


def test_a_self_crossing_region_stops_the_slide_and_says_where(blobs: RunConfig, tmp_path: Path) -> None:
    entries = pictures(tmp_path / "in", ["a"])
    bow = {"type": "Polygon", "coordinates": [[[10, 10], [90, 110], [90, 10], [10, 120], [10, 10]]]}
    feature = {"type": "Feature", "geometry": bow, "properties": {"name": "core", "classification": "Tumor"}}
    (tmp_path / "a.geojson").write_text(json.dumps(feature))
    config = blobs.model_copy(update={"roi": tmp_path / "a.geojson"})
    (record,) = run_many(entries, tmp_path / "out", config)
    assert (record["status"], record["reason"]) == ("failed", "invalid_geometry")
    for part in ("a.geojson", "core", "Tumor", "Self-intersection", "x 10 to 90", "y 10 to 120"):
        assert part in record["message"]
    assert "wsikit convert" in record["remedy"]


@pytest.mark.parametrize(
    ("shapes", "classes", "code"),
    [
        ([("Tumor", LEFT)], ("Tumour",), "unknown_class"),
        ([("Tumor", shapely.box(900, 900, 950, 950))], (), "outside_slide"),
        ([("Tumor", LEFT), ("Tumor", shapely.box(900, 900, 950, 950))], (), "outside_slide"),
        ([], (), "no_annotations"),
        ([("Tumor", shapely.Point(3, 3))], (), "no_annotations"),
    ],
)
def test_a_region_that_is_none_is_a_reason(
    blobs: RunConfig, tmp_path: Path, shapes: Any, classes: tuple[str, ...], code: str
) -> None:
    entries = pictures(tmp_path / "in", ["a"])
    config = blobs.model_copy(update={"roi": draw(tmp_path / "roi.geojson", *shapes), "roi_class": classes})
    (record,) = run_many(entries, tmp_path / "out", config)
    assert (record["status"], record["reason"]) == ("failed", code)
    assert record["remedy"] or code == "no_annotations"


def test_a_manifest_names_regions_and_tissue(blobs: RunConfig, tmp_path: Path) -> None:
    pictures(tmp_path / "in", ["a", "b"])
    draw(tmp_path / "left.geojson", ("Tumor", LEFT))
    draw(tmp_path / "right.xml", ("Tissue", RIGHT), ("Fold", LEFT))
    rows = ["path,roi,mask", "in/a.png,left.geojson,", "in/b.png,,right.xml"]
    (tmp_path / "slides.csv").write_text("\n".join(rows))
    config = blobs.model_copy(update={"tissue_class": ("Tissue",)})
    a, b = run_many(find_slides(tmp_path / "slides.csv"), tmp_path / "out", config)
    assert (a["objects"], b["objects"]) == (10, 30)
    assert (b["tissue"]["method"], b["tissue_um2"]) == ("annotations", pytest.approx(100 * 300 * 0.25))


def test_a_dry_run_counts_the_windows_of_the_region(blobs: RunConfig, tmp_path: Path) -> None:
    entries = pictures(tmp_path / "in", ["a", "b"])
    draw(tmp_path / "roi" / "a.geojson", ("Tumor", LEFT))
    lines = list(plan(entries, tmp_path / "out", blobs.model_copy(update={"roi": tmp_path / "roi"})))
    assert ", 5 patches" in lines[0].text
    assert "missing_roi" in lines[1].text
    assert [line.complete for line in lines] == [True, False, True]


def test_a_region_drawn_on_the_cropped_picture_is_moved_by_the_bounds(tmp_path: Path) -> None:
    slide = scene(SIDE, SIDE, BLOBS, bounds=(50, 20, 200, 200))
    path = draw(tmp_path / "scene.geojson", ("Tumor", shapely.box(0, 0, 10, 10)))
    mask = tissue_of(slide, SlideEntry("scene", Path("scene.svs")), RunConfig(roi=path, tissue="whole"))
    assert mask.limits is not None
    assert mask.limits.area.bounds == (50, 20, 60, 30)


def test_tissue_from_annotations_keeps_holes_and_chooses_classes() -> None:
    slide = scene(SIDE, SIDE, [])
    ring = shapely.box(0, 0, 200, 200).difference(shapely.box(40, 40, 120, 120))
    drawn = gather([Item("annotation", ring, "Tissue"), Item("annotation", shapely.box(220, 0, 300, 300), "Glass")])
    mask = TissueMask.from_annotations(drawn, slide, ["Tissue"])
    assert mask.area_um2 == pytest.approx((200**2 - 80**2) * 0.25)
    inside = mask.contains(np.array([20.0, 80.0, 250.0]), np.array([20.0, 80.0, 20.0]), 0.5)
    assert inside.tolist() == [True, False, False]
    with pytest.raises(AnnotationError, match="'Glass'"):
        TissueMask.from_annotations(drawn, slide, ["Tumor"])


def test_tissue_too_small_for_the_mask_is_an_error() -> None:
    slide = scene(SIDE, SIDE, [])
    with pytest.raises(AnnotationError, match="too small"):
        TissueMask.from_polygons(array([shapely.box(4.5, 4.5, 5.5, 5.5)]), slide)


def test_limits_can_be_taken_off() -> None:
    slide = scene(SIDE, SIDE, [])
    mask = TissueMask.whole(slide)
    limited = mask.limited(array([LEFT]), slide)
    assert limited.unlimited().area_um2 == mask.area_um2 > limited.area_um2
    assert mask.unlimited() is mask
    assert replace(limited, bad=()).limits is limited.limits
