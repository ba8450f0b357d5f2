"""Cases 39 to 42 and 47: a disk that is full, read-only or broken at any stage marks nothing done and loses nothing."""

from __future__ import annotations

import errno
import os
import resource
from collections.abc import Callable, Iterable, Iterator, Set
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.faults.conftest import SmallDisk
from tests.faults.runs import CONFIG, blobs, left_over, outcomes, results
from wsikit.errors import OutputError
from wsikit.pipeline import batch, each, merge, stages
from wsikit.pipeline.inputs import SlideEntry, find_slides
from wsikit.sinks.geojson import GeoJSONSink
from wsikit.sinks.omezarr import OmeZarrSink
from wsikit.stitching import spool

STAGES: dict[str, tuple[Any, str, int]] = {
    "plan": (stages, "choose_supertiles", 0),
    "first super-tile": (stages, "save_result", 0),
    "spool of objects": (spool, "save", 7),
    "last super-tile": (stages, "save_result", 24),
    "mask begun": (OmeZarrSink, "begin", 0),
    "mask written": (OmeZarrSink, "write", 0),
    "mask finished": (OmeZarrSink, "commit", 0),
    "GeoJSON begun": (GeoJSONSink, "begin", 0),
    "GeoJSON written": (GeoJSONSink, "write", 0),
    "GeoJSON finished": (GeoJSONSink, "commit", 0),
}
"""Stage -> what is called there, and the number of the call that finds the disk in its new state."""
READS = {"mask finished", "checksums"}
"""Stages that write nothing on so small a slide."""
LEDGER = {
    "checksums": (each, "output_facts", 0),
    "ledger": (each, "write_record", 1),
    "report": (each, "write_reports", 0),
}
QUICK = {"spool of objects", "mask written", "GeoJSON finished", "ledger"}
Whole = tuple[list[SlideEntry], dict[str, str]]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    """One slide of 25 super-tiles, and the results of a run that nothing happened to."""
    folder = tmp_path_factory.mktemp("whole")
    blobs(folder / "in" / "a.png")
    entries = find_slides(folder / "in")
    batch.run_many(entries, folder / "out", CONFIG)
    return entries, results(folder / "out")


def each_of(stages: Iterable[str], quick: Set[str] = QUICK) -> pytest.MarkDecorator:
    """Parameters; the stages that are not the quick tests' are slow."""
    return pytest.mark.parametrize(
        "stage", [pytest.param(s, marks=[] if s in quick else pytest.mark.slow) for s in sorted(stages)]
    )


