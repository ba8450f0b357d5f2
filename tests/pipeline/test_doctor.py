"""What the doctor says of files, resolutions and cohorts, and how well it foretells a run."""

from __future__ import annotations

import os
import shutil
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tests.slides.broken import APERIO, picture, tiled
from wsikit.config import RunConfig
from wsikit.pipeline.batch import run_many
from wsikit.pipeline.doctor import Checkup, check_up, files
from wsikit.pipeline.doctor.companions import companions, missing_companions, missing_ome
from wsikit.pipeline.doctor.findings import Diagnosis, Finding
from wsikit.pipeline.doctor.forecast import GROUP, START, Rates, forecast, predicted_peak, shortages, to_measure, total
from wsikit.pipeline.doctor.resolution import doubtful_mpp, objective_power
from wsikit.pipeline.doctor.slide import look_at_slide
from wsikit.pipeline.doctor.tiles import sampled
from wsikit.pipeline.doctor.written import write
from wsikit.pipeline.inputs import SlideEntry, find_slides
from wsikit.pipeline.plan import plan
from wsikit.pipeline.state import read_record
from wsikit.predictors import load_predictor
from wsikit.slides import open_slide
from wsikit.slides.pyramid import write_pyramid

CONFIG = RunConfig(num_workers=1)


def entry(path: Path) -> SlideEntry:
    return SlideEntry(path.stem, path)


def codes(findings: object) -> list[str]:
    return [finding.code for finding in findings]  # type: ignore[attr-defined]


def look(path: Path, config: RunConfig = CONFIG) -> Diagnosis:
    return look_at_slide(entry(path), config, None, 20, 0)


# ---- tiles


