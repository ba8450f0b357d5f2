"""The report built again from the output folder: the run's own bytes, at any time, whatever state the folder is in."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from wsikit.config import RunConfig
from wsikit.errors import ConfigError
from wsikit.pipeline.batch import run_many
from wsikit.pipeline.inputs import SlideEntry
from wsikit.pipeline.lease import Lease
from wsikit.pipeline.report import folder as folder_module
from wsikit.pipeline.report import read_run, write_reports
from wsikit.pipeline.stopping import Stop

CONFIG = RunConfig(model="stain-area", mpp_override=0.5, num_workers=1, cluster="threads")
NAMES = ("report.html", "summary.csv")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run over three fields in no order, a file that is none, and one that is read with another."""
    slides = tmp_path_factory.mktemp("slides")
    for i, name in enumerate(("z", "a", "m")):
        pixels = np.random.default_rng(i).integers(40, 200, (96, 128, 3), np.uint8)
        Image.fromarray(pixels).save(slides / f"{name}.png")
    (slides / "broken.svs").write_bytes(b"no slide")
    entries = [SlideEntry(name, slides / f"{name}.png", patient=f"P {name}") for name in ("z", "a", "m")]
    entries.insert(1, SlideEntry("broken", slides / "broken.svs"))
    entries.insert(2, SlideEntry("sibling", slides / "sibling.dcm", part_of="z"))
    out = tmp_path_factory.mktemp("out")
    run_many(entries, out, CONFIG, command="wsikit run -i slides")
    return out


@pytest.fixture
def out(finished: Path, tmp_path: Path) -> Path:
    """A copy to do something to."""
    import shutil

    return Path(shutil.copytree(finished, tmp_path / "out"))


def written(out: Path) -> dict[str, bytes]:
    return {name: (out / name).read_bytes() for name in NAMES}


def rows(out: Path) -> dict[str, dict[str, str]]:
    with (out / "summary.csv").open(encoding="utf-8", newline="") as file:
        return {row["slide_id"]: row for row in csv.DictReader(file)}


