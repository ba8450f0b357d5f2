"""A plug-in whose reader crashes, hangs or swells, and slides that say where it does."""

from __future__ import annotations

from pathlib import Path

READER = '''
import ctypes, os, time
import numpy as np
from wsikit.errors import SlideOpenError
from wsikit.slides.array import ArrayReader


def segfault():
    ctypes.string_at(0)


def sleep():
    time.sleep(600)


def hang():
    # a C call that keeps Python's lock
    ctypes.PyDLL(None).sleep(600)


def swell():
    kept = []
    while True:
        kept.append(np.ones(1 << 24, np.uint8))
        time.sleep(0.01)


def exit():
    os._exit(3)


def bug():
    raise ZeroDivisionError("a bug")


class FaultyReader(ArrayReader):
    """A file says where the reader comes to grief, open or read, and how. It reads well left of x = 64."""

    name = "faulty"
    suffixes = frozenset({".faulty"})

    def __init__(self, path):
        if path.suffix != ".faulty":
            raise SlideOpenError("not faulty")
        self.where, self.how = path.read_text().split()
        if self.where == "open":
            globals()[self.how]()
        y, x = np.mgrid[0:128, 0:192]
        super().__init__([np.stack([x, y, x + y], -1).astype(np.uint8)], 0.5, tile=(64, 64), path=path)

    def read(self, level, x, y, width, height):
        if self.where == "read" and x + width > 64:
            globals()[self.how]()
        return super().read(level, x, y, width, height)
'''


def install_reader(site: Path) -> Path:
    """Make a folder with an installed package, to be put on ``sys.path``; returns it."""
    info = site / "faulty-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: faulty\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[wsikit.readers]\nfaulty = faulty_reader:FaultyReader\n")
    (site / "faulty_reader.py").write_text(READER)
    return site


def faulty(folder: Path, text: str) -> Path:
    """A slide: where its reader comes to grief and how, as in "read segfault"."""
    path = folder / f"{text.replace(' ', '-')}.faulty"
    path.write_text(text)
    return path
