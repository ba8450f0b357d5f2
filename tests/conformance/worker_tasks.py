"""Tasks for workers: what a child imports, so next to nothing."""

from __future__ import annotations

import ctypes
import os
import resource
import threading
import time
from pathlib import Path
from typing import Any

from wsikit.errors import SlideOpenError


def square(number: int) -> int:
    return number * number


def note(path: Path, text: str) -> None:
    """Append a line to a file."""
    with path.open("a") as file:
        file.write(f"{text}\n")


def refuse(code: str, remedy: str) -> None:
    """Raise an error of wsikit for a cause."""
    try:
        int("seven")
    except ValueError as error:
        raise SlideOpenError("no slide", code=code, remedy=remedy) from error


class TwoPartsError(Exception):
    """Cannot be made again from what it says of itself."""

    def __init__(self, left: str, right: str) -> None:
        super().__init__(f"{left} and {right}")


def raise_two_parts() -> None:
    raise TwoPartsError("left", "right")


def meet(folder: Path, me: str, other: str) -> bool:
    """Whether the other one is running too."""
    (folder / me).touch()
    return wait_for(folder / other)


def wait_for(path: Path, seconds: float = 30.0) -> bool:
    """Whether a file came in time."""
    deadline = time.monotonic() + seconds
    while not path.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    return path.exists()


def announce_and_wait(started: Path, until: Path, seconds: float = 60.0) -> bool:
    """Make a file, then wait for another one."""
    started.touch()
    return wait_for(until, seconds)


def pid() -> int:
    return os.getpid()


def environment(*names: str) -> list[str | None]:
    return [os.environ.get(name) for name in names]


def segfault() -> None:
    ctypes.string_at(0)


def hang(seconds: int = 600) -> None:
    """In a call to C that keeps Python's lock."""
    ctypes.PyDLL(None).sleep(seconds)


def hang_after(path: Path) -> None:
    path.write_text(str(os.getpid()))
    hang()


def swell(step: int = 1 << 24) -> None:
    """Take more and more memory, 1.6 GB a second at most."""
    kept = []
    while True:
        kept.append(b"\1" * step)
        time.sleep(0.01)


def ask_for_too_much() -> Any:
    return bytearray(1 << 60)


def wrap_too_much() -> None:
    try:
        ask_for_too_much()
    except MemoryError as error:
        raise ValueError("the predictor raised MemoryError") from error


def fork_and_die() -> None:
    """Leave a process behind that holds all that this one has open."""
    if os.fork() == 0:
        time.sleep(40)  # longer than a test waits
        os._exit(0)
    os._exit(7)


def give_lock() -> Any:
    return threading.Lock()


_KEPT: list[bytes] = []


def keep_later(size: int) -> int:
    """Leave a thread behind that takes memory soon after the task, and say whose it will be."""
    threading.Timer(0.5, lambda: _KEPT.append(b"\1" * size)).start()
    return os.getpid()


def core_limit() -> tuple[int, int]:
    return resource.getrlimit(resource.RLIMIT_CORE)


def announce_wait_and_note(started: Path, until: Path, notes: Path | None) -> None:
    """Make a file, wait for another one, then write into a third; do nothing where there is none."""
    if notes is not None:
        announce_and_wait(started, until)
        note(notes, "done")