@given(
    count=st.integers(1, 400),
    wanted=st.integers(1, 120),
    share=st.floats(0, 1),
    known=st.booleans(),
    seed=st.integers(0),
)
def test_a_sample_has_its_size_the_end_of_the_file_and_no_tile_twice(
    count: int, wanted: int, share: float, known: bool, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    tiles, places = np.sort(rng.permutation(2 * count)[:count]), rng.permutation(count)
    on_tissue = rng.random(count) < share if known else None
    chosen = sampled(tiles, places, on_tissue, wanted, rng)
    assert len(chosen) == len(set(chosen.tolist())) == min(count, wanted)
    assert set(chosen.tolist()) <= set(tiles.tolist())
    last = tiles[np.argsort(places)[count - wanted // 4 :]] if wanted // 4 else tiles[:0]
    assert set(last.tolist()) <= set(chosen.tolist())


@pytest.mark.parametrize("seed", range(3))
def test_half_of_a_sample_lies_on_tissue_however_little_there_is(seed: int) -> None:
    tiles = np.arange(10_000)
    on_tissue = tiles < 300
    chosen = sampled(tiles, tiles, on_tissue, 100, np.random.default_rng(seed))
    assert 50 <= on_tissue[chosen].sum() <= 60


# ---- resolution


@pytest.mark.parametrize(
    ("mpp", "power", "found"),
    [
        (0.25, 40.0, []),
        (0.499, 20.0, []),
        (0.37, 20.0, []),
        (0.5, 40.0, ["mpp_against_power"]),
        (0.25, 20.0, ["mpp_against_power"]),
        (2.0, 20.0, ["mpp_against_power"]),
        (0.05, None, ["unusual_mpp"]),
        (10.0, None, ["unusual_mpp"]),
        (0.5, None, []),
    ],
)
def test_an_mpp_is_held_against_the_objective_and_usual_scanners(
    mpp: float, power: float | None, found: list[str]
) -> None:
    assert codes(doubtful_mpp(mpp, "the file", power, is_field=False, is_dicom=False)) == found


def test_a_plain_image_may_have_any_mpp_and_dicom_may_lack_its_finest_level() -> None:
    assert codes(doubtful_mpp(10.0, "the file", None, is_field=True, is_dicom=False)) == []
    (lost,) = doubtful_mpp(2.0, "the file", 20.0, is_field=False, is_dicom=True)
    (fine,) = doubtful_mpp(0.1, "the file", 20.0, is_field=False, is_dicom=True)
    assert "finest level may be missing" in lost.message
    assert "finest level" not in fine.message


def test_the_power_is_what_the_scanner_says_and_not_the_lens_of_a_mirax() -> None:
    assert objective_power({"aperio.AppMag": "20", "aperio.MPP": "0.5"}) == 20
    assert objective_power({"openslide.objective-power": "40", "openslide.vendor": "hamamatsu"}) == 40
    assert objective_power({"openslide.objective-power": "20", "openslide.vendor": "mirax"}) is None
    assert objective_power({"aperio.AppMag": "none", "dicom.X[0].ObjectiveLensPower": "10"}) == 10
    assert objective_power({}) is None


def test_a_header_of_two_minds_is_told_with_the_slide(tmp_path: Path) -> None:
    path = tiled(tmp_path / "a.svs", [picture()], description=APERIO.format(mpp="0.2500"))
    found = look(path)
    assert "mpp_against_power" in codes(found.findings)
    assert found.verdict == "warning"
    assert found.facts["power"] == 20
    told = look(path, RunConfig(mpp_override=0.5))
    assert "mpp_against_power" not in codes(told.findings)


# ---- companions


def mrxs(folder: Path, data: int) -> Path:
    """An MRXS of three data files, of which so many are there."""
    inside = folder / "case"
    inside.mkdir()
    lines = ["[HIERARCHICAL]", "INDEXFILE = Index.dat", "[DATAFILE]", "FILE_COUNT = 3"]
    lines += [f"FILE_{i} = Data{i:04}.dat" for i in range(3)]
    (inside / "Slidedat.ini").write_bytes(b"\xef\xbb\xbf" + "\r\n".join(lines).encode())
    for name in ["Index.dat", *(f"Data{i:04}.dat" for i in range(data))]:
        (inside / name).write_bytes(b"data")
    (folder / "case.mrxs").write_bytes(b"a picture")
    return folder / "case.mrxs"


def test_an_mrxs_needs_all_its_data_files(tmp_path: Path) -> None:
    path = mrxs(tmp_path, 3)
    assert not list(missing_companions(companions(path)))
    (tmp_path / "case" / "Data0001.dat").write_bytes(b"")
    (tmp_path / "case" / "Data0002.dat").unlink()
    (found,) = missing_companions(companions(path))
    assert (found.code, found.severity) == ("missing_companion", "error")
    assert "2 file(s)" in found.message
    assert "Data0001.dat, Data0002.dat" in found.message


def test_an_mrxs_without_its_folder_says_which(tmp_path: Path) -> None:
    path = tmp_path / "case.mrxs"
    path.write_bytes(b"a picture")
    (found,) = missing_companions(companions(path))
    assert "case/Slidedat.ini" in found.message


def test_a_folder_without_its_mrxs_is_told(tmp_path: Path) -> None:
    path = mrxs(tmp_path, 3)
    assert codes(files.strays(tmp_path)) == []
    path.unlink()
    assert codes(files.strays(tmp_path)) == ["orphan_companion"]


VMS = "[Virtual Microscope Specimen]\nImageFile=a(0,0).jpg\nImageFile(1,0)=a(1,0).jpg\nMapFile=map.jpg\nMacroImage=m\n"


def test_a_vms_needs_its_images_and_they_are_no_slides(tmp_path: Path) -> None:
    (tmp_path / "a.vms").write_text(VMS)
    for name in ("a(0,0).jpg", "map.jpg"):
        (tmp_path / name).write_bytes(b"jpeg")
    (found,) = missing_companions(companions(tmp_path / "a.vms"))
    assert "1 file(s)" in found.message
    assert "a(1,0).jpg" in found.message
    assert not files.parts_of_others([entry for entry in find_slides(tmp_path) if entry.part_of is None])
    (tmp_path / "all.csv").write_text('path\na.vms\n"a(0,0).jpg"\nmap.jpg\n')
    told = files.parts_of_others(find_slides(tmp_path / "all.csv"))
    assert {path.name: codes(findings) for path, findings in told.items()} == {
        "a(0,0).jpg": ["companion_as_slide"],
        "map.jpg": ["companion_as_slide"],
    }


def test_an_ndpi_of_a_set_misses_its_fellows(tmp_path: Path) -> None:
    for name in ("a-1.ndpi", "lone.ndpi"):
        (tmp_path / name).write_bytes(b"slide")
    (tmp_path / "a.ndpis").write_text(
        "[NanoZoomer Digital Pathology Image Set]\nNoImages=2\nImage0=a-1.ndpi\nImage1=a-2.ndpi\n"
    )
    (found,) = missing_companions(companions(tmp_path / "a-1.ndpi"))
    assert (found.severity, "a-2.ndpi" in found.message) == ("warning", True)
    assert companions(tmp_path / "lone.ndpi") is None


def test_an_ome_tiff_of_several_files_misses_the_others_and_a_renamed_one_nothing(tmp_path: Path) -> None:
    (tmp_path / "a.ome.tif").write_bytes(b"slide")
    several = '<TiffData><UUID FileName="a.ome.tif"/></TiffData><TiffData><UUID FileName="b.ome.tif"/></TiffData>'
    (found,) = missing_ome(tmp_path / "a.ome.tif", {"tiff.ImageDescription": several})
    assert "b.ome.tif" in found.message
    assert not list(missing_ome(tmp_path / "a.ome.tif", {"tiff.ImageDescription": '<UUID FileName="old.ome.tif"/>'}))


# ---- files


def test_duplicates_are_told_by_content_and_look_alikes_are_not(tmp_path: Path) -> None:
    data = bytearray(np.random.default_rng(0).bytes(1_000_000))
    (tmp_path / "a.svs").write_bytes(data)
    (tmp_path / "b.svs").write_bytes(data)
    (tmp_path / "link.svs").symlink_to(tmp_path / "a.svs")
    data[300_000] ^= 1
    (tmp_path / "like.svs").write_bytes(data)
    prints = {path: files.fingerprint(path) for path in sorted(tmp_path.iterdir())}
    assert len(set(prints.values())) == 1, "the samples of all four are the same"
    found = {path.name: findings[0].message for path, findings in files.duplicates(prints).items()}
    assert set(found) == {"b.svs", "link.svs"}
    assert "byte for byte" in found["b.svs"]
    assert "the same file" in found["link.svs"]


def test_only_candidates_are_read_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, size in (("a", 10), ("b", 11), ("c", 12), ("d", 12)):
        (tmp_path / name).write_bytes(name.encode() * size)
    monkeypatch.setattr(files, "_whole_digest", pytest.fail)
    assert files.duplicates({path: files.fingerprint(path) for path in tmp_path.iterdir()}) == {}


def test_a_pipe_is_left_alone(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.svs")
    assert files.fingerprint(tmp_path / "pipe.svs") is None
    assert list(files.look_at_file(entry(tmp_path / "pipe.svs"))) == []


def test_what_may_not_be_read_is_said_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tiled(tmp_path / "a.tif", [picture()])
    os.utime(path, (0, 0))

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError

    monkeypatch.setattr(Path, "open", refuse)  # a test may run as root, who may read everything
    assert codes(files.look_at_file(entry(path))) == ["no_permission"]


def test_a_file_that_grows_while_it_is_looked_at_is_an_error(tmp_path: Path) -> None:
    path = tiled(tmp_path / "a.tif", [picture()])
    shutil.copyfile(path, tmp_path / "b.tif")
    stop = threading.Event()

    def grow() -> None:
        while not stop.wait(0.02):
            with path.open("ab") as file:
                file.write(b"more")

    thread = threading.Thread(target=grow)
    thread.start()
    try:
        found = check_up(find_slides(tmp_path), CONFIG, with_model=False)
    finally:
        stop.set()
        thread.join()
    assert [one.verdict for one in found.slides] == ["error", "note"]
    assert "slide_changed" in codes(found.slides[0].findings)
    assert codes(found.slides[1].findings) == ["just_written"]


def test_a_file_of_long_ago_is_not_waited_for(tmp_path: Path) -> None:
    before = files.stamps([entry(tmp_path / "a.svs")])
    begun = time.monotonic()
    assert files.still_written(before, [], wait=60.0) == {}
    assert time.monotonic() - begun < 5


def test_names_that_clash_are_told_and_folders_in_names_are_not(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    for name in ("a.svs", "A.tif", "x/b.svs"):
        (tmp_path / name).write_bytes(b"slide")
    found = {one.path.name: codes(files._renamed(one)) for one in find_slides(tmp_path)}
    assert found == {"a.svs": ["renamed"], "A.tif": ["renamed"], "b.svs": []}


def test_formats_that_nobody_reads_are_told_once_a_suffix(tmp_path: Path) -> None:
    for name in ("a.vsi", "b.VSI", "c.kfb", "notes.txt", "d.svs"):
        (tmp_path / name).write_bytes(b"x")
    found = files.strays(tmp_path)
    assert codes(found) == ["unknown_format"] * 2
    assert "2 .vsi file(s) (Olympus)" in found[0].message
    assert files.strays(tmp_path / "d.svs") == []


# ---- what is on the slide


def flat(path: Path, value: int) -> Path:
    return tiled(path, [np.full((600, 700, 3), value, np.uint8)])


def test_white_and_dark_slides_are_told(tmp_path: Path) -> None:
    white, dark = look(flat(tmp_path / "white.tif", 245)), look(flat(tmp_path / "dark.tif", 20))
    assert (white.verdict, codes(white.findings)) == ("warning", ["blank"])
    assert (dark.verdict, codes(dark.findings)) == ("error", ["not_brightfield"])


def test_left_out_tiles_are_a_note(tmp_path: Path) -> None:
    from tests.slides.broken import empty_tile

    found = look(empty_tile(tiled(tmp_path / "a.tif", [picture()]), 5))
    assert codes(found.findings) == ["left_out_tiles"]
    assert "1 of 12 tiles" in found.findings[0].message


def test_the_tissue_share_is_that_of_a_run(cmu: Path, tmp_path: Path) -> None:
    from wsikit.tissue import find_tissue

    with open_slide(cmu) as slide:
        expected = find_tissue(slide).area_um2 / 1e6
    assert look(cmu).facts["tissue_mm2"] == pytest.approx(expected)


# ---- the forecast


@pytest.fixture(scope="module")
def foretold(pyramid: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Diagnosis, Checkup, dict[str, object]]:
    """What was foretold for the pyramid, and the record of the run."""
    found = check_up([entry(pyramid)], CONFIG)
    out = tmp_path_factory.mktemp("run")
    run_many([entry(pyramid)], out, CONFIG)
    record = read_record(out / pyramid.stem)
    assert record is not None
    return found.slides[0], found, record


def test_the_windows_are_those_of_the_plan(pyramid: Path, tmp_path: Path) -> None:
    found = look_at_slide(entry(pyramid), CONFIG, load_predictor("nuclei-classical"), 20, 0)
    line = next(plan([entry(pyramid)], tmp_path, CONFIG)).text
    assert f"{found.facts['windows']} patches" in line
    assert f"in {found.facts['supertiles']} super-tiles" in line


@pytest.mark.slow
def test_the_windows_are_those_of_the_run(foretold: tuple[Diagnosis, Checkup, dict[str, object]]) -> None:
    one, _, record = foretold
    assert one.facts["windows"] == record["patches"]


@pytest.mark.slow
def test_time_and_disk_are_of_the_order_of_the_run(foretold: tuple[Diagnosis, Checkup, dict[str, object]]) -> None:
    one, found, record = foretold
    # a machine that others use may be twice as fast a moment later; docs/measured.md has what was seen on a quiet one
    assert 1 / 4 < one.forecast["seconds"] / record["seconds"]["total"] < 4  # type: ignore[index]
    written = sum(facts["bytes"] for facts in record["outputs"].values())  # type: ignore[attr-defined]
    assert 0.5 < one.forecast["bytes"] / written < 3
    assert 0.5 < one.forecast["memory_bytes"] / (record["peak_rss_mb"] * (1 << 20)) < 2  # type: ignore[operator]
    assert found.total["windows"] == one.facts["windows"]


RATES = Rates(
    8,
    predict=2.0,
    work=3.0,
    spool_bytes=10.0,
    merge=0.5,
    merge_once=4.0,
    bytes=100.0,
    bytes_once=1e6,
    prepare=1.0,
    peak_bytes=3e8,
)


def looked_at(name: str, windows: int) -> Diagnosis:
    return Diagnosis(name, name, facts={"windows": windows, "seconds": {"open": 1.0, "tissue": 2.0}})


def test_a_slide_takes_its_windows_and_what_is_done_once() -> None:
    model = load_predictor("nuclei-classical")
    found = forecast([looked_at("a", 100), looked_at("b", 0), Diagnosis("c", "c")], {"a": RATES}, CONFIG, model, 1)
    assert found[0].forecast["seconds"] == pytest.approx(1 + 2 + 1 + 4 + 100 * (2.0 + 0.5))
    assert found[1].forecast["seconds"] == pytest.approx(1 + 2 + 4)
    assert found[0].forecast["bytes"] == pytest.approx(1e6 + 100 * 100)
    assert found[2].forecast == {}


def test_a_run_shares_its_slides_among_processes() -> None:
    model = load_predictor("nuclei-classical")
    slides = forecast([looked_at(str(i), 100 * (i + 1)) for i in range(4)], {"0": RATES}, CONFIG, model, 2)
    both = total(slides, 2)
    assert both["seconds"] == pytest.approx(sum(slide.forecast["seconds"] for slide in slides) / 2 + START)
    assert both["spool_bytes"] == (400 + 300) * 10
    assert both["memory_bytes"] > 2 * max(slide.forecast["memory_bytes"] for slide in slides)
    assert (both["slides"], both["windows"]) == (4, 1000)


def test_one_slide_is_shared_in_its_prediction_only() -> None:
    found = forecast([looked_at("a", 100)], {"a": RATES}, CONFIG, load_predictor("nuclei-classical"), 4)
    assert total(found, 4)["seconds"] == pytest.approx((1 + 2 + 1 + 4 + 100 * 0.5) + 100 * 3.0 / 4 + START)


def test_measured_slides_count_by_their_windows() -> None:
    from dataclasses import replace

    pooled = Rates.together([RATES, replace(RATES, windows=24, predict=6.0, peak_bytes=5e8)])
    assert pooled.predict == pytest.approx((8 * 2 + 24 * 6) / 32)
    assert (pooled.windows, pooled.peak_bytes) == (32, 5e8)


def test_the_largest_slide_is_measured_and_none_without_windows() -> None:
    slides = [looked_at("small", 3), looked_at("none", 0), Diagnosis("bad", "bad"), looked_at("large", 90)]
    assert [one.slide_id for one in to_measure(slides)] == ["large", "small"]
    assert to_measure([]) == []


def test_memory_grows_with_the_super_tile_and_not_past_the_slide() -> None:
    model = load_predictor("nuclei-classical")

    def peak(side: int, windows: int = 10_000, ahead: bool = False) -> float:
        return predicted_peak(1e8, model, RunConfig(supertile=side), windows, ahead=ahead)

    assert peak(GROUP) == 1e8
    assert peak(8192) - 1e8 == pytest.approx(3 * ((8192 + 128) ** 2 - (GROUP + 128) ** 2))
    assert peak(8192, ahead=True) - 1e8 == pytest.approx(2 * (peak(8192) - 1e8))
    assert peak(8192, windows=2) == 1e8


BAD_MODEL = """
from dataclasses import dataclass
from wsikit.geometry import TileSpec
from wsikit.predictions import Label, ScoreMap, Stateless


@dataclass(frozen=True)
class Bad(Stateless):
    name = "bad"
    produces = ScoreMap
    labels = (Label("A", (1, 2, 3)),)

    @property
    def tile(self):
        return TileSpec(0.5, core=128, halo=0, min_tissue=0.0)

    def predict(self, batch):
        raise ZeroDivisionError
"""


def test_too_little_memory_or_space_is_told(tmp_path: Path) -> None:
    needed = {"memory_bytes": 1e6, "bytes": 1e6, "spool_bytes": 1e6}
    assert codes(shortages(needed, tmp_path / "not" / "there" / "yet")) == []
    assert codes(shortages(needed | {"memory_bytes": 1e15}, None)) == ["no_memory"]
    assert codes(shortages(needed | {"spool_bytes": 1e18}, tmp_path)) == ["no_space"]
    assert codes(shortages({}, tmp_path)) == []


def test_a_slide_that_is_too_coarse_for_the_model_is_an_error(tmp_path: Path) -> None:
    path = tiled(tmp_path / "a.svs", [picture()], description=APERIO.format(mpp="1.0000"))
    found = look_at_slide(entry(path), RunConfig(tissue="whole"), load_predictor("nuclei-classical"), 20, 0)
    assert "resolution_unavailable" in codes(found.findings)
    assert found.verdict == "error"
    assert "windows" not in found.facts


def test_a_model_that_cannot_be_tried_is_a_warning_and_the_slides_are_told(tmp_path: Path) -> None:
    (tmp_path / "model.py").write_text(BAD_MODEL)
    Image.fromarray(picture()).save(tmp_path / "a.png")
    config = RunConfig(num_workers=1, mpp_override=0.5, model=f"{tmp_path / 'model.py'}:Bad")
    found = check_up([entry(tmp_path / "a.png")], config)
    assert codes(found.findings) == ["predictor_error"]
    assert found.slides[0].facts["windows"] == 12
    assert (found.slides[0].forecast, dict(found.total)) == ({}, {})


# ---- cohorts


@pytest.fixture(scope="module")
def cohort(cmu: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 small slides, three of them cut short."""
    folder = tmp_path_factory.mktemp("cohort")
    with open_slide(cmu) as slide:
        first = write_pyramid(folder / "s000.svs", slide, size=(512, 512), tissue=0.9)
    data = first.read_bytes()
    for number in range(1, 60):
        (folder / f"s{number:03}.svs").write_bytes(data[: len(data) // 2] if number % 20 == 0 else data + bytes(number))
    return folder


def test_a_cohort_takes_no_more_memory_or_descriptors_with_every_slide(cohort: Path) -> None:
    me, used = psutil.Process(), []
    others = set(me.children(recursive=True))  # of earlier tests

    def seen(_: Diagnosis) -> None:
        children = [child.memory_info().rss for child in set(me.children(recursive=True)) - others]
        used.append((me.num_fds(), sum(children), len(children)))

    found = check_up(find_slides(cohort), CONFIG, with_model=False, seen=seen)
    assert [one.slide_id for one in found.slides if one.verdict == "error"] == ["s020", "s040"]
    fds, memory, children = zip(*used[10:], strict=True)
    assert fds[-1] - fds[0] <= 2
    assert max(memory) - min(memory) < 40 << 20
    assert set(children) == {1}, "one child goes from slide to slide"


def test_nothing_is_written_beside_the_slides(cohort: Path, tmp_path: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in [cohort, *cohort.iterdir()]}
    found = check_up(find_slides(cohort)[:3], CONFIG, source=cohort, with_model=False)
    write(found, tmp_path / "out")
    assert {path: path.stat().st_mtime_ns for path in [cohort, *cohort.iterdir()]} == before
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["doctor.csv", "doctor.json"]


def test_the_table_is_a_manifest(cohort: Path, tmp_path: Path) -> None:
    entries = find_slides(cohort)[:2]
    write(check_up(entries, CONFIG, with_model=False), tmp_path)
    again = find_slides(tmp_path / "doctor.csv")
    assert [(one.slide_id, one.path) for one in again] == [(one.slide_id, one.path.absolute()) for one in entries]
    assert {one.mpp for one in again} == {0.499}


def test_the_worst_finding_comes_first() -> None:
    from wsikit.pipeline.doctor.findings import in_order

    note, error = Finding("pen", "note", "ink"), Finding("truncated", "error", "cut")
    assert in_order([note, error, note]) == (error, note)
    assert Diagnosis("a", "a", findings=(note, error)).verdict == "error"
    assert Diagnosis("a", "a").verdict == "ok"
