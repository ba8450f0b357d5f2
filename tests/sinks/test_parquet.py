"""The GeoParquet sink: the objects of the GeoJSON, valid metadata, rows that lie together, and SQL over a cohort."""

from __future__ import annotations

import dataclasses
import gzip
import json
import re
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import shapely
from PIL import Image

from tests.sinks.test_geojson import BOW_TIE, BOX, CONTEXT, RING, TWO, discs, export, features
from wsikit.config import RunConfig
from wsikit.errors import ConfigError, PredictionError
from wsikit.features import Features
from wsikit.pipeline.batch import checked_model, run_many
from wsikit.pipeline.inputs import find_slides
from wsikit.pipeline.run import run
from wsikit.predictors import load_predictor
from wsikit.sinks import SinkContext
from wsikit.sinks.geojson import GeoJSONSink
from wsikit.sinks.parquet import ROW_GROUP, ParquetSink, hilbert
from wsikit.slides import open_slide

OFFSET = dataclasses.replace(CONTEXT, bounds_offset=(100, 50), patient="P 7", tissue_um2=2.5e6)
PAGE = Path(__file__).parents[2] / "docs" / "parquet.md"


def table(folder: Path, *parts: Features, context: SinkContext = CONTEXT) -> pa.Table:
    """Write and read back."""
    sink = ParquetSink(folder / "objects.parquet")
    sink.begin(context)
    for part in parts:
        sink.write(part)
    sink.commit()
    found = pq.read_table(sink.path)
    assert sink.written == len(found)
    return found


def metadata(folder: Path, key: bytes, *parts: Features, context: SinkContext = CONTEXT) -> dict[str, Any]:
    """Write and read what the file says of itself."""
    table(folder, *parts, context=context)
    value: dict[str, Any] = json.loads(pq.read_metadata(folder / "objects.parquet").metadata[key])
    return value


@pytest.mark.parametrize("context", [CONTEXT, OFFSET], ids=["no offset", "offset"])
def test_ids_and_outlines_are_those_of_the_geojson(tmp_path: Path, context: SinkContext) -> None:
    given = [features([BOX, BOW_TIE, RING, TWO, shapely.Point(3.126, 4)]), discs(500)]
    same = given[0], dataclasses.replace(given[1], measurements={})
    found = table(tmp_path, *same, context=context)
    objects, _ = export(tmp_path, *same, context=context)
    texts = {one["id"]: shapely.geometry.shape(one["geometry"]) for one in objects}
    assert sorted(found["id"].to_pylist()) == sorted(texts)
    for name, wkb in zip(found["id"].to_pylist(), found["geometry"].to_pylist(), strict=True):
        expected = shapely.transform(texts[name], lambda xy: xy + context.bounds_offset)
        assert shapely.equals_exact(shapely.from_wkb(wkb), expected, tolerance=1e-6)


def test_what_vanishes_on_the_grid_is_in_neither(tmp_path: Path) -> None:
    given = features([BOX, shapely.box(1, 1, 1.001, 1.001)])
    assert len(table(tmp_path, given)) == len(export(tmp_path, given)[0]) == 1


def test_columns_say_whose_and_what(tmp_path: Path) -> None:
    measured = {"Area um^2": np.array([3.5, np.nan, 7.25])}
    given = dataclasses.replace(features([BOX, BOX, RING], measurements=measured), labels=np.array([1, -1, 0]))
    rows = table(tmp_path, given, context=OFFSET).to_pylist()
    assert {(row["class"], row["Area um^2"]) for row in rows} == {('odd "näme"', 3.5), (None, None), ("Nucleus", 7.25)}
    assert {(row["slide"], row["patient"], row["object_type"]) for row in rows} == {("case 1", "P 7", "detection")}


def test_without_a_patient_it_is_null(tmp_path: Path) -> None:
    assert table(tmp_path, features([BOX]))["patient"].to_pylist() == [None]


def test_a_measurement_called_like_a_column_is_kept_apart(tmp_path: Path) -> None:
    measured = {"Class": np.array([1.0]), "id": np.array([2.0]), "area": np.array([3.0]), "Area": np.array([4.0])}
    found = table(tmp_path, features([BOX], measurements=measured))
    path = tmp_path / "objects.parquet"
    sql = 'SELECT class, "measurement.Class", "measurement.id", area, "measurement.Area" FROM read_parquet(?)'
    assert duckdb.execute(sql, [str(path)]).fetchall() == [("Nucleus", 1.0, 2.0, 3.0, 4.0)]
    assert len({name.casefold() for name in found.column_names}) == len(found.column_names)


def test_cells_have_nuclei(tmp_path: Path) -> None:
    inner = np.array([shapely.box(15, 25, 20, 30), None], object)
    given = features([BOX, shapely.box(50, 50, 60, 60)], "cell", nuclei=inner)
    rows = table(tmp_path, given, context=OFFSET).to_pylist()
    nuclei = {row["bbox"]["xmin"]: row["nucleus"] for row in rows}
    assert shapely.from_wkb(nuclei[10.0]).equals(inner[0])
    assert nuclei[50.0] is None
    assert set(metadata(tmp_path, b"geo", given)["columns"]) == {"geometry", "nucleus"}


