"""Tar shards as the webdataset library's convention has them, and folders as people look at them."""

from __future__ import annotations

import csv
import json
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.patches.planted import planted
from wsikit.errors import OutputError
from wsikit.patches.images import decode


def samples(tars: list[Path]) -> list[dict[str, bytes | str]]:
    """As webdataset groups members: what stands before the first dot of the name is the key, the rest the field."""
    found: list[dict[str, bytes | str]] = []
    for path in tars:
        with tarfile.open(path) as tar:
            for member in tar:
                key, field = member.name.split(".", 1)
                if not found or found[-1]["__key__"] != key:
                    found.append({"__key__": key})
                content = tar.extractfile(member)
                assert content is not None
                found[-1][field] = content.read()
    return found


@pytest.mark.parametrize(("label", "cls"), [("3", b"3"), ("Tumour", None), (None, None), ("-1", None), ("1.5", None)])
def test_samples_are_grouped_by_their_key(label: str | None, cls: bytes | None, tmp_path: Path) -> None:
    wanted = planted(7, label=label, columns={"site": "Łódź"})
    path = wanted.write(tmp_path, "webdataset", shard=3)
    tars = sorted(path.glob("*.tar"))
    assert [tar.name for tar in tars] == [f"case 1.a-{i:06d}.tar" for i in range(3)]
    found = samples(tars)
    assert len({sample["__key__"] for sample in found}) == 7
    for index, sample in enumerate(found):
        x, y = (round(value) for value in wanted.rows.xy[index])
        assert sample["__key__"] == f"case 1_a_{x}_{y}"
        assert sample["png"] == wanted.rows.data[index]
        assert sample.get("cls") == cls
        said = json.loads(sample["json"])
        assert (said["slide_id"], said["label"], said["site"]) == ("case 1.a", label, "Łódź")
        assert [said["x"], said["y"]] == wanted.rows.xy[index].tolist()
        assert set(sample) <= {"__key__", "png", "json", "cls"}


def test_members_have_no_owner_and_no_time(tmp_path: Path) -> None:
    path = planted(2).write(tmp_path, "webdataset")
    with tarfile.open(next(path.glob("*.tar"))) as tar:
        heads = {(m.mtime, m.uid, m.gid, m.uname, m.gname, m.mode) for m in tar}
    assert heads == {(0, 0, 0, "", "", 0o644)}


def test_long_names_keep_their_offsets(tmp_path: Path) -> None:
    """Over 100 bytes a name takes headers of its own."""
    wanted = planted(3, slide_id="ł" * 60)
    source = wanted.open(wanted.write(tmp_path, "webdataset"), "webdataset")
    for index, image in enumerate(wanted.images):
        np.testing.assert_array_equal(source.read(index), image)


def test_a_folder_has_images_by_place_and_a_table(tmp_path: Path) -> None:
    wanted = planted(5, label="Tumour", columns={"x": "not mine", "site": "Łódź"})
    path = wanted.write(tmp_path, "folder")
    with (path / "patches.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    names = [f"case 1.a_{round(x)}_{round(y)}.png" for x, y in wanted.rows.xy.tolist()]
    assert [row["file"] for row in rows] == names
    assert sorted(p.name for p in path.glob("*.png")) == sorted(names)
    for row, xy, image in zip(rows, wanted.rows.xy.tolist(), wanted.images, strict=True):
        assert [float(row["x"]), float(row["y"])] == xy
        assert (row["label"], row["split"], row["site"], row["mpp"]) == ("Tumour", "", "Łódź", "0.5")
        np.testing.assert_array_equal(decode((path / row["file"]).read_bytes()), image)


def test_jpegs_are_called_jpg(tmp_path: Path) -> None:
    path = planted(2, encoding="jpeg").write(tmp_path, "folder")
    assert len(list(path.glob("*.jpg"))) == 2


def test_two_patches_of_one_place_are_refused(tmp_path: Path) -> None:
    wanted = planted(2)
    twice = replace(wanted, rows=replace(wanted.rows, xy=np.zeros((2, 2))))
    with pytest.raises(OutputError):
        twice.write(tmp_path, "folder")
