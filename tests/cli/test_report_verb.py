"""``wsikit report`` as a user meets it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


def wsikit(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "wsikit.cli", *map(str, words)], capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output of a run of the command over two fields and a file that is no slide."""
    folder = tmp_path_factory.mktemp("report")
    (folder / "in").mkdir()
    for i in range(2):
        pixels = np.random.default_rng(i).integers(40, 200, (80, 80, 3), np.uint8)
        Image.fromarray(pixels).save(folder / "in" / f"field-{i}.png")
    (folder / "in" / "none.svs").write_bytes(b"no slide")
    flags = ("-m", "stain-area", "--mpp-override", "0.5", "-n", "1")
    done = wsikit("run", "-i", folder / "in", "-o", folder / "out", *flags)
    assert done.returncode == 3, done.stderr
    return folder / "out"


def test_the_command_writes_what_the_run_wrote(out: Path) -> None:
    names = ("report.html", "summary.csv")
    before = [(out / name).read_bytes() for name in names]
    for name in names:
        (out / name).unlink()
    done = wsikit("report", out)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"3 files: 2 complete, 1 failed\nreport: {out / 'report.html'}\n"
    assert [(out / name).read_bytes() for name in names] == before


@pytest.mark.parametrize("name", ["in", "nowhere"])
def test_a_folder_that_no_run_wrote_is_refused_in_one_message(out: Path, name: str) -> None:
    folder = out.parent / name
    done = wsikit("report", folder)
    assert done.returncode == 2
    assert f"{folder} is no output of a run" in done.stderr
    assert "what to do" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (folder / "report.html").exists()


def test_a_broken_record_is_a_row_and_no_traceback(out: Path) -> None:
    record = out / "field-1" / "slide.json"
    whole = record.read_text()
    record.write_text(json.dumps(json.loads(whole) | {"objects_per_class": 7}))
    done = wsikit("report", out)
    record.write_text(whole)
    assert (done.returncode, done.stdout.splitlines()[0]) == (0, "3 files: 1 complete, 2 failed")
    assert "bad_record" in (out / "summary.csv").read_text()