def test_names_are_a_column(tmp_path: Path) -> None:
    found = table(tmp_path, features([BOX, RING], "annotation", names=("Tissue", "")))
    assert sorted(found["name"].to_pylist(), key=str) == [None, "Tissue"]


def test_geo_metadata_is_what_the_specification_asks(tmp_path: Path) -> None:
    assert metadata(tmp_path, b"geo", features([BOX, shapely.Point(3, 4)])) == {
        "version": "1.1.0",
        "primary_column": "geometry",
        "columns": {
            "geometry": {
                "encoding": "WKB",
                "geometry_types": ["Point", "Polygon"],
                "crs": None,
                "bbox": [3.0, 4.0, 30.0, 40.0],
                "covering": {"bbox": {corner: ["bbox", corner] for corner in ("xmin", "ymin", "xmax", "ymax")}},
            }
        },
    }


def test_bbox_is_that_of_the_geometry(tmp_path: Path) -> None:
    for row in table(tmp_path, discs(300), context=OFFSET).to_pylist():
        assert shapely.from_wkb(row["geometry"]).bounds == tuple(row["bbox"].values())


def test_the_metadata_tell_of_the_slide(tmp_path: Path) -> None:
    known = metadata(tmp_path, b"wsikit", context=OFFSET)
    assert (known["slide"], known["patient"], known["tissue_um2"], known["mpp"]) == ("case 1", "P 7", 2.5e6, 0.25)
    assert known["size"] == [8000, 8000]


def test_the_curve_goes_through_every_cell_to_a_neighbour() -> None:
    y, x = (v.ravel() for v in np.mgrid[:32, :32])
    place = hilbert(x, y, bits=5)
    assert sorted(place) == list(range(32 * 32))
    path = np.stack([x, y], 1)[np.argsort(place)]
    assert (np.abs(np.diff(path, axis=0)).sum(axis=1) == 1).all()


def test_row_groups_are_full_and_a_box_is_found_by_their_statistics(tmp_path: Path) -> None:
    given = discs(3 * ROW_GROUP + 5)
    y = shapely.bounds(given.geometries)[:, 1]
    table(tmp_path, given[np.argsort(y)])  # bands from the top, as the merge gives them
    read = pq.read_metadata(tmp_path / "objects.parquet")
    groups = [read.row_group(i) for i in range(read.num_row_groups)]
    assert [group.num_rows for group in groups] == [ROW_GROUP] * 3 + [5]
    names = [groups[0].column(i).path_in_schema for i in range(read.num_columns)]
    lowest = [group.column(names.index("bbox.ymin")).statistics for group in groups]
    assert all(a.max <= b.min + 1 for a, b in pairwise(lowest))
    assert groups[0].column(names.index("geometry")).statistics is None


def test_neighbours_of_a_row_group_lie_together(tmp_path: Path) -> None:
    found = table(tmp_path, discs(8000))
    middle = shapely.get_coordinates(shapely.centroid(shapely.from_wkb(found["geometry"].to_numpy())))
    steps = np.linalg.norm(np.diff(middle, axis=0), axis=1)
    # 8000 at random on 8900 px square: the nearest is 50 px off on average, any two 4600 px
    assert steps.mean() < 200


@pytest.mark.parametrize("sizes", [(1, 1, 5000), (4096, 906), (2500, 2502)])
def test_bytes_depend_only_on_the_features_and_their_order(tmp_path: Path, sizes: tuple[int, ...]) -> None:
    given, files = discs(5002), []
    for name, cuts in (("a", (5002,)), ("b", sizes)):
        (tmp_path / name).mkdir()
        ends = np.cumsum([0, *cuts])
        table(tmp_path / name, *(given[a:b] for a, b in pairwise(ends)))
        files.append((tmp_path / name / "objects.parquet").read_bytes())
    assert files[0] == files[1]


def test_other_columns_than_the_first_are_refused(tmp_path: Path) -> None:
    sink = ParquetSink(tmp_path / "objects.parquet")
    sink.begin(CONTEXT)
    sink.write(features([BOX], measurements={"Score": np.array([1.0])}))
    with pytest.raises(PredictionError, match="columns"):
        sink.write(features([BOX]))
    sink.abort()
    assert list(tmp_path.iterdir()) == []


def test_without_pyarrow_nothing_is_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ConfigError, match="pyarrow") as caught:
        checked_model([], RunConfig(format=("geojson.gz", "parquet")))
    assert "wsikit[parquet]" in caught.value.remedy
    checked_model([], RunConfig(format=("geojson.gz",)))


