"""Tasks in child processes of this one: a reader that crashes, hangs or floods memory ends its task and no other.

Each slot has a thread that owns one child: it starts it, hands it tasks and waits for their outcome. One more thread
looks at all children four times a second. A child is a new Python process that runs nothing of the caller's script, so
that no ``if __name__ == "__main__":`` is needed; what that script defines goes to it by value.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self, TypeVar

from wsikit.errors import ConfigError, PluginError, WorkerError
from wsikit.pipeline.workers.process import END_SECONDS, Child, Task
from wsikit.predictors.files import dumps

Result = TypeVar("Result")

KEPT_BYTES = 1 << 32
"""Memory that a child's allocator keeps for its next arrays. By default big ones go back to the system, and each new
one is paid for in page faults: a ResNet-18 ran a third slower where every patch, tile and activation did. More than any
task frees at once, since what is given back at the end of a window is asked for again in the next: with 256 MB
and pages of 4 kB (``LARGE_PAGES``) the network of ``nuclei`` took half as long again."""
LARGE_PAGES = "THP_MEM_ALLOC_ENABLE"
"""Has torch ask Linux for pages of 2 MB for its tensors."""
TICK = 0.25
"""Seconds between two looks at a child's time and memory. What it grows by meanwhile is not noticed."""
FIRST_TRIES, LATER_TRIES = 3, 60
"""Children that may fail to start one after another, before any did start and afterwards (a second apart)."""
POOLS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
"""What sizes the thread pools of numerical libraries, torch's too."""


class ChildWorkers:
    """See ``Workers``. Children start when there are tasks for them and are used again; one that dies is replaced.

    The kernel's choice where memory runs out, SIGKILL, counts as worker_memory. A child ends with its parent, however
    that ends: on Linux at once, elsewhere when Python next runs in it.

    Args:
        slots: how many children, which is how many tasks run at once, those with a GPU included: all of them take tasks
            that need none, so that ``bounded`` keeps all of them busy. Tasks for a GPU run as many at once as there
            are ``gpus``.
        memory: most resident bytes of a child. None is no limit.
        gpus: indices among the GPUs that this process sees. So many of the children see one each and prefer tasks for
            it; the others see none. Empty leaves all GPUs to every child, and every child takes every task.

    Raises:
        ConfigError: fewer slots than GPUs or than one, or a GPU that CUDA_VISIBLE_DEVICES does not have.
    """

    def __init__(self, slots: int, *, memory: int | None = None, gpus: Sequence[int] = ()) -> None:
        if slots < max(1, len(gpus)):
            raise ConfigError(f"{slots} workers for {len(gpus)} GPUs", remedy="give one worker or more to each GPU")
        self.slots = slots
        self._memory = memory
        self._changed = threading.Condition()
        self._queues: dict[bool, deque[Task]] = {True: deque(), False: deque()}
        """Tasks for a GPU, and the others."""
        self._unused = _slots(slots, gpus)
        self._has_gpus = bool(gpus)
        self._idle: set[_Slot] = set()
        self._threads: list[threading.Thread] = []
        self._children: set[Child] = set()
        self._any_started = False
        self._broken: str | None = None
        self._stopped = threading.Event()

    def submit(
        self, function: Callable[..., Result], /, *args: Any, gpu: bool = False, seconds: float | None = None
    ) -> Future[Result]:
        """See ``Workers.submit``. It raises ConfigError where no child can be started."""
        future: Future[Result] = Future()
        try:
            task = Task(dumps((function, args)), seconds, future)
        except PluginError as error:
            future.set_exception(error)
            return future
        gpu = gpu and self._has_gpus
        with self._changed:
            over = self._over
            if not over:
                self._queues[gpu].append(task)
                self._open_slot(gpu)
                self._changed.notify_all()
        if over:
            self._refuse(task)
        return future

    def stop(self) -> None:
        """See ``Workers.stop``. What the kernel cannot end, a process that waits for a dead disk, is left behind."""
        self._stopped.set()
        self._refuse_all()
        with self._changed:
            children, threads = list(self._children), list(self._threads)
        for child in children:
            child.kill()
        deadline = time.monotonic() + 3 * END_SECONDS
        for thread in threads:
            if thread is not threading.current_thread():  # a future's callback may stop us
                thread.join(max(0.0, deadline - time.monotonic()))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def _over(self) -> bool:
        return self._stopped.is_set() or self._broken is not None

    def _open_slot(self, gpu: bool) -> None:
        """Put one more slot to use where more tasks wait than slots that could take them."""
        idle = sum(slot.has_gpu or not gpu for slot in self._idle)
        waiting = len(self._queues[True]) + (0 if gpu else len(self._queues[False]))
        slot = next((slot for slot in self._unused if slot.has_gpu or not gpu), None)
        if slot is None or idle >= waiting:
            return
        self._unused.remove(slot)
        if not self._threads:
            self._start_thread(self._watch)
        self._start_thread(self._work, slot)

    def _start_thread(self, target: Callable[..., None], *args: Any) -> None:
        thread = threading.Thread(target=target, args=args, name="wsikit-child", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _watch(self) -> None:
        while not self._stopped.wait(TICK):
            with self._changed:
                children = list(self._children)
            for child in children:
                child.look(self._memory)

    def _work(self, slot: _Slot) -> None:
        """The life of a slot: tasks, one after the other, each in a child that is alive."""
        # children are born with them blocked: none of them dies of a Ctrl-C while Python starts
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT, signal.SIGTERM])
        child, task = self._started(slot), None
        while child and (task := task or self._take(slot)):
            while child and not child.begin(task):  # it died when it had nothing to do
                self._discard(child)
                child = self._started(slot)
            if not child:
                self._refuse(task)
                break
            result, error = child.finish()
            lost = isinstance(error, WorkerError)
            after = None if lost else self._next(slot)
            if after:
                child.send(after)  # it should not wait for what is done with the result
            self._settle(task.future, result, error)
            task = after
            del result, error, after
            if lost:
                self._discard(child)
                child = self._started(slot)
        if child:
            self._discard(child)

    def _take(self, slot: _Slot) -> Task | None:
        """The next task of a slot; None where there will be none."""
        with self._changed:
            while (task := self._next(slot)) is None and not self._over:
                self._changed.wait()
        return task

    def _next(self, slot: _Slot) -> Task | None:
        """The next task of a slot if there is one now; it counts as idle where there is none."""
        with self._changed:
            while not self._over and (
                queue := next((self._queues[gpu] for gpu in slot.takes if self._queues[gpu]), None)
            ):
                if (task := queue.popleft()).future.set_running_or_notify_cancel():
                    self._idle.discard(slot)
                    return task
            self._idle.add(slot)
        return None

    def _settle(self, future: Future[Any], result: Any, error: BaseException | None) -> None:
        if error is None:
            future.set_result(result)
        else:
            future.set_exception(CancelledError() if self._stopped.is_set() else error)

    def _started(self, slot: _Slot) -> Child | None:
        """A child that is ready; None where the work is over, also because no child starts."""
        tries = 0
        while not self._over:
            child, why = self._try_start(slot)
            if child:
                self._any_started = True
                return child
            tries += 1
            if tries == (LATER_TRIES if self._any_started else FIRST_TRIES) and not self._stopped.is_set():
                self._broken = why
                self._refuse_all()
            elif self._any_started:
                self._stopped.wait(1.0)
        return None

    def _try_start(self, slot: _Slot) -> tuple[Child | None, str]:
        """A child, or why there is none."""
        try:
            child = Child(slot.environment(self.slots))
        except OSError as error:
            return None, str(error)
        with self._changed:
            self._children.add(child)
        if self._stopped.is_set():
            child.kill()
        if child.is_ready():
            return child, ""
        why = str(child.death())
        self._discard(child)
        return None, why

    def _discard(self, child: Child) -> None:
        child.close()
        with self._changed:
            self._children.discard(child)

    def _refuse_all(self) -> None:
        """End all tasks that wait, and the waiting for tasks."""
        with self._changed:
            tasks = [task for queue in self._queues.values() for task in queue]
            for queue in self._queues.values():
                queue.clear()
            self._changed.notify_all()
        for task in tasks:
            self._refuse(task)

    def _refuse(self, task: Task) -> None:
        if task.future.running() or task.future.set_running_or_notify_cancel():
            task.future.set_exception(CancelledError() if self._stopped.is_set() else self._no_start())

    def _no_start(self) -> ConfigError:
        return ConfigError(
            f"worker processes do not start: {self._broken}",
            remedy="see what they wrote on stderr; --cluster threads needs no processes",
        )


