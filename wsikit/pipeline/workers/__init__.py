"""Where tasks run: in this process, in supervised children of it, or on a dask cluster. One contract for all.

=============  ==========================================================================  ===================
``--cluster``  what it is                                                                  module
=============  ==========================================================================  ===================
local          spawned children of this process, reused, watched, replaced when they die   ``children``
threads        threads of this process                                                     ``threads``
slurm          dask workers that SLURM starts (dask-jobqueue)                              ``cluster``
tcp://...      the dask scheduler at that address                                          ``cluster``
=============  ==========================================================================  ===================
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future
from itertools import islice
from queue import SimpleQueue
from typing import Any, Protocol, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

IN_FLIGHT = 2
"""Tasks submitted for each slot: one that runs and one that waits."""


class Workers(Protocol):
    """Runs tasks. Safe to call from several threads."""

    @property
    def slots(self) -> int:
        """How many tasks run at once now; at least 1, also while lost workers start again."""
        ...

    def submit(
        self, function: Callable[..., Result], /, *args: Any, gpu: bool = False, seconds: float | None = None
    ) -> Future[Result]:
        """Queue ``function(*args)``; tasks start in the order in which they were submitted.

        Args:
            function: importable by the workers. Arguments and result go by ``predictors.files.dumps``.
            gpu: whether it needs a GPU, where some workers have one and others have none.
            seconds: the most that it may take from its start; None is no limit.

        The future raises what the function raised. It raises WorkerError where the worker died of it, hung or took too
        much memory: nothing is tried again here. It raises CancelledError where the workers were stopped before.
        """
        ...

    def stop(self) -> None:
        """End all tasks now, those that are running too. Returns within seconds; calling it twice is fine."""
        ...


def bounded(
    workers: Workers,
    function: Callable[[Item], Result],
    items: Iterable[Item],
    *,
    gpu: bool = False,
    seconds: float | None = None,
) -> Generator[tuple[Item, Future[Result]]]:
    """(item, its future) as they complete, a bounded number in flight, so that no memory grows with their number.

    Args: see ``Workers.submit``; ``items`` are consumed as slots become free.

    Closing it cancels what has not started and waits for what has: what comes next may remove or replace the folder
    that those tasks write into.
    """
    waiting = iter(items)
    running: dict[Future[Result], Item] = {}
    done: SimpleQueue[Future[Result]] = SimpleQueue()

    def start(count: int) -> None:
        for item in islice(waiting, count):
            future = workers.submit(function, item, gpu=gpu, seconds=seconds)
            running[future] = item
            # ``concurrent.futures.wait`` would sleep through what a thread pool cancels when it is shut down
            future.add_done_callback(done.put)

    try:
        start(IN_FLIGHT * workers.slots)
        while running:
            future = done.get()
            yield running.pop(future), future
            start(1)
    finally:
        for future in list(running):
            future.cancel()
        while running:
            running.pop(done.get())