# what docs/parquet.md says, on a cohort whose first slide is empty and whose ids look like numbers


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the output of a run, in ``out``, of drawn slides of 512 px: nuclei on 65536 um^2 each."""
    folder = tmp_path_factory.mktemp("cohort")
    draw, rows = np.random.default_rng(1), ["slide_id,path,patient,mpp"]
    for name, patient, count in (("001", "01", 0), ("002", "01", 40), ("b", "02", 60), ("c", "02", 25), ("d", "", 9)):
        image, (y, x) = np.full((512, 512, 3), (240, 215, 230), np.uint8), np.mgrid[:512, :512]
        for cell in draw.permutation(256)[:count].tolist():
            middle = np.array(divmod(cell, 16)) * 32 + 16
            image[(y - middle[0]) ** 2 + (x - middle[1]) ** 2 <= draw.integers(6, 11) ** 2] = 90, 50, 140
        Image.fromarray(image).save(folder / f"{name}.png")
        rows.append(f"{name},{folder / name}.png,{patient},0.5")
    (folder / "cohort.csv").write_text("\n".join(rows))
    config = RunConfig(model="nuclei-classical", format=("geojson.gz", "parquet"), num_workers=1, cluster="threads")
    records = run_many(find_slides(folder / "cohort.csv"), folder / "out", config)
    assert [record["objects"] for record in records] == [0, 40, 60, 25, 9]
    return folder


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


def geojson(folder: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(gzip.decompress((folder / "objects.geojson.gz").read_bytes()))["features"]
    return found


def test_duckdb_answers_objects_per_mm2_by_patient(cohort: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(cohort)
    large = {
        name: sum(one["properties"]["measurements"]["Area um^2"] >= 30 for one in geojson(cohort / "out" / name))
        for name in ("001", "002", "b", "c")
    }
    assert 0 < large["b"] < 60
    expected = [
        (patient, 2, sum(large[name] for name in names), pytest.approx(2 * 0.065536))
        for patient, names in (("01", ("001", "002")), ("02", ("b", "c")))
    ]
    found = duckdb.sql(blocks("sql")[0]).fetchall()
    assert [row[:4] for row in found] == expected
    assert [row[4] for row in found] == [pytest.approx(row[2] / row[3]) for row in found]


def test_duckdb_reads_the_tissue_of_the_files(cohort: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(cohort)
    found = duckdb.sql(blocks("sql")[1]).fetchall()
    patients = [("001", "01"), ("002", "01"), ("b", "02"), ("c", "02"), ("d", None)]
    assert found == [(slide, patient, pytest.approx(0.065536)) for slide, patient in patients]


def test_duckdb_finds_a_place(cohort: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(cohort)
    place = shapely.box(0, 0, 200, 200).bounds
    inside = [
        one["id"]
        for one in geojson(cohort / "out" / "b")
        if shapely.box(*shapely.geometry.shape(one["geometry"]).bounds).intersects(shapely.box(*place))
    ]
    assert [row[0] for row in duckdb.sql(blocks("sql")[2]).fetchall()] == sorted(inside)


def test_python_of_the_page_runs(cohort: Path) -> None:
    (code,) = blocks("python")
    done = subprocess.run([sys.executable, "-c", code], cwd=cohort, capture_output=True, text=True, check=True)
    large = [one for one in geojson(cohort / "out" / "b") if one["properties"]["measurements"]["Area um^2"] >= 30]
    assert int(done.stdout.split()[0]) == len(large)


def test_the_sample_slide_has_the_same_objects_in_both(cmu: Path, tmp_path: Path) -> None:
    sinks = GeoJSONSink(tmp_path / "objects.geojson.gz"), ParquetSink(tmp_path / "objects.parquet")
    with open_slide(cmu) as slide:
        run(slide, load_predictor("nuclei-classical"), *sinks)
    texts = {one["id"]: shapely.geometry.shape(one["geometry"]) for one in geojson(tmp_path)}
    rows = pq.read_table(tmp_path / "objects.parquet", columns=["id", "geometry", "Area um^2"]).to_pydict()
    assert len(texts) > 3000
    assert sorted(rows["id"]) == sorted(texts)
    outlines = shapely.from_wkb(rows["geometry"])
    assert shapely.equals_exact(outlines, [texts[name] for name in rows["id"]], tolerance=1e-6).all()
    [(count, area)] = duckdb.execute(
        'SELECT count(*), sum("Area um^2") FROM read_parquet(?)', [str(sinks[1].path)]
    ).fetchall()
    assert count == len(texts)
    assert area == pytest.approx(sum(rows["Area um^2"]))


def test_another_patient_is_another_table(cohort: Path) -> None:
    config = RunConfig(model="nuclei-classical", format=("parquet",), num_workers=1, cluster="threads")
    one = replace(find_slides(cohort / "b.png")[0], mpp=0.5)
    for patient in ("A", "B"):
        run_many([replace(one, patient=patient)], cohort / "again", config)
        assert set(pq.read_table(cohort / "again" / "b" / "objects.parquet")["patient"].to_pylist()) == {patient}
