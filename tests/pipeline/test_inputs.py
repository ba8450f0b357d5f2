"""From what the user points at to slides with ids that cannot collide."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from wsikit.config import RunConfig, TileConfig
from wsikit.errors import ConfigError
from wsikit.pipeline.batch import run_many
from wsikit.pipeline.inputs import ID_BYTES, find_slides, safe_name
from wsikit.pipeline.tile import tile_many


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return folder


def ids(source: str | Path, out: Path | None = None) -> dict[str, str]:
    """id -> file name."""
    return {entry.slide_id: entry.path.name for entry in find_slides(source, out)}


def manifest(folder: Path, text: str, name: str = "cohort.csv") -> Path:
    path = folder / name
    path.write_bytes(text.encode())
    return path


def test_a_folder_is_searched_below(tmp_path: Path) -> None:
    touch(tmp_path, "a.svs", "x/b.NDPI", "x/y/c.tiff", "x/d.png")
    assert list(ids(tmp_path)) == ["a", "x__b", "x__d", "x__y__c"]


def test_other_files_and_hidden_ones_are_passed_over(tmp_path: Path) -> None:
    touch(tmp_path, "a.svs", "notes.txt", "b", ".c.svs", ".git/d.svs", "x/._e.svs")
    assert list(ids(tmp_path)) == ["a"]


def test_the_order_does_not_depend_on_the_disk(tmp_path: Path) -> None:
    touch(tmp_path, *(f"{name}.svs" for name in "qhxbzka"))
    assert list(ids(tmp_path)) == sorted("qhxbzka")


def test_one_file_is_one_slide_whatever_its_suffix(tmp_path: Path) -> None:
    touch(tmp_path, "odd.scan")
    assert ids(tmp_path / "odd.scan") == {"odd": "odd.scan"}


def test_a_folder_that_is_called_a_slide_is_accounted_for(tmp_path: Path) -> None:
    (tmp_path / "case.svs").mkdir()
    assert ids(tmp_path / "case.svs") == ids(tmp_path) == {"case": "case.svs"}


@pytest.mark.parametrize("pattern", ["*/*.svs", "**/*.svs", "[xy]/?.svs"])
def test_a_pattern_names_slides_as_its_folder_does(tmp_path: Path, pattern: str) -> None:
    touch(tmp_path, "x/a.svs", "y/a.svs")
    assert ids(str(tmp_path / pattern)) == ids(tmp_path) == {"x__a": "a.svs", "y__a": "a.svs"}


def test_a_relative_pattern(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, "a.svs")
    monkeypatch.chdir(tmp_path)
    assert ids("*.svs") == ids("./*.svs") == {"a": "a.svs"}


def test_a_file_whose_name_looks_like_a_pattern(tmp_path: Path) -> None:
    touch(tmp_path, "a[1].svs", "a1.svs")
    assert list(ids(str(tmp_path / "a[1].svs")).values()) == ["a[1].svs"]


@pytest.mark.parametrize("source", [".", "*/*.svs"])
def test_new_files_rename_nobody(tmp_path: Path, source: str) -> None:
    touch(tmp_path, "x/a.svs", "x/b.svs")
    before = ids(str(tmp_path / source))
    touch(tmp_path, "y/a.svs", "z/deep/b.svs", "x/c.svs", "a.svs")
    assert before.items() <= ids(str(tmp_path / source)).items()


@pytest.mark.parametrize(
    "names",
    [
        ("x/a.svs", "y/a.svs"),
        ("a.svs", "a.tif", "a.png"),
        ("a.svs", "A.svs", "x/a.svs", "X/A.svs"),
        ("x/y.svs", "x__y.svs", "x__y.tif"),
        ("a.svs", "a.svs.tif", "a.tif"),
        ("straße.svs", "STRASSE.svs"),
    ],
)
def test_ids_differ_whatever_the_case(tmp_path: Path, names: Iterable[str]) -> None:
    touch(tmp_path, *names)
    found = [entry.slide_id.casefold() for entry in find_slides(tmp_path)]
    assert len(set(found)) == len(found) == len(list(names))


def test_the_suffix_tells_namesakes_apart(tmp_path: Path) -> None:
    touch(tmp_path, "a.svs", "a.tif")
    assert ids(tmp_path) == {"a.svs": "a.svs", "a.tif": "a.tif"}


parts = st.sampled_from(["a", "A", "a__b", "b", "a.svs", "__", "con", "é", "a b", "a?", "a-", "a-__a"])
folders = st.sampled_from([(), ("a",), ("A",), ("a", "a"), ("b__a",), ("b", "a")])


@settings(max_examples=60)
@given(files=st.sets(st.tuples(folders, parts, st.sampled_from([".svs", ".tif"])), min_size=1, max_size=8))
def test_any_tree_gives_distinct_ids(
    tmp_path_factory: pytest.TempPathFactory, files: set[tuple[tuple[str, ...], str, str]]
) -> None:
    with tempfile.TemporaryDirectory(dir=tmp_path_factory.getbasetemp()) as folder:
        for above, stem, suffix in files:
            # folders end in "-", so that none is where a file has to be
            touch(Path(folder), "/".join([*(f"{part}-" for part in above), stem + suffix]))
        found = [entry.slide_id.casefold() for entry in find_slides(folder)]
        assert len(set(found)) == len(found) == len(files)


hostile = st.one_of(
    st.text(max_size=300),
    st.text("aA.-_/\\: \n\0\t~", max_size=12),
    st.binary(max_size=255).map(os.fsdecode),
    st.sampled_from(
        ["", ".", "..", "../..", "/etc/passwd", "con", "NUL.tif", "Com1", "run.yaml", "SUMMARY.CSV", "-rf"]
    ),
)


@settings(max_examples=300)
@given(hostile)
@example("é" * 200)
@example("\U0001f9ec" * 100)
def test_a_safe_name_is_one_plain_visible_folder(text: str) -> None:
    name = safe_name(text)
    assert name
    assert Path(name).name == name
    assert not name.startswith(".")
    assert ".." not in name
    assert name == name.strip(" .")
    assert name.isprintable()
    assert len(name.encode("utf-8")) <= ID_BYTES + 9
    assert not set('/\\:*?"<>|\0') & set(name)
    assert name.partition(".")[0].lower() not in {"con", "prn", "aux", "nul", "com1", "lpt1"}
    assert name.lower() not in {"run.yaml", "summary.csv", "report.html"}


@settings(max_examples=150)
@given(hostile)
def test_a_safe_name_can_be_made_on_disk(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    with tempfile.TemporaryDirectory(dir=tmp_path_factory.getbasetemp()) as base:
        (Path(base) / safe_name(text)).mkdir()
        assert [path.name for path in Path(base).iterdir()] == [safe_name(text)]


@settings(max_examples=300)
@given(hostile, hostile)
@example("a/b", "a\\b")
@example("a" * 121, "a" * 122)
@example("x" * 120 + "1", "x" * 120 + "2")
@example(".a", "a")
@example("a\n", "a")
@example("", "slide")
@example(" a", "a ")
def test_two_texts_give_two_names(one: str, two: str) -> None:
    if one.casefold() != two.casefold():
        assert safe_name(one).casefold() != safe_name(two).casefold()


@pytest.mark.parametrize("name", ["TCGA-A2-A0YE-01Z-00-DX1.8A2E", "Präparat 3", "切片_7", "a+b=c@d~e", "x-20230115"])
def test_ordinary_names_stay_as_they_are(name: str) -> None:
    assert safe_name(name) == name


@pytest.mark.parametrize(
    "raw",
    [
        b"new\nline.svs",
        b"..a..svs",
        b"a" * 251 + b".svs",
        b"CON.svs",
        "\u5207\u7247.svs".encode(),
        b"bad\xff.svs",
        b"$(rm).svs",
        b"-rf.svs",
        b"summary.csv.png",
    ],
)
def test_hostile_files_are_found_under_safe_names(tmp_path: Path, raw: bytes) -> None:
    name = os.fsdecode(raw)
    if name.startswith("."):
        name = "x" + name
    touch(tmp_path, name)
    (entry,) = find_slides(tmp_path)
    assert entry.path == tmp_path / name
    assert entry.path.exists()
    (tmp_path / "out" / entry.slide_id).mkdir(parents=True)


def test_the_output_folder_is_no_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, "a.svs", "out/a/stray.png")
    monkeypatch.chdir(tmp_path / "out")
    for out in (tmp_path / "out", Path(), tmp_path / "x" / ".." / "out"):
        assert ids(tmp_path, out) == ids(str(tmp_path / "**" / "*.*"), out) == {"a": "a.svs"}


@pytest.mark.parametrize("record", ["slide.json", "tissue.geojson"])
def test_pictures_of_another_run_are_no_input(tmp_path: Path, record: str) -> None:
    touch(tmp_path, "a.svs", "old/a/overview.png", f"old/a/{record}")
    assert ids(tmp_path) == {"a": "a.svs"}


def test_a_slide_json_of_the_users_own_hides_nothing(tmp_path: Path) -> None:
    touch(tmp_path, "case/a.svs", "case/slide.json")
    assert ids(tmp_path) == {"case__a": "a.svs"}


def test_patches_of_another_run_are_no_input(tmp_path: Path) -> None:
    tile = {"mpp_override": 0.5, "size": 128, "mpp": 0.5, "tissue": "whole", "cluster": "threads", "num_workers": 1}
    pixels = np.random.default_rng(0).integers(60, 200, (256, 256, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "case.png")
    for lossless in (False, True):
        out = tmp_path / f"tiles-{lossless}"
        (record,) = tile_many(find_slides(tmp_path), out, TileConfig(format="folder", lossless=lossless, **tile))
        assert record["patches"] == len(list((out / "case" / "patches").glob("case_*_*.*g"))) == 4
        assert ids(tmp_path) == ids(str(tmp_path / "**" / "*.*")) == {"case": "case.png"}
        with pytest.raises(ConfigError, match=r"no slides in .* but 5 files that wsikit wrote .*manifest"):
            find_slides(out)
        with pytest.raises(ConfigError, match="none of them a slide but 4 files that wsikit wrote"):
            find_slides(str(out / "case" / "patches" / "*.*"))
        assert len(find_slides(manifest(out, "path\ncase/patches/case_0_0.png\n"))) == 1


@pytest.mark.parametrize("table", ["patches.csv", "patches.json"])
def test_a_table_of_the_users_own_hides_nothing(tmp_path: Path, table: str) -> None:
    touch(tmp_path, "case/a.png", f"case/{table}", "x/b.svs", "x/patches.csv", "x/patches.json")
    assert ids(tmp_path) == {"case__a": "a.png", "x__b": "b.svs"}


VMS = """[Virtual Microscope Specimen]
ImageFile=CMU-40x - 2010-01-12 13.24.05.jpg
ImageFile(1,0)=images\\CMU_1_0.jpg
MapFile=CMU_map2.jpg
MacroImage=CMU_macro.jpg
OptimisationFile=CMU.opt
"""


@pytest.mark.parametrize("suffix", [".vms", ".VMU"])
def test_the_images_that_a_hamamatsu_slide_lists_are_read_with_it(tmp_path: Path, suffix: str) -> None:
    images = ["CMU-40x - 2010-01-12 13.24.05.jpg", "CMU_1_0.jpg", "CMU_macro.jpg", "CMU_map2.jpg"]
    touch(tmp_path, *(f"x/{name}" for name in (*images, "CMU.opt", "field.jpg", f"CMU{suffix}")), "CMU_1_0.jpg")
    (tmp_path / "x" / f"CMU{suffix}").write_text(VMS)
    for source in (tmp_path, tmp_path / "**" / "*.*"):
        found = {entry.slide_id: entry for entry in find_slides(source)}
        alone = ["CMU_1_0", "x__CMU", "x__field"]
        assert [name for name, entry in found.items() if entry.part_of is None] == alone
        assert [entry.path.name for entry in found.values() if entry.part_of == "x__CMU"] == images
        assert [path.name for path in found["x__CMU"].parts] == images
    (field,) = find_slides(tmp_path / "x" / "CMU_1_0.jpg")
    assert field.part_of is None


def test_a_file_of_another_slide_is_told_as_such(tmp_path: Path) -> None:
    touch(tmp_path, "CMU_1_0.jpg")
    (tmp_path / "CMU.vms").write_text(VMS)
    records = run_many(find_slides(tmp_path), tmp_path / "out", RunConfig(model="nuclei-classical", cluster="threads"))
    assert [(record["slide_id"], record["status"], record["reason"]) for record in records] == [
        ("CMU", "failed", "unreadable"),
        ("CMU_1_0", "skipped", "same_slide"),
    ]
    assert records[1]["message"] == "a file of the slide CMU, read with it"


@pytest.mark.parametrize("out", [".", ".."])
def test_an_output_folder_around_the_input_hides_nothing(tmp_path: Path, out: str) -> None:
    touch(tmp_path, "in/a.svs", "in/b/c.svs")
    assert list(ids(tmp_path / "in", tmp_path / "in" / out)) == ["a", "b__c"]


def test_an_empty_folder_says_what_would_count(tmp_path: Path) -> None:
    touch(tmp_path, "notes.doc")
    with pytest.raises(ConfigError, match=r"no slides in .*known suffixes: .*\.svs"):
        find_slides(tmp_path)


def test_what_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file or folder"):
        find_slides(tmp_path / "none.svs")


def test_a_pattern_without_slides_says_so(tmp_path: Path) -> None:
    touch(tmp_path, "a.doc", "b.doc")
    with pytest.raises(ConfigError, match=r"matches 2 files, none of them a slide"):
        find_slides(str(tmp_path / "*.doc"))


def test_a_name_that_no_disk_takes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be looked at"):
        find_slides(tmp_path / ("a" * 300))


@pytest.mark.parametrize("path", ["path", "image_path", "wsi", "FILENAME", "Path", " WSI ", "filename"])
@pytest.mark.parametrize("name", ["slide_id", "SAMPLE_ID"])
@pytest.mark.parametrize("patient", ["patient", "PATIENT"])
def test_columns_go_by_their_aliases(tmp_path: Path, path: str, name: str, patient: str) -> None:
    table = manifest(tmp_path, f"mpp,{patient},{path},{name},MASK_PATH,other\n0.25,p1,a.svs,one,m.png,x\n")
    (entry,) = find_slides(table)
    assert (entry.path, entry.slide_id, entry.mpp) == (tmp_path / "a.svs", "one", 0.25)
    assert (entry.mask_path, entry.patient) == (tmp_path / "m.png", "p1")


def test_empty_cells_and_short_rows_are_values_not_given(tmp_path: Path) -> None:
    for text in ("path,slide_id,mpp,mask_path,patient\na.svs,,,,\n", "path,slide_id,mpp\na.svs\n"):
        (entry,) = find_slides(manifest(tmp_path, text))
        assert (entry.slide_id, entry.mpp, entry.mask_path, entry.patient) == ("a", None, None, None)


@pytest.mark.parametrize(
    "text",
    ["path\r\na.svs\r\n", "\ufeffpath\na.svs", "\n\npath\n\na.svs\n\n", 'path\n"a.svs"\n', "path,x\n , \na.svs,"],
)
def test_spreadsheets_write_it_many_ways(tmp_path: Path, text: str) -> None:
    assert ids(manifest(tmp_path, text)) == {"a": "a.svs"}


@pytest.mark.parametrize("raw", ["a\nb.svs", "a,b.svs", 'a"b.svs', "a\u2028b.svs", "\u5207.svs"])
def test_quoted_paths_come_whole(tmp_path: Path, raw: str) -> None:
    quoted = raw.replace('"', '""')
    (entry,) = find_slides(manifest(tmp_path, f'path,mpp\n"{quoted}",0.5\n'))
    assert (entry.path, entry.mpp) == (tmp_path / raw, 0.5)


def test_absolute_paths_stay(tmp_path: Path) -> None:
    (entry,) = find_slides(manifest(tmp_path, "path\n/elsewhere/a.svs\n"))
    assert entry.path == Path("/elsewhere/a.svs")


def test_tabs_separate_in_tsv(tmp_path: Path) -> None:
    (entry,) = find_slides(manifest(tmp_path, "path\tmpp\na,1.svs\t0.5\n", "cohort.TSV"))
    assert (entry.path.name, entry.mpp) == ("a,1.svs", 0.5)


@pytest.mark.parametrize("before", ["", "\ufeff", "\n \r\n"])
def test_semicolons_separate_as_spreadsheets_write_them(tmp_path: Path, before: str) -> None:
    (entry,) = find_slides(manifest(tmp_path, f"{before}path;mpp;label\r\na,1.svs;0.5;b, c\r\n"))
    assert (entry.path.name, entry.mpp, entry.label) == ("a,1.svs", 0.5, "b, c")


def test_a_comma_in_the_header_wins(tmp_path: Path) -> None:
    (entry,) = find_slides(manifest(tmp_path, "path,label;x\na;1.svs,b\n"))
    assert entry.path.name == "a;1.svs"


def test_a_text_file_is_a_list_of_paths(tmp_path: Path) -> None:
    assert ids(manifest(tmp_path, "a.svs\n\n x/b.svs \r\n", "list.txt")) == {"a": "a.svs", "b": "b.svs"}


def test_namesakes_of_a_manifest_are_told_apart(tmp_path: Path) -> None:
    found = find_slides(manifest(tmp_path, "path\nx/a.svs\ny/a.svs\nz/A.SVS\nb.svs\n"))
    assert len({entry.slide_id.casefold() for entry in found}) == 4
    assert found[3].slide_id == "b"


def test_an_id_that_was_given_stays_whatever_others_are_called(tmp_path: Path) -> None:
    table = manifest(tmp_path, "path,slide_id\nfirst.svs,a\nx/a.svs,\n")
    assert [entry.slide_id for entry in find_slides(table)] == ["a", "a.svs"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "has no rows"),
        ("path\n", "has no rows"),
        ("\n \n", "has no rows"),
        ("slide_no,mpp\n1,0.5\n", r"no column for the slide's file; it has slide_no, mpp, one of path"),
        ("file;mpp\na.svs;1\n", r"it has file, mpp, one of path"),
        ("path;mpp\na.svs;0,5\n", r"line 2: mpp must be a number .* '0,5'"),
        ("path,mpp\na.svs,0.5\n\nb.svs,fast\n", r"line 4: mpp must be a number .* 'fast'"),
        ("path,mpp\na.svs,0\n", "line 2: mpp must be a positive number"),
        ("path,mpp\na.svs,-0.5\n", "line 2: mpp must be a positive number"),
        ("path,mpp\na.svs,nan\n", "line 2: mpp must be a positive number"),
        ("path,mpp\na.svs,inf\n", "line 2: mpp must be a positive number"),
        ('path,mpp\n"a\nb.svs",1\n,0.5\n', "line 4: the slide's path is empty"),
        ("path\na\0b.svs\n", "line 2: a NUL"),
        ("path\n" + "a" * 200_000 + "\n", "line 2: field larger"),
        ("path,slide_id\na.svs,x\nb.svs,X\n", "names the slide_id 'x' more than once"),
        ("path\na.svs\nb.svs\na.svs\n", r"a\.svs' is listed more than once; give each row a slide_id"),
    ],
)
def test_a_broken_manifest_says_where_and_what(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        find_slides(manifest(tmp_path, text))


def test_a_manifest_in_another_encoding_is_refused(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_bytes("path\nä.svs\n".encode("latin-1"))
    with pytest.raises(ConfigError, match=r"cannot read the manifest .*m\.csv"):
        find_slides(tmp_path / "m.csv")


def test_a_file_listed_twice_under_two_ids_is_two_slides(tmp_path: Path) -> None:
    table = manifest(tmp_path, "path,slide_id,mpp\na.svs,fine,0.25\na.svs,coarse,0.5\n")
    assert [(entry.slide_id, entry.mpp) for entry in find_slides(table)] == [("fine", 0.25), ("coarse", 0.5)]