def change_yaml(out: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    values = yaml.safe_load((out / "run.yaml").read_text())
    change(values["provenance"])
    (out / "run.yaml").write_text(yaml.safe_dump(values, sort_keys=False))


def test_the_rebuilt_report_is_the_run_s_own_to_the_byte(out: Path) -> None:
    before = written(out)
    for name in NAMES:
        (out / name).unlink()
    write_reports(out)
    assert written(out) == before


def test_it_stays_the_same_where_the_folder_has_moved(out: Path) -> None:
    before = written(out)
    moved = out.rename(out.with_name("elsewhere"))
    write_reports(moved)
    assert written(moved) == before


def test_slides_stay_in_the_order_of_the_run(out: Path) -> None:
    records = write_reports(out)
    order = ["z", "broken", "sibling", "a", "m"]
    assert [record["slide_id"] for record in records] == order == list(rows(out))
    assert [r["status"] for r in records] == ["complete", "failed", "skipped", "complete", "complete"]
    assert "sibling" not in (out / "report.html").read_text()


def test_a_run_returns_the_records_that_its_folder_tells(finished: Path) -> None:
    slides = [SlideEntry("b", Path("b.svs")), SlideEntry("s", Path("s.dcm"), part_of="b")]
    returned = run_many(slides, finished.parent / "other", CONFIG)
    assert read_run(finished.parent / "other").records == returned


def test_a_failure_that_kept_earlier_results_is_told_again(out: Path, tmp_path: Path) -> None:
    gone = tmp_path / "z.png"
    run_many([SlideEntry("z", gone)], out, CONFIG)
    before, html = written(out), (out / "report.html").read_text()
    assert json.loads((out / "z" / "slide.json").read_text())["status"] == "complete"
    assert rows(out)["z"]["status"] == "failed"
    assert "results of an earlier run are kept" in html
    write_reports(out)
    assert written(out) == before


def unfinished(out: Path) -> None:
    """As a run leaves it that is on its second slide."""
    change_yaml(out, lambda told: [told.pop("seconds"), told.pop("unrecorded")])
    (out / "m" / "slide.json").unlink()
    record = json.loads((out / "a" / "slide.json").read_text())
    keep = ("schema", "slide_id", "path", "patient", "key", "started")
    running = {key: record[key] for key in keep} | {"status": "running", "reason": "", "message": ""}
    (out / "a" / "slide.json").write_text(json.dumps(running))


def test_while_a_run_goes_on_its_slides_are_running_or_waiting(out: Path) -> None:
    unfinished(out)
    with Lease(out, "wsikit run", Stop()):
        write_reports(out)
    assert [row["status"] for row in rows(out).values()] == ["complete", "failed", "skipped", "running", "waiting"]
    html = (out / "report.html").read_text()
    assert "still going on" in html
    assert "<b>1</b>running" in html
    assert "<b>1</b>waiting" in html
    assert html.count('<div class="problem') == 1


@pytest.mark.parametrize(
    ("told", "said"), [({}, "died"), ({"stopped": "walltime"}, "wall time"), ({"stopped": "terminated"}, "SIGTERM")]
)
def test_a_run_that_ended_before_its_time_has_stopped_slides_and_says_why(
    out: Path, told: dict[str, str], said: str
) -> None:
    unfinished(out)
    change_yaml(out, lambda values: values.update(told))
    write_reports(out)
    assert [row["status"] for row in rows(out).values()] == ["complete", "failed", "skipped", "stopped", "waiting"]
    html = (out / "report.html").read_text()
    assert "still going on" not in html
    [notice] = re.findall('<p class="notice".*?</p>', html)
    assert said in notice
    assert html.count('<div class="problem') == 1


def test_a_finished_run_is_not_called_going_on(finished: Path) -> None:
    html = (finished / "report.html").read_text()
    assert "still going on" not in html
    assert "wall time" in html


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"{", "no JSON"),
        (b"", "no JSON"),
        (b"\xff\xfe", "no JSON"),
        (b"[1]", "no JSON object"),
        (b'{"schema": 99}', "its schema is 99"),
        (b'{"schema": 2}', "status: Field required"),
        (b'{"schema": 2, "status": "complete", "seconds": 3}', "seconds"),
        (None, "it is missing"),
    ],
    ids=str,
)
def test_a_broken_record_is_listed_as_a_failure(out: Path, text: bytes | None, said: str) -> None:
    path = out / "a" / "slide.json"
    path.unlink() if text is None else path.write_bytes(text)
    write_reports(out)
    row = rows(out)["a"]
    assert (row["status"], row["reason"], Path(row["path"]).name) == ("failed", "bad_record", "a.png")
    assert said in row["message"]
    assert "The record of the slide is lost: 1 slide" in (out / "report.html").read_text()
    assert [r["status"] for r in rows(out).values()].count("complete") == 2


def test_a_folder_in_the_place_of_a_record_is_a_broken_record(out: Path) -> None:
    (out / "a" / "slide.json").unlink()
    (out / "a" / "slide.json").mkdir()
    write_reports(out)
    assert rows(out)["a"]["reason"] == "bad_record"


@pytest.mark.parametrize(
    "text",
    [None, b"", b"- 1", b"model: nuclei", b"provenance: 3", b"provenance:\n  slides: [a]", b"{", b"\xff\xfe\x00"],
)
def test_a_folder_that_is_no_output_of_a_run_is_refused(tmp_path: Path, text: bytes | None) -> None:
    if text is not None:
        (tmp_path / "run.yaml").write_bytes(text)
    with pytest.raises(ConfigError, match="no output of a run") as caught:
        write_reports(tmp_path)
    assert caught.value.code == "no_run"
    assert not any((tmp_path / name).exists() for name in NAMES)


def test_a_folder_of_a_version_that_wrote_no_slides_is_read_by_name(out: Path) -> None:
    change_yaml(out, lambda told: [told.pop(key) for key in ("slides", "part_of", "seconds", "unrecorded")])
    write_reports(out)
    assert list(rows(out)) == ["a", "broken", "m", "z"]
    assert "still going on" not in (out / "report.html").read_text()


def test_the_order_of_slides_costs_run_yaml_little(finished: Path) -> None:
    told = yaml.safe_load((finished / "run.yaml").read_text())[folder_module.PROVENANCE]
    assert list(told["slides"]) == ["z", "broken", "sibling", "a", "m"]
    assert told["part_of"] == {"sibling": "z"}
    assert told["unrecorded"] == []


def test_run_yaml_is_a_configuration_still(finished: Path) -> None:
    from wsikit.config import load_config

    assert load_config(RunConfig, finished / "run.yaml").result_parameters() == CONFIG.result_parameters()
