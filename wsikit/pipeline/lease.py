"""One run at a time in an output folder: ``OUT/.lease`` says who holds it, its modification time that he is alive.

Made with O_EXCL and kept by touching it, which network disks do right where file locks do not work. Ages are
differences of two times that the same file system gave, never of this machine's clock.

1. Whoever creates the file holds the folder, and touches it every ``HEARTBEAT_S`` seconds.
2. A holder of this machine is dead when his process is gone. One of another machine, of which nothing else can be
   seen from here, is dead when his file is older than ``STALE_S``.
3. The lease of a dead holder is taken away by whoever makes ``OUT/.lease.claim``, again with O_EXCL, and finds the same
   lease still there; then the folder is free: back to 1. A claim whose maker died is taken away in its turn. What is
   taken away is renamed aside, which succeeds once, and given back where it turns out to be somebody else's.
4. A holder whose heart stopped (a suspended machine) looks whether the lease is still his before he writes anything.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import cache, partial
from pathlib import Path
from typing import Any, Self

from wsikit.atomic import output_errors
from wsikit.errors import OutputError
from wsikit.pipeline.stopping import Stop

NAME = ".lease"
HEARTBEAT_S = 10.0
STALE_S = 120.0
"""Twelve heartbeats: NFS clients may show a modification time that is a minute old."""
UNSURE_S = 3 * HEARTBEAT_S
"""After so long without a heartbeat a holder looks before he writes; nobody takes a lease over before ``STALE_S``."""
TRIES = 5
"""Times to try for a folder that others try for at the same moment."""
CLAIM_S = 0.1
"""Wait for one that is taking a lease over, which takes milliseconds."""
LOOKS_S = (0.0, 0.2, 1.0)
"""Waits before a lease that is not there is lost (another run that looks at it takes it away for a moment), and before
one without a text is taken for broken."""

# time that this machine was suspended counts too, where the system tells it
_clock: Callable[[], float] = (
    partial(time.clock_gettime, time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic
)


@dataclass(frozen=True, slots=True)
class Holder:
    """Who holds a folder."""

    host: str = "an unknown host"
    pid: int = 0
    machine: str = ""
    """Processes with the same machine can see one another: host, boot and PID namespace."""
    process: str = ""
    """When its process began, in whatever way the system tells it: pids are used again."""
    token: str = ""
    """Random; tells leases apart."""
    command: str = ""
    started: str = ""
    """When the lease was made, ISO 8601, by the holder's clock."""

    @classmethod
    def here(cls, command: str = "") -> Self:
        """This process."""
        pid, now = os.getpid(), datetime.now(UTC).isoformat(timespec="seconds")
        return cls(
            socket.gethostname(), pid, _machine(), process_started(pid) or "", secrets.token_hex(16), command, now
        )

    def facts(self) -> dict[str, Any]:
        """What is told of it: host, pid, command, started."""
        return {"host": self.host, "pid": self.pid, "command": self.command, "started": self.started}

    def __str__(self) -> str:
        return f"{self.host}, pid {self.pid}, since {self.started}" if self.started else self.host


@dataclass(frozen=True, slots=True)
class Found:
    """A lease as it lies in a folder."""

    holder: Holder
    beat: float
    """Its last heartbeat: the modification time, s, by the file system's clock."""

    def is_dead(self, now: float) -> bool:
        """Whether the holder is gone; ``now`` by the file system's clock."""
        if self.holder.machine == _machine() and (started := process_started(self.holder.pid)) != "":
            return started != self.holder.process
        return now - self.beat > STALE_S


def find(path: Path) -> Found | None:
    """The lease at a path, or None where there is none. What cannot be understood is held by nobody known.

    Raises OSError where it cannot be read.
    """
    found = None
    for pause in LOOKS_S:
        time.sleep(pause)
        found = _read(path)
        # a lease that is being made is there for a moment before its text is
        if found is None or found.holder.token:
            break
    return found


def _read(path: Path) -> Found | None:
    try:
        # opening it makes NFS ask the server
        with path.open("rb") as file:
            text, beat = file.read(), os.fstat(file.fileno()).st_mtime
    except FileNotFoundError:
        return None
    try:
        return Found(Holder(**json.loads(text)), beat)
    except (ValueError, TypeError):
        return Found(Holder(), beat)


