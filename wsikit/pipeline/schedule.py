"""Tasks on workers, and steps side by side: a bounded number in flight, so that no memory grows with the slide."""

from __future__ import annotations

import logging
import signal
import tempfile
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from itertools import islice
from typing import Any, TypeVar

from wsikit.errors import ConfigError

Item = TypeVar("Item")
Result = TypeVar("Result")

IN_FLIGHT = 2
"""Tasks submitted per worker: one that runs and one that waits."""
LOST_WORKER_TIMEOUT = "1000 days"
"""How long dask waits for a worker that died to come back before it gives the place up for good. Its own 15 s end while
a worker that crashed several times is starting once more; with no worker left every slide would wait for ever."""

KEPT_BYTES = 1 << 28
"""Memory that a worker's allocator keeps for its next arrays. Dask's own setting of 64 kB hands every patch, tile and
activation back to the system, and each new one is paid for in page faults: a ResNet-18 ran a third slower."""


def dask_setup(_worker: Any) -> None:
    """Called by dask in every worker process that starts, this module being its ``preload``.

    Ctrl-C in a terminal goes to all processes of the command. Workers that died of it would leave the caller waiting
    for them; it is the caller who stops them.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)


@contextmanager
def workers(count: int, *, processes: bool) -> Iterator[Any]:
    """A ``dask.distributed`` client over ``count`` workers of this machine, or None where one worker is enough.

    Args:
        count: how many tasks run at once. With 1 tasks run in the caller's thread and dask is not imported.
        processes: spawned processes of one thread each, or threads of this process.
    """
    if count == 1:
        yield None
        return
    import dask.config
    from distributed import Client, LocalCluster

    with ExitStack() as stack:
        stack.enter_context(
            dask.config.set(
                {
                    "distributed.deploy.lost-worker-timeout": LOST_WORKER_TIMEOUT,
                    "distributed.nanny.pre-spawn-environ.MALLOC_TRIM_THRESHOLD_": KEPT_BYTES,
                    "distributed.nanny.pre-spawn-environ.MALLOC_MMAP_THRESHOLD_": KEPT_BYTES,
                }
            )
        )
        scratch = stack.enter_context(tempfile.TemporaryDirectory(prefix="wsikit-dask-"))
        options = {"preload": __name__} if processes else {}
        cluster = _started(
            LocalCluster,
            n_workers=count if processes else 1,
            threads_per_worker=1 if processes else count,
            processes=processes,
            # dask's own limit counts the whole process, the page cache of mapped files included, and pauses or kills
            memory_limit=0,
            # a free port: with None dask still asks for 8787, and warns where that is taken
            dashboard_address="127.0.0.1:0",
            local_directory=scratch,
            silence_logs=logging.CRITICAL,
            **options,
        )
        stack.enter_context(cluster)
        yield stack.enter_context(Client(cluster))


def _started(cluster: Any, **options: Any) -> Any:
    try:
        return cluster(**options)
    except RuntimeError as error:
        raise ConfigError(
            f"worker processes did not start: {error}",
            remedy='in a script, call it below `if __name__ == "__main__":` in a file; or use one worker',
        ) from error


def slots(client: Any) -> int:
    """How many tasks a client's workers run at once; 1 without a client.

    At least 1: while the workers of a cluster start again there is none, and what is submitted waits for them.
    """
    return 1 if client is None else max(1, sum(client.nthreads().values()))


def bounded(client: Any, function: Callable[[Item], Result], items: Iterable[Item]) -> Generator[Result]:
    """Results of ``function`` over ``items`` as they complete, a bounded number in flight.

    Args:
        client: from ``workers``; None runs the items one after another in this thread.
        function: importable by the workers; it should take 200 ms or more, since a task costs about 1 ms.
        items: consumed as workers become free.

    The first error cancels what has not started and is raised.
    """
    if client is None:
        yield from map(function, items)
        return
    from distributed import as_completed

    waiting = iter(items)
    running = as_completed(loop=client.loop)
    for item in islice(waiting, IN_FLIGHT * slots(client)):
        running.add(client.submit(function, item, pure=False))
    try:
        for future in running:
            yield future.result()
            future.release()
            for item in islice(waiting, 1):
                running.add(client.submit(function, item, pure=False))
    finally:
        client.cancel(list(running.futures), force=True)


def ahead(items: Generator[Item], depth: int = 1) -> Generator[Item]:
    """The same items, of which a thread of its own makes the next ``depth`` while the caller is busy with one.

    An error of the items is raised where it would have been. At the end, on an error and when this is closed, the
    thread finishes the item that it is at, the items are closed and the thread is gone: close it (``closing``).
    """
    ended = object()
    thread = ThreadPoolExecutor(1, "wsikit-ahead")
    try:
        made = deque(thread.submit(next, items, ended) for _ in range(depth))
        while (item := made.popleft().result()) is not ended:
            made.append(thread.submit(next, items, ended))
            yield item  # type: ignore[misc]  # it is none but those of the items
            del item
    finally:
        thread.shutdown(cancel_futures=True)
        items.close()
