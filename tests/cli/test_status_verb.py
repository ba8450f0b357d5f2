"""``wsikit status`` as a user meets it, in every state of a run."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.pipeline.slow_runs import slides
from wsikit.cli.main import app
from wsikit.config import RunConfig
from wsikit.pipeline.batch import run_many
from wsikit.pipeline.inputs import SlideEntry, find_slides
from wsikit.pipeline.lease import NAME, STALE_S, Holder, Lease
from wsikit.pipeline.status import read_status
from wsikit.pipeline.stopping import Stop

CONFIG = RunConfig(model="stain-area", mpp_override=0.5, num_workers=1, cluster="threads", format=["omezarr"])
Ask = Callable[..., tuple[int, str]]


@pytest.fixture
def ask(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Ask:
    """Exit code and output of ``wsikit status``, which leaves every file as it was."""

    def call(out: Path, *flags: str) -> tuple[int, str]:
        before = state(out)
        monkeypatch.setattr(sys, "argv", ["wsikit", "status", str(out), *flags])
        with pytest.raises(SystemExit) as end:
            app()
        assert state(out) == before
        said = capsys.readouterr()
        return int(end.value.code or 0), said.out + said.err

    return call


def state(out: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in [out, *out.rglob("*")] if out.exists()}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run over four fields."""
    folder = tmp_path_factory.mktemp("status")
    run_many(find_slides(slides(folder / "in", "abcd")), folder / "out", CONFIG, command="wsikit run -i in")
    return folder / "out"


@pytest.fixture
def out(finished: Path, tmp_path: Path) -> Path:
    """A copy."""
    import shutil

    return Path(shutil.copytree(finished, tmp_path / "out"))


def told(out: Path, **change: Any) -> None:
    """Change what run.yaml says of the run; None removes."""
    values = yaml.safe_load((out / "run.yaml").read_text())
    merged = values["provenance"] | change
    values["provenance"] = {name: value for name, value in merged.items() if value is not None}
    (out / "run.yaml").write_text(yaml.safe_dump(values, sort_keys=False))


def record(out: Path, name: str, **change: Any) -> None:
    path = out / name / "slide.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))


def midway(out: Path) -> None:
    """As it was ten minutes after its start: one slide of 6 MB done, one of 6 MB half done, two of 6 MB to come."""
    began = datetime.now(UTC) - timedelta(minutes=10)
    iso = began.isoformat(timespec="seconds")
    told(out, started=iso, seconds=None)
    source = {"bytes": 6_000_000}
    record(out, "a", started=iso, finished=(began + timedelta(minutes=6)).isoformat(), source=source)
    record(out, "b", status="running", started=iso, progress={"done": 8, "total": 16}, source=source, attempts=2)
    for name in "cd":
        (out / name / "slide.json").unlink()
    values = yaml.safe_load((out / "run.yaml").read_text())
    for name in "cd":
        path = out.parent / f"{name}.png"
        path.write_bytes(bytes(6_000_000))
        values["provenance"]["slides"][name] = str(path)
    (out / "run.yaml").write_text(yaml.safe_dump(values, sort_keys=False))


def test_a_run_that_is_complete_is_exit_0(ask: Ask, out: Path) -> None:
    code, said = ask(out)
    assert (code, said.splitlines()[0]) == (0, f"{out}: 4 files: 4 complete")
    assert "run: ended" in said
    assert "left" not in said


def test_a_run_that_goes_on_says_who_where_how_far_and_how_long(ask: Ask, out: Path) -> None:
    midway(out)
    with Lease(out, "wsikit run", Stop()) as lease:
        code, said = ask(out)
    assert (code, said.splitlines()[0]) == (3, f"{out}: 4 files: 1 complete, 1 running, 2 waiting")
    assert f"run: going on, {lease.holder.host}, pid {os.getpid()}, since {lease.holder.started}" in said
    assert re.search("b: 8 of 16 parts, .* since .*, attempt 2", said)
    # 9 of 24 MB took 10 minutes
    [minutes, seconds] = re.search(r"time left: about (\d+) min (\d\d) s", said).groups()  # type: ignore[union-attr]
    assert 995 <= 60 * int(minutes) + int(seconds) <= 1010


