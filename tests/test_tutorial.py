"""The tutorial is true: its commands and its Python run as they stand, one after another, in an empty folder."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = (Path(__file__).parents[1] / "docs" / "tutorial.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(sh|python)\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def folder(cmu: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder after all blocks have run."""
    folder = tmp_path_factory.mktemp("tutorial")
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    # the sample is found where the tests found it, so that nothing is fetched
    environment = {**os.environ, "PATH": path, "WSIKIT_CACHE": str(cmu.parent)}
    for language, code in BLOCKS:
        command = ["bash", "-euc", code] if language == "sh" else [sys.executable, "-c", code]
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, f"{code}\n{done.stdout}\n{done.stderr}"
    return folder


def test_every_file_that_the_page_names_is_there(folder: Path) -> None:
    named = set(re.findall(r"`((?:out|tissue|figures)/[A-Za-z0-9_./-]+)`", PAGE))
    assert len(named) >= 8
    assert not [name for name in sorted(named) if not (folder / name).exists()]


def test_all_slides_of_the_cohort_are_complete(folder: Path) -> None:
    records = [
        json.loads((folder / "out" / name / "slide.json").read_text("utf-8")) for name in ("A1", "B1", "C1", "D1")
    ]
    assert [record["status"] for record in records] == ["complete"] * 4
    assert all(record["objects"] > 100 for record in records)
    assert [record["patient"] for record in records] == ["anna", "bert", "cleo", "dora"]


def test_a_model_is_right_of_itself(folder: Path) -> None:
    figures = json.loads((folder / "figures" / "metrics.json").read_text("utf-8"))
    assert figures["metrics"]["object_f1"]["pooled"] == pytest.approx(1, abs=0.002)


def test_the_head_scores_the_slide(folder: Path) -> None:
    record = json.loads((folder / "out-head" / "cmu-1-small-region" / "slide.json").read_text("utf-8"))
    assert set(record["scores"]) == {"benign", "tumour"}
    assert sum(record["scores"].values()) == pytest.approx(1)