class Lease:
    """Holds a folder from ``with`` to its end.

    Args:
        out: the folder; it is there.
        command: the command line, told to others.
        stop: set with the reason lease_lost where the folder is lost to another run.

    Raises on entering:
        OutputError: code busy where another run holds it; io_error and no_space where it cannot be written.
    """

    def __init__(self, out: Path, command: str, stop: Stop) -> None:
        self.path = out / NAME
        self.holder = Holder.here(command)
        self.taken_over: Found | None = None
        """Whose lease it was, where its holder had died."""
        self._stop = stop
        self._beaten = _clock()
        self._lock = threading.Lock()
        self._released = threading.Event()
        self._heart = threading.Thread(target=self._keep, name="wsikit-lease", daemon=True)

    def __enter__(self) -> Self:
        with output_errors(self.path):
            self._acquire()
        self._heart.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._released.set()
        self._heart.join()
        with suppress(OSError):
            if self._is_mine():
                self.path.unlink()

    def check(self) -> None:
        """Look whether the folder is still ours, where that is in doubt; if not, ``stop`` is set."""
        if _clock() - self._beaten > UNSURE_S:
            self._beat()

    def _acquire(self) -> None:
        found = None
        for _ in range(TRIES):
            if self._create(self.path):
                return
            found = find(self.path)
            if found is None:
                continue
            if not found.is_dead(self._now()):
                break
            self._take_over(found)
        raise busy(self.path.parent, found, self._now())

    def _take_over(self, dead: Found) -> None:
        claim = self.path.with_name(f"{NAME}.claim")
        if not self._create(claim):
            other = find(claim)
            if other is not None and other.is_dead(self._now()):
                self._set_aside(claim, other)
            time.sleep(CLAIM_S)
            return
        try:
            if find(self.path) == dead:
                self._set_aside(self.path, dead)
                self.taken_over = dead
        finally:
            claim.unlink(missing_ok=True)

    def _create(self, path: Path) -> bool:
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        except FileExistsError:
            return False
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(json.dumps(asdict(self.holder)).encode())
                file.flush()
                os.fsync(descriptor)
        except OSError:
            path.unlink()
            raise
        self._beaten = _clock()
        return True

    def _now(self) -> float:
        """The file system's clock."""
        probe = self.path.with_name(f"{NAME}.{self.holder.token}.now")
        try:
            probe.touch()
            return probe.stat().st_mtime
        finally:
            probe.unlink(missing_ok=True)

    def _set_aside(self, path: Path, dead: Found) -> None:
        aside = self.path.with_name(f"{NAME}.{self.holder.token}.old")
        try:
            path.rename(aside)
        except FileNotFoundError:
            return  # another run was faster
        if find(aside) != dead:
            _give_back(aside, path)
        aside.unlink(missing_ok=True)

    def _is_mine(self) -> bool:
        for pause in LOOKS_S:
            time.sleep(pause)
            found = find(self.path)
            if found is not None:
                return found.holder.token == self.holder.token
        return False

    def _beat(self) -> None:
        with self._lock:
            try:
                if self._is_mine():
                    os.utime(self.path)
                    self._beaten = _clock()
                    return
                found = find(self.path)
            except OSError as error:
                if _clock() - self._beaten < STALE_S:
                    return  # a disk that is away for a moment
                self._stop.set("lease_lost", f"{self.path} could not be reached for {STALE_S:.0f} s: {error}")
                return
        by = f"taken over by another run ({found.holder})" if found else "removed"
        self._stop.set("lease_lost", f"stopped: {self.path}, by which this run held its output folder, was {by}")

    def _keep(self) -> None:
        while not self._released.wait(HEARTBEAT_S) and self._stop.reason != "lease_lost":
            self._beat()


def busy(out: Path, found: Found | None, now: float) -> OutputError:
    """Another run holds the folder."""
    who = (
        f"{found.holder} (last heartbeat {max(0.0, now - found.beat):.0f} s ago)" if found else "others that start now"
    )
    return OutputError(
        f"another run works in {out}: {who}",
        code="busy",
        remedy=f"wait for it or stop it, or choose another folder with -o; `wsikit status {out}` says how far it is",
    )


def _give_back(aside: Path, path: Path) -> None:
    """Put a lease back that is not the dead one; not over one that was made meanwhile."""
    try:
        os.link(aside, path)
    except FileExistsError:
        return
    except OSError:  # a file system without links
        if not path.exists():
            aside.rename(path)


@cache
def _machine() -> str:
    """What processes share that can see one another: a reboot or another container makes it another one."""
    parts = [socket.gethostname()]
    with suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        parts.append(str(Path("/proc/self/ns/pid").readlink()))
    return " ".join(parts)


def process_started(pid: int) -> str | None:
    """When a process of this machine began, as text to compare.

    None where there is none that lives, the empty string where it cannot be told (a process of somebody else).
    """
    import psutil

    if os.name == "posix":
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return None
        except PermissionError:
            pass
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        stat = Path(f"/proc/{pid}/stat")
        # ticks since boot (field 22): psutil's own time changes when the clock is set
        return stat.read_text().rpartition(")")[2].split()[19] if stat.exists() else f"{process.create_time():.2f}"
    except (psutil.Error, OSError):
        return "" if os.name == "posix" else None
