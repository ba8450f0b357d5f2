"""Many slides: accounted for, isolated, resumed; a killed run continues to the same result."""

from __future__ import annotations

import csv
import gzip
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.conformance.qupath import assert_qupath
from wsikit.config import RunConfig
from wsikit.errors import OutputError, UnknownNameError
from wsikit.pipeline import stages
from wsikit.pipeline.batch import all_complete, run_many
from wsikit.pipeline.busy import Busy
from wsikit.pipeline.inputs import SlideEntry, find_slides
from wsikit.pipeline.plan import plan
from wsikit.slides import open_slide

CONFIG = RunConfig(model="nuclei-classical", mpp_override=0.5, num_workers=1, cluster="threads")

EXPECTED = {
    "cmu-1-small-region.svs": "complete",
    "instanseg_HE_example.tif": "complete",
    "kidney-48-5.tif": "missing_mpp",
    "pathml_small_dicom.dcm": "unreadable",
    "pathml_small_vectra.qptiff": "unsupported_pixels",
    "test3-DAPI-2-387.ndpi": "not_brightfield",
    "boxes.tiff": "absurd_mpp",
    "boxes_0.dcm": "complete",
    "derived_cmu-1-small-region_truncated60.svs": "unreadable",
    "highdicom_sm_annotations.dcm": "unreadable",
    "highdicom_sm_image.dcm": "complete",
    "highdicom_sm_image_jpegls.dcm": "unreadable",
    "qupath_cells-1.jp2": "missing_mpp",
    "qupath_cells-2c.ome.tif": "unsupported_pixels",
    "qupath_cells-gray16.tif": "unsupported_pixels",
    "qupath_cells.ome.tif": "complete",
    "qupath_cells.tif": "missing_mpp",
    "small.svs": "complete",
    "unopenable.tiff": "unreadable",
    "unreadable.svs": "unreadable_pixels",
}
"""Status, or the reason of the failure, of every file of the shared slides."""


@pytest.fixture(scope="module")
def field(cmu: Path) -> np.ndarray:  # type: ignore[type-arg]
    """A piece of tissue, 600 x 600 px at 0.499 um per px."""
    with open_slide(cmu) as slide:
        return slide.reader.read(0, 700, 1500, 600, 600)


def fields(folder: Path, pixels: Any, count: int, side: int = 200) -> Path:
    """A folder of small fields, each another piece."""
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        x, y = 37 * i % (600 - side), 71 * i % (600 - side)
        Image.fromarray(pixels[y : y + side, x : x + side]).save(folder / f"field-{i:02d}.png")
    return folder


def results(out: Path) -> dict[str, tuple[str, bytes]]:
    """slide id -> status and GeoJSON text."""
    found = {}
    for record in sorted(out.glob("*/slide.json")):
        objects = record.with_name("objects.geojson.gz")
        text = gzip.decompress(objects.read_bytes()) if objects.exists() else b""
        found[record.parent.name] = (json.loads(record.read_text())["status"], text)
    return found


def stamps(out: Path) -> dict[str, int]:
    return {str(p.relative_to(out)): p.stat().st_mtime_ns for p in out.glob("*/*") if p.is_file()}


