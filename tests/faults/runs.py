"""Slides of planted blobs, the command that runs a model over them, and what a run left."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tests.planted import INK, PAPER
from wsikit.config import RunConfig

ROOT = Path(__file__).parents[2]
MODEL = "tests/faults/model.py:Faulty"
OF_THE_RUN = {"slide.json", "run.yaml", "summary.csv", "report.html"}
"""Files that tell times, hosts and versions; all others are results."""
MEMORY = 400 << 20
"""Limit of a worker, which needs about 100 MB of its own; ``--max-memory`` leaves none so little."""
CONFIG = RunConfig(
    model=str(ROOT / MODEL), mpp_override=0.5, num_workers=2, cluster="threads", supertile=128, tissue="whole"
)


def blobs(path: Path, side: int = 640, gap: int = 54) -> Path:
    """A picture with blobs inside and across the seams of super-tiles; 25 super-tiles of 128 px by default."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.full((side, side, 3), PAPER, np.uint8)
    for y in range(20, side - 20, gap):
        for x in range(20, side - 20, gap):
            pixels[y : y + 12, x : x + 12] = INK
    Image.fromarray(pixels).save(path)
    return path


def command(source: Path, out: Path, *flags: str) -> list[str]:
    """``wsikit run`` over a folder with the planted model, in two workers."""
    code = (
        "from wsikit.pipeline import batch\n"
        "real = batch.open_workers\n"
        f"batch.open_workers = lambda *given, **named: real(*given, **named | {{'memory': {MEMORY}}})\n"
        "from wsikit.cli.main import app; app()"
    )
    return [
        *(sys.executable, "-c", code, "run", "-i", str(source), "-o", str(out), "-m", MODEL, "-n", "2"),
        *("--supertile", "128", "--tissue", "whole", "--mpp-override", "0.5", *flags),
    ]


def start(line: list[str], site: Path | None = None) -> subprocess.Popen[str]:
    """Begin a command, with packages of a folder where one is given."""
    path = os.pathsep.join([str(ROOT), *([str(site)] if site else [])])
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(line, cwd=ROOT, env=os.environ | {"PYTHONPATH": path}, **pipes)


def finished(line: list[str], site: Path | None = None, seconds: float = 240) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    run = start(line, site)
    output, errors = run.communicate(timeout=seconds)
    return subprocess.CompletedProcess(line, run.returncode, output, errors)


def records(out: Path) -> dict[str, dict[str, Any]]:
    """Slide id -> what its slide.json says."""
    return {path.parent.name: json.loads(path.read_text()) for path in sorted(out.glob("*/slide.json"))}


def outcomes(out: Path) -> dict[str, tuple[str, str]]:
    """Slide id -> (status, reason)."""
    return {name: (record["status"], record["reason"]) for name, record in records(out).items()}


def results(out: Path) -> dict[str, str]:
    """Path below the folder -> hash of what the file holds, of all results and of nothing that is hidden."""
    found = {}
    for path in sorted(out.rglob("*")):
        name = path.relative_to(out)
        if path.is_file() and path.name not in OF_THE_RUN and not _hidden(name):
            data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
            found[str(name)] = hashlib.sha256(data).hexdigest()
    return found


def left_over(out: Path) -> list[str]:
    """Temporary files and spools, lease included."""
    return sorted(str(path.relative_to(out)) for path in out.rglob(".*") if not path.name.startswith(".z"))


def _hidden(name: Path) -> bool:
    # Zarr 2 keeps its metadata in hidden files
    return any(part.startswith(".") and not part.startswith(".z") for part in name.parts)
