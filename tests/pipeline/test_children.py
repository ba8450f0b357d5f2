"""What kills, hangs or swells a child costs its task; other tasks, the parent and its descriptors stay as they are."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.conformance import worker_tasks as tasks
from wsikit.errors import ConfigError, PluginError, WorkerError, WsikitError
from wsikit.pipeline.workers import bounded, children, process
from wsikit.pipeline.workers.children import ChildWorkers

SECONDS = 30.0
"""Longest that anything here may take on a busy machine."""
MEMORY = 400 << 20
"""Limit of a child, which needs about 60 MB of its own."""


@pytest.fixture(scope="module")
def workers() -> Iterator[ChildWorkers]:
    with ChildWorkers(2, memory=MEMORY) as made:
        yield made


def own_children() -> list[psutil.Process]:
    """Those that are there, zombies included."""
    return psutil.Process().children(recursive=True)


def eventually(holds: Callable[[], bool], seconds: float = SECONDS) -> bool:
    deadline = time.monotonic() + seconds
    while not holds() and time.monotonic() < deadline:
        time.sleep(0.02)
    return holds()


def lives(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def kill_self(number: int) -> None:
    os.kill(os.getpid(), number)
    time.sleep(60)


FAULTS: dict[str, tuple[Callable[..., Any], tuple[Any, ...], float | None, str, str]] = {
    "segfault": (tasks.segfault, (), None, "worker_crash", "SIGSEGV"),
    "abort": (os.abort, (), None, "worker_crash", "SIGABRT"),
    "C exits": (os._exit, (3,), None, "worker_crash", "exit status 3"),
    "Python exits": (sys.exit, (4,), None, "worker_crash", "exit status 4"),
    "exits while a fork of it lives": (tasks.fork_and_die, (), None, "worker_crash", "exit status 7"),
    "hang in C": (tasks.hang, (), 1.0, "worker_timeout", "1 s"),
    "stopped": (kill_self, (signal.SIGSTOP,), 1.0, "worker_timeout", "1 s"),
    "swell": (tasks.swell, (), None, "worker_memory", "400 MB"),
    "MemoryError": (tasks.ask_for_too_much, (), None, "worker_memory", "MemoryError"),
    "MemoryError in another": (tasks.wrap_too_much, (), None, "worker_memory", "predictor raised"),
    "the kernel's choice": (kill_self, (signal.SIGKILL,), None, "worker_memory", "SIGKILL"),
}
"""Name -> task, arguments, seconds, code, what the message says."""


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_ends_its_task_and_no_other(workers: ChildWorkers, name: str, tmp_path: Path) -> None:
    function, args, seconds, code, says = FAULTS[name]
    other = workers.submit(tasks.announce_and_wait, tmp_path / "started", tmp_path / "released")
    assert tasks.wait_for(tmp_path / "started", SECONDS)
    error = workers.submit(function, *args, seconds=seconds).exception(SECONDS)
    assert isinstance(error, WorkerError)
    assert error.code == code
    assert says in str(error)
    assert error.remedy
    assert not other.done()
    assert workers.submit(tasks.square, 3).result(SECONDS) == 9  # the other slot is still taken
    (tmp_path / "released").touch()
    assert other.result(SECONDS)


@pytest.mark.parametrize(("function", "seconds"), [(tasks.segfault, None), (tasks.hang, 0.5)])
def test_a_crash_and_a_hang_say_where(workers: ChildWorkers, function: Callable[..., Any], seconds: float) -> None:
    error = workers.submit(function, seconds=seconds).exception(SECONDS)
    assert error is not None
    assert f"in {function.__name__}" in str(error.__cause__)


def test_the_child_that_ran_out_of_memory_is_replaced_by_a_fresh_one() -> None:
    with ChildWorkers(1) as workers:
        before = workers.submit(tasks.pid).result(SECONDS)
        assert workers.submit(tasks.ask_for_too_much).exception(SECONDS)
        assert workers.submit(tasks.pid).result(SECONDS) != before


def test_errors_and_results_that_cannot_be_sent_say_so(workers: ChildWorkers) -> None:
    error = workers.submit(tasks.raise_two_parts).exception(SECONDS)
    assert type(error) is WsikitError
    assert error.code == "internal"
    assert "TwoPartsError" in str(error)
    assert "left and right" in str(error)
    assert "raise_two_parts" in str(error.__cause__)
    assert isinstance(workers.submit(tasks.give_lock).exception(SECONDS), PluginError)
    assert isinstance(workers.submit(tasks.square, threading.Lock()).exception(SECONDS), PluginError)
    assert workers.submit(tasks.square, 2).result(SECONDS) == 4


def test_long_arguments_and_results_come_through(workers: ChildWorkers) -> None:
    data = os.urandom(1 << 20) * 32
    assert workers.submit(bytes, data).result(SECONDS) == data


def test_a_child_starts_for_a_task_and_is_used_again() -> None:
    before = len(own_children())
    with ChildWorkers(4) as workers:
        assert len(own_children()) == before
        pids = {workers.submit(tasks.pid).result(SECONDS) for _ in range(10)}
        assert len(pids) == 1
        assert len(own_children()) == before + 1


def test_a_child_that_dies_between_tasks_costs_none() -> None:
    with ChildWorkers(1) as workers:
        first = workers.submit(tasks.pid).result(SECONDS)
        os.kill(first, signal.SIGKILL)
        assert eventually(lambda: has_ended(first))
        assert workers.submit(tasks.pid).result(SECONDS) != first


def has_ended(pid: int) -> bool:
    """Whether a child has ended with all its threads; its first may be a zombie before. Leaves it to be waited for."""
    try:
        return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    except ChildProcessError:
        return True


def test_memory_that_a_task_left_behind_is_not_blamed_on_the_next() -> None:
    with ChildWorkers(1, memory=MEMORY) as workers:
        first = workers.submit(tasks.keep_later, MEMORY).result(SECONDS)
        assert eventually(lambda: not lives(first))
        assert workers.submit(tasks.pid).result(SECONDS) != first


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_for_the_whole_job_are_left_to_the_parent(number: signal.Signals, tmp_path: Path) -> None:
    before = {process.pid for process in own_children()}
    with ChildWorkers(1) as workers:
        running = workers.submit(tasks.announce_and_wait, tmp_path / "started", tmp_path / "released")
        new = lambda: [process for process in own_children() if process.pid not in before]  # noqa: E731
        assert eventually(lambda: bool(new()))
        (child,) = new()
        # while Python starts, and in the task
        for _ in range(40):
            child.send_signal(number)
            time.sleep(0.01)
        assert tasks.wait_for(tmp_path / "started", SECONDS)
        child.send_signal(number)
        time.sleep(0.05)
        (tmp_path / "released").touch()
        assert running.result(SECONDS)


def test_stopping_ends_a_task_that_hangs_and_leaves_no_process(tmp_path: Path) -> None:
    before = len(own_children())
    workers = ChildWorkers(2)
    hung = [workers.submit(tasks.hang_after, tmp_path / name) for name in "ab"]
    waiting = workers.submit(tasks.square, 3)
    assert all(tasks.wait_for(tmp_path / name, SECONDS) for name in "ab")
    begun = time.monotonic()
    workers.stop()
    assert time.monotonic() - begun < 5
    assert len(own_children()) == before
    for future in [*hung, waiting]:
        with pytest.raises(CancelledError):
            future.result(0)


def test_stopping_while_children_start_leaves_no_process() -> None:
    before = len(own_children())
    for wait in (0.0, 0.02, 0.1):
        workers = ChildWorkers(2)
        futures = [workers.submit(tasks.square, i) for i in range(4)]
        time.sleep(wait)
        workers.stop()
        assert len(own_children()) == before
        assert all(future.done() for future in futures)


def test_a_process_that_no_signal_ends_is_not_waited_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It waits for a disk, say; here no signal is sent."""
    workers = ChildWorkers(1)
    pids = [workers.submit(tasks.pid).result(SECONDS)]
    with monkeypatch.context() as deaf:
        deaf.setattr(subprocess.Popen, "send_signal", lambda *_: None)
        error = workers.submit(tasks.hang, seconds=1.0).exception(SECONDS)
        pids.append(workers.submit(tasks.pid).result(SECONDS))
        second = workers.submit(tasks.hang_after, tmp_path / "second")
        begun = tasks.wait_for(tmp_path / "second", SECONDS) and time.monotonic()
        workers.stop()
        took = time.monotonic() - begun
    for pid in pids:
        # it may have ended with the pipe that it was spoken to by
        with suppress(psutil.NoSuchProcess):
            left = psutil.Process(pid)
            left.kill()
            left.wait(SECONDS)
    assert isinstance(error, WorkerError)
    assert error.code == "worker_timeout"
    assert took < 15
    with pytest.raises(CancelledError):
        second.result(SECONDS)


