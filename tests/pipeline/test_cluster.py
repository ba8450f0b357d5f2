"""A real scheduler and real workers on loopback: what is lost, what hangs, and who is not fit."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import wait
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from tests.pipeline.cluster_tasks import fail_to_read, kill_worker, note_pids, noted_until, sleep_noted
from wsikit.errors import ConfigError, PixelReadError, WorkerError
from wsikit.pipeline.workers import Workers, bounded
from wsikit.pipeline.workers import cluster as cluster_module
from wsikit.pipeline.workers.opening import open_workers
from wsikit.predictors.files import load_class

PREDICTOR = """
class Odd(Exception):
    def __init__(self, a, b):
        super().__init__(f"{a} and {b}")

class Thing:
    def double(self, x):
        return 2 * x
    def fail(self):
        raise Odd(1, 2)
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Cluster:
    """A scheduler and workers, each a process of its own."""

    def __init__(self, folder: Path, **environment: str) -> None:
        self.folder, self.address = folder, f"tcp://127.0.0.1:{free_port()}"
        self.processes: list[subprocess.Popen[bytes]] = []
        host, port = self.address.removeprefix("tcp://").split(":")
        dask = ("-m", "distributed.cli.dask_scheduler")
        self.scheduler = self._start(*dask, "--host", host, "--port", port, "--dashboard-address", ":0", **environment)
        _until(lambda: "Scheduler at" in self.log_of(self.scheduler))

    def worker(self, *options: str, hidden: Path | None = None, **environment: str) -> subprocess.Popen[bytes]:
        """One of one thread; ``hidden`` is a folder in the place of which it sees another one."""
        more = ("--nthreads", "1", "--no-dashboard", "--no-nanny", "--local-directory", str(self.folder), *options)
        return self._start("-m", "distributed.cli.dask_worker", self.address, *more, hidden=hidden, **environment)

    def _start(self, *arguments: str, hidden: Path | None = None, **environment: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, *arguments]
        if hidden is not None:
            mounted = f'mount -t tmpfs none {hidden} && exec "$0" "$@"'
            command = ["unshare", "--mount", "sh", "-c", mounted, *command]
        with (self.folder / f"{len(self.processes)}.log").open("wb") as log:
            # workers import this module for its tasks
            path = os.pathsep.join(filter(None, [environment.pop("PYTHONPATH", ""), str(Path(__file__).parents[2])]))
            process = subprocess.Popen(
                command, cwd=self.folder, stdout=log, stderr=log, env=os.environ | environment | {"PYTHONPATH": path}
            )
        self.processes.append(process)
        return process

    def log_of(self, process: subprocess.Popen[bytes]) -> str:
        """What a process has written."""
        return (self.folder / f"{self.processes.index(process)}.log").read_text("utf-8")

    def end(self) -> None:
        for process in reversed(self.processes):
            process.kill()
            process.wait()


@pytest.fixture(scope="module")
def _cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    started = Cluster(tmp_path_factory.mktemp("dask"))
    yield started
    started.end()


@pytest.fixture
def cluster(_cluster: Cluster) -> Cluster:
    """Two workers of one thread each, alive."""
    while sum(process.poll() is None for process in _cluster.processes) < 3:  # the scheduler is one
        _cluster.worker()
    return _cluster


@contextmanager
def connected(cluster: Cluster, count: int = 2) -> Iterator[Workers]:
    with open_workers(cluster.address, slots=1) as workers:
        _until(lambda: workers.slots == count)
        yield workers


def test_a_worker_killed_in_mid_run_costs_its_task_and_nothing_else(cluster: Cluster, tmp_path: Path) -> None:
    with connected(cluster) as workers:
        victim = None
        found = {}
        for number, future in bounded(workers, partial(note_pids, tmp_path), range(40)):
            found[number] = future.result()
            if len(found) == 10:
                victim = cluster.processes[-1]
                victim.send_signal(signal.SIGKILL)
    assert found == {number: number * number for number in range(40)}
    begun = [path.name.split("-") for path in tmp_path.iterdir()]
    assert victim is not None
    assert any(int(pid) == victim.pid for _, pid, _ in begun)
    assert len(begun) <= 42


