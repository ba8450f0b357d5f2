"""``wsikit tissue``: what it writes goes back in, one bad slide costs only itself, a run's picture stays."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import shapely
from PIL import Image

from wsikit.config import RunConfig
from wsikit.pipeline import tissue as tissue_module
from wsikit.pipeline.batch import run_many
from wsikit.pipeline.inputs import SlideEntry, find_slides
from wsikit.pipeline.settings import tissue_of
from wsikit.pipeline.tissue import find_tissues, write_tissue
from wsikit.slides import open_slide
from wsikit.tissue import find_tissue


@pytest.fixture
def field(cmu: Path, tmp_path: Path) -> SlideEntry:
    """A plain image with tissue and glass, 0.499 um per px."""
    with open_slide(cmu) as slide:
        pixels = slide.reader.read(0, 300, 1500, 800, 600)
    (tmp_path / "in").mkdir()
    Image.fromarray(pixels).save(tmp_path / "in" / "field.png")
    return SlideEntry("field", tmp_path / "in" / "field.png", 0.499)


@pytest.mark.parametrize("name", ["cmu", "field"])
def test_the_mask_goes_back_in_as_it_came_out(name: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    given = request.getfixturevalue(name)
    entry = given if isinstance(given, SlideEntry) else SlideEntry("cmu", given)
    written = write_tissue(entry, tmp_path / "out")
    with Image.open(tmp_path / "out" / "tissue.png") as image:
        assert image.mode == "L"
        assert set(np.unique(np.asarray(image))) == {0, 255}
    manifest = tmp_path / "slides.csv"
    with manifest.open("w", newline="") as file:
        csv.writer(file).writerows(
            [["path", "mpp", "mask_path"], [entry.path, entry.mpp or "", tmp_path / "out" / "tissue.png"]]
        )
    (again,) = find_slides(manifest)
    with open_slide(again.path, again.mpp) as slide:
        back = tissue_of(slide, again, RunConfig())
        found = find_tissue(slide)
    assert np.array_equal(back.array, written.array)
    assert np.array_equal(found.array, written.array)
    assert back.mpp == written.mpp
    assert 0 < back.array.mean() < 1


def test_a_plain_image_is_looked_at_and_its_outlines_have_the_masks_area(field: SlideEntry, tmp_path: Path) -> None:
    mask = write_tissue(field, tmp_path / "out")
    features = json.loads((tmp_path / "out" / "tissue.geojson").read_text("utf-8"))["features"]
    area = sum(shapely.geometry.shape(feature["geometry"]).area for feature in features) * 0.499**2
    assert area == pytest.approx(mask.area_um2, rel=0.03)
    assert mask.array.mean() < 0.95


def test_a_slide_that_fails_costs_only_itself(
    field: SlideEntry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bad.svs").write_text("no slide")
    entries = [
        SlideEntry("bad", tmp_path / "bad.svs"),
        SlideEntry("nowhere", field.path),
        SlideEntry("crash", field.path, 0.5),
        SlideEntry("sibling", field.path, 0.5, part_of="field"),
        field,
    ]
    real = tissue_module.write_tissue

    def crashing(entry: SlideEntry, *rest: object, **named: object) -> object:
        if entry.slide_id == "crash":
            raise RuntimeError("a library gave up")
        return real(entry, *rest, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(tissue_module, "write_tissue", crashing)
    outcomes = list(find_tissues(entries, tmp_path / "out"))
    told = {o.slide_id: o.failed.get("reason", "") for o in outcomes}
    assert told == {"bad": "unreadable", "nowhere": "missing_mpp", "crash": "internal", "field": ""}
    assert all(o.failed["remedy"] for o in outcomes if o.mask is None)
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["field"]


def test_a_runs_own_picture_is_left_alone(field: SlideEntry, tmp_path: Path) -> None:
    out = tmp_path / "out"
    config = RunConfig(model="nuclei-classical", num_workers=1, cluster="threads", format=("geojson.gz",))
    (record,) = run_many([field], out, config)
    assert record["status"] == "complete"
    before = (out / "field" / "overview.png").read_bytes()
    write_tissue(field, out / "field")
    assert (out / "field" / "overview.png").read_bytes() == before
    assert (out / "field" / "tissue-overview.png").exists()
    (again,) = run_many([field], out, config, force=True)
    assert again["status"] == "complete"
    assert {"tissue.geojson", "tissue.png", "tissue-overview.png"} <= {p.name for p in (out / "field").iterdir()}


def test_a_run_is_welcome_where_tissue_was_found(field: SlideEntry, tmp_path: Path) -> None:
    write_tissue(field, tmp_path / "out" / "field")
    (record,) = run_many([field], tmp_path / "out", RunConfig(num_workers=1, cluster="threads", format=("geojson.gz",)))
    assert record["status"] == "complete"
    assert (tmp_path / "out" / "field" / "tissue.png").exists()


def test_tissue_of_another_slide_is_not_put_beside_a_runs_results(field: SlideEntry, tmp_path: Path) -> None:
    out = tmp_path / "out"
    config = RunConfig(model="nuclei-classical", num_workers=1, cluster="threads", format=("geojson.gz",))
    run_many([field], out, config)
    before = {path.name: path.read_bytes() for path in (out / "field").iterdir()}
    with Image.open(field.path) as image:
        image.crop((0, 0, 300, 200)).save(tmp_path / "field.png")
    (outcome,) = find_tissues([SlideEntry("field", tmp_path / "field.png", 0.499)], out)
    assert outcome.failed["reason"] == "id_taken"
    assert {path.name: path.read_bytes() for path in (out / "field").iterdir()} == before


def test_what_was_written_is_no_slide_the_next_time(field: SlideEntry, tmp_path: Path) -> None:
    write_tissue(field, tmp_path / "in" / "old" / "field")
    assert [entry.path.name for entry in find_slides(tmp_path / "in")] == ["field.png"]
    assert [entry.path.name for entry in find_slides(f"{tmp_path}/in/**/*.png")] == ["field.png"]


def test_a_users_own_picture_of_that_name_is_a_slide(tmp_path: Path) -> None:
    Image.new("RGB", (9, 9)).save(tmp_path / "tissue.png")
    assert [entry.path.name for entry in find_slides(tmp_path)] == ["tissue.png"]