SCRIPT = """
import sys
from pathlib import Path
from wsikit.pipeline.workers.children import ChildWorkers

sys.path.insert(0, {root!r})
from tests.conformance.worker_tasks import hang_after

workers = ChildWorkers(2)
for name in sys.argv[1:]:
    workers.submit(hang_after, Path(name))
input()
"""


def test_children_end_with_a_parent_that_is_killed_also_where_they_hang(tmp_path: Path) -> None:
    script = tmp_path / "parent.py"
    script.write_text(SCRIPT.format(root=str(Path(__file__).parents[2])))
    names = [tmp_path / "a", tmp_path / "b"]
    with subprocess.Popen([sys.executable, script, *names], stdin=subprocess.PIPE) as parent:
        assert all(tasks.wait_for(name, SECONDS) for name in names)
        pids = [int(name.read_text()) for name in names if eventually(lambda name=name: bool(name.read_text()))]
        assert all(map(psutil.pid_exists, pids))
        parent.kill()
    assert eventually(lambda: not any(map(lives, pids)), seconds=10)


UNGUARDED = """
from dataclasses import dataclass
from wsikit.pipeline.workers.children import ChildWorkers

@dataclass
class Pair:
    left: int

class OwnError(Exception):
    pass

def task(pair):
    if pair.left == 3:
        raise OwnError("three")
    return Pair(pair.left + 1)

with ChildWorkers(1) as workers:
    assert workers.submit(task, Pair(1)).result() == Pair(2)
    try:
        workers.submit(task, Pair(3)).result()
    except OwnError as error:
        print(error)
"""


