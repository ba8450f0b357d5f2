"""A reader in a process of its own: what a hostile file does to a C library costs one read, not the run.

The parent asks in lines of JSON over a socket pair. The child answers with a length, JSON of that length, and the
pixels; nothing that comes from it is unpickled. The child is no sandbox: it may do whatever the user may.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from wsikit.errors import PixelReadError, PluginError, SlideOpenError, UnknownNameError, WsikitError
from wsikit.slides.slide import Pixels, Reader

ISOLATED = ", isolated"
"""What the name of an isolated reader adds to its inner reader's: ``open_reader`` takes "openslide, isolated" too."""
SECONDS = 120.0
"""Longest that a call may take. A plain JPEG 2000 image of 400 megapixels takes 40 s."""
MEMORY = 4 << 30
"""Most resident bytes of the child: a plain image of 400 megapixels, 1.2 GB, and what its codec needs beside it."""
MOST_LOST = 64
"""After so many children the file is given up. Finding the one bad tile among 16 x 16 costs nine."""
TICK = 0.05
"""Seconds between two looks at the child's memory."""
MOST_SAID = 64 << 20
"""Longest answer without pixels, bytes: a file's properties, or what an error quotes of them."""
CHILD = "import sys; from wsikit.slides.isolated import serve; serve(int(sys.argv[1]))"
ERRORS: Mapping[str, type[WsikitError]] = {
    kind.__name__: kind for kind in (SlideOpenError, PixelReadError, UnknownNameError, PluginError, WsikitError)
}
"""What a child's error is raised as here."""
FACTS = ("name", "sizes", "downsamples", "mpp", "mpp_source", "vendor", "bounds", "background", "is_field")
"""The attributes of ``Reader`` that come over as JSON."""


class IsolatedReader:
    """Another reader, working in a child process with limits of time and memory. Safe to call from several threads,
    which wait for one another.

    A call that kills the child, hangs or takes too much memory raises PixelReadError (reader_crash, reader_timeout,
    reader_memory); the next one starts a new child. A file that does so again and again is given up: SlideOpenError
    with the last of these codes. After each hang the patience is halved, down to an eighth.

    Args:
        path: the slide's own file.
        reader: the inner reader, a name of ``READERS``.
        seconds: longest that a call may take.
        memory: most resident bytes of the child.

    Raises:
        SlideOpenError: what the inner reader raises; reader_crash, reader_timeout or reader_memory where it came to
            grief on the file.
    """

    downsamples: tuple[float, ...]
    mpp: tuple[float, float] | None
    mpp_source: str
    vendor: str
    properties: Mapping[str, str]
    is_field: bool

    def __init__(self, path: Path, reader: str, *, seconds: float = SECONDS, memory: int = MEMORY) -> None:
        self.path = Path(path)
        self._reader, self._seconds, self._memory = reader, seconds, memory
        self._lock = threading.Lock()
        self._closed = False
        self._lost, self._hung = 0, 0
        self._given_up: SlideOpenError | None = None
        self._child: Child | None = None
        self._said = self._start()
        self.name = self._said["name"] + ISOLATED
        for fact in ("mpp_source", "vendor", "properties", "is_field"):
            setattr(self, fact, self._said[fact])
        self.sizes: tuple[tuple[int, int], ...] = tuple((w, h) for w, h in self._said["sizes"])
        self.downsamples = tuple(self._said["downsamples"])
        self.mpp = tuple(self._said["mpp"]) if self._said["mpp"] else None
        self.bounds: tuple[int, int, int, int] | None = tuple(self._said["bounds"]) if self._said["bounds"] else None
        self.background: tuple[int, int, int] = tuple(self._said["background"])

    def tile_size(self, level: int) -> tuple[int, int]:
        """(width, height) of the file's own tiles at ``level``."""
        width, height = self._said["tiles"][level]
        return width, height

    def read(self, level: int, x: int, y: int, width: int, height: int) -> Pixels:
        """See ``Reader.read``."""
        pixels = np.empty((height, width, 3), np.uint8)
        with self._lock:
            child = self._live()
            try:
                child.ask("read", [level, x, y, width, height], self._patience, pixels)
            except LostChildError as lost:
                self._note(lost)
                raise PixelReadError(
                    f"{self.path.name}: reading {width}x{height} px of level {level} at ({x}, {y}): {lost}",
                    code=lost.code,
                ) from lost
        return pixels

    def associated(self) -> Mapping[str, tuple[int, int]]:
        """Names and (width, height) of the label, macro and thumbnail images."""
        return {name: (width, height) for name, (width, height) in self._said["associated"].items()}

    def close(self) -> None:
        """End the child; a read that is under way in another thread finishes first."""
        with self._lock:
            self._closed = True
            if self._child is not None:
                self._child.end()
                self._child = None

    @property
    def _patience(self) -> float:
        return self._seconds / min(8, 1 << self._hung)

    def _live(self) -> Child:
        if self._closed:
            raise SlideOpenError(f"{self.path.name} was closed")
        if self._given_up:
            raise SlideOpenError(str(self._given_up), code=self._given_up.code)
        if self._child is None and _text(self._start()) != _text(self._said):
            raise SlideOpenError(f"{self.path.name} is not the file that it was before its reader was started again")
        assert self._child is not None
        return self._child

    def _start(self) -> dict[str, Any]:
        """Open the file in a new child, which says what the file is."""
        child = Child(self._memory)
        try:
            said: dict[str, Any] = child.ask("open", [str(self.path), self._reader], self._patience)
        except LostChildError as lost:
            self._note(lost)
            raise SlideOpenError(f"the reader {self._reader} failed on opening: {lost}", code=lost.code) from lost
        except BaseException:
            child.end()
            raise
        self._child = child
        return said

    def _note(self, lost: LostChildError) -> None:
        """Count a lost child; the one too many ends the work on the file."""
        self._child = None
        self._lost += 1
        self._hung += lost.code == "reader_timeout"
        if self._lost >= MOST_LOST:
            self._given_up = SlideOpenError(
                f"{self.path.name} is given up: its reader failed {self._lost} times, last: {lost}", code=lost.code
            )
            raise self._given_up from lost


