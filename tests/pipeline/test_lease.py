"""One run at a time in an output folder, whatever becomes of the one that has it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from wsikit.errors import OutputError
from wsikit.pipeline import lease as lease_module
from wsikit.pipeline.lease import NAME, STALE_S, Holder, Lease, find, process_started
from wsikit.pipeline.stopping import Stop, Stopping


@pytest.fixture
def dead_pid() -> int:
    """Of a process that was here."""
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    return process.pid


def forge(out: Path, *, age: float = 0.0, **change: object) -> Holder:
    """A lease in a folder, as its holder would have left it so long ago."""
    holder = replace(Holder.here("wsikit run"), **change)  # type: ignore[arg-type]
    path = out / NAME
    path.write_text(json.dumps(asdict(holder)))
    os.utime(path, (time.time() - age,) * 2)
    return holder


FOREIGN = {"host": "node7", "machine": "node7 boot pid"}


def test_a_folder_that_is_held_is_refused_and_says_by_whom_since_when(tmp_path: Path) -> None:
    with Lease(tmp_path, "wsikit run", Stop()) as first:
        before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
        with pytest.raises(OutputError) as caught, Lease(tmp_path, "wsikit run", Stop()):
            pass
        assert caught.value.code == "busy"
        for said in (first.holder.host, f"pid {os.getpid()}", first.holder.started, "heartbeat", "wsikit status"):
            assert said in f"{caught.value} {caught.value.remedy}"
        assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert not list(tmp_path.iterdir())


def test_a_lease_that_is_being_made_is_waited_for(tmp_path: Path) -> None:
    (tmp_path / NAME).touch()
    maker = threading.Timer(0.1, forge, [tmp_path], FOREIGN)
    maker.start()
    with pytest.raises(OutputError, match=r"node7, pid \d+, since"), Lease(tmp_path, "", Stop()):
        pass
    maker.join()


def test_an_error_releases_it(tmp_path: Path) -> None:
    with pytest.raises(KeyError), Lease(tmp_path, "", Stop()):
        raise KeyError
    assert not list(tmp_path.iterdir())


def test_the_lease_of_a_process_of_this_machine_that_is_gone_is_taken_at_once(tmp_path: Path, dead_pid: int) -> None:
    dead = forge(tmp_path, pid=dead_pid, process="1")
    with Lease(tmp_path, "", Stop()) as lease:
        assert lease.taken_over is not None
        assert lease.taken_over.holder == dead
        found = find(tmp_path / NAME)
        assert found is not None
        assert found.holder == lease.holder
        assert [path.name for path in tmp_path.iterdir()] == [NAME]


def test_a_pid_that_another_process_has_now_is_a_dead_holder(tmp_path: Path) -> None:
    forge(tmp_path, pid=os.getppid(), process="another time")
    with Lease(tmp_path, "", Stop()) as lease:
        assert lease.taken_over is not None


def test_a_killed_holder_that_nobody_waited_for_is_dead(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        forge(tmp_path, pid=process.pid, process=process_started(process.pid))
        with pytest.raises(OutputError, match="another run works"), Lease(tmp_path, "", Stop()):
            pass
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        with Lease(tmp_path, "", Stop()) as lease:  # a zombie
            assert lease.taken_over is not None


def test_a_holder_of_this_machine_that_lives_is_left_alone_however_old_its_heartbeat(tmp_path: Path) -> None:
    """It may be suspended, and goes on with what it is at when it is woken."""
    parent = os.getppid()
    forge(tmp_path, age=10 * STALE_S, pid=parent, process=process_started(parent))
    with pytest.raises(OutputError) as caught, Lease(tmp_path, "", Stop()):
        pass
    assert caught.value.code == "busy"


@pytest.mark.parametrize(("age", "taken"), [(STALE_S - 20, False), (STALE_S + 5, True)])
def test_of_another_machine_the_age_of_the_heartbeat_counts(tmp_path: Path, age: float, taken: bool) -> None:
    forge(tmp_path, age=age, pid=os.getpid(), **FOREIGN)
    with ExitStack() as stack:
        if not taken:
            stack.enter_context(pytest.raises(OutputError, match="node7"))
        assert (stack.enter_context(Lease(tmp_path, "", Stop())).taken_over is not None) == taken


def test_ages_are_told_by_the_clock_of_the_file_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    forge(tmp_path, **FOREIGN)
    ahead = time.time() + 10 * STALE_S
    monkeypatch.setattr(time, "time", lambda: ahead)
    with pytest.raises(OutputError, match=r"last heartbeat [0-5] s ago"), Lease(tmp_path, "", Stop()):
        pass


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b'{"host": 1, "what": 2}'])
def test_a_lease_that_cannot_be_understood_is_somebody_s_until_it_is_old(tmp_path: Path, text: bytes) -> None:
    path = tmp_path / NAME
    path.write_bytes(text)
    with pytest.raises(OutputError, match="unknown host"), Lease(tmp_path, "", Stop()):
        pass
    assert path.read_bytes() == text
    os.utime(path, (time.time() - 2 * STALE_S,) * 2)
    with Lease(tmp_path, "", Stop()):
        pass


def test_of_many_that_take_over_at_once_one_gets_it(tmp_path: Path, dead_pid: int) -> None:
    count = 8
    for _ in range(50):
        forge(tmp_path, pid=dead_pid, process="1")
        at_once, over = threading.Barrier(count), threading.Barrier(count)
        won: list[str] = []

        def take(at_once: threading.Barrier = at_once, over: threading.Barrier = over) -> None:
            lease = Lease(tmp_path, "", Stop())
            at_once.wait()
            try:
                with lease:
                    won.append(lease.holder.token)  # noqa: B023
                    over.wait()
            except OutputError:
                over.wait()

        threads = [threading.Thread(target=take) for _ in range(count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(won) == 1
        assert not list(tmp_path.iterdir())


def test_a_lease_that_was_taken_for_the_dead_one_is_given_back(tmp_path: Path, dead_pid: int) -> None:
    """A second taker that is slow renames the lease of the first."""
    forge(tmp_path, pid=dead_pid, process="1")
    dead = find(tmp_path / NAME)
    assert dead is not None
    slow = Lease(tmp_path, "", Stop())
    with Lease(tmp_path, "", Stop()) as fast:
        slow._set_aside(tmp_path / NAME, dead)
        found = find(tmp_path / NAME)
        assert found is not None
        assert found.holder == fast.holder
        assert [path.name for path in tmp_path.iterdir()] == [NAME]


def test_a_claim_on_a_dead_lease_is_left_alone_while_its_maker_lives_and_not_longer(
    tmp_path: Path, dead_pid: int
) -> None:
    forge(tmp_path, pid=dead_pid, process="1")
    claim = tmp_path / f"{NAME}.claim"
    claim.write_text(json.dumps(asdict(Holder.here())))
    with pytest.raises(OutputError) as caught, Lease(tmp_path, "", Stop()):
        pass
    assert caught.value.code == "busy"
    claim.write_text(json.dumps(asdict(replace(Holder.here(), pid=dead_pid))))
    with Lease(tmp_path, "", Stop()):
        assert [path.name for path in tmp_path.iterdir()] == [NAME]


def test_a_slow_taker_finds_that_the_lease_is_no_longer_the_dead_one(tmp_path: Path, dead_pid: int) -> None:
    forge(tmp_path, pid=dead_pid, process="1")
    dead = find(tmp_path / NAME)
    assert dead is not None
    slow = Lease(tmp_path, "", Stop())
    with Lease(tmp_path, "", Stop()):
        before = (tmp_path / NAME).stat().st_ino
        slow._take_over(dead)
        assert (tmp_path / NAME).stat().st_ino == before
    assert slow.taken_over is None


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A heart that beats often."""
    monkeypatch.setattr(lease_module, "HEARTBEAT_S", 0.05)


