"""Tasks on the workers of a dask cluster, which brings them there and back; on each worker supervised children do them.

A dask worker is a poor guard of its own tasks: it cannot end a thread that hangs, a reader that crashes takes it along,
and dask then tries the task on other workers until it has killed four. So a worker of a run keeps children
(``ChildWorkers``), which hold to a task's limits and tell its end by its code, as on one machine. What dask is trusted
with is the loss of a whole worker (a node that died, a job at its wall clock): it gives the tasks to others.
"""

from __future__ import annotations

import asyncio
import logging
import os
import platform
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import CancelledError, Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

from distributed import Client, KilledWorker, Reschedule, get_worker
from distributed.client import ClosedClientError, FutureCancelledError
from distributed.diagnostics.plugin import WorkerPlugin

from wsikit.atomic import output_errors
from wsikit.errors import ConfigError, PluginError, WorkerError, WsikitError
from wsikit.pipeline.state import RESULT_VERSION
from wsikit.pipeline.workers import child
from wsikit.pipeline.workers.child import outcome
from wsikit.pipeline.workers.children import ChildWorkers
from wsikit.predictors.files import dumps

Result = TypeVar("Result")
log = logging.getLogger(__name__)

CONNECT_SECONDS = 10
"""Longest wait for a scheduler to answer."""
FIRST_WORKER_SECONDS = 60
"""Longest wait for the first worker of a scheduler that somebody else has started."""
PROBE_SECONDS = 10
"""How long a worker looks for the probe: a network disk may show a new file a few seconds late."""
STOP_SECONDS = 5
"""Longest that stopping waits for a scheduler's answer."""
GPUS_KNOWN_SECONDS = 10
"""How long the answer to whether any worker has a GPU holds."""


def own_versions() -> dict[str, str]:
    """What must be the same wherever tasks of a run are done."""
    return {
        "wsikit": version("wsikit"),
        "wsikit's results": str(RESULT_VERSION),
        "python": ".".join(platform.python_version_tuple()[:2]),
        "distributed": version("distributed"),
    }


def other_versions(there: Mapping[str, str | None], wanted: Mapping[str, str]) -> str:
    """How versions differ from those that are wanted; those of which nothing is known do not count."""
    wrong = [(key, value) for key, value in wanted.items() if there.get(key, value) != value]
    listed = ", ".join(f"{key} {there[key] or 'missing'} instead of {value}" for key, value in wrong)
    return f"has {listed}" if listed else ""


@dataclass(frozen=True, slots=True)
class Needs:
    """What a run needs of every worker."""

    versions: Mapping[str, str] = field(default_factory=own_versions)
    probe: Path | None = None
    """A file in the output folder."""
    content: bytes = b""
    """What it holds: another machine may have a folder of this name on a disk of its own."""

    def missing(self) -> str:
        """What this process lacks; nothing where it is fit. May take ``PROBE_SECONDS``."""
        problem = other_versions(own_versions(), self.versions) or (self._unseen() if self.probe is not None else "")
        return f"on {socket.gethostname()} {problem}" if problem else ""

    def _unseen(self) -> str:
        assert self.probe is not None
        ends = time.monotonic() + PROBE_SECONDS
        while problem := self._look(self.probe):
            if time.monotonic() > ends:
                break
            time.sleep(0.5)
        return problem

    def _look(self, probe: Path) -> str:
        try:
            if probe.read_bytes() != self.content:
                return f"sees another folder at {probe.parent}"
            answer = probe.with_name(f"{probe.name}-{secrets.token_hex(4)}")
            answer.touch(exist_ok=False)
            answer.unlink()
        except OSError as error:
            return f"cannot read and write in {probe.parent}: {error.strerror}"
        return ""


@contextmanager
def probed(folder: Path | None) -> Iterator[Needs]:
    """What workers need, with a probe in a folder while the block lasts."""
    if folder is None:
        yield Needs()
        return
    content = secrets.token_bytes(16)
    probe = folder.absolute() / f".wsikit-probe-{secrets.token_hex(4)}"
    with output_errors(probe):
        folder.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(content)
    try:
        yield Needs(probe=probe, content=content)
    finally:
        probe.unlink(missing_ok=True)


