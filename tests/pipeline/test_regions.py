"""What lies in each region: pieces of tissue that add up to the slide, drawn areas by name, planted numbers."""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.pipeline.test_roi import array
from tests.planted import INK, BlobCounter, BlobPredictor, InkEncoder, PointPredictor, RampPredictor, scene
from wsikit.annotations import write_annotations
from wsikit.annotations.annotations import Item, gather
from wsikit.config import RunConfig
from wsikit.limits import Area
from wsikit.pipeline import batch as batch_module
from wsikit.pipeline.batch import run_many
from wsikit.pipeline.inputs import SlideEntry, find_slides
from wsikit.pipeline.regions import REGIONS
from wsikit.pipeline.report import write_reports
from wsikit.pipeline.run import RunReport, run
from wsikit.predictors import load_predictor
from wsikit.sinks.geojson import GeoJSONSink
from wsikit.sinks.omezarr import OmeZarrSink
from wsikit.slides import Slide, open_slide
from wsikit.stitching.density import STRIP
from wsikit.tissue import TissueMask, find_tissue

PAGE = Path(__file__).parents[2] / "docs/regions.md"
WIDTH, HEIGHT = 300, 260
BLOBS = [(12 + 24 * i, 9 + 27 * j, 10, 7) for i in range(11) for j in range(9)]
CENTRES = np.array([(x + w / 2, y + h / 2) for x, y, w, h in BLOBS])
KINDS = ["Blob", "Other"]
"""Of the planted predictor: the label of a blob is the parity of its pixels, here 70."""


def rows(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(path.read_text("utf-8"))))


def table(
    slide: Slide, mask: TissueMask, folder: Path, predictor: Any = None
) -> tuple[list[dict[str, str]], RunReport]:
    report = run(slide, predictor or BlobCounter(), mask=mask, regions=folder / REGIONS, supertile=128)
    return rows(folder / REGIONS), report


def column(found: Sequence[dict[str, str]], name: str) -> list[float]:
    return [float(row[name]) for row in found]


