"""Case 50: whatever slides are called and wherever they lie, a run writes below its output folder and nowhere else."""

from __future__ import annotations

import csv
import hashlib
from pathlib import Path

from tests.faults.runs import CONFIG, blobs
from wsikit.pipeline.batch import run_many
from wsikit.pipeline.inputs import find_slides

IDS = (
    "..",
    "../../evil",
    "/etc/evil",
    "a/b",
    "C:\\evil",
    "a\nb",
    "ä 病",
    "x" * 255,
    "run.yaml",
    ".lease",
    "slide.json",
)


def tree(root: Path, out: Path) -> dict[str, str]:
    """Path -> hash of all below a folder but for the output folder; links as where they lead."""
    return {
        str(path): str(path.readlink()) if path.is_symlink() else hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if (path.is_symlink() or path.is_file()) and not path.is_relative_to(out)
    }


def test_a_manifest_of_hostile_names_and_paths_writes_below_the_output_folder(tmp_path: Path) -> None:
    inside, out = tmp_path / "deep" / "in", tmp_path / "deep" / "out"
    first = blobs(inside / "a.png", 130)
    outside = blobs(tmp_path / "elsewhere" / "a.png", 130)
    link, loop = inside / "link.png", inside / "loop.png"
    link.symlink_to(outside)
    loop.symlink_to(loop)
    paths = [first, Path("../../elsewhere/a.png"), outside, link, loop]
    rows = [(path, "") for path in paths] + [(first, name) for name in IDS]
    manifest = inside / "slides.csv"
    with manifest.open("w", newline="") as file:
        csv.writer(file).writerows([("path", "slide_id"), *rows])
    before = tree(tmp_path, out)
    records = run_many(find_slides(manifest), out, CONFIG)
    assert [record["status"] for record in records] == ["failed" if row[0] == loop else "complete" for row in rows]
    assert len({record["slide_id"].casefold() for record in records}) == len(rows)
    folders = {path.parent for path in out.rglob("slide.json") if path.is_file()}
    assert folders == {out / record["slide_id"] for record in records}
    assert {path.parent for path in folders} == {out}
    assert tree(tmp_path, out) == before


def test_a_folder_of_links_and_namesakes_writes_below_the_output_folder(tmp_path: Path) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    for name in ("p/a.png", "q/a.png", "Q/A.png", "x" * 251 + ".png", "new\nline.png", "ü ¼.png"):
        blobs(source / name, 130)
    (source / "link.png").symlink_to(source / "p" / "a.png")
    (source / "away.png").symlink_to("/dev/null")
    before = tree(tmp_path, out)
    records = run_many(find_slides(source), out, CONFIG)
    assert {r["slide_id"]: r["status"] for r in records if r["status"] != "complete"} == {"away": "failed"}
    assert len(records) == 8
    assert {path.parent.parent for path in out.rglob("slide.json")} == {out}
    assert tree(tmp_path, out) == before