class Children(WorkerPlugin):
    """What a run keeps on a dask worker: children that do its tasks, started for the first one.

    Args:
        needs: looked at before the first task.
        memory: most resident bytes of a child; None is no limit.
    """

    def __init__(self, needs: Needs, memory: int | None) -> None:
        self.needs, self.memory = needs, memory

    def setup(self, worker: Any) -> None:
        """Called by dask on every worker, also on one that comes later."""
        self._worker, self._lock = worker, threading.Lock()
        self._workers: ChildWorkers | None = None

    def teardown(self, worker: Any) -> None:
        """Called by dask when the run or the worker ends: tasks that run end too."""
        if self._workers is not None:
            self._workers.stop()

    def do(self, task: bytes, seconds: float | None) -> bytes:
        """A task's outcome. A worker that lacks what the run needs leaves, and its tasks go to others."""
        with self._lock:
            if self._workers is None:
                self._workers = self._started()
        try:
            done = self._workers.submit(child.answer, task, seconds=seconds).result()
        except WsikitError as error:
            return child.failed(error)
        except CancelledError:  # this worker is leaving; where the run is stopped nobody asks any more
            raise Reschedule from None
        return done

    def _started(self) -> ChildWorkers:
        if missing := self.needs.missing():
            log.error("this worker %s: it leaves the cluster", missing)
            self._worker.loop.add_callback(self._worker.close, reason="wsikit-unfit", nanny=True)
            raise Reschedule
        # dask's nanny sets it to 64 kB, which children would inherit: see KEPT_BYTES
        os.environ.pop("MALLOC_TRIM_THRESHOLD_", None)
        return ChildWorkers(self._worker.state.nthreads, memory=self.memory)


def supervised(run: str, task: bytes, seconds: float | None) -> bytes:
    """What dask calls: a task by the children of a run on this worker."""
    children: Any = get_worker().plugins.get(run)
    if children is None:
        raise WorkerError("the scheduler was started again in mid-run, and knows nothing of it")
    return bytes(children.do(task, seconds))


class DaskWorkers:
    """See ``Workers``. The workers of a dask cluster must see the same files under the same paths.

    What a lost worker was doing is done by others, which costs a task. A dask worker of one thread per core is best.
    A task that is cancelled just before its turn may still be done: workers hear of it a moment later.

    Args:
        client: a ``distributed.Client``; ``stop`` closes it.
        needs: what every worker must have.
        memory: most resident bytes of a task's process; None is no limit.
        planned: how many tasks will run at once when all workers are there that were asked for.
        gpus: whether some worker must have a GPU; else it is seen when the first task asks for one.

    Raises:
        ConfigError: a worker or the scheduler lacks what is needed; all that do are named.
    """

    def __init__(
        self,
        client: Client,
        *,
        needs: Needs | None = None,
        memory: int | None = None,
        planned: int = 1,
        gpus: bool = False,
    ) -> None:
        self._client: Any = client
        self._planned = planned
        self._run = f"wsikit-{secrets.token_hex(4)}"
        self._running: set[Future[Any]] = set()
        self._stopped = False
        self._gpus, self._gpus_asked = False, 0.0
        needs = needs or Needs()
        refuse_unfit(client, needs)
        if gpus and not self._has_gpus():
            raise ConfigError(
                "no worker of the cluster says that it has a GPU",
                code="no_gpu",
                remedy="start a worker for each GPU with `dask worker ... --nthreads 1 --resources GPU=1`",
            )
        client.register_plugin(Children(needs, memory), name=self._run)

    @property
    def slots(self) -> int:
        """See ``Workers``; those that are planned and not there yet count, so that they find something to do."""
        threads: Mapping[str, int] = {}
        if self._client.status == "running":
            with suppress(OSError):  # the scheduler is lost, as every task will tell
                threads = self._client.nthreads()
        return max(1, self._planned, sum(threads.values()))

    def submit(
        self, function: Callable[..., Result], /, *args: Any, gpu: bool = False, seconds: float | None = None
    ) -> Future[Result]:
        """See ``Workers.submit``."""
        if self._stopped:
            return _ended(None)
        try:
            theirs = self._client.submit(
                supervised,
                self._run,
                dumps((function, args)),
                seconds,
                key=f"{_name(function)}-{secrets.token_hex(8)}",
                pure=False,
                resources={"GPU": 1} if gpu and self._has_gpus() else None,
            )
        except PluginError as error:
            return _ended(error)
        except ClosedClientError as error:
            return _ended(WorkerError(f"the scheduler is lost: {error}"))
        ours = asyncio.run_coroutine_threadsafe(self._answer(theirs), self._client.loop.asyncio_loop)
        self._running.add(ours)
        ours.add_done_callback(self._running.discard)
        return ours

    async def _answer(self, theirs: Any) -> Any:
        """What a task gave. Where nobody waits for it any more it is given up."""
        try:
            result, error = outcome(bytearray(await theirs))
        except KilledWorker as lost:
            raise WorkerError(f"{lost.allowed_failures + 1} workers were lost at this task, one by one") from lost
        except FutureCancelledError as lost:
            if self._stopped:
                raise
            raise WorkerError(f"the scheduler is lost: {lost.msg or lost.reason}") from lost
        finally:
            theirs.release()
        if error is not None:
            raise error
        return result

    def _has_gpus(self) -> bool:
        """Whether any worker says that it has GPUs (``dask worker --resources GPU=1``)."""
        now = time.monotonic()
        if self._client.status == "running" and now - self._gpus_asked > GPUS_KNOWN_SECONDS:
            workers = self._client.scheduler_info(n_workers=-1)["workers"].values()
            self._gpus, self._gpus_asked = any("GPU" in worker["resources"] for worker in workers), now
        return self._gpus

    def stop(self) -> None:
        """See ``Workers.stop``."""
        if self._stopped:
            return
        self._stopped = True
        for future in list(self._running):
            future.cancel()
        # where the scheduler is gone its workers leave too, and end their children
        if self._client.status == "running":
            forget = self._client._unregister_worker_plugin
            with suppress(OSError, TimeoutError):
                self._client.sync(forget, self._run, callback_timeout=STOP_SECONDS)
        self._client.close(timeout=STOP_SECONDS)