@dataclass(frozen=True, slots=True)
class _Slot:
    index: int
    gpu: str | None
    """What CUDA calls the one GPU of this slot, "" for none, None where GPUs are not dealt out."""

    @property
    def has_gpu(self) -> bool:
        return bool(self.gpu)

    @property
    def takes(self) -> tuple[bool, ...]:
        """Which queues, in their order."""
        return (True, False) if self.has_gpu else (False,)

    def environment(self, slots: int) -> dict[str, str]:
        """Of a child, where the user set nothing else: cores are shared out, freed memory is kept for the next task."""
        threads = os.environ.get("OMP_NUM_THREADS") or str(max(1, _cores() // slots))
        ours = {**dict.fromkeys(POOLS, threads), LARGE_PAGES: "1"}
        ours |= dict.fromkeys(("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_"), str(KEPT_BYTES))
        return ours | os.environ | ({} if self.gpu is None else {"CUDA_VISIBLE_DEVICES": self.gpu})


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _slots(count: int, gpus: Sequence[int]) -> list[_Slot]:
    """Slots without a GPU come first: they are put to use first."""
    names = [_cuda_name(gpu) for gpu in gpus]
    others = [""] * (count - len(gpus)) if gpus else [None] * count
    return [_Slot(index, gpu) for index, gpu in enumerate([*others, *names])]


def _cuda_name(gpu: int) -> str:
    """Of a GPU among those that this process sees, which a cluster may have chosen."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = None if visible is None else [name.strip() for name in visible.split(",") if name.strip()]
    if gpu < 0 or (names is not None and gpu >= len(names)):
        raise ConfigError(
            f"there is no GPU {gpu}" + ("" if visible is None else f" among CUDA_VISIBLE_DEVICES={visible}"),
            code="no_gpu",
            remedy="count them from 0; `nvidia-smi -L` lists them",
        )
    return str(gpu) if names is None else names[gpu]