def test_a_run_that_died_is_told_from_one_that_goes_on(ask: Ask, out: Path) -> None:
    midway(out)
    code, said = ask(out)
    assert (code, said.splitlines()[0]) == (3, f"{out}: 4 files: 1 complete, 1 stopped, 2 waiting")
    assert "run: died" in said
    assert "it would still take: about" in said


@pytest.mark.parametrize(("reason", "words"), [("walltime", "wall time"), ("terminated", "SIGTERM")])
def test_a_run_that_was_stopped_says_by_what(ask: Ask, out: Path, reason: str, words: str) -> None:
    midway(out)
    told(out, stopped=reason)
    code, said = ask(out)
    assert code == 3
    assert words in said.splitlines()[1]
    assert "run the same command again" in said.splitlines()[1]


@pytest.mark.parametrize(("age", "state"), [(STALE_S - 30, "running"), (STALE_S + 30, "stopped")])
def test_of_a_run_on_another_machine_the_heartbeat_tells(ask: Ask, out: Path, age: float, state: str) -> None:
    midway(out)
    holder = replace(Holder.here("wsikit run"), host="node7", machine="node7")
    (out / NAME).write_text(json.dumps(asdict(holder)))
    os.utime(out / NAME, (datetime.now(UTC).timestamp() - age,) * 2)
    code, said = ask(out, "--json")
    found = json.loads(said)
    assert (code, found["state"], found["holder"]["host"]) == (3, state, "node7")
    assert found["holder"]["heartbeat_s"] == pytest.approx(age, abs=5)
    assert found["counts"] == {"complete": 1, state: 1, "waiting": 2}


def test_failures_are_grouped_by_reason_with_what_to_do(ask: Ask, tmp_path: Path) -> None:
    source = slides(tmp_path / "in", "a")
    entries = find_slides(source)
    for i in range(12):
        (source / f"broken{i}.svs").write_bytes(b"no slide")
        entries.append(SlideEntry(f"broken{i}", source / f"broken{i}.svs"))
    out = tmp_path / "out"
    run_many(entries, out, CONFIG)
    code, said = ask(out)
    assert code == 3
    assert "failed: No reader opens the file (unreadable): 12" in said
    assert said.count("broken") - said.count("broken file") >= 10
    assert "and 2 more" in said
    assert said.count("what to do:") == 1
    [problem] = json.loads(ask(out, "--json")[1])["problems"]
    assert (problem["reason"], len(problem["slides"]), len(problem["remedies"])) == ("unreadable", 12, 1)


def test_json_tells_of_every_slide(ask: Ask, out: Path) -> None:
    midway(out)
    found = json.loads(ask(out, "--json")[1])
    assert [slide["slide_id"] for slide in found["slides"]] == list("abcd")
    assert found["slides"][1]["progress"] == {"done": 8, "total": 16}
    assert found["seconds_left"] == pytest.approx(found["pace"]["bytes_left"] * found["pace"]["seconds"] / 9e6)


def test_slides_of_earlier_runs_say_nothing_of_the_pace(out: Path) -> None:
    midway(out)
    record(out, "a", started="2020-01-01T00:00:00+00:00")
    pace = read_status(out).pace
    assert pace is None or pace.bytes == 3_000_000


@pytest.mark.parametrize("name", ["nowhere", "in"])
def test_a_folder_that_no_run_has_made_is_exit_2(ask: Ask, tmp_path: Path, name: str) -> None:
    slides(tmp_path / "in", "a")
    code, said = ask(tmp_path / name)
    assert code == 2
    assert "no output of a run" in said


def test_a_broken_record_is_a_failure_and_no_traceback(ask: Ask, out: Path) -> None:
    (out / "a" / "slide.json").write_bytes(b"{")
    code, said = ask(out)
    assert code == 3
    assert "bad_record" in said