@pytest.mark.usefixtures("quick")
def test_the_heart_beats(tmp_path: Path) -> None:
    with Lease(tmp_path, "", Stop()):
        os.utime(tmp_path / NAME, (1, 1))
        deadline = time.monotonic() + 10
        while (tmp_path / NAME).stat().st_mtime < 2:
            assert time.monotonic() < deadline
            time.sleep(0.02)


@pytest.mark.usefixtures("quick")
def test_a_holder_whose_lease_was_taken_is_told_and_leaves_the_other_s(tmp_path: Path) -> None:
    stop = Stop()
    with Lease(tmp_path, "", stop):
        taker = forge(tmp_path, token="other", **FOREIGN)
        deadline = time.monotonic() + 10
        while not stop.is_set():
            assert time.monotonic() < deadline
            time.sleep(0.02)
    assert stop.reason == "lease_lost"
    assert "node7" in str(stop.error())
    found = find(tmp_path / NAME)
    assert found is not None
    assert found.holder == taker


def test_one_that_was_suspended_looks_before_it_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stop = Stop()
    with Lease(tmp_path, "", stop) as lease:
        forge(tmp_path, token="other", **FOREIGN)
        lease.check()  # it has just been confirmed: nobody can have taken it
        assert not stop.is_set()
        later = lease_module._clock() + STALE_S
        monkeypatch.setattr(lease_module, "_clock", lambda: later)
        lease.check()
        with pytest.raises(Stopping):
            stop.check()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_is_an_output_error(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(OutputError, match=NAME), Lease(tmp_path, "", Stop()):
            pass
    finally:
        tmp_path.chmod(0o700)
