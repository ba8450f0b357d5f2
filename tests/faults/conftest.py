"""A disk of a few megabytes that a test may fill, and make read-only."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest


class SmallDisk:
    """A tmpfs of its own."""

    def __init__(self, path: Path) -> None:
        self.path, self._ballast = path, path / "ballast"

    def mount(self, options: str) -> None:
        """Raises OSError or CalledProcessError where that is not allowed."""
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(self.path)],
            check=True,
            capture_output=True,
            timeout=30,
        )

    def remount(self, options: str) -> None:
        """Change its size, or make it read-only and writable again."""
        deadline = time.monotonic() + 10
        while True:
            try:
                return self._call("mount", "-o", f"remount,{options}")
            except subprocess.CalledProcessError:  # another thread is writing a file just now
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.005)

    def unmount(self) -> None:
        """Give it up with all that is on it."""
        self._call("umount", "-l")

    def _call(self, *command: str) -> None:
        subprocess.run([*command, str(self.path)], check=True, capture_output=True, timeout=30)

    def fill(self) -> None:
        """To the last byte."""
        with self._ballast.open("ab", buffering=0) as file, suppress(OSError):
            for size in (1 << 20, 4096, 1):
                with suppress(OSError):
                    while True:
                        file.write(b"\1" * size)

    def free(self) -> None:
        """What ``fill`` took."""
        self._ballast.unlink(missing_ok=True)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    """16 MB, empty."""
    made = SmallDisk(tmp_path / "disk")
    made.path.mkdir()
    try:
        made.mount("size=16m")
    except (OSError, subprocess.SubprocessError) as error:
        pytest.skip(f"needs to mount a tmpfs, as root (uid {os.getuid()}): {error}")
    yield made
    made.unmount()