def test_every_file_of_a_folder_of_oddities_is_accounted_for(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = [
        sys.executable,
        "-m",
        "wsikit.cli",
        "run",
        "-i",
        str(data / "slides"),
        "-o",
        str(out),
        "-m",
        "nuclei-classical",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 3, done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    rows = list(csv.DictReader((out / "summary.csv").open()))
    found = {Path(row["path"]).name: row["reason"] or row["status"] for row in rows}
    assert found == EXPECTED
    assert all(row["message"] for row in rows if row["status"] == "failed")
    for objects in out.glob("*/objects.geojson.gz"):
        assert_qupath(objects)
    assert len(list(out.glob("*/objects.geojson.gz"))) == list(EXPECTED.values()).count("complete")
    assert (out / "report.html").stat().st_size > 0
    assert not list(out.rglob("*.tmp")) + list(out.rglob(".spool"))


def test_a_second_run_keeps_what_is_done_and_says_the_same(field: Any, tmp_path: Path) -> None:
    entries = find_slides(fields(tmp_path / "in", field, 2))
    first = run_many(entries, tmp_path / "out", CONFIG)
    before = stamps(tmp_path / "out")
    assert run_many(entries, tmp_path / "out", CONFIG) == first
    assert stamps(tmp_path / "out") == before


@pytest.mark.parametrize("workers", [1, 2])
def test_a_record_tells_how_busy_the_stages_were(field: Any, tmp_path: Path, workers: int) -> None:
    config = RunConfig(mpp_override=0.499, num_workers=workers)
    (record,) = run_many(find_slides(fields(tmp_path / "in", field, 1)), tmp_path / "out", config)
    busy = record["busy"]
    assert all(busy[stage] > 0 for stage in ("read", "model", "post"))
    # a millisecond for the rounding of each
    assert busy["read"] + busy["model"] + busy["post"] <= busy["wall"] + 0.004
    assert busy["wall"] <= record["seconds"]["predict"] + 0.004
    assert record["bottleneck"] == str(Busy.of(busy))
    assert (tmp_path / "out" / "summary.csv").read_text().endswith(f",{Busy.of(busy).bound()}\n")


@pytest.mark.parametrize("change", ["parameters", "slide", "missing output", "force"])
def test_what_changed_is_redone_and_nothing_else(field: Any, tmp_path: Path, change: str) -> None:
    entries = find_slides(fields(tmp_path / "in", field, 2))
    out, config = tmp_path / "out", CONFIG
    run_many(entries, out, config)
    before = stamps(out)
    redone = {"field-00", "field-01"}
    if change == "parameters":
        config = config.model_copy(update={"min_tissue": 0.5})
    elif change == "slide":
        Image.fromarray(field[:150, :150]).save(tmp_path / "in" / "field-01.png")
        redone = {"field-01"}
    elif change == "missing output":
        (out / "field-01" / "objects.geojson.gz").unlink()
        redone = {"field-01"}
    run_many(entries, out, config, force=change == "force")
    after = stamps(out)
    assert {name.split("/")[0] for name in after if after[name] != before.get(name)} == redone


def test_parameters_that_change_no_result_redo_nothing(field: Any, tmp_path: Path) -> None:
    entries = find_slides(fields(tmp_path / "in", field, 1))
    run_many(entries, tmp_path / "out", CONFIG)
    before = stamps(tmp_path / "out")
    run_many(entries, tmp_path / "out", CONFIG.model_copy(update={"batch_size": 3, "supertile": 512}))
    assert stamps(tmp_path / "out") == before


def test_a_failure_of_the_slide_is_kept_until_its_cause_is_answered(field: Any, tmp_path: Path) -> None:
    entries = find_slides(fields(tmp_path / "in", field, 1))
    config = CONFIG.model_copy(update={"mpp_override": None})
    (first,) = run_many(entries, tmp_path / "out", config)
    assert first["reason"] == "missing_mpp"
    assert run_many(entries, tmp_path / "out", config) == [first]
    (second,) = run_many(entries, tmp_path / "out", CONFIG)
    assert second["status"] == "complete"


def test_a_failure_of_the_machine_is_tried_again(field: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entries = find_slides(fields(tmp_path / "in", field, 1))

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(stages, "finish_run", full)
        (first,) = run_many(entries, tmp_path / "out", CONFIG)
    assert first["reason"] == "no_space"
    assert not (tmp_path / "out" / "field-00" / "objects.geojson.gz").exists()
    (second,) = run_many(entries, tmp_path / "out", CONFIG)
    assert second["status"] == "complete"


def test_an_unexpected_error_costs_one_slide_and_is_recorded(
    field: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entries = find_slides(fields(tmp_path / "in", field, 3))
    real = stages.finish_run

    def shaky(slide: Any, *args: Any, **options: Any) -> Any:
        if options["slide_id"] == "field-01":
            raise ZeroDivisionError("planted")
        return real(slide, *args, **options)

    monkeypatch.setattr(stages, "finish_run", shaky)
    records = run_many(entries, tmp_path / "out", CONFIG)
    assert [record["status"] for record in records] == ["complete", "failed", "complete"]
    assert records[1]["reason"] == "internal"
    assert "planted" in records[1]["traceback"]
    assert not all_complete(records)


def test_a_run_that_cannot_begin_loses_nothing_of_an_earlier_one(field: Any, tmp_path: Path) -> None:
    entries = find_slides(fields(tmp_path / "in", field, 1))
    (first,) = run_many(entries, tmp_path / "out", CONFIG)
    before = stamps(tmp_path / "out")
    (record,) = run_many(entries, tmp_path / "out", CONFIG.model_copy(update={"mpp_override": 5.0}))
    assert record["reason"] == "resolution_unavailable"
    assert stamps(tmp_path / "out") == before
    assert run_many(entries, tmp_path / "out", CONFIG) == [first]


def test_outputs_of_other_parameters_never_stand_side_by_side(
    field: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entries = find_slides(fields(tmp_path / "in", field, 1))
    run_many(entries, tmp_path / "out", CONFIG)

    def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError("planted")

    monkeypatch.setattr(stages, "finish_run", fail)
    run_many(entries, tmp_path / "out", CONFIG.model_copy(update={"min_tissue": 0.3}))
    assert [p.name for p in (tmp_path / "out" / "field-00").iterdir()] == ["slide.json"]


def test_a_run_killed_in_the_middle_goes_on_and_ends_like_one_that_was_not(field: Any, tmp_path: Path) -> None:
    source = fields(tmp_path / "in", field, 10, side=400)
    run_many(find_slides(source), tmp_path / "whole", CONFIG)
    out = tmp_path / "killed"
    command = [sys.executable, "-m", "wsikit.cli", "run", "-i", str(source), "-o", str(out), "-n", "2"]
    command += ["--mpp-override", "0.5", "-m", "nuclei-classical"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True)
    deadline = time.monotonic() + 120
    while sum(status == "complete" for status, _ in results(out).values()) < 3:
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    finished = {name for name, (status, _) in results(out).items() if status == "complete"}
    assert 3 <= len(finished) < 10
    before = {name: stamp for name, stamp in stamps(out).items() if name.split("/")[0] in finished}
    for name in finished:
        assert_qupath(out / name / "objects.geojson.gz")
    for folder in out.glob("*/"):
        if folder.name not in finished:
            assert not (folder / "slide.json").exists() or results(out)[folder.name][0] == "running"

    run_many(find_slides(source), out, CONFIG)
    after = stamps(out)
    assert {name: after[name] for name in before} == before
    assert results(out) == results(tmp_path / "whole")
    assert not list(out.rglob("*.tmp")) + list(out.rglob(".spool"))


def dicom_series(folder: Path, boxes: Path) -> None:
    """A slide of two files: the level of ``boxes``, and a label made of the same frame."""
    level = boxes.read_bytes()
    uid, kind = b"1689669825649.10.0", b"DERIVED\\PRIMARY\\VOLUME\\NONE "
    label = level.replace(uid, uid.replace(b".10.", b".11.")).replace(kind, b"DERIVED\\PRIMARY\\LABEL\\NONE  ", 1)
    for element in (6, 7):  # (0048,0006) and (0048,0007): a label is one frame of 64 x 64 px
        at = label.index(b"\x48\x00" + bytes([element]) + b"\x00UL\x04\x00") + 8
        label = label[:at] + (64).to_bytes(4, "little") + label[at + 4 :]
    folder.mkdir()
    (folder / "a.dcm").write_bytes(level)
    (folder / "b.dcm").write_bytes(label)


def test_the_files_of_a_dicom_series_are_one_slide(data: Path, tmp_path: Path) -> None:
    dicom_series(tmp_path / "in", data / "slides" / "odd" / "boxes_0.dcm")
    records = run_many(find_slides(tmp_path / "in"), tmp_path / "out", CONFIG)
    assert [(record["slide_id"], record["status"]) for record in records] == [("a", "complete"), ("b", "skipped")]
    assert all_complete(records)
    rows = list(csv.DictReader((tmp_path / "out" / "summary.csv").open()))
    assert [(row["slide_id"], row["reason"]) for row in rows] == [("a", ""), ("b", "same_series")]
    assert not (tmp_path / "out" / "b").exists()


def test_a_dicom_series_without_its_pixels_fails_and_says_so(data: Path, tmp_path: Path) -> None:
    dicom_series(tmp_path / "in", data / "slides" / "odd" / "boxes_0.dcm")
    (tmp_path / "in" / "a.dcm").unlink()
    (record,) = run_many(find_slides(tmp_path / "in"), tmp_path / "out", CONFIG)
    assert (record["status"], record["reason"]) == ("failed", "unreadable")
    assert "No pyramid levels found" in record["message"]


def test_two_levels_of_a_dicom_series_that_contradict_each_other_are_never_one_slide(
    data: Path, tmp_path: Path
) -> None:
    dicom_series(tmp_path / "in", data / "slides" / "odd" / "boxes_0.dcm")
    level = (tmp_path / "in" / "a.dcm").read_bytes()
    # another instance of the same size that says to be of the same series
    (tmp_path / "in" / "c.dcm").write_bytes(level.replace(b"1689669825649.10.0", b"1689669825649.12.0"))
    records = run_many(find_slides(tmp_path / "in"), tmp_path / "out", CONFIG)
    assert {record["reason"] for record in records} == {"unreadable"}
    assert all("unexpected image" in record["message"] for record in records)


def test_a_dicom_instance_that_is_there_twice_is_read_once_and_a_dicomdir_leads_nowhere(
    data: Path, tmp_path: Path
) -> None:
    dicom_series(tmp_path / "in", data / "slides" / "odd" / "boxes_0.dcm")
    run_many(find_slides(tmp_path / "in"), tmp_path / "alone", CONFIG)
    shutil.copy(tmp_path / "in" / "a.dcm", tmp_path / "in" / "copy.dcm")
    shutil.copy(tmp_path / "in" / "a.dcm", tmp_path / "outside.dcm")
    (tmp_path / "in" / "DICOMDIR").write_bytes(bytes(128) + b"DICM" + b"../outside.dcm")
    records = run_many(find_slides(tmp_path / "in"), tmp_path / "out", CONFIG)
    assert [(record["slide_id"], record["status"]) for record in records] == [
        ("a", "complete"),
        ("b", "skipped"),
        ("copy", "skipped"),
    ]
    assert results(tmp_path / "out")["a"] == results(tmp_path / "alone")["a"]


def test_files_that_no_run_has_written_are_never_touched(field: Any, tmp_path: Path) -> None:
    fields(tmp_path / "in", field, 1)
    folder = tmp_path / "out" / "field-00"
    folder.mkdir(parents=True)
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(OutputError, match=r"notes\.txt"):
        run_many(find_slides(tmp_path / "in"), tmp_path / "out", CONFIG)
    (folder / "notes.txt").rename(tmp_path / "notes.txt")
    run_many(find_slides(tmp_path / "in"), tmp_path / "out", CONFIG)
    (tmp_path / "notes.txt").rename(folder / "notes.txt")
    (folder / "tissue.geojson").write_text("{}")
    run_many(find_slides(tmp_path / "in"), tmp_path / "out", CONFIG, force=True)
    assert (folder / "notes.txt").read_text() == "mine"
    assert (folder / "tissue.geojson").exists()


def test_files_of_the_user_that_are_called_like_results_stay(field: Any, tmp_path: Path) -> None:
    entries, folder = find_slides(fields(tmp_path / "in", field, 1)), tmp_path / "out" / "field-00"
    mine = ("objects-corrected.geojson.gz", "objects_AB.geojson.gz", "objects-001-mine.geojson.gz", "objects-1.parquet")
    folder.mkdir(parents=True)
    (folder / mine[0]).write_bytes(b"hours of work")
    with pytest.raises(OutputError, match="objects-corrected"):
        run_many(entries, tmp_path / "out", CONFIG)
    (folder / mine[0]).unlink()
    run_many(entries, tmp_path / "out", CONFIG.model_copy(update={"split": 3}))
    assert (folder / "objects-002.geojson.gz").exists()
    for name in mine:
        (folder / name).write_bytes(b"hours of work")
    (record,) = run_many(entries, tmp_path / "out", CONFIG.model_copy(update={"format": ("omezarr",)}))
    assert {path.name for path in folder.iterdir()} == {*mine, *record["outputs"], "slide.json", "overview.png"}
    assert all((folder / name).read_bytes() == b"hours of work" for name in mine)


def test_results_of_another_slide_of_the_same_id_are_kept(
    field: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, other = tmp_path / "a" / "slide.png", tmp_path / "b" / "slide.png"
    for path, pixels in ((first, field[:200, :200]), (other, field[200:400, :200])):
        path.parent.mkdir()
        Image.fromarray(pixels).save(path)
    out = tmp_path / "out"
    monkeypatch.chdir(first.parent)
    run_many(find_slides("slide.png"), out, CONFIG)
    before = stamps(out)
    manifest = tmp_path / "slides.csv"
    manifest.write_text("path,slide_id\nb/slide.png,slide\na/slide.png,again\n")
    taken, again = run_many(find_slides(manifest), out, CONFIG, force=True)
    assert (taken["status"], taken["reason"], again["status"]) == ("failed", "id_taken", "complete")
    assert str(first) in taken["message"]
    assert "slide_id" in taken["remedy"]
    assert stamps(out).items() >= before.items()
    rows = {row["slide_id"]: row for row in csv.DictReader((out / "summary.csv").open())}
    assert (rows["slide"]["reason"], rows["slide"]["path"]) == ("id_taken", str(other))
    monkeypatch.chdir(other.parent)
    planned = next(plan(find_slides("slide.png"), out, CONFIG))
    assert ("would fail (id_taken)" in planned.text, planned.complete) == (True, False)
    assert run_many(find_slides(first), out, CONFIG)[0]["status"] == "complete"


def test_a_slide_that_was_moved_or_scanned_again_is_the_same_slide(
    field: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = fields(tmp_path / "in", field, 1)
    monkeypatch.chdir(tmp_path)
    # from any folder: that a slide was called in/field-00.png says little
    (first,) = run_many(find_slides("in/field-00.png"), tmp_path / "out", CONFIG)
    assert first["path"] == str(source / "field-00.png")
    # with times of its own, as `cp -r` makes it
    moved = source.rename(tmp_path / "moved")
    os.utime(moved / "field-00.png", (1, 1))
    config = CONFIG.model_copy(update={"min_tissue": 0.5})
    (second,) = run_many(find_slides(moved), tmp_path / "out", config)
    assert (second["status"], second["path"]) == ("complete", str(moved / "field-00.png"))
    Image.fromarray(field[300:500, 300:500]).save(moved / "field-00.png")
    (third,) = run_many(find_slides(moved), tmp_path / "out", config)
    assert third["status"] == "complete"
    assert third["source"] != second["source"]


def test_the_same_name_in_two_folders_gives_two_results(field: Any, tmp_path: Path) -> None:
    fields(tmp_path / "in" / "a", field, 1)
    fields(tmp_path / "in" / "b", field[::-1], 1)
    records = run_many(find_slides(tmp_path / "in"), tmp_path / "out", CONFIG)
    assert {record["slide_id"] for record in records} == {"a__field-00", "b__field-00"}
    assert len(results(tmp_path / "out")) == 2


HOSTILE = [
    "Schnitt ä 病理.png",
    "a\nb.png",
    "..png",
    " .. .png",
    "-rf.png",
    "<script>alert(1)</script>.png".replace("/", "∕"),
    "x" * 250 + ".png",
    "q\"'$(id).png",
]


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_name_stays_inside_the_output_folder(field: Any, tmp_path: Path, name: str) -> None:
    (tmp_path / "in").mkdir()
    Image.fromarray(field[:80, :80]).save(tmp_path / "in" / name, format="PNG")
    (record,) = run_many(find_slides(tmp_path / "in" / name), tmp_path / "out", CONFIG)
    assert record["status"] == "complete", record["message"]
    (folder,) = (path for path in (tmp_path / "out").iterdir() if path.is_dir())
    assert_qupath(folder / "objects.geojson.gz")
    assert (folder / "overview.png").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out"]


def test_what_is_no_file_fails_at_once_by_name(tmp_path: Path) -> None:
    (tmp_path / "folder.svs").mkdir()
    os.mkfifo(tmp_path / "fifo.svs")
    (tmp_path / "empty.svs").touch()
    (tmp_path / "text.svs").write_text("not a slide\n" * 100)
    (tmp_path / "gone.svs").symlink_to(tmp_path / "nowhere")
    start = time.monotonic()
    records = run_many(find_slides(tmp_path), tmp_path / "out", CONFIG)
    assert time.monotonic() - start < 20
    assert {record["slide_id"]: record["reason"] for record in records} == {
        "folder": "not_a_file",
        "fifo": "not_a_file",
        "gone": "not_a_file",
        "empty": "unreadable",
        "text": "unreadable",
    }


def test_a_manifest_gives_mpp_mask_and_name(field: Any, tmp_path: Path) -> None:
    fields(tmp_path, field, 1, side=500)
    half = np.zeros((500, 500), np.uint8)
    half[:, 250:] = 1
    Image.fromarray(half).save(tmp_path / "mask.tif")
    (tmp_path / "cohort.csv").write_text(
        "FILENAME,PATIENT,slide_id,mpp,mask_path\nfield-00.png,p1,case 1,0.25,mask.tif\nfield-00.png,p1,case 2,0.25,\n"
    )
    config = RunConfig(model="nuclei-classical", num_workers=1, cluster="threads", mpp=0.25)
    records = run_many(find_slides(tmp_path / "cohort.csv"), tmp_path / "out", config)
    assert [record["slide_id"] for record in records] == ["case 1", "case 2"]
    assert [record["patient"] for record in records] == ["p1", "p1"]
    assert [record["mpp"] for record in records] == [0.25, 0.25]
    assert records[0]["tissue_um2"] == pytest.approx(records[1]["tissue_um2"] / 2, rel=0.05)
    assert 0 < records[0]["objects"] < records[1]["objects"]


def test_an_output_folder_that_cannot_be_made_is_an_error_before_any_work(field: Any, tmp_path: Path) -> None:
    entries = find_slides(fields(tmp_path / "in", field, 1))
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match="output folder"):
        run_many(entries, tmp_path / "file", CONFIG)


def test_a_model_that_does_not_exist_is_an_error_that_lists_the_names(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="nuclei, nuclei-classical, stain-area"):
        run_many([SlideEntry("a", tmp_path / "a.svs")], tmp_path / "out", RunConfig(model="nucleus"))
    assert not (tmp_path / "out").exists()


def test_run_yaml_repeats_the_run(field: Any, tmp_path: Path) -> None:
    from wsikit.config import load_config

    entries = find_slides(fields(tmp_path / "in", field, 1))
    run_many(entries, tmp_path / "out", CONFIG, command="wsikit run ...")
    again = load_config(RunConfig, tmp_path / "out" / "run.yaml")
    assert again.result_parameters() == CONFIG.result_parameters()
    assert again.provenance["command"] == "wsikit run ..."
    assert again.mpp_override == 0.5
