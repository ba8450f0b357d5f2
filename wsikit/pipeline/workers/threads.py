"""Tasks in threads of this process: nothing to start and nothing to send, but a reader that crashes ends them all."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

Result = TypeVar("Result")


class ThreadWorkers:
    """See ``Workers``. A time limit cannot be kept here: threads cannot be stopped.

    Args:
        slots: how many tasks run at once.
    """

    def __init__(self, slots: int) -> None:
        self.slots = slots
        self._stopped = False
        self._pool = ThreadPoolExecutor(slots, "wsikit-task")

    def submit(
        self, function: Callable[..., Result], /, *args: Any, gpu: bool = False, seconds: float | None = None
    ) -> Future[Result]:
        """See ``Workers.submit``."""
        del gpu, seconds
        try:
            return self._pool.submit(function, *args)
        except RuntimeError:
            if not self._stopped:
                raise
            cancelled: Future[Result] = Future()
            cancelled.cancel()
            cancelled.set_running_or_notify_cancel()
            return cancelled

    def stop(self) -> None:
        """See ``Workers.stop``, except that tasks that run go on to their end."""
        self._stopped = True
        self._pool.shutdown(wait=False, cancel_futures=True)

    def join(self) -> None:
        """Wait for the tasks that run."""
        self._pool.shutdown()