def test_a_script_needs_no_guard(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(UNGUARDED)
    done = subprocess.run([sys.executable, tmp_path / "script.py"], capture_output=True, text=True, timeout=SECONDS)
    assert (done.stdout, done.stderr) == ("three\n", "")


@pytest.mark.parametrize(
    ("code", "says"), [("raise SystemExit(5)", "exit status 5"), ("import time; time.sleep(60)", "0.3 s")]
)
def test_children_that_do_not_start_are_given_up(monkeypatch: pytest.MonkeyPatch, code: str, says: str) -> None:
    monkeypatch.setattr(process, "CHILD", code)
    if "sleep" in code:
        monkeypatch.setattr(process, "START_SECONDS", 0.3)
    with ChildWorkers(2) as workers:
        for _, future in bounded(workers, tasks.square, range(20)):
            with pytest.raises(ConfigError, match=says):
                future.result(0)
        assert isinstance(workers.submit(tasks.square, 3).exception(SECONDS), ConfigError)


def test_nothing_leaks_over_tasks_and_crashes() -> None:
    this = psutil.Process()
    with ChildWorkers(1) as workers:
        workers.submit(tasks.square, 1).result(SECONDS)
    # what earlier tests left may go meanwhile
    fds, threads, children = this.num_fds(), this.num_threads(), set(own_children())
    with ChildWorkers(2) as workers:
        for _, future in bounded(workers, tasks.square, range(200)):
            future.result()
        crashed = [future.exception() for _, future in bounded(workers, os._exit, [3] * 20)]
        assert [type(error) for error in crashed] == [WorkerError] * 20
        assert workers.submit(tasks.square, 3).result(SECONDS) == 9
    deadline = time.monotonic() + SECONDS
    while this.num_threads() > threads and time.monotonic() < deadline:
        time.sleep(0.05)  # a thread that has ended is there until the system has cleared it away
    assert this.num_fds() <= fds
    assert this.num_threads() <= threads
    assert set(own_children()) <= children


def test_gpus_are_dealt_out_one_to_a_child(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,GPU-abc,7")
    with ChildWorkers(3, gpus=[0, 1]) as workers:
        assert workers.slots == 3
        wait = lambda name: (tmp_path / f"{name} started", tmp_path / "released")  # noqa: E731
        held = [workers.submit(tasks.announce_and_wait, *wait(i)) for i in range(3)]
        assert all(tasks.wait_for(tmp_path / f"{i} started", SECONDS) for i in range(3))  # all take what needs no GPU
        asked = [workers.submit(tasks.environment, "CUDA_VISIBLE_DEVICES", gpu=i > 3) for i in range(30)]
        (tmp_path / "released").touch()
        seen = [future.result(SECONDS)[0] for future in asked]
        assert all(future.result(SECONDS) for future in held)
    assert set(seen[4:]) <= {"5", "GPU-abc"}
    assert set(seen[:4]) <= {"", "5", "GPU-abc"}


def test_a_child_without_a_gpu_leaves_tasks_for_one_alone(tmp_path: Path) -> None:
    with ChildWorkers(2, gpus=[0]) as workers:
        held = workers.submit(tasks.announce_and_wait, tmp_path / "started", tmp_path / "released", gpu=True)
        assert tasks.wait_for(tmp_path / "started", SECONDS)
        second = workers.submit(tasks.note, tmp_path / "notes", "gpu", gpu=True)
        assert workers.submit(tasks.environment, "CUDA_VISIBLE_DEVICES").result(SECONDS) == [""]
        plain = workers.submit(tasks.note, tmp_path / "notes", "plain")
        plain.result(SECONDS)
        assert not second.done()
        (tmp_path / "released").touch()
        assert held.result(SECONDS)
        second.result(SECONDS)
    assert (tmp_path / "notes").read_text().split() == ["plain", "gpu"]


def test_a_child_with_a_gpu_takes_tasks_for_it_first(tmp_path: Path) -> None:
    with ChildWorkers(1, gpus=[0]) as workers:
        workers.submit(tasks.announce_and_wait, tmp_path / "started", tmp_path / "released")
        assert tasks.wait_for(tmp_path / "started", SECONDS)
        last = [workers.submit(tasks.note, tmp_path / "notes", name, gpu=name == "gpu") for name in ("plain", "gpu")]
        (tmp_path / "released").touch()
        for future in last:
            future.result(SECONDS)
    assert (tmp_path / "notes").read_text().split() == ["gpu", "plain"]


@pytest.mark.parametrize(
    ("slots", "gpus", "visible"), [(0, [], None), (1, [0, 1], None), (2, [2], "0,1"), (2, [-1], None)]
)
def test_slots_and_gpus_that_cannot_be(
    monkeypatch: pytest.MonkeyPatch, slots: int, gpus: list[int], visible: str | None
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    with pytest.raises(ConfigError) as caught:
        ChildWorkers(slots, gpus=gpus)
    assert caught.value.remedy


@pytest.mark.parametrize("asked", [None, "3"])
def test_cores_are_shared_out_unless_the_user_did(monkeypatch: pytest.MonkeyPatch, asked: str | None) -> None:
    for name in children.POOLS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(children, "_cores", lambda: 4)
    if asked:
        monkeypatch.setenv("OMP_NUM_THREADS", asked)
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "12345")
    with ChildWorkers(2) as workers:
        names = ["OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_"]
        names += [children.LARGE_PAGES, "CUDA_VISIBLE_DEVICES"]
        found = workers.submit(tasks.environment, *names).result(SECONDS)
        assert workers.submit(tasks.core_limit).result(SECONDS) == (0, 0)
    threads = asked or "2"
    assert found == [threads, threads, "12345", str(children.KEPT_BYTES), "1", os.environ.get("CUDA_VISIBLE_DEVICES")]
