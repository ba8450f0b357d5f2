"""What a slide's record remembers, and runs that meet, are stopped, killed, suspended: nothing is lost or mixed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.pipeline.slow_runs import command, everything, slides, start, status_of, wait_for
from tests.planted import BlobPredictor
from wsikit.config import RunConfig, TileConfig
from wsikit.errors import StoppedError
from wsikit.pipeline import batch as batch_module
from wsikit.pipeline import each as each_module
from wsikit.pipeline import lease as lease_module
from wsikit.pipeline import stages
from wsikit.pipeline.batch import Silent, run_many
from wsikit.pipeline.inputs import SlideEntry, find_slides
from wsikit.pipeline.lease import NAME, Holder
from wsikit.pipeline.stamps import output_facts
from wsikit.pipeline.stopping import Stop
from wsikit.pipeline.tile import tile_many

CONFIG = RunConfig(model="stain-area", mpp_override=0.5, num_workers=1, cluster="threads", format=["omezarr"])


class Counting(Silent):
    """Which slides were begun."""

    def __init__(self) -> None:
        self.begun: list[str] = []

    def started(self, entry: SlideEntry) -> None:
        self.begun.append(entry.slide_id)


def begun(entries: list[SlideEntry], out: Path, **options: Any) -> list[str]:
    """The slides that a run does, and does not keep."""
    counting = Counting()
    run_many(entries, out, CONFIG, observer=counting, **options)
    return counting.begun


def record(out: Path, name: str = "a") -> dict[str, Any]:
    return dict(json.loads((out / name / "slide.json").read_text()))


@pytest.fixture
def entries(tmp_path: Path) -> list[SlideEntry]:
    return find_slides(slides(tmp_path / "in", "ab"))


@pytest.fixture
def out(entries: list[SlideEntry], tmp_path: Path) -> Path:
    """Of a run over them."""
    run_many(entries, tmp_path / "out", CONFIG)
    return tmp_path / "out"


def test_a_record_names_its_outputs_with_size_and_checksum_and_who_made_it(out: Path) -> None:
    told = record(out)
    assert told["outputs"] == {name: output_facts(out / "a" / name) for name in ("masks.ome.zarr", "regions.csv")}
    assert (told["attempts"], told["pid"]) == (1, os.getpid())
    assert told["host"]
    assert "progress" not in told
    assert told["seconds"]["checksums"] >= 0


def test_a_patch_dataset_has_checksums_too(entries: list[SlideEntry], tmp_path: Path) -> None:
    config = TileConfig(mpp_override=0.5, size=64, format="zarr", tissue="whole")
    for told in tile_many(entries, tmp_path / "out", config):
        for name, facts in told["outputs"].items():
            assert facts == output_facts(tmp_path / "out" / told["slide_id"] / name)


@pytest.mark.parametrize("text", [None, b"", b"{", b"[]", b'{"schema": 1, "status": "complete"}', b"\xff\xfe"])
def test_a_slide_whose_record_is_lost_broken_or_of_an_older_kind_is_done_again(
    entries: list[SlideEntry], out: Path, text: bytes | None
) -> None:
    before = output_facts(out / "a" / "masks.ome.zarr")
    path = out / "a" / "slide.json"
    path.write_bytes(text or b"{")
    (out / "a" / "masks.ome.zarr" / "left-over").write_text("of another version")
    assert begun(entries, out) == ["a"]
    assert output_facts(out / "a" / "masks.ome.zarr") == before


@pytest.mark.parametrize("harm", ["removed", "cut short", "a part removed"])
def test_a_slide_whose_outputs_are_not_what_was_written_is_done_again(
    entries: list[SlideEntry], out: Path, harm: str
) -> None:
    mask = out / "b" / "masks.ome.zarr"
    before, part = output_facts(mask), max(mask.rglob("*"), key=lambda path: path.stat().st_size * path.is_file())
    if harm == "removed":
        mask.rename(out.with_name("elsewhere"))
    elif harm == "cut short":
        part.write_bytes(part.read_bytes()[:-1])
    else:
        part.unlink()
    assert begun(entries, out) == ["b"]
    assert output_facts(mask) == before


def test_a_slide_with_other_bytes_of_the_same_size_and_time_is_done_again(entries: list[SlideEntry], out: Path) -> None:
    path, status = entries[0].path, entries[0].path.stat()
    data = bytearray(path.read_bytes())
    data[-1] ^= 1  # the end of the checksum of PNG's last chunk, which no reader looks at
    path.write_bytes(data)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert begun(entries, out) == ["a"]


def test_failed_slides_are_tried_again_when_asked_and_complete_ones_kept(
    entries: list[SlideEntry], tmp_path: Path
) -> None:
    broken = tmp_path / "in" / "broken.svs"
    broken.write_bytes(b"no slide")
    every, out = [*entries, SlideEntry("broken", broken)], tmp_path / "out"
    assert begun(every, out) == ["a", "b", "broken"]
    assert begun(every, out) == []
    assert begun(every, out, retry_failed=True) == ["broken"]
    assert record(out, "broken")["attempts"] == 2
    assert begun(every, out, retry_failed=True, force=True) == ["a", "b", "broken"]
    broken.write_bytes(b"none either")
    assert begun(every, out) == ["broken"]
    assert record(out, "broken")["attempts"] == 1, "another file begins anew"


class Stopper(Silent):
    """Stops a run at its third part."""

    def __init__(self, stop: Stop, reason: str) -> None:
        self.stop, self.reason, self.seen = stop, reason, 0

    def progress(self, entry: SlideEntry, done: int, total: int) -> None:
        self.seen += 1
        if self.seen == 3:
            self.stop.set(self.reason)


@pytest.mark.parametrize("reason", ["walltime", "terminated"])
def test_a_run_that_is_stopped_says_so_and_goes_on_next_time(
    entries: list[SlideEntry], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reason: str
) -> None:
    monkeypatch.setattr(each_module, "PROGRESS_S", 0.0)
    monkeypatch.setattr(batch_module, "load_model", lambda *_, **__: BlobPredictor())
    stop, out = Stop(), tmp_path / "out"
    config = RunConfig(mpp_override=0.5, num_workers=1, cluster="threads", supertile=64)
    with pytest.raises(StoppedError) as caught:
        run_many(entries, out, config, stop=stop, observer=Stopper(stop, reason))
    assert caught.value.code == reason
    told = record(out)
    assert told["status"] == "running"
    assert 0 < told["progress"]["done"] < told["progress"]["total"]
    assert yaml.safe_load((out / "run.yaml").read_text())["provenance"]["stopped"] == reason
    assert [line.split(",")[2] for line in (out / "summary.csv").read_text().splitlines()[1:]] == ["stopped", "waiting"]
    assert not (out / NAME).exists()
    assert [r["status"] for r in run_many(entries, out, config)] == ["complete", "complete"]
    assert record(out)["attempts"] == 2


def test_what_stopped_workers_raise_is_no_failure_of_the_slide(
    entries: list[SlideEntry], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop = Stop()

    def killed(*_: object) -> None:
        stop.set("terminated")
        raise OSError("the pipe to the worker is closed")

    monkeypatch.setattr(stages, "save_result", killed)
    with pytest.raises(StoppedError):
        run_many(entries, tmp_path / "out", CONFIG, stop=stop)
    assert record(tmp_path / "out")["status"] == "running"
    assert (tmp_path / "out" / "a" / ".spool").exists(), "what it had done is there for the next run"


def test_a_library_s_caller_keeps_its_signal_handlers(entries: list[SlideEntry], tmp_path: Path) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    seen: list[object] = []

    class Looking(Silent):
        def started(self, entry: SlideEntry) -> None:
            seen.extend(signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM))

    run_many(entries[:1], tmp_path / "out", CONFIG, observer=Looking())
    assert seen == before


@pytest.mark.parametrize("dead", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_of_two_runs_at_once_one_works_and_the_other_says_who_it_is(tmp_path: Path, dead: bool) -> None:
    source, out = slides(tmp_path / "in", "ab"), tmp_path / "out"
    if dead:
        out.mkdir()
        left = replace(Holder.here(), process="of another time")
        (out / NAME).write_text(json.dumps(asdict(left)))
    lines = [command(source, out), command(source, out, "--format", "omezarr", "--ngff", "0.5")]
    runs = [start(line) for line in lines]
    said = [run.communicate(timeout=120) for run in runs]
    codes = [run.returncode for run in runs]
    assert sorted(codes) == [0, 2], said
    loser, winner = codes.index(2), codes.index(0)
    assert f"pid {runs[winner].pid}, since 20" in said[loser][1]
    assert "Traceback" not in said[loser][1]
    told = yaml.safe_load((out / "run.yaml").read_text())
    assert told["ngff"] == ("0.5" if winner else "0.4")
    assert told["provenance"]["pid"] == runs[winner].pid == record(out)["pid"] == record(out, "b")["pid"]
    assert {record(out, name)["attempts"] for name in "ab"} == {1}
    assert ("taken_over" in told["provenance"]) == dead
    assert not list(out.glob(".lease*"))


@pytest.mark.slow
def test_a_killed_run_is_taken_over_at_once_and_ends_as_if_nothing_had_been(tmp_path: Path) -> None:
    source, out = slides(tmp_path / "in", "ab"), tmp_path / "out"
    run = start(command(source, out))
    wait_for(lambda: status_of(out, "b") == "running")
    run.kill()
    run.communicate()
    assert (out / NAME).exists()
    done = subprocess.run(command(source, out, seconds=0.0), capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    assert f"pid {run.pid}" in done.stdout.splitlines()[0]
    told = yaml.safe_load((out / "run.yaml").read_text())["provenance"]
    assert told["taken_over"]["pid"] == run.pid
    assert (record(out, "a")["attempts"], record(out, "b")["attempts"]) == (1, 2)
    other = tmp_path / "other"
    subprocess.run(command(source, other, seconds=0.0), capture_output=True, check=True, timeout=120)
    for name in "ab":
        assert record(out, name)["outputs"] == record(other, name)["outputs"]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
@pytest.mark.usefixtures("interruptible")
def test_a_signal_stops_a_run_within_ten_seconds_with_its_state_kept(tmp_path: Path, number: int, code: int) -> None:
    source, out = slides(tmp_path / "in", "ab"), tmp_path / "out"
    run = start(command(source, out, seconds=0.2))
    wait_for(lambda: status_of(out, "b") == "running")
    clock = time.monotonic()
    run.send_signal(number)
    errors = run.communicate(timeout=60)[1]
    assert time.monotonic() - clock < 10
    assert run.returncode == code, errors
    assert "Traceback" not in errors
    assert "run the same command again" in errors
    assert [status_of(out, name) for name in "ab"] == ["complete", "running"]
    assert "b,," not in (out / "summary.csv").read_text()
    assert "stopped" in (out / "summary.csv").read_text()
    assert not (out / NAME).exists()


@pytest.mark.slow
def test_a_signal_stops_one_that_is_busy_with_a_part_that_takes_minutes(tmp_path: Path) -> None:
    source, out = slides(tmp_path / "in", "a"), tmp_path / "out"
    run = start(command(source, out, seconds=120))
    wait_for(lambda: status_of(out, "a") == "running")
    clock = time.monotonic()
    run.send_signal(signal.SIGTERM)
    run.communicate(timeout=60)
    assert (run.returncode, time.monotonic() - clock < 10) == (143, True)
    done = subprocess.run(command(source, out, seconds=0.0), capture_output=True, check=False, timeout=120)
    assert done.returncode == 0


@pytest.mark.slow
def test_walltime_stops_in_time_with_a_code_of_its_own(tmp_path: Path) -> None:
    source, out = slides(tmp_path / "in", "abcdefgh"), tmp_path / "out"
    clock = time.monotonic()
    done = subprocess.run(
        command(source, out, "--walltime", "3s", seconds=0.2), capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 4, done.stderr
    assert time.monotonic() - clock < 25  # of which Python's start is the most on a busy machine
    assert "walltime" in done.stderr
    assert "Traceback" not in done.stderr
    assert status_of(out, "h") != "complete"


def test_a_walltime_that_is_none_stops_before_anything_is_done(tmp_path: Path) -> None:
    source = slides(tmp_path / "in", "a")
    line = command(source, tmp_path / "out", "--walltime", "3:50")
    done = subprocess.run(line, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 2
    assert "3h50m" in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_suspended_run_whose_place_was_taken_stops_and_writes_no_more(tmp_path: Path) -> None:
    source, out = slides(tmp_path / "in", "ab"), tmp_path / "out"
    run = start(command(source, out, heartbeat=0.5))
    wait_for(lambda: status_of(out, "a") == "running")
    run.send_signal(signal.SIGSTOP)
    time.sleep(0.7)  # a heartbeat is due
    taker = replace(Holder.here("wsikit run"), host="node7", machine="node7", token="taker")
    (out / f"{NAME}.new").write_text(json.dumps(asdict(taker)))
    (out / f"{NAME}.new").replace(out / NAME)
    run.send_signal(signal.SIGCONT)
    errors = run.communicate(timeout=60)[1]
    assert run.returncode == 2
    assert "node7" in errors
    assert "Traceback" not in errors
    assert json.loads((out / NAME).read_text())["token"] == "taker"
    told = yaml.safe_load((out / "run.yaml").read_text())["provenance"]
    assert not {"seconds", "stopped"} & set(told)
    assert not (out / "summary.csv").exists()
    assert "complete" not in (status_of(out, "a"), status_of(out, "b"))


def test_one_that_lost_its_place_touches_nothing_after_it_knows(
    entries: list[SlideEntry], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, kept = tmp_path / "out", {}

    class Losing(Silent):
        def progress(self, entry: SlideEntry, done: int, total: int) -> None:
            taker = replace(Holder.here(), machine="node7", token="taker")
            (out / NAME).write_text(json.dumps(asdict(taker)))
            later = lease_module._clock() + 1000
            monkeypatch.setattr(lease_module, "_clock", lambda: later)
            kept.update(everything(out))

    with pytest.raises(StoppedError) as caught:
        run_many(entries, out, CONFIG, observer=Losing())
    assert caught.value.code == "lease_lost"
    after = everything(out)
    assert {name: after[name] for name in kept if ".spool" not in name} == {
        name: kept[name] for name in kept if ".spool" not in name
    }
    assert status_of(out, "a") == "running"
