"""A child process as its parent sees it: started, asked, watched, ended, and how it died."""

from __future__ import annotations

import math
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import Future
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wsikit.errors import WorkerError
from wsikit.pipeline.workers.child import RemoteTraceback, outcome, receive, send

START_SECONDS = 120.0
"""Longest that a child may take to start. On a quiet machine it takes 0.2 s."""
END_SECONDS = 2.0
"""Longest to wait for a process that was killed: one that waits for a dead disk ends when the disk answers."""
CHILD = "import sys; sys.path[:] = {path}; from wsikit.pipeline.workers.child import serve; serve({numbers})"


@dataclass(frozen=True, slots=True, eq=False)
class Task:
    """What a child is asked, and who waits for it."""

    data: bytes
    """Function and arguments, by ``predictors.files.dumps``."""
    seconds: float | None
    """The most that it may take."""
    future: Future[Any]


class Child:
    """One process, and the task that it is at."""

    def __init__(self, environment: dict[str, str]) -> None:
        self._lock = threading.Lock()
        self._deadline = time.monotonic() + START_SECONDS
        self._seconds = START_SECONDS
        self._task: Task | None = None
        self._fate: WorkerError | None = None
        """Why it was killed."""
        with ExitStack() as undo:
            self._trace = undo.enter_context(tempfile.TemporaryFile())
            self._socket, theirs = socket.socketpair()
            undo.enter_context(self._socket)
            with theirs:
                numbers = (theirs.fileno(), self._trace.fileno())
                path = [str(folder or Path.cwd()) for folder in sys.path]
                code = CHILD.format(path=path, numbers=", ".join(map(str, (*numbers, os.getpid()))))
                self._process = subprocess.Popen(
                    # -P: nothing of the current folder is imported before the path is set; -u: what it prints is seen,
                    # however it ends
                    [sys.executable, "-P", "-u", "-c", code],
                    stdin=subprocess.DEVNULL,
                    pass_fds=numbers,
                    env=environment,
                )
            undo.pop_all()

    def is_ready(self) -> bool:
        """Wait until it is; False where it died."""
        message = receive(self._socket)
        self._end_of_task()
        return message is not None

    def begin(self, task: Task) -> bool:
        """Send a task where that is not done; False where the process is gone, and the task did not start."""
        if task is self._task:
            return True
        if self._fate is not None or self._process.poll() is not None:
            return False
        self.send(task)
        return True

    def send(self, task: Task) -> None:
        """To a process that was there a moment ago; ``finish`` tells where it is not."""
        with self._lock:
            self._task = task
            self._seconds = math.inf if task.seconds is None else task.seconds
            self._deadline = time.monotonic() + self._seconds
        with suppress(OSError):
            send(self._socket, task.data)

    def finish(self) -> tuple[Any, BaseException | None]:
        """(result, error) of the task."""
        try:
            message = receive(self._socket)
        except (MemoryError, ValueError) as error:
            return None, WorkerError(f"its answer has no room or no sensible length: {error}", code="worker_crash")
        self._end_of_task()
        return (None, self.death()) if message is None else outcome(message)

    def _end_of_task(self) -> None:
        with self._lock:
            self._task, self._deadline = None, math.inf

    def look(self, memory: int | None) -> None:
        """Kill it where it takes too long or too much memory. Between tasks nobody is blamed."""
        with self._lock:
            if self._fate is not None:
                self._process.kill()
                self._hang_up()  # who waits for it does so no longer, though it may not end yet
            elif self._process.poll() is not None:
                self._hang_up()
            elif time.monotonic() > self._deadline:
                what = "the task took longer" if self._task else "it was not ready and took longer"
                self._abort("worker_timeout", f"{what} than {self._seconds:g} s and was stopped")
            elif memory is not None and (used := self._resident()) > memory:
                said = f"its process took {used >> 20} MB, the most is {memory >> 20} MB, and was stopped"
                self._abort("worker_memory", said)

    def _resident(self) -> int:
        import psutil

        with suppress(psutil.NoSuchProcess):
            return int(psutil.Process(self._process.pid).memory_info().rss)
        return 0

    def _abort(self, code: str, said: str) -> None:
        """By a signal on which it tells where it is; it is killed at the next look where that is not enough."""
        self._fate = WorkerError(said, code=code)
        self._process.send_signal(signal.SIGABRT)

    def _hang_up(self) -> None:
        """Tell who waits for it: a process that it forked may hold its end of the socket."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def kill(self) -> None:
        """End it now; it is not waited for."""
        self._process.kill()
        self._hang_up()

    def death(self) -> WorkerError:
        """How it died."""
        self._reap()
        error = self._fate or _death(self._process.poll())
        self._trace.seek(0)
        if text := self._trace.read().decode(errors="replace").strip():
            error.__cause__ = RemoteTraceback(text)
        return error

    def _reap(self) -> None:
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(END_SECONDS)

    def close(self) -> None:
        """Kill it and give back what this process holds of it."""
        self.kill()
        self._reap()
        self._socket.close()
        self._trace.close()


def _death(status: int | None) -> WorkerError:
    if status is None:
        return WorkerError("its process closed the connection", code="worker_crash")
    if status == -signal.SIGKILL:
        said = "its process was killed (SIGKILL), which the system does where memory runs out"
        return WorkerError(said, code="worker_memory")
    how = _signal_name(-status) if status < 0 else f"exit status {status}"
    return WorkerError(f"its process died ({how})", code="worker_crash")


def _signal_name(number: int) -> str:
    known = {known.value: known.name for known in signal.Signals}
    return known.get(number, f"signal {number}")