@contextmanager
def at(stage: tuple[Any, str, int], fault: Callable[[], None]) -> Iterator[list[int]]:
    """Let something happen before one of the calls of a stage; gives how many calls there were."""
    where, name, number = stage
    real, calls = getattr(where, name), [0]

    def faulted(*args: Any, **options: Any) -> Any:
        calls[0] += 1
        if calls[0] == number + 1:
            fault()
        return real(*args, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(where, name, faulted)
        yield calls


def run(entries: list[SlideEntry], out: Path) -> tuple[str, str]:
    """(status, reason) that the caller is told; a run that could not end tells them by its error."""
    try:
        (record,) = batch.run_many(entries, out, CONFIG)
    except OutputError as error:
        return "failed", error.code
    return record["status"], record["reason"]


def check_again(whole: Whole, out: Path) -> None:
    """Once the cause is gone, another run completes, with the results that there should be and nothing else."""
    assert run(whole[0], out) == ("complete", "")
    assert outcomes(out) == {"a": ("complete", "")}
    assert results(out) == whole[1]
    assert not left_over(out)


@each_of(STAGES.keys() - READS)
def test_a_full_disk_fails_the_slide_and_leaves_nothing(stage: str, whole: Whole, disk: SmallDisk) -> None:
    out = disk.path / "out"
    with at(STAGES[stage], disk.fill) as calls:
        assert run(whole[0], out) == ("failed", "no_space")
    assert calls[0] > STAGES[stage][2]
    # where the failed slide frees no room for its own record it goes on saying that it is running
    assert outcomes(out) == {"a": ("running", "") if stage == "plan" else ("failed", "no_space")}
    assert not results(out)
    assert not left_over(out)
    disk.free()
    check_again(whole, out)


@each_of(LEDGER.keys() - READS)
def test_a_disk_that_is_full_when_the_record_is_written_marks_nothing_done(
    stage: str, whole: Whole, disk: SmallDisk
) -> None:
    out = disk.path / "out"
    with at(LEDGER[stage], disk.fill):
        assert run(whole[0], out) == ("failed", "no_space")
    assert (outcomes(out)["a"][0] == "complete") == (stage == "report")
    assert not left_over(out)
    disk.free()
    check_again(whole, out)


SIZES = [120, *(pytest.param(size, marks=pytest.mark.slow) for size in range(4, 400, 12))]


@pytest.mark.parametrize("kilobytes", SIZES)
def test_a_disk_of_any_size_ends_in_all_or_nothing(kilobytes: int, whole: Whole, disk: SmallDisk) -> None:
    disk.remount(f"size={kilobytes}k")
    out = disk.path / "out"
    status, reason = run(whole[0], out)
    assert (status, reason) in {("complete", ""), ("failed", "no_space")}
    assert results(out).items() <= whole[1].items()
    if outcomes(out).get("a") == ("complete", "") or status == "complete":
        assert results(out) == whole[1]
    assert not left_over(out)
    disk.remount("size=16m")
    check_again(whole, out)


@each_of(["plan", "spool of objects", "last super-tile"])
def test_a_disk_that_turns_read_only_marks_nothing_done(stage: str, whole: Whole, disk: SmallDisk) -> None:
    out = disk.path / "out"
    with at(STAGES[stage], lambda: disk.remount("ro")):
        assert run(whole[0], out) == ("failed", "io_error")
    assert outcomes(out) == {"a": ("running", "")}
    assert not results(out)
    disk.remount("rw")
    (out / ".lease").unlink()  # its holder could not, and would be dead by now
    check_again(whole, out)


def test_a_read_only_disk_is_refused_at_once_and_keeps_what_it_has(whole: Whole, disk: SmallDisk) -> None:
    out = disk.path / "out"
    batch.run_many(whole[0], out, CONFIG)
    disk.remount("ro")
    with pytest.raises(OutputError) as caught:
        batch.run_many(whole[0], out, CONFIG, force=True)
    assert (caught.value.code, "out" in str(caught.value), bool(caught.value.remedy)) == ("io_error", True, True)
    assert results(out) == whole[1]


@each_of([*STAGES, *LEDGER], {"spool of objects", "ledger"})
def test_an_io_error_fails_the_slide_and_leaves_nothing(stage: str, whole: Whole, tmp_path: Path) -> None:
    out = tmp_path / "out"

    def fail() -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    def run_or_error() -> tuple[str, str]:
        try:
            return run(whole[0], out)
        except OSError:
            return "failed", "io_error"

    with at((STAGES | LEDGER)[stage], fail):
        assert run_or_error() == ("failed", "io_error")
    assert (outcomes(out)["a"][0] == "complete") == (stage == "report")
    assert stage in LEDGER or not results(out)
    assert not left_over(out)
    check_again(whole, out)


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """A write beyond that is cut short, and the next one refused (EFBIG): what a broken disk does, from the kernel."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


SHORT = [3000, *(pytest.param(size, marks=pytest.mark.slow) for size in (100, 1000, 6000, 10_000))]


@pytest.mark.parametrize("size", SHORT)
def test_writes_that_are_cut_short_mark_nothing_done(size: int, whole: Whole, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with largest_file(size):
        assert run(whole[0], out) == ("failed", "io_error")
    assert outcomes(out).get("a", ("failed",))[0] in {"failed", "running"}
    assert not left_over(out)
    check_again(whole, out)


@pytest.mark.slow
@pytest.mark.parametrize("tries", [20])
def test_a_flush_that_fails_at_any_time_marks_nothing_done(
    whole: Whole, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tries: int
) -> None:
    real, calls, bad = os.fsync, [0], [-1]

    def fsync(descriptor: int) -> None:
        calls[0] += 1
        if calls[0] - 1 == bad[0]:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    assert run(whole[0], tmp_path / "counted") == ("complete", "")
    chosen = np.random.default_rng(42).choice(calls[0], tries, replace=False)
    for number in sorted(map(int, chosen)):
        out, calls[0], bad[0] = tmp_path / str(number), 0, number
        assert run(whole[0], out) == ("failed", "io_error"), number
        assert not left_over(out)
        bad[0] = -1
        check_again(whole, out)


def test_what_a_run_that_died_left_half_written_is_cleared_away(whole: Whole, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with (
        at((merge, "overview_picture", 0), lambda: (_ for _ in ()).throw(KeyboardInterrupt)),
        pytest.raises(KeyboardInterrupt),
    ):
        batch.run_many(whole[0], out, CONFIG)
    folder = out / "a"
    for name in (".objects.geojson.gz.77.tmp", ".slide.json.77.tmp", ".masks.ome.zarr.77.tmp/0", "masks.ome.zarr/0"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"half")
    (folder / "objects.geojson.gz").write_bytes(b"half")
    check_again(whole, out)