def test_what_a_task_gives_and_raises_is_given_and_raised_here(cluster: Cluster, tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(PREDICTOR, "utf-8")
    thing = load_class(file, "Thing", lambda _: True)()
    with connected(cluster) as workers:
        assert workers.submit(thing.double, "ab").result(60) == "abab"
        error = workers.submit(thing.fail).exception(60)
        assert "Odd" in str(error)
        assert "1 and 2" in str(error)
        read = workers.submit(fail_to_read).exception(60)
    assert isinstance(read, PixelReadError)
    assert (str(read), read.code, read.remedy) == ("tile 3", "reader_crash", "copy it")
    assert "fail_to_read" in str(read.__cause__)


def test_a_task_that_hangs_or_dies_is_ended_and_told_and_no_worker_is_lost(cluster: Cluster) -> None:
    with connected(cluster) as workers:
        begun = time.monotonic()
        hangs = workers.submit(time.sleep, 600, seconds=1.0)
        dies = workers.submit(os.abort)
        codes = [error.code for f in (hangs, dies) if isinstance(error := f.exception(60), WorkerError)]
        assert codes == ["worker_timeout", "worker_crash"]
        assert time.monotonic() - begun < 20
        assert workers.submit(abs, -1).result(60) == 1
        assert workers.slots == 2


def test_stopping_ends_tasks_that_run(cluster: Cluster, tmp_path: Path) -> None:
    with connected(cluster) as workers:
        futures = [workers.submit(sleep_noted, tmp_path, 600) for _ in range(5)]
        pids = _noted(tmp_path, 2)
        begun = time.monotonic()
        workers.stop()
        workers.stop()
        assert time.monotonic() - begun < 10
        wait(futures, timeout=5)
        assert all(future.cancelled() for future in futures)
    assert not any(_outlives(pid, seconds=10) for pid in pids)


def _noted(folder: Path, count: int) -> list[int]:
    ends = time.monotonic() + 60
    while len(noted := [int(path.name) for path in folder.iterdir()]) < count:
        assert time.monotonic() < ends
        time.sleep(0.05)
    return noted


def _outlives(pid: int, seconds: float) -> bool:
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return False
        time.sleep(0.1)
    return True


def test_what_is_cancelled_before_it_runs_never_does(cluster: Cluster, tmp_path: Path) -> None:
    (notes := tmp_path / "notes").mkdir()
    with connected(cluster) as workers:
        blocking = [workers.submit(noted_until, notes, tmp_path / "gate") for _ in range(2)]
        late = [workers.submit(note_pids, notes, number) for number in range(6)]
        assert all(future.cancel() for future in late)
        time.sleep(3)  # the scheduler hears of it, on a busy machine too
        (tmp_path / "gate").touch()
        wait(blocking)
        assert workers.submit(abs, -3).result(60) == 3
    assert len(list(notes.iterdir())) == 2


def test_tasks_for_a_gpu_go_to_the_worker_that_has_one(cluster: Cluster) -> None:
    owner = cluster.worker("--resources", "GPU=1")
    try:
        with connected(cluster, 3) as workers:
            places = {workers.submit(os.getppid, gpu=True).result(60) for _ in range(4)}
        assert places == {owner.pid}
    finally:
        owner.kill()


def test_without_a_gpu_anywhere_such_tasks_go_anywhere_unless_gpus_were_asked_for(cluster: Cluster) -> None:
    with connected(cluster) as workers:
        assert workers.submit(abs, -2, gpu=True).result(60) == 2
    with (
        pytest.raises(ConfigError, match="no worker of the cluster") as caught,
        open_workers(cluster.address, slots=1, gpus="all"),
    ):
        pass
    assert caught.value.code == "no_gpu"


def test_the_probe_is_seen_and_gone_afterwards(cluster: Cluster, tmp_path: Path) -> None:
    with open_workers(cluster.address, slots=1, probe=tmp_path / "out"):
        assert len(list((tmp_path / "out").iterdir())) == 1
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.slow
@pytest.mark.skipif(
    subprocess.run(["unshare", "--mount", "true"], capture_output=True, check=False).returncode != 0,
    reason="needs the right to mount (unshare --mount)",
)
def test_workers_that_do_not_share_the_disk_are_named(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    elsewhere = cluster.worker(hidden=out)
    try:
        with connected(cluster, 3):
            pass
        with pytest.raises(ConfigError) as caught, open_workers(cluster.address, slots=1, probe=out):
            pass
        assert caught.value.code == "unfit_cluster"
        assert f"on {socket.gethostname()} cannot read and write in {out}" in str(caught.value)
        assert str(caught.value).startswith("1 of the cluster's 4 processes")
        assert not list(out.iterdir())
    finally:
        elsewhere.kill()


def other_version(folder: Path) -> str:
    """A path on which wsikit has another version."""
    (folder / "wsikit-9.9.dist-info").mkdir(exist_ok=True)
    (folder / "wsikit-9.9.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: wsikit\nVersion: 9.9\n")
    return str(folder)


def test_a_worker_of_another_version_is_refused_at_the_start(cluster: Cluster, tmp_path: Path) -> None:
    other = cluster.worker("--name", "odd", PYTHONPATH=other_version(tmp_path))
    try:
        _until(lambda: "Starting established" in cluster.log_of(other))
        with pytest.raises(ConfigError, match=r"has wsikit 9\.9 instead of"), open_workers(cluster.address, slots=1):
            pass
    finally:
        other.kill()


@pytest.mark.slow
def test_a_worker_of_another_version_that_comes_later_leaves(cluster: Cluster, tmp_path: Path) -> None:
    with connected(cluster) as workers:
        other = cluster.worker(PYTHONPATH=other_version(tmp_path))
        _until(lambda: workers.slots == 3)
        (tmp_path / "notes").mkdir()
        futures = [workers.submit(note_pids, tmp_path / "notes", number) for number in range(20)]
        assert [future.result(60) for future in futures] == [number * number for number in range(20)]
        assert other.wait(30) is not None
        assert "has wsikit 9.9" in cluster.log_of(other)
    assert not any(str(other.pid) in path.name for path in (tmp_path / "notes").iterdir())


def _until(holds: Callable[[], bool]) -> None:
    ends = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < ends
        time.sleep(0.1)


@contextmanager
def own_cluster(folder: Path, **environment: str) -> Iterator[Cluster]:
    started = Cluster(folder, **environment)
    try:
        yield started
    finally:
        started.end()


@pytest.mark.slow
def test_a_task_that_kills_its_workers_again_and_again_is_given_up(tmp_path: Path) -> None:
    with own_cluster(tmp_path, DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES="1") as cluster:
        for _ in range(3):
            cluster.worker()
        with connected(cluster, 3) as workers:
            error = workers.submit(kill_worker).exception(60)
            assert isinstance(error, WorkerError)
            assert error.code == "worker_lost"
            assert "2 workers" in str(error)
            assert workers.submit(abs, -1).result(60) == 1


@pytest.mark.slow
def test_a_scheduler_that_is_lost_is_told(tmp_path: Path) -> None:
    with own_cluster(tmp_path) as cluster:
        cluster.worker()
        with connected(cluster, 1) as workers:
            futures = [workers.submit(time.sleep, 600) for _ in range(3)]
            cluster.scheduler.kill()
            errors = [future.exception(30) for future in futures]
            errors.append(workers.submit(abs, -1).exception(30))
            assert [error.code for error in errors if isinstance(error, WorkerError)] == ["worker_lost"] * 4
            begun = time.monotonic()
        assert time.monotonic() - begun < 15


def test_a_scheduler_that_is_not_there_is_said_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    assert cluster_module.CONNECT_SECONDS < 15
    monkeypatch.setattr(cluster_module, "CONNECT_SECONDS", 1)
    begun = time.monotonic()
    nobody = open_workers(f"tcp://127.0.0.1:{free_port()}", slots=1)
    with pytest.raises(ConfigError, match="no dask scheduler answers") as caught, nobody:
        pass
    assert caught.value.code == "no_cluster"
    assert "dask scheduler" in caught.value.remedy
    assert time.monotonic() - begun < 5


@pytest.mark.slow
def test_a_scheduler_without_workers_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster_module, "FIRST_WORKER_SECONDS", 1)
    with own_cluster(tmp_path) as cluster, pytest.raises(ConfigError, match="has no workers"):
        open_workers(cluster.address, slots=1).__enter__()


@pytest.mark.parametrize("content", [None, b"other"])
def test_a_folder_that_only_has_the_same_name_is_not_shared(
    content: bytes | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster_module, "PROBE_SECONDS", 0.2)
    with cluster_module.probed(tmp_path) as needs:
        assert needs.missing() == ""
        assert needs.probe is not None
        needs.probe.unlink() if content is None else needs.probe.write_bytes(content)
        assert ("another folder" if content else "cannot read") in needs.missing()


def start_run(slide: Path, out: Path, *options: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "wsikit.cli", "run", "-i", str(slide), "-o", str(out), "--supertile", "512"]
    return subprocess.Popen([*command, *options])


def results(out: Path, name: str) -> dict[str, bytes]:
    """What a run has found of a slide, by file."""
    found = [out / name / "objects.geojson.gz", *(out / name / "masks.ome.zarr").rglob("*")]
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in found if path.is_file()}


@pytest.mark.slow
def test_any_number_of_workers_and_a_killed_one_give_the_same_bytes(cmu: Path, tmp_path: Path) -> None:
    assert start_run(cmu, tmp_path / "here", "--cluster", "threads", "-n", "1").wait(300) == 0
    expected = results(tmp_path / "here", cmu.stem)
    assert len(expected) > 2
    for count, kill in ((1, False), (2, True), (4, False)):
        out, folder = tmp_path / f"out-{count}", tmp_path / f"dask-{count}"
        folder.mkdir()
        with own_cluster(folder) as cluster:
            workers = [cluster.worker() for _ in range(count)]
            run = start_run(cmu, out, "--cluster", cluster.address)
            if kill:
                _until(lambda out=out: any(out.glob("*/.spool/*/*")))  # type: ignore[misc]
                workers[0].kill()
            assert run.wait(300) == 0
            assert "Starting Worker plugin wsikit" in cluster.log_of(workers[-1])
        assert results(out, cmu.stem) == expected
