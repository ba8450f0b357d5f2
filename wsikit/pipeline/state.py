"""``slide.json``: what a run says of one slide, and the run's memory of what is done."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from wsikit.atomic import replace_file

SCHEMA = 1
RESULT_VERSION = 1
"""Raised whenever the same input and parameters would give other results than before; old results are then redone."""
TRANSIENT = frozenset({"io_error", "no_space", "internal", "worker_lost", "slide_changed"})
"""Reasons that lie in the machine and not in the slide: such a slide is tried again by the next run."""
_PACKAGES = (
    *("wsikit", "numpy", "scipy", "scikit-image", "shapely", "zarr", "tifffile", "imagecodecs"),
    *("openslide-python", "openslide-bin", "tiffslide", "dask"),
)

Record = dict[str, Any]


def digest(value: object) -> str:
    """sha256 of a JSON-ready value, keys sorted."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()


@cache
def versions() -> dict[str, str]:
    """Python, platform and the packages that results depend on."""
    found = {"python": platform.python_version(), "platform": platform.platform()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def source_stamp(path: Path) -> dict[str, int] | None:
    """Size and modification time of the slide's file, or None where there is none."""
    try:
        status = path.stat()
    except OSError:
        return None
    return {"bytes": status.st_size, "mtime_ns": status.st_mtime_ns}


def read_record(folder: Path) -> Record | None:
    """The slide's record, or None where there is none that can be read."""
    try:
        record = json.loads((folder / "slide.json").read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) and record.get("schema") == SCHEMA else None


def write_record(folder: Path, record: Mapping[str, Any]) -> Record:
    """Replace the slide's record and return it as it will be read. Raises OutputError."""
    text = json.dumps(record, indent=2, ensure_ascii=False, default=str).encode("utf-8", "backslashreplace")
    replace_file(folder / "slide.json", text)
    written: Record = json.loads(text)
    return written


def is_settled(record: Record | None, key: str, folder: Path) -> bool:
    """Whether a slide needs nothing more: same key, an outcome that would not change, all its outputs there."""
    if record is None or record.get("key") != key:
        return False
    if record.get("status") == "failed":
        return record.get("reason") not in TRANSIENT
    if record.get("status") not in {"complete", "partial"}:
        return False
    return all((folder / name).exists() for name in record.get("outputs", {}))
