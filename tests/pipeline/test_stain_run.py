"""``--stain`` from the command line to slide.json: recorded, part of the resume key, warned of, reused."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.stain.mixtures import section
from wsikit.config import RunConfig
from wsikit.errors import ConfigError
from wsikit.pipeline.batch import run_many
from wsikit.pipeline.inputs import find_slides
from wsikit.slides import open_slide


@pytest.fixture
def source(cmu: Path, tmp_path: Path) -> Path:
    """A folder with a field of tissue and a blank one."""
    folder = tmp_path / "in"
    folder.mkdir()
    with open_slide(cmu) as slide:
        Image.fromarray(slide.reader.read(0, 700, 1500, 400, 400)).save(folder / "tissue.png")
    Image.new("RGB", (300, 300), (244, 244, 244)).save(folder / "blank.png")
    return folder


def reference(path: Path, seed: int = 0) -> Path:
    Image.fromarray(section(seed, 0.3)[:40_000].reshape(200, 200, 3)).save(path)
    return path


def run(source: Path, out: Path, stain: str | None) -> dict[str, dict[str, Any]]:
    config = RunConfig(
        model="nuclei-classical",
        mpp_override=0.5,
        num_workers=1,
        cluster="threads",
        format=("geojson.gz",),
        stain=stain,
    )
    return {record["slide_id"]: record for record in run_many(find_slides(str(source), out), out, config)}


def wsikit_run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "wsikit.cli", "run", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_a_run_records_profiles_and_warns_of_blank_slides(source: Path, tmp_path: Path) -> None:
    spec = f"macenko:{reference(tmp_path / 'ref.png')}"
    records = run(source, tmp_path / "out", spec)
    assert {record["status"] for record in records.values()} == {"complete"}
    stain = records["tissue"]["bound"]["stain"]
    assert (stain["method"], stain["reference"], len(stain["profile"]["stains"])) == ("macenko", "ref.png", 2)
    assert records["tissue"]["warnings"] == []
    (warning,) = records["blank"]["warnings"]
    assert "not normalised" in warning
    assert "not normalised" in (tmp_path / "out" / "report.html").read_text()
    assert f"stain: {spec}" in (tmp_path / "out" / "run.yaml").read_text().replace("'", "")


def test_the_resume_key_follows_the_reference_and_its_pixels(source: Path, tmp_path: Path) -> None:
    ref, out = reference(tmp_path / "ref.png"), tmp_path / "out"

    def outcome(stain: str | None) -> tuple[str, str]:
        record = run(source, out, stain)["tissue"]
        return record["key"], record["finished"]

    plain, first, again = outcome(None), outcome(f"macenko:{ref}"), outcome(f"macenko:{ref}")
    reference(ref, seed=1)
    changed = outcome(f"macenko:{ref}")
    assert first == again
    assert len({plain[0], first[0], changed[0]}) == 3


def test_the_record_of_a_slide_is_a_reference(source: Path, tmp_path: Path) -> None:
    spec = f"macenko:{reference(tmp_path / 'ref.png')}"
    profile = run(source, tmp_path / "one", spec)["tissue"]["bound"]["stain"]["profile"]
    record = tmp_path / "one" / "tissue" / "slide.json"
    again = run(source, tmp_path / "two", f"macenko:{record}")["tissue"]
    assert again["bound"]["stain"]["profile"] == profile
    with pytest.raises(ConfigError, match="neither a stain profile nor"):
        run(source, tmp_path / "two", f"macenko:{tmp_path / 'one' / 'blank' / 'slide.json'}")


def test_a_slide_that_is_its_own_reference_gives_what_it_gives_without(source: Path, tmp_path: Path) -> None:
    (source / "blank.png").unlink()
    spec = f"macenko:{reference(tmp_path / 'ref.png')}"
    run(source, tmp_path / "one", spec)
    own = run(source, tmp_path / "two", f"macenko:{tmp_path / 'one' / 'tissue' / 'slide.json'}")["tissue"]
    plain, moved = run(source, tmp_path / "three", None)["tissue"], run(source, tmp_path / "four", "macenko")["tissue"]
    assert own["objects"] == plain["objects"] > 20
    threshold = "haematoxylin_threshold_od"
    assert own["bound"][threshold] == plain["bound"][threshold] != moved["bound"][threshold]


def test_a_blank_reference_stops_the_run_before_anything_is_written(source: Path, tmp_path: Path) -> None:
    Image.fromarray(np.full((300, 300, 3), 250, np.uint8)).save(tmp_path / "blank.png")
    arguments = ["-i", str(source), "-o", str(tmp_path / "out"), "--stain", f"macenko:{tmp_path / 'blank.png'}"]
    done = wsikit_run(*arguments)
    assert done.returncode == 2
    assert "pixels hold stain" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


def test_the_command_line_runs_the_sample_slide(cmu: Path, tmp_path: Path) -> None:
    ref = reference(tmp_path / "ref.png")
    out = tmp_path / "out"
    arguments = ["-i", str(cmu), "-o", str(out), "-m", "nuclei-classical", "-n", "1", "--format", "geojson.gz"]
    done = wsikit_run(*arguments, "--stain", f"macenko:{ref}")
    assert done.returncode == 0, done.stderr
    (path,) = out.glob("*/slide.json")
    record = json.loads(path.read_text())
    assert record["bound"]["stain"]["profile"]["method"] == "macenko"
    assert record["objects"] > 1000
