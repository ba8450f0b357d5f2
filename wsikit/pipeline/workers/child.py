"""What a child of ``children`` does: one task after the other until its parent is gone, and how the two talk.

A message is its length and its bytes. The child says that it is ready with an empty one; then each task is answered by
one outcome.
"""

from __future__ import annotations

import ctypes
import faulthandler
import os
import resource
import signal
import socket
import struct
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from wsikit.errors import WorkerError, WsikitError
from wsikit.predictors.files import dumps, loads

_HEADER = struct.Struct("<q")
_SHORT = 1 << 16
"""Bytes that are sent and received at once."""
_SET_DEATH_SIGNAL = 1
"""PR_SET_PDEATHSIG of Linux's <sys/prctl.h>."""
_LOOK = 0.5
"""Seconds between two looks whether the parent is there, where the kernel does not tell."""
_EXPENDABLE = "500"
"""Added to a child's badness, of 1000: where memory runs out the kernel should take a child, not the parent."""


class RemoteTraceback(Exception):
    """Where in a child an error was raised: a traceback as text, the cause of the error in this process."""

    def __str__(self) -> str:
        return f"\n{self.args[0]}"


def send(connection: socket.socket, message: bytes) -> None:
    """Raises OSError where the other end is gone."""
    header = _HEADER.pack(len(message))
    if len(message) < _SHORT:
        connection.sendall(header + message)
    else:
        connection.sendall(header)
        connection.sendall(message)


def receive(connection: socket.socket) -> bytearray | None:
    """The next message; None where the other end is gone, in the middle of one too.

    A short one takes one call: in a process of many threads each may have to wait its turn. What is read is of one
    message, since each end waits for the other's.
    """
    start = bytearray()
    try:
        while len(start) < _HEADER.size:
            if not (got := connection.recv(_SHORT)):
                return None
            start += got
        message = bytearray(*_HEADER.unpack_from(start))
        have = len(start) - _HEADER.size
        message[:have] = start[_HEADER.size :]
        rest = memoryview(message)[have:]
        while rest:
            if not (count := connection.recv_into(rest)):
                return None
            rest = rest[count:]
    except ConnectionError:
        return None
    return message


def serve(descriptor: int, trace: int, parent: int) -> None:
    """Answer tasks. Does not return.

    Args:
        descriptor: of the socket to the parent.
        trace: of the file that takes the stack where the process dies of a signal.
        parent: process id.
    """
    _outlive_nobody(parent)
    # Ctrl-C, and the SIGTERM that schedulers send to all of a job, are for the parent, which ends this process. They
    # were blocked until here.
    for ignored in (signal.SIGINT, signal.SIGTERM):
        signal.signal(ignored, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT, signal.SIGTERM])
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    faulthandler.enable(trace)
    with suppress(OSError):  # no Linux, or a container that forbids it
        Path("/proc/self/oom_score_adj").write_text(_EXPENDABLE)
    # otherwise processes that a task starts would hold them open
    for number in (descriptor, trace):
        os.set_inheritable(number, False)
    with socket.socket(fileno=descriptor) as connection:
        send(connection, b"")
        while (task := receive(connection)) is not None:
            message = answer(task)
            del task
            send(connection, message)
            del message
    os._exit(0)


def _outlive_nobody(parent: int) -> None:
    """End this process with its parent (on Linux: with the thread that started it) at once, also where it hangs in C.

    Elsewhere it ends when Python next runs.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_SET_DEATH_SIGNAL, signal.SIGKILL)
    else:
        threading.Thread(target=_watch, args=[parent], daemon=True).start()
    if os.getppid() != parent:  # it died before it could be watched
        os._exit(1)


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_LOOK)
    os._exit(1)


def answer(task: bytes | bytearray) -> bytes:
    """(result, None) or (None, error and where it was raised), pickled."""
    try:
        function, args = loads(task)
        return dumps((function(*args), None))
    except SystemExit as asked:
        # taken over as it is, it would end the parent without a word
        os._exit(asked.code if isinstance(asked.code, int) else asked.code is not None)
    except BaseException as error:  # noqa: BLE001  # it is raised again in the parent
        return failed(error)


def failed(error: BaseException) -> bytes:
    """What ``answer`` gives where a task raised an error."""
    text = "".join(traceback.format_exception(error))
    if any(_is_memory(cause) for cause in _causes(error)):
        error = WorkerError(f"memory ran out: {type(error).__name__}: {error}", code="worker_memory")
    try:
        data = dumps((None, (error, text)))
        loads(data)  # one that takes other arguments than it says of itself cannot be made again
    except Exception:  # noqa: BLE001  # as above
        data = dumps((None, (_described(error), text)))
    return data


def _described(error: BaseException) -> WsikitError:
    return WsikitError(f"{type(error).__name__}, which cannot be sent from a worker: {error}")


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def _is_memory(error: BaseException) -> bool:
    # the second is what torch raises on the CPU, a RuntimeError
    return isinstance(error, MemoryError) or "DefaultCPUAllocator: can't allocate memory" in str(error)


def outcome(message: bytearray) -> tuple[Any, BaseException | None]:
    """(result, error) of a child's answer, in the parent."""
    try:
        result, failed = loads(message)
    except Exception as error:  # noqa: BLE001  # a plug-in's class may raise anything where it is unpickled
        return None, _described(error)
    if failed is None:
        return result, None
    raised, text = failed
    raised.__cause__ = RemoteTraceback(text)
    return None, raised