def _ended(error: Exception | None) -> Future[Any]:
    """A future that has failed, or was cancelled."""
    future: Future[Any] = Future()
    if error is None:
        future.cancel()
        future.set_running_or_notify_cancel()
    else:
        future.set_exception(error)
    return future


def _name(function: Callable[..., Any]) -> str:
    """For dask's dashboard."""
    return getattr(getattr(function, "func", function), "__name__", "task")


def refuse_unfit(client: Any, needs: Needs) -> None:
    """Raise ConfigError where scheduler or workers lack what is needed; all that do are named."""
    found = client.get_versions(packages=["wsikit"])
    members = {"the scheduler": found["scheduler"]} | found["workers"]
    # by dask's own report first: a member that has no wsikit cannot be asked by a function of it
    unfit = {name: said for name, member in members.items() if (said := other_versions(_own(member), needs.versions))}
    if not unfit:
        answers = client.run(needs.missing, on_error="return")
        unfit = {name: said if isinstance(said, str) else repr(said) for name, said in answers.items() if said}
    if unfit:
        listed = "; ".join(f"{name} {said}" for name, said in sorted(unfit.items())[:8])
        raise ConfigError(
            f"{len(unfit)} of the cluster's {len(members)} processes cannot be used: {listed}",
            code="unfit_cluster",
            remedy="install the same wsikit and Python everywhere, and write to a disk that all workers share",
        )


def _own(member: Mapping[str, Any]) -> dict[str, str | None]:
    """Versions of a member as ``own_versions`` has them."""
    packages = dict(member["packages"])
    return packages | {"python": ".".join(packages["python"].split(".")[:2])}


def connected(address: str) -> Client:
    """A client of a running scheduler that has workers.

    Raises ConfigError where none answers within ``CONNECT_SECONDS``, or no worker comes in ``FIRST_WORKER_SECONDS``.
    """
    try:
        client = Client(address, timeout=CONNECT_SECONDS, set_as_default=False)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"no dask scheduler answers at {address}: {error}",
            code="no_cluster",
            remedy="start one (`dask scheduler`) and give its address as it prints it, tcp://host:8786; is a firewall "
            "between?",
        ) from error
    try:
        client.wait_for_workers(1, timeout=FIRST_WORKER_SECONDS)
    except TimeoutError as error:
        client.close()
        raise ConfigError(
            f"the scheduler at {address} has no workers",
            code="no_cluster",
            remedy=f"start some: `dask worker {address} --nworkers 4 --nthreads 1`",
        ) from error
    return client
