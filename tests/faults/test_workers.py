"""Cases 31 to 33, 37 and 59: what ends, hangs or swells a worker costs one slide of a whole ``wsikit run``."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.faults.runs import ROOT, blobs, command, finished, left_over, outcomes, records, results, start
from tests.faulty import faulty, install_reader
from tests.pipeline import slow_runs

FAULTS = {
    "segfault": "worker_crash",
    "hang": "worker_timeout",
    "swell": "worker_memory",
    "ask_for_too_much": "worker_memory",
}
TIMEOUT = ("--task-timeout", "20")
"""Of a super-tile; long enough for those that do not hang and for a worker's imports, on a busy machine too."""


def sound(folder: Path, count: int) -> list[str]:
    """Slides that nothing happens to."""
    return [blobs(folder / f"sound-{i}.png", 320).stem for i in range(count)]


def check(out: Path, said: subprocess.CompletedProcess[str], bad: dict[str, str], good: list[str]) -> None:
    """The bad ones failed with their codes and say what to do, the others are complete with all their objects."""
    assert said.returncode == 3, said.stderr
    expected = {name: ("failed", code) for name, code in bad.items()} | dict.fromkeys(good, ("complete", ""))
    assert outcomes(out) == expected
    found = records(out)
    assert {found[name]["objects"] for name in good} == {36}
    assert all(found[name]["message"] and found[name]["remedy"] for name in bad)
    assert {name.split("/")[0] for name in results(out) if "/" in name} == set(good)
    assert not left_over(out)


def test_models_and_readers_that_crash_and_swell_cost_their_slides_and_no_other(tmp_path: Path) -> None:
    good, site = sound(tmp_path / "in", 2), install_reader(tmp_path / "site")
    made = [blobs(tmp_path / "in" / "segfault.png", 320)]
    made += [faulty(tmp_path / "in", what) for what in ("open segfault", "open swell")]
    bad = {path.stem: next(code for how, code in FAULTS.items() if how in path.name) for path in made}
    check(tmp_path / "out", finished(command(tmp_path / "in", tmp_path / "out"), site), bad, good)


@pytest.mark.slow
@pytest.mark.parametrize("how", FAULTS)
@pytest.mark.parametrize("part", ["model", "open", "read"])
def test_one_slide_of_five(part: str, how: str, tmp_path: Path) -> None:
    if part != "model" and how == "ask_for_too_much":
        pytest.skip("the planted reader swells, it asks for nothing at once")
    good, site = sound(tmp_path / "in", 4), install_reader(tmp_path / "site")
    made = blobs(tmp_path / "in" / f"{how}.png", 320) if part == "model" else faulty(tmp_path / "in", f"{part} {how}")
    said = finished(command(tmp_path / "in", tmp_path / "out", *TIMEOUT), site)
    check(tmp_path / "out", said, {made.stem: FAULTS[how]}, good)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_a_worker_that_is_killed_from_outside_costs_no_slide(number: signal.Signals, tmp_path: Path) -> None:
    source = slow_runs.slides(tmp_path / "in", "ab")
    whole, out = tmp_path / "whole", tmp_path / "out"
    assert finished(slow_runs.command(source, whole, seconds=0.0)).returncode == 0
    run = start(slow_runs.command(source, out, seconds=0.1))
    slow_runs.wait_for(lambda: list(out.glob("b/.spool/*/t*")))
    (child,) = psutil.Process(run.pid).children()
    child.send_signal(number)
    assert run.wait(120) == 0, run.communicate()
    run.communicate()
    assert outcomes(out) == dict.fromkeys("ab", ("complete", ""))
    assert results(out) == results(whole)


CALLER = """
import multiprocessing, sys, threading, time
multiprocessing.set_start_method({method!r})
threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
from pathlib import Path
from wsikit.pipeline.batch import run_many
from wsikit.pipeline.inputs import find_slides
from tests.faults.runs import CONFIG
config = CONFIG.model_copy(update={{"cluster": "local"}})
print([record["objects"] for record in run_many(find_slides(Path({source!r})), Path({out!r}), config)])
"""


@pytest.mark.parametrize(
    ("how", "method"),
    [
        ("script", "spawn"),
        *(pytest.param(*how, marks=pytest.mark.slow) for how in [("stdin", "fork"), ("-c", "forkserver")]),
    ],
)
def test_a_caller_needs_no_main_guard_and_any_start_method(how: str, method: str, tmp_path: Path) -> None:
    blobs(tmp_path / "in" / "a.png", 320)
    code = CALLER.format(method=method, source=str(tmp_path / "in"), out=str(tmp_path / "out"))
    (tmp_path / "script.py").write_text(code)
    arguments = {"script": [str(tmp_path / "script.py")], "stdin": ["-"], "-c": ["-c", code]}[how]
    clock = time.monotonic()
    done = subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, env={"PYTHONPATH": str(ROOT)}, input=code, capture_output=True,
        text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.stdout == "[36]\n", done.stderr
    assert done.stderr == ""
    assert time.monotonic() - clock < 50  # the caller's thread is not waited for
