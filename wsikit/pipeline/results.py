"""What super-tiles gave beside their spools, kept on disk: a run that was killed goes on from there.

A super-tile is done when its ``t<index>.npz`` is there, written after everything else that it spooled.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsikit.errors import OutputError
from wsikit.pipeline.busy import Busy
from wsikit.pipeline.state import digest
from wsikit.pipeline.supertile import TaskResult, sha256_of
from wsikit.quality import Quality
from wsikit.slides import BadTile
from wsikit.stitching import spool as spools


def save_result(spool: Path, index: int, result: TaskResult) -> None:
    """Write what super-tile ``index`` gave: from now on it is done."""
    bad = [[tile.level, list(tile.box), tile.downsample] for tile in result.bad]
    facts = {"bad": bad, "readable": result.readable, "files": result.files, "busy": asdict(result.busy)}
    facts |= {"pid": result.pid, "peak_rss_mb": result.peak_rss_mb}
    quality = np.array(result.quality.rows(), np.float64)
    text = np.frombuffer(json.dumps(facts).encode(), np.uint8)
    spools.save(_path(spool, index), quality=quality, dropped=result.dropped, facts=text)


def load_result(spool: Path, index: int) -> TaskResult:
    """What super-tile ``index`` gave. Raises OutputError where it is not there or not whole."""
    path = _path(spool, index)
    try:
        return _result(spools.load(path))
    except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise OutputError(f"the intermediate result {path} cannot be read: {error}", remedy="run again") from error


def is_done(spool: Path, index: int) -> bool:
    """Whether a super-tile is done, with all that it spooled there as it was written.

    After a power failure files may be there and empty.
    """
    if not _path(spool, index).is_file():
        return False
    try:
        files = load_result(spool, index).files
        return all(sha256_of(spool / name) == sha256 for name, sha256 in files.items())
    except OSError:
        return False


def digests(results: Iterable[TaskResult]) -> list[str]:
    """One short hash for each super-tile, of all that it spooled: equal where the model said the same of it."""
    return [digest(result.files)[:16] for result in results]


def _path(spool: Path, index: int) -> Path:
    return spool / f"t{index}.npz"


def _result(arrays: dict[str, NDArray[Any]]) -> TaskResult:
    facts = json.loads(arrays["facts"].tobytes())
    bad = tuple(BadTile(level, tuple(box), downsample) for level, box, downsample in facts["bad"])
    return TaskResult(
        quality=Quality.from_rows(arrays["quality"].tolist()),
        dropped=arrays["dropped"],
        bad=bad,
        readable=facts["readable"],
        files=facts["files"],
        busy=Busy.of(facts["busy"]),
        pid=facts["pid"],
        peak_rss_mb=facts["peak_rss_mb"],
    )
