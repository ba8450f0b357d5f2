"""Mutated slides, read in a child process: `python fuzz.py FOLDER FIRST LAST` reads the cases of these numbers.

The child writes a case's number before it begins, so that a crash, a hang or a flood of memory is known by its number;
`mutated(number)` makes the same file again.
"""

from __future__ import annotations

import os
import queue
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import IO, TYPE_CHECKING

import numpy as np
import psutil
import tifffile
from broken import APERIO, MPP_HALF, picture, tiled

if TYPE_CHECKING:
    from wsikit.geometry import Region
    from wsikit.slides import PartialRead

SECONDS = 30
"""Longest that one case may take on a busy machine; a sound one takes 50 ms."""
MEMORY = 400 << 20
"""Most bytes that a child may grow by over its first cases: a tile that says 64 megapixels takes 192 MB."""
TICK = 0.05
"""Seconds between two looks at the child's memory."""
NUMBERS = (0, 1, 2, 15, 255, 256, 65_535, 1 << 16, 1 << 24, (1 << 31) - 1, 1 << 31, (1 << 32) - 1)
READERS = ("tiff", "openslide", "tiffslide", "image")
SMALL = picture(200, 150)
HALF = np.ascontiguousarray(SMALL[::2, ::2])


def _small(path: Path, **options: object) -> Path:
    return tiled(path, [SMALL, HALF], tile=(64, 64), **options)


def _big(path: Path) -> Path:
    """A BigTIFF of deflated tiles, its lower level a SubIFD."""
    with tifffile.TiffWriter(path, bigtiff=True) as writer:
        options = {"tile": (64, 64), "compression": "zlib", "photometric": "rgb", "metadata": None, **MPP_HALF}
        writer.write(SMALL, subifds=1, **options)
        writer.write(HALF, subfiletype=1, **options)
    return path


SEEDS: tuple[Callable[[Path], Path], ...] = (
    _small,
    lambda path: _small(path, photometric="ycbcr", description=APERIO.format(mpp="0.5")),
    lambda path: _small(path, compression=33005, description=APERIO.format(mpp="0.5")),
    _big,
    lambda path: _small(path, compression="lzw", predictor=True),
)


@dataclass(frozen=True)
class Seed:
    """A sound file, and where its structure lies."""

    data: bytes
    entries: tuple[int, ...]
    """Where each tag's entry begins."""
    hot: tuple[tuple[int, int], ...]
    """(start, end) of directories, tables of tiles and headers of tiles."""
    big: bool


@cache
def seed(number: int, folder: Path) -> Seed:
    """One of ``SEEDS``, made once."""
    path = SEEDS[number](folder / f"seed-{number}.tif")
    with tifffile.TiffFile(path) as tiff:
        pages = [page for top in tiff.pages for page in (top, *(top.pages or ()))]
        entries = [tag.offset for page in pages for tag in page.tags]
        hot = [(page.offset, page.offset + 16 + 20 * len(page.tags)) for page in pages]
        hot += [(tag.valueoffset, tag.valueoffset + 8 * tag.count) for page in pages for tag in page.tags]
        hot += [(at, at + 200) for page in pages for at in page.dataoffsets]
        return Seed(path.read_bytes(), tuple(entries), ((0, 16), *hot), tiff.is_bigtiff)


def mutated(number: int, folder: Path) -> bytes:
    """The file of a case: one to four mutations of one of the seeds."""
    rng = np.random.default_rng(number)
    source = seed(number % len(SEEDS), folder)
    data = bytearray(source.data)
    for _ in range(rng.integers(1, 5)):
        MUTATIONS[rng.choice(len(MUTATIONS), p=SHARES)](data, source, rng)
    return bytes(data)


def _flip(data: bytearray, source: Seed, rng: np.random.Generator) -> None:
    start, end = source.hot[rng.integers(len(source.hot))]
    at = int(rng.integers(start, end))
    if at < len(data):
        data[at] = int(rng.integers(256))


def _flip_anywhere(data: bytearray, source: Seed, rng: np.random.Generator) -> None:
    if data:
        data[rng.integers(len(data))] = int(rng.integers(256))


def _number(data: bytearray, source: Seed, rng: np.random.Generator) -> None:
    """A tag's type, count or value becomes a number that programs trip over."""
    at = int(rng.choice(source.entries))
    places = ((2, "H"), (4, "Q"), (12, "Q")) if source.big else ((2, "H"), (4, "I"), (8, "I"))
    offset, code = places[rng.choice(3, p=(0.1, 0.3, 0.6))]
    value = int(rng.choice([*NUMBERS, len(data), len(data) - 1, int(rng.integers(1 << 32))]))
    size = struct.calcsize(code)
    if at + offset + size <= len(data):
        struct.pack_into(f"<{code}", data, at + offset, value & ((1 << (8 * size)) - 1))


