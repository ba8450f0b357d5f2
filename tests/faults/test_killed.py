"""Case 36: a run whose main process is killed at any moment shows nothing half, and goes on to the same results."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from tests.faults.runs import blobs, command, finished, left_over, outcomes, results, start
from tests.pipeline.slow_runs import wait_for


@pytest.mark.slow
@pytest.mark.parametrize("rounds", [20])
def test_a_run_killed_at_random_moments_ends_like_one_that_was_not(rounds: int, tmp_path: Path) -> None:
    blobs(tmp_path / "in" / "a.png")
    blobs(tmp_path / "in" / "b.png", gap=41)
    whole = tmp_path / "whole"
    clock = time.monotonic()
    run = start(command(tmp_path / "in", whole))
    wait_for((whole / ".lease").exists)
    clock = time.monotonic()
    assert run.wait(240) == 0, run.communicate()
    run.communicate()
    took, expected = time.monotonic() - clock, results(whole)
    ended, midway = [], 0
    for number, moment in enumerate(np.random.default_rng(36).uniform(0, took, rounds)):
        out = tmp_path / f"out-{number}"
        run = start(command(tmp_path / "in", out))
        wait_for((out / ".lease").exists)
        time.sleep(moment)
        children = psutil.Process(run.pid).children(recursive=True)
        run.kill()
        run.communicate()
        gone, alive = psutil.wait_procs(children, timeout=5)
        assert not alive, f"{number}: {len(gone)} of {len(children)} workers ended with it"
        shown, told = results(out), outcomes(out)
        assert shown.items() <= expected.items(), f"{number}: killed after {moment:.2f} s"
        assert set(told.values()) <= {("running", ""), ("complete", "")}
        for name in (name for name, outcome in told.items() if outcome[0] == "complete"):
            assert {path for path in shown if path.startswith(name)} == {p for p in expected if p.startswith(name)}
        midway += any(out.rglob(".spool/*/t*"))
        ended.append(set(told.values()) == {("complete", "")})
        again = finished(command(tmp_path / "in", out))
        assert again.returncode == 0, again.stderr
        assert results(out) == expected, f"{number}: killed after {moment:.2f} s"
        assert not left_over(out)
    assert midway >= rounds // 5  # otherwise this tests little
    assert sum(ended) <= rounds // 2
