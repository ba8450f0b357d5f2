"""What tells one file from another."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from wsikit.pipeline.stamps import PIECE, output_facts, size_on_disk, source_stamp


def put(path: Path, data: bytes, mtime: int = 1_000_000_000) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    os.utime(path, ns=(mtime, mtime))
    return path


@pytest.mark.parametrize("place", [0, 10 * PIECE, 20 * PIECE - 1])
def test_a_byte_changed_at_head_middle_or_tail_is_seen_though_size_and_time_are_the_same(
    tmp_path: Path, place: int
) -> None:
    data = bytearray(20 * PIECE)
    before = source_stamp(put(tmp_path / "a.svs", data))
    data[place] ^= 1
    assert source_stamp(put(tmp_path / "a.svs", data)) != before


def test_size_and_time_each_make_another_slide_and_a_second_look_does_not(tmp_path: Path) -> None:
    facts = ((5, 1), (6, 1), (5, 2), (5, 1))
    stamps = [source_stamp(put(tmp_path / "a.svs", b"x" * size, time)) for size, time in facts]
    assert stamps[0] == stamps[3]
    assert len({str(stamp) for stamp in stamps}) == 3


def test_nothing_is_waited_for_that_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.svs")
    stamp = source_stamp(tmp_path / "pipe.svs")
    assert stamp is not None
    assert stamp["quick"] is None
    assert source_stamp(tmp_path / "none.svs") is None


VMS = b"[Virtual Microscope Specimen]\nImageFile=a.jpg\nImageFile(1,0)=b.jpg\nMapFile=map.jpg\nOptimisationFile=a.opt\n"


@pytest.mark.parametrize(
    ("own", "data", "part"),
    [("s.mrxs", b"m", "s/Data0001.dat"), ("s.vms", VMS, "b.jpg"), ("s.vms", VMS, "map.jpg"), ("S.VMU", VMS, "a.opt")],
)
@pytest.mark.parametrize(
    "change",
    [lambda p: p.unlink(), lambda p: put(p, b"longer"), lambda p: put(p, b"x", 7)],
    ids=["removed", "other size", "other time"],
)
def test_a_change_in_the_rest_of_a_slide_in_many_files_makes_another_slide(
    tmp_path: Path, own: str, data: bytes, part: str, change: Callable[[Path], object]
) -> None:
    slide = put(tmp_path / own, data)
    put(tmp_path / part, b"x")
    put(tmp_path / "s" / "Slidedat.ini", b"x")
    before = source_stamp(slide)
    put(tmp_path / "unrelated.jpg", b"y")
    assert source_stamp(slide) == before
    change(tmp_path / part)
    assert source_stamp(slide) != before


def test_parts_that_the_reader_knows_count_too(tmp_path: Path) -> None:
    slide, part = put(tmp_path / "a.dcm", b"a"), put(tmp_path / "b.dcm", b"b")
    before = source_stamp(slide, [part])
    assert before != source_stamp(slide)
    put(part, b"c", 5)
    assert source_stamp(slide, [part]) != before


@pytest.mark.parametrize(
    "line", [b"ImageFile=../../etc/passwd", b"ImageFile=a\0b", b"ImageFile=", b"ImageFile", b"\xff"]
)
def test_a_hostile_listing_is_no_error(tmp_path: Path, line: bytes) -> None:
    assert source_stamp(put(tmp_path / "s.vms", line)) is not None


def test_of_what_is_not_there_it_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        output_facts(tmp_path / "none")


def test_of_a_file_it_is_its_sha256(tmp_path: Path) -> None:
    path = put(tmp_path / "objects.geojson.gz", os.urandom(300_000))
    assert output_facts(path) == {"bytes": 300_000, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}


def test_of_a_folder_it_is_what_sha256sum_of_its_listing_says(tmp_path: Path) -> None:
    """Said by other programs: find, sort, sha256sum."""
    folder = tmp_path / "mask.ome.zarr"
    for name in (".zattrs", "0/c/1/0", "0/c/10", "0/ü", "z"):
        put(folder / name, os.urandom(1000 + len(name)))
    script = (
        "find . -type f | sed 's|^./||' | LC_ALL=C sort | while read -r f; do "
        'echo "$(sha256sum < "$f" | cut -d" " -f1) $(stat -c %s "$f") $f"; done | sha256sum | cut -d" " -f1'
    )
    said = subprocess.run(["bash", "-c", script], cwd=folder, capture_output=True, text=True, check=True).stdout.strip()
    facts = output_facts(folder)
    assert facts["sha256"] == said
    assert facts["bytes"] == size_on_disk(folder) == sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())


@pytest.mark.parametrize("change", ["content", "name", "removed", "added"])
def test_any_change_in_a_folder_changes_it(tmp_path: Path, change: str) -> None:
    for name in ("a", "b/c"):
        put(tmp_path / "out" / name, b"x")
    before, path = output_facts(tmp_path / "out"), tmp_path / "out" / "b" / "c"
    if change == "content":
        path.write_bytes(b"y")
    elif change == "name":
        path.rename(path.with_name("d"))
    elif change == "removed":
        path.unlink()
    else:
        path.with_name("d").write_bytes(b"")
    assert output_facts(tmp_path / "out")["sha256"] != before["sha256"]


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    path = tmp_path / "large"
    with path.open("wb") as file:
        file.truncate(1 << 29)
    script = (
        "import sys; from pathlib import Path; from wsikit.pipeline.stamps import output_facts\n"
        "from wsikit.pipeline.resident import peak_rss_mb\n"
        "before = peak_rss_mb()\n"
        "output_facts(Path(sys.argv[1]))\n"
        "print(peak_rss_mb() - before)"
    )
    done = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 20