def _table(data: bytearray, source: Seed, rng: np.random.Generator) -> None:
    """Four bytes of the structure become such a number."""
    start, end = source.hot[rng.integers(len(source.hot))]
    at = int(rng.integers(start, end)) & ~3
    if at + 4 <= len(data):
        struct.pack_into("<I", data, at, int(rng.choice(NUMBERS)))


def _cut(data: bytearray, source: Seed, rng: np.random.Generator) -> None:
    del data[int(rng.integers(len(data) + 1)) :]


def _move(data: bytearray, source: Seed, rng: np.random.Generator) -> None:
    """A piece is written over another."""
    if len(data) > 400:
        length = int(rng.integers(4, 400))
        there, here = (int(rng.integers(len(data) - length)) for _ in range(2))
        data[here : here + length] = data[there : there + length]


MUTATIONS = (_flip, _flip_anywhere, _number, _table, _cut, _move)
SHARES = (0.35, 0.1, 0.3, 0.15, 0.03, 0.07)


def read_case(number: int, folder: Path) -> str:
    """Read a case by the default order and through one reader: the outcome's code, "" for pixels.

    Raises what is neither an error of wsikit's nor pixels.
    """
    from wsikit.errors import WsikitError
    from wsikit.slides import open_slide

    path = folder / "case.tif"
    path.write_bytes(mutated(number, folder))
    outcomes = []
    for reader in (None, READERS[number // len(SEEDS) % len(READERS)]):
        try:
            with open_slide(path, 0.5, reader) as slide:
                for level in slide.levels:
                    box = slide.plane(level.mpp).intersection(_corner(level.mpp))
                    part = slide.read_partial(box)
                    _check(part, box)
                    outcomes.append("bad tiles" if part.bad else "pixels")
        except WsikitError as error:
            if not error.code or error.code == "internal" or not str(error):
                raise
            outcomes.append(error.code)
    return outcomes[0]


def _corner(mpp: float) -> Region:
    from wsikit.geometry import Region

    return Region(0, 0, 400, 400, mpp)


def _check(part: PartialRead, box: Region) -> None:
    """Bad tiles are background; the shape is what was asked for."""
    assert part.pixels.shape == (box.height, box.width, 3)
    for bad in part.bad:
        x, y, width, height = bad.box
        assert (part.pixels[y : y + height, x : x + width] == 255).all(), f"{bad} is not background"


def child(folder: Path, first: int, last: int) -> None:
    """Read the cases; one line before each, and one after each."""
    import logging
    import warnings

    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    for number in range(first, last):
        _say(str(number))
        try:
            said = read_case(number, folder)
        except Exception as error:  # noqa: BLE001  # whatever it is, the parent counts it
            said = f"FAULT {type(error).__name__}: {error}".replace("\n", " ")[:300]
        _say(f"{number} {said}")


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


@dataclass(frozen=True)
class Result:
    """What a fuzz run came to."""

    outcomes: dict[int, str]
    """Case -> code."""
    faults: dict[int, str]
    """Case -> crash, hang, flood of memory or foreign exception."""


def fuzz(folder: Path, first: int, last: int) -> Result:
    """Read the cases in child processes; one that a case brings down is replaced for the next case."""
    outcomes: dict[int, str] = {}
    faults: dict[int, str] = {}
    while first < last:
        at = first
        for number, said in _watched(folder, first, last):
            at = number
            if said.startswith("FAULT"):
                faults[number] = said
            elif said:
                outcomes[number] = said
        first = at + 1
    return Result(outcomes, faults)


def _watched(folder: Path, first: int, last: int) -> Iterator[tuple[int, str]]:
    """(case, what it came to), "" for one that begins. The last is the one that the child did not survive."""
    command = [sys.executable, __file__, str(folder), str(first), str(last)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        lines: queue.Queue[str | None] = queue.Queue()
        threading.Thread(target=_pump, args=(process.stdout, lines), daemon=True).start()
        number, least, begun = first, 0, time.monotonic()
        while True:
            try:
                line = lines.get(timeout=TICK)
            except queue.Empty:
                line = ""
            if line is None:
                break
            if line:
                text, _, said = line.strip().partition(" ")
                number, begun = int(text), time.monotonic()
                yield number, said
            with suppress(psutil.NoSuchProcess):
                used = psutil.Process(process.pid).memory_info().rss
                # what it takes once the libraries are there
                least = least or (used if line and said else 0)
                fault = f"memory: {used >> 20} MB after {least >> 20} MB" if least and used > least + MEMORY else ""
                fault = fault or (f"hang of {SECONDS} s" if time.monotonic() > begun + SECONDS else "")
                if fault:
                    process.kill()
                    yield number, f"FAULT {fault}"
                    return
        status = process.wait()
        if status:
            how = signal.Signals(-status).name if status < 0 else f"exit status {status}"
            yield number, f"FAULT died ({how})"


def _pump(lines: IO[str], into: queue.Queue[str | None]) -> None:
    for line in lines:
        into.put(line)
    into.put(None)


if __name__ == "__main__":
    sys.path.insert(0, os.fspath(Path(__file__).parent))
    child(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