def two_pieces() -> TissueMask:
    """Left and right of a gap, at 1 um per px of the mask; the right one has a notch."""
    mask = np.zeros((HEIGHT // 2, WIDTH // 2), np.bool_)
    mask[5:120, 3:70] = True
    mask[20:130, 80:150] = True
    mask[60:80, 80:90] = False
    return TissueMask(mask, 1.0)


def test_pieces_of_tissue_have_the_objects_whose_centre_they_hold(tmp_path: Path) -> None:
    mask = two_pieces()
    found, report = table(scene(WIDTH, HEIGHT, BLOBS), mask, tmp_path)
    x, y = np.floor(CENTRES / 2).astype(int).T
    held = mask.array[y, x]
    wanted = [int((held & (x < 75)).sum()), int((held & (x > 75)).sum())]
    assert [row["name"] for row in found] == ["Tissue 1", "Tissue 2"]
    assert column(found, "objects") == wanted
    assert sum(wanted) == report.merged.objects
    areas = [mask.array[:, :75].sum() / 1e6, mask.array[:, 75:].sum() / 1e6]
    assert column(found, "area_mm2") == pytest.approx(areas, abs=1e-6)
    per_mm2 = [count / area for count, area in zip(wanted, areas, strict=True)]
    assert column(found, "objects_per_mm2") == pytest.approx(per_mm2, abs=0.01)
    boxes = [[float(row[edge]) for edge in ("x0", "y0", "x1", "y1")] for row in found]
    assert boxes == [[6, 10, 140, 240], [160, 40, 300, 260]]


def test_pieces_add_up_to_the_slide_by_objects_and_by_density(tmp_path: Path) -> None:
    found, report = table(scene(WIDTH, HEIGHT, BLOBS), two_pieces(), tmp_path)
    assert report.merged.density_count is not None
    assert sum(column(found, "density_count")) == pytest.approx(report.merged.density_count, abs=1e-3)
    assert sum(column(found, "area_mm2")) == pytest.approx(report.tissue_um2 / 1e6, abs=2e-6)


def test_pieces_one_below_the_other_have_their_own_cells(tmp_path: Path) -> None:
    """More rows of cells than are looked up at once."""
    assert STRIP < 186 < HEIGHT
    tissue = np.ones((HEIGHT // 2, WIDTH // 2), np.bool_)
    tissue[93] = False  # between two rows of blobs
    found, _ = table(scene(WIDTH, HEIGHT, BLOBS), TissueMask(tissue, 1.0), tmp_path, BlobCounter(density_cell=1))
    counts = [(CENTRES[:, 1] < 186).sum(), (CENTRES[:, 1] > 188).sum()]
    assert column(found, "density_count") == pytest.approx(counts, abs=2e-3)


def test_classes_are_counted_apart(tmp_path: Path) -> None:
    boxes = [(10, 10, 3, 3), (40, 10, 4, 4), (200, 10, 4, 4), (200, 200, 5, 4)]
    slide = scene(WIDTH, HEIGHT, boxes)
    (only,), report = table(slide, TissueMask.whole(slide), tmp_path)
    assert {name: int(only[f"objects:{name}"]) for name in KINDS} == report.merged.objects_per_class
    assert report.merged.objects_per_class == {"Blob": 3, "Other": 1}
    assert float(only["objects_per_mm2:Blob"]) == pytest.approx(3 / float(only["area_mm2"]), rel=1e-3)


def limited(slide: Slide, areas: Sequence[Area]) -> TissueMask:
    parts = shapely.get_parts(array([area.shape for area in areas]))
    return TissueMask.whole(slide).limited(parts, slide, drawn=areas)


def test_drawn_areas_keep_names_and_classes_and_overlaps_count_in_each(tmp_path: Path) -> None:
    slide = scene(WIDTH, HEIGHT, BLOBS)
    left, right = shapely.box(0, 0, 160, 260), shapely.box(120, 0, 300, 260)
    both = shapely.MultiPolygon([shapely.box(0, 0, 30, 30), shapely.box(200, 200, 300, 260)])
    areas = [Area(left, "core", "Tumor"), Area(right, "", "Stroma"), Area(both, "two parts")]
    found, report = table(slide, limited(slide, areas), tmp_path)
    assert [(row["name"], row["class"]) for row in found] == [("core", "Tumor"), ("", "Stroma"), ("two parts", "")]
    inside = [shapely.intersects_xy(area.shape, *CENTRES.T) for area in areas]
    assert column(found, "objects") == [k.sum() for k in inside]
    assert report.merged.objects == np.logical_or.reduce(inside).sum() < sum(k.sum() for k in inside)
    mm2 = [area.shape.area * 0.25 / 1e6 for area in areas]
    assert column(found, "area_mm2") == pytest.approx(mm2, abs=1e-6)


# off the lattice, so that no edge runs through the centre of a cell or an object, where either answer is right
corners = st.tuples(st.integers(-20, 320).map(lambda x: x + 0.3717), st.integers(-20, 280).map(lambda y: y + 0.4139))
shapes = st.lists(corners, min_size=3, max_size=5, unique=True).map(lambda xy: shapely.MultiPoint(xy).convex_hull)
plane = shapely.box(0, 0, WIDTH, HEIGHT)


@settings(max_examples=15)
@given(st.lists(shapes.filter(lambda s: s.area > 50 and s.intersection(plane).area > 1), min_size=1, max_size=3))
def test_any_drawn_area_has_its_objects_cells_and_tissue(
    tmp_path_factory: pytest.TempPathFactory, drawn: list[shapely.Polygon]
) -> None:
    slide = scene(WIDTH, HEIGHT, BLOBS)
    array_ = np.ones((HEIGHT // 2, WIDTH // 2), np.bool_)
    array_[:, 40:60] = False
    mask = TissueMask(array_, 1.0).limited(array(drawn), slide)
    found, _ = table(slide, mask, tmp_path_factory.mktemp("r"))
    gap, x, y = shapely.box(80, 0, 120, HEIGHT), *np.meshgrid(np.arange(38) * 8 + 4.0, np.arange(33) * 8 + 4.0)
    # the last cells are cut by the border
    x[x > 296], y[y > 256] = 298, 258
    values = np.zeros((33 * 8, 38 * 8))
    for bx, by, w, h in BLOBS:
        values[by : by + h, bx : bx + w] += 1 / (w * h)
    cells = values.reshape(33, 8, 38, 8).sum(axis=(1, 3))
    for row, shape in zip(found, drawn, strict=True):
        tissue = shape.intersection(plane).difference(gap)
        held = shapely.intersects_xy(shape, *CENTRES.T) & ~((CENTRES[:, 0] >= 80) & (CENTRES[:, 0] < 120))
        assert float(row["objects"]) == held.sum()
        assert float(row["area_mm2"]) == pytest.approx(tissue.area * 0.25 / 1e6, abs=1e-6)
        counted = cells[shapely.intersects_xy(shape, x, y) & ~((x >= 80) & (x < 120))].sum()
        assert float(row["density_count"]) == pytest.approx(counted, abs=2e-3)


def test_a_slide_without_tissue_has_a_table_without_rows(tmp_path: Path) -> None:
    slide = scene(WIDTH, HEIGHT, [])
    found, report = table(slide, TissueMask(np.zeros((26, 30), np.bool_), 5.0), tmp_path)
    assert (found, report.merged.density_count) == ([], 0)
    assert (tmp_path / REGIONS).read_text().startswith("slide_id,region,name,class,x0,")


def test_points_have_regions(tmp_path: Path) -> None:
    slide = scene(WIDTH, HEIGHT, BLOBS)
    (only,), report = table(slide, TissueMask.whole(slide), tmp_path, PointPredictor())
    assert int(only["objects"]) == report.merged.objects == len(BLOBS)
    assert "density_count" not in only


def class_map(slide: Slide, mask: TissueMask, folder: Path, block: int = 64) -> tuple[list[dict[str, str]], Any, Any]:
    """Table, classes as written (H, W), and what the run says of them."""
    sink = OmeZarrSink(folder / "masks.ome.zarr", block=block, chunk=block)
    report = run(slide, RampPredictor(core=64, halo=8), sink, mask=mask, regions=folder / REGIONS)
    classes: Any = zarr.open_group(sink.path, mode="r")["labels/classes/0"]
    return rows(folder / REGIONS), classes[:], report.merged.class_map


def test_classes_of_a_map_are_measured_in_each_piece_of_tissue(tmp_path: Path) -> None:
    mask = two_pieces()
    found, classes, facts = class_map(scene(WIDTH, HEIGHT, BLOBS), mask, tmp_path)
    assert [row["name"] for row in found] == ["Tissue 1", "Tissue 2"]
    assert "objects" not in found[0]
    for k, kind in enumerate(KINDS, 1):
        counts = [(classes[:, :150] == k).sum(), (classes[:, 150:] == k).sum()]
        assert column(found, f"area_mm2:{kind}") == pytest.approx([n * 0.25 / 1e6 for n in counts], abs=1e-6)
        totals = [(classes[:, :150] > 0).sum(), (classes[:, 150:] > 0).sum()]
        shares = [n / total for n, total in zip(counts, totals, strict=True)]
        assert column(found, f"fraction:{kind}") == pytest.approx(shares, abs=1e-6)
        assert sum(column(found, f"area_mm2:{kind}")) == pytest.approx(facts.areas_mm2[kind], abs=2e-6)


@pytest.mark.parametrize("block", [16, 64, 512])
def test_classes_of_a_map_are_measured_in_each_drawn_area(tmp_path: Path, block: int) -> None:
    slide = scene(WIDTH, HEIGHT, BLOBS)
    areas = [
        Area(shapely.box(0, 0, 160, 260), "left", "Tumor"),
        Area(shapely.Polygon([(120, 3), (290, 40), (200, 250)]), "slanted"),
        Area(shapely.MultiPolygon([shapely.box(0, 0, 30, 30), shapely.box(200, 200, 300, 260)]), "two parts"),
    ]
    found, classes, _ = class_map(slide, limited(slide, areas), tmp_path, block)
    y, x = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    for k, kind in enumerate(KINDS, 1):
        counts = [((classes == k) & shapely.contains_xy(area.shape, x, y)).sum() for area in areas]
        assert column(found, f"area_mm2:{kind}") == pytest.approx([n * 0.25 / 1e6 for n in counts], abs=1e-6)


def test_regions_without_anything_analysed_have_no_fractions(tmp_path: Path) -> None:
    slide = scene(WIDTH, HEIGHT, BLOBS)
    areas = [Area(shapely.box(0, 0, 99, 99), "tissue"), Area(shapely.box(143, 20, 157, 60), "gap")]
    parts = array([area.shape for area in areas])
    (first, second), _, _ = class_map(slide, two_pieces().limited(parts, slide, drawn=areas), tmp_path)
    assert float(first["fraction:Blob"]) + float(first["fraction:Other"]) == pytest.approx(1)
    assert (second["area_mm2:Blob"], second["fraction:Blob"]) == ("0.000000", "")


def test_names_that_would_break_the_table_are_escaped(tmp_path: Path) -> None:
    slide = scene(WIDTH, HEIGHT, BLOBS)
    (only,), _ = table(slide, limited(slide, [Area(plane, 'a, "b"\nc', "x\ry")]), tmp_path)
    assert (only["name"], only["class"]) == ('a, "b"\\nc', "x\\ry")


def test_nuclei_of_a_real_slide_by_region(cmu: Path, tmp_path: Path) -> None:
    ring = shapely.Polygon([(604.3, 1210), (1800, 1350.7), (1500, 2400), (700, 2000.1)])
    areas = [Area(ring, "ring"), Area(shapely.box(0, 0, 1111, 1500), "corner"), Area(shapely.box(1111, 0, 2220, 1500))]
    sink = GeoJSONSink(tmp_path / "objects.geojson.gz")
    with open_slide(cmu) as slide:
        tissue = find_tissue(slide)
        pieces, whole = table(slide, tissue, tmp_path, load_predictor("nuclei-classical"))
        mask = tissue.limited(array([area.shape for area in areas]), slide, drawn=areas)
        report = run(slide, load_predictor("nuclei-classical"), sink, mask=mask, regions=tmp_path / REGIONS)
    assert sum(column(pieces, "objects")) == whole.merged.objects > 1000
    assert sum(column(pieces, "area_mm2")) == pytest.approx(whole.tissue_um2 / 1e6, abs=1e-5)
    found = rows(tmp_path / REGIONS)
    features = json.loads(gzip.decompress(sink.path.read_bytes()))["features"]
    centres = np.array([shapely.geometry.shape(f["geometry"]).centroid.coords[0] for f in features])
    near = np.array([np.abs(shapely.distance(area.shape.boundary, shapely.points(centres))) < 1 for area in areas])
    for row, area, unsure in zip(found, areas, near, strict=True):
        count = shapely.intersects_xy(area.shape, *centres.T).sum()
        # centroids are of pixels; those of outlines are within a pixel
        assert abs(int(row["objects"]) - count) <= unsure.sum()
        assert count > 100
    assert report.merged.objects <= sum(column(found, "objects"))


# many slides


@pytest.fixture
def counting(monkeypatch: pytest.MonkeyPatch) -> RunConfig:
    monkeypatch.setattr(batch_module, "load_model", lambda *_, **__: BlobCounter())
    return RunConfig(mpp_override=0.5, num_workers=1, cluster="threads", format=("geojson.gz",), tissue="whole")


def pictures(folder: Path, names: Sequence[str]) -> list[SlideEntry]:
    folder.mkdir()
    pixels = np.full((HEIGHT, WIDTH, 3), 235, np.uint8)
    for x, y, w, h in BLOBS:
        pixels[y : y + h, x : x + w] = INK
    for name in names:
        Image.fromarray(pixels).save(folder / f"{name}.png")
    return find_slides(folder)


def test_a_run_leaves_a_table_per_slide_and_one_of_all(counting: RunConfig, tmp_path: Path) -> None:
    entries = pictures(tmp_path / "in", ["a", "b"])
    out = tmp_path / "out"
    records = run_many(entries, out, counting)
    for record in records:
        (only,) = rows(out / record["slide_id"] / REGIONS)
        assert int(only["objects"]) == record["objects"] == len(BLOBS)
        assert float(only["density_count"]) == pytest.approx(record["density_count"], abs=1e-3)
        assert len(record["outputs"][REGIONS]["sha256"]) == 64
    together = rows(out / REGIONS)
    assert [row["slide_id"] for row in together] == ["a", "b"]
    assert together[0] == rows(out / "a" / REGIONS)[0]
    (summary, _) = rows(out / "summary.csv")
    assert float(summary["density_count"]) == pytest.approx(len(BLOBS), abs=1e-3)
    assert float(summary["density_per_mm2"]) == pytest.approx(len(BLOBS) / (WIDTH * HEIGHT * 0.25 / 1e6), rel=1e-4)
    assert "By density map" in (out / "report.html").read_text("utf-8")


def test_names_of_a_region_file_reach_the_table(counting: RunConfig, tmp_path: Path) -> None:
    entries = pictures(tmp_path / "in", ["a"])
    both = shapely.MultiPolygon([shapely.box(0, 0, 60, 60), shapely.box(200, 0, 300, 60)])
    items = [
        Item("annotation", shapely.box(0, 0, 150, 260), "Tumor", "core 1"),
        Item("annotation", both, "Tumor", "core 2"),
        Item("annotation", shapely.box(150, 0, 300, 260), "Stroma"),
        Item("annotation", shapely.box(0, 100, 300, 200)),
        Item("annotation", shapely.Point(3, 3), "Tumor", "no area"),
    ]
    write_annotations(tmp_path / "roi.geojson", gather(items))
    config = counting.model_copy(update={"roi": tmp_path / "roi.geojson"})
    run_many(entries, tmp_path / "all", config)
    found = rows(tmp_path / "all" / "a" / REGIONS)
    assert [(row["name"], row["class"]) for row in found] == [
        *(("core 1", "Tumor"), ("core 2", "Tumor"), ("", "Stroma"), ("", "")),
    ]
    inside = [shapely.intersects_xy(item.geometry, *CENTRES.T).sum() for item in items[:4]]
    assert column(found, "objects") == inside
    run_many(entries, tmp_path / "tumor", config.model_copy(update={"roi_class": ("Tumor",)}))
    assert [row["name"] for row in rows(tmp_path / "tumor" / REGIONS)] == ["core 1", "core 2"]


def test_a_table_that_is_lost_is_made_again(counting: RunConfig, tmp_path: Path) -> None:
    entries = pictures(tmp_path / "in", ["a"])
    run_many(entries, tmp_path / "out", counting)
    before = (tmp_path / "out" / "a" / REGIONS).read_bytes()
    (tmp_path / "out" / "a" / REGIONS).unlink()
    (record,) = run_many(entries, tmp_path / "out", counting)
    assert record["attempts"] == 2
    assert (tmp_path / "out" / "a" / REGIONS).read_bytes() == before


def test_models_with_other_columns_share_the_table_of_all(
    counting: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entries = pictures(tmp_path / "in", ["a", "b"])
    run_many(entries, tmp_path / "out", counting)
    monkeypatch.setattr(batch_module, "load_model", lambda *_, **__: BlobPredictor())
    run_many(entries[1:], tmp_path / "other", counting)
    moved = (tmp_path / "other" / "b" / REGIONS).read_bytes()
    (tmp_path / "out" / "b" / REGIONS).write_bytes(moved + b"\xff,1,2\n")
    write_reports(tmp_path / "out")
    found = rows(tmp_path / "out" / REGIONS)
    assert [row["density_count"] for row in found] == ["99.000", "", ""]


def test_a_table_of_all_that_nothing_stands_behind_is_removed(
    counting: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entries = pictures(tmp_path / "in", ["a"])
    run_many(entries, tmp_path / "out", counting)
    monkeypatch.setattr(batch_module, "load_model", lambda *_, **__: InkEncoder())
    run_many(entries, tmp_path / "out", counting.model_copy(update={"format": ("features.zarr",)}))
    assert not (tmp_path / "out" / REGIONS).exists()
    assert not (tmp_path / "out" / "a" / REGIONS).exists()


def test_the_page_counts_as_the_run_did(counting: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = counting.model_copy(update={"format": ("omezarr",)})
    (record,) = run_many(pictures(tmp_path / "in", ["A1"]), tmp_path / "out", config)
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text("utf-8"), re.S)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(code, names)
    assert names["count"] == pytest.approx(record["density_count"], rel=1e-6)