class LostChildError(Exception):
    """The child died or was killed."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class Child:
    """A process that answers questions one after another. It ends when nobody uses it any more.

    Args:
        memory: most resident bytes of the process.
        program: Python that calls ``answer_questions`` with the number that is its only argument.
    """

    def __init__(self, memory: int, program: str = CHILD) -> None:
        self._memory = memory
        self._socket, theirs = socket.socketpair()
        self._socket.settimeout(TICK)
        with theirs:
            self._process = subprocess.Popen(
                # -P: a module that lies in the current folder is not imported
                [sys.executable, "-P", "-c", program, str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            )
        self.end = weakref.finalize(self, _end, self._process, self._socket)

    def ask(self, what: str, about: list[Any], seconds: float, pixels: Pixels | None = None) -> Any:
        """The child's answer; pixels are written into ``pixels``.

        Raises:
            LostChildError: it died, or was killed for its time or memory.
            WsikitError: what was raised in the child.
        """
        deadline = time.monotonic() + seconds
        try:
            self._socket.sendall(json.dumps([what, about, seconds]).encode() + b"\n")
            (length,) = struct.unpack("<q", self._receive(bytearray(8), deadline))
            if not 0 <= length <= MOST_SAID:
                raise LostChildError("reader_crash", "its process answered with nonsense")
            said = json.loads(self._receive(bytearray(length), deadline))
            if "error" not in said and pixels is not None:
                self._receive(pixels.reshape(-1).data, deadline)
        except (BrokenPipeError, ConnectionResetError) as error:
            raise self._ended() from error
        except BaseException:
            # an answer that was not read to its end, Ctrl-C included, would be taken for that to the next question
            self.end()
            raise
        if "error" in said:
            raise ERRORS[said["error"]](said["message"], code=said["code"], remedy=said["remedy"])
        return said["value"]

    def _receive(self, buffer: Any, deadline: float) -> Any:
        rest = memoryview(buffer)
        while rest:
            if time.monotonic() > deadline:
                raise LostChildError("reader_timeout", "it did not answer in time and was stopped")
            try:
                count = self._socket.recv_into(rest)
            except TimeoutError:
                self._check_memory()
                continue
            if count == 0:
                raise self._ended()
            rest = rest[count:]
        return buffer

    def _check_memory(self) -> None:
        import psutil

        try:
            used = psutil.Process(self._process.pid).memory_info().rss
        except psutil.NoSuchProcess:
            return  # the socket tells that it ended
        if used > self._memory:
            raise LostChildError(
                "reader_memory", f"it took {used >> 20} MB, the most is {self._memory >> 20} MB, and was stopped"
            )

    def _ended(self) -> LostChildError:
        """How the child died of itself."""
        try:
            status = self._process.wait(5)
        except subprocess.TimeoutExpired:
            return LostChildError("reader_crash", "its process closed the connection")
        if status == -signal.SIGALRM:
            return LostChildError("reader_timeout", "it did not answer in time and was stopped")
        how = signal.Signals(-status).name if status < 0 else f"exit status {status}"
        return LostChildError("reader_crash", f"its process died ({how})")


def _text(said: dict[str, Any]) -> str:
    """To compare by: a NaN is not equal to itself."""
    return json.dumps(said, sort_keys=True)


def _end(process: subprocess.Popen[bytes], connection: socket.socket) -> None:
    connection.close()
    process.kill()
    process.wait()


def serve(descriptor: int) -> None:
    """What the child of a reader does."""
    answer_questions(descriptor, _Reading())


class _Reading:
    """One file, opened and read."""

    reader: Reader | None = None

    def __call__(self, what: str, about: list[Any]) -> tuple[Any, Any]:
        if what == "open":
            self.reader = _opened(*about)
            return _described(self.reader), b""
        assert self.reader is not None
        return None, _read(self.reader, *about)


def answer_questions(descriptor: int, answer: Callable[[str, list[Any]], tuple[Any, Any]]) -> None:
    """Answer the questions of ``Child.ask`` until the parent is gone.

    The alarm is for a child whose parent died meanwhile: its default action ends even a call that hangs in C.

    Args:
        descriptor: of the socket to the parent.
        answer: called with what is asked and about what; gives a value for JSON, and pixels (or no bytes) to follow it.
    """
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends this process
    with socket.socket(fileno=descriptor) as parent, parent.makefile("rb") as questions:
        for line in questions:
            what, about, seconds = json.loads(line)
            signal.setitimer(signal.ITIMER_REAL, 2 * seconds)
            pixels: Any = b""
            try:
                value, pixels = answer(what, about)
                said: dict[str, Any] = {"value": value}
            except Exception as error:  # noqa: BLE001  # it is raised again in the parent
                said = _told(error)
            text = json.dumps(said).encode()
            parent.sendall(struct.pack("<q", len(text)) + text)
            parent.sendall(pixels)
            signal.setitimer(signal.ITIMER_REAL, 0)


def _opened(path: str, name: str) -> Reader:
    from wsikit.slides import open_with

    return open_with(name, Path(path))


def _described(reader: Reader) -> dict[str, Any]:
    facts = {fact: getattr(reader, fact) for fact in FACTS}
    tiles = [reader.tile_size(level) for level in range(len(reader.sizes))]
    return facts | {"properties": dict(reader.properties), "tiles": tiles, "associated": dict(reader.associated())}


def _read(reader: Reader, level: int, x: int, y: int, width: int, height: int) -> Any:
    pixels = reader.read(level, x, y, width, height)
    if pixels.shape != (height, width, 3) or pixels.dtype != np.uint8:
        raise PixelReadError(f"{reader.path.name}: {width}x{height} px read as {pixels.shape} {pixels.dtype}")
    return np.ascontiguousarray(pixels).reshape(-1).data


def _told(error: Exception) -> dict[str, str]:
    kind = next((name for name, kind in ERRORS.items() if isinstance(error, kind)), None)
    if kind is None:
        return {"error": "WsikitError", "code": "internal", "message": f"{type(error).__name__}: {error}", "remedy": ""}
    assert isinstance(error, WsikitError)
    return {"error": kind, "code": error.code, "message": str(error), "remedy": error.remedy}
