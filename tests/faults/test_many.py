"""Case 61: hundreds of small slides, some of them corrupt: each ends in its code, nothing grows with their number."""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import psutil
import pytest

from tests.faults.runs import CONFIG, blobs, left_over, outcomes
from wsikit.pipeline.batch import run_many
from wsikit.pipeline.inputs import find_slides

PART = 20
"""One of so many is corrupt: 5 %."""


def _flipped(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 255
    path.write_bytes(data)


def _folder(path: Path) -> None:
    path.unlink()
    path.with_suffix(".svs").mkdir()


def _renamed(path: Path) -> None:
    path.rename(path.with_suffix(".svs"))


def _fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


CORRUPT: list[tuple[Callable[[Path], object], str]] = [
    (lambda path: path.write_bytes(b""), "unreadable"),
    (lambda path: path.write_text("not a slide\n" * 100), "unreadable"),
    (lambda path: os.truncate(path, path.stat().st_size // 2), "unreadable_pixels"),
    (_folder, "not_a_file"),
    (_fifo, "not_a_file"),
]


@dataclass
class Watch:
    """Open files and memory of this process and its children, four times a second."""

    samples: list[tuple[int, float, int, int, float]] = field(default_factory=list)
    """(descriptors, MB) of this process; children, and the most descriptors and MB of one of them."""
    pids: set[int] = field(default_factory=set)
    _over: threading.Event = field(default_factory=threading.Event)

    def _look(self) -> None:
        this = psutil.Process()
        while not self._over.wait(0.25):
            children = []
            for child in this.children():
                with suppress(psutil.Error):
                    children.append((child.num_fds(), child.memory_info().rss / 2**20))
                    self.pids.add(child.pid)
            if children:
                files, memory = (max(values) for values in zip(*children, strict=True))
                self.samples.append((this.num_fds(), this.memory_info().rss / 2**20, len(children), files, memory))

    def __enter__(self) -> Watch:
        self._thread = threading.Thread(target=self._look)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def quarters(self) -> tuple[np.ndarray, np.ndarray]:
        """Medians of the second and of the last quarter."""
        samples = np.array(self.samples)
        quarter = len(samples) // 4
        return np.median(samples[quarter : 2 * quarter], axis=0), np.median(samples[-quarter:], axis=0)


@pytest.mark.slow
@pytest.mark.parametrize("count", [500])
def test_hundreds_of_slides_some_corrupt(count: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    expected = {}
    for i in range(count):
        path = blobs(tmp_path / "in" / f"{i:03}.png", 180 + i % 7)
        expected[path.stem] = ("complete", "")
        if i % PART == 7:
            corrupt, code = CORRUPT[i // PART % len(CORRUPT)]
            corrupt(path)
            expected[path.stem] = ("failed", code)
    out, clock = tmp_path / "out", time.monotonic()
    rounds, minutes = 0, float(os.environ.get("WSIKIT_SOAK_MINUTES", "0"))
    with Watch() as watch:
        while rounds == 0 or time.monotonic() - clock < 60 * minutes:
            run_many(find_slides(tmp_path / "in"), out, CONFIG.model_copy(update={"cluster": "local"}), force=True)
            rounds += 1
    took = time.monotonic() - clock
    before, after = watch.quarters()
    names = ("files", "MB", "children", "files of a child", "MB of a child")
    with capsys.disabled():
        print(f"\n{count} slides in {took:.0f} s, {len(watch.pids)} children; second and last quarter:")  # noqa: T201
        print({name: (round(float(a), 1), round(float(b), 1)) for name, a, b in zip(names, before, after, strict=True)})  # noqa: T201
    assert outcomes(out) == expected
    assert Counter(status for status, _ in expected.values()) == {"complete": count * 19 // 20, "failed": count // PART}
    assert len(watch.pids) == 2 * rounds
    assert not left_over(out)
    assert after[0] <= before[0] + 2
    assert after[3] <= before[3] + 2
    assert after[1] <= before[1] * 1.1 + 5
    assert after[4] <= before[4] * 1.1 + 5
