"""What kills, hangs or swells the reader in the child costs the read that did it; the parent and later reads live."""

import gc
import json
import os
import pickle
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import psutil
import pytest
from broken import RECIPES, RGB, Recipe, scramble, tiled

from tests.faulty import faulty, install_reader
from wsikit.config import RunConfig
from wsikit.errors import PixelReadError, SlideOpenError, UnknownNameError, WsikitError
from wsikit.pipeline.batch import run_many
from wsikit.pipeline.inputs import find_slides
from wsikit.slides import isolated as isolated_module
from wsikit.slides import open_reader, open_slide
from wsikit.slides.isolated import IsolatedReader

FAULTS = {
    "segfault": ("reader_crash", "SIGSEGV"),
    "exit": ("reader_crash", "exit status 3"),
    "hang": ("reader_timeout", "in time"),
    "swell": ("reader_memory", "MB"),
}


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with an installed package whose reader is faulty."""
    monkeypatch.syspath_prepend(install_reader(tmp_path / "site"))
    return tmp_path / "site"


def isolated(path: Path, *, seconds: float = 20.0, memory: int = 400 << 20) -> IsolatedReader:
    """Limits that a test can wait for; a child needs about 100 MB of its own."""
    return IsolatedReader(path, "faulty", seconds=seconds, memory=memory)


def limits(how: str) -> dict[str, float]:
    # long enough for the child to start on a busy machine
    return {"seconds": 4.0} if FAULTS[how][0] == "reader_timeout" else {}


@pytest.mark.usefixtures("site")
@pytest.mark.parametrize("how", FAULTS)
def test_a_read_that_brings_the_child_down_raises_and_the_next_one_works(how: str, tmp_path: Path) -> None:
    reader = isolated(faulty(tmp_path, f"read {how}"), **limits(how))
    code, says = FAULTS[how]
    with pytest.raises(PixelReadError, match=says) as caught:
        reader.read(0, 64, 0, 10, 10)
    assert caught.value.code == code
    pixels = reader.read(0, 3, 5, 20, 10)
    assert (pixels[..., 0] == np.arange(3, 23)).all()
    assert (pixels[..., 1] == np.arange(5, 15)[:, None]).all()
    reader.close()


@pytest.mark.usefixtures("site")
@pytest.mark.parametrize("how", FAULTS)
def test_an_open_that_brings_the_child_down_raises(how: str, tmp_path: Path) -> None:
    code, says = FAULTS[how]
    begun = time.monotonic()
    with pytest.raises(SlideOpenError, match=says) as caught:
        isolated(faulty(tmp_path, f"open {how}"), **limits(how))
    assert caught.value.code == code
    assert caught.value.remedy
    assert time.monotonic() - begun < 30


@pytest.mark.usefixtures("site")
def test_a_slide_lists_the_tiles_that_crash_its_reader_and_reads_the_others(tmp_path: Path) -> None:
    with open_slide(faulty(tmp_path, "read segfault"), reader="faulty", isolate=True) as slide:
        part = slide.read_partial(slide.plane(0.5))
    assert {bad.box for bad in part.bad} == {(x, y, 64, 64) for x in (64, 128) for y in (0, 64)}
    assert (part.pixels[:, :64, 1] == np.arange(128)[:, None]).all()
    assert (part.pixels[:, 64:] == 255).all()


@pytest.mark.usefixtures("site")
def test_a_file_that_always_brings_its_reader_down_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(isolated_module, "MOST_LOST", 3)
    reader = isolated(faulty(tmp_path, "read exit"))
    for _ in range(2):
        with pytest.raises(PixelReadError):
            reader.read(0, 64, 0, 1, 1)
    with pytest.raises(SlideOpenError, match="given up") as caught:
        reader.read(0, 64, 0, 1, 1)
    assert caught.value.code == "reader_crash"
    with pytest.raises(SlideOpenError, match="given up"):
        reader.read(0, 0, 0, 1, 1)


@pytest.mark.usefixtures("site")
def test_patience_is_halved_by_a_hang_and_not_by_a_crash(tmp_path: Path) -> None:
    hung, crashed = isolated(faulty(tmp_path, "read sleep"), seconds=4.0), isolated(faulty(tmp_path, "read exit"))
    took = []
    for _ in range(2):
        begun = time.monotonic()
        with pytest.raises(PixelReadError):
            hung.read(0, 64, 0, 1, 1)
        took.append(time.monotonic() - begun)
    # the second one starts a child as well
    assert 4 <= took[0] < 6
    assert 2 <= took[1] < 6
    with pytest.raises(PixelReadError):
        crashed.read(0, 64, 0, 1, 1)
    assert crashed._patience == 20.0


@pytest.mark.usefixtures("site")
def test_a_bug_of_the_reader_is_told_and_the_child_lives(tmp_path: Path) -> None:
    reader = isolated(faulty(tmp_path, "read bug"))
    child = reader._child
    with pytest.raises(Exception, match="ZeroDivisionError: a bug") as caught:
        reader.read(0, 64, 0, 1, 1)
    assert caught.value.code == "internal"  # type: ignore[attr-defined]
    reader.read(0, 0, 0, 1, 1)
    assert reader._child is child


def test_it_says_and_reads_what_its_inner_reader_does(tmp_path: Path) -> None:
    path = tiled(tmp_path / "a.tif", [RGB, RGB[::2, ::2]])
    inner, outer = open_reader(path, "tiffslide"), open_reader(path, "tiffslide", isolate=True)
    for fact in ("path", "sizes", "downsamples", "mpp", "mpp_source", "vendor", "properties", "bounds", "background"):
        assert getattr(inner, fact) == getattr(outer, fact), fact
    assert outer.name == "tiffslide, isolated"
    assert [outer.tile_size(level) for level in (0, 1)] == [inner.tile_size(level) for level in (0, 1)]
    assert np.array_equal(outer.read(1, 7, 9, 100, 80), inner.read(1, 7, 9, 100, 80))


@pytest.mark.parametrize(
    "recipe", [r for r in RECIPES if r.code and r.code != "not_a_file"][::6], ids=lambda recipe: recipe.name
)
def test_errors_are_those_of_the_inner_readers(recipe: Recipe, tmp_path: Path) -> None:
    path = recipe.make(tmp_path / recipe.name)
    found = []
    for isolate in (False, True):
        try:
            with open_slide(path, isolate=isolate) as slide:
                slide.reader.read(0, 0, 0, *slide.reader.sizes[0])
        except WsikitError as error:
            found.append((type(error), error.code, str(error), error.remedy))
    assert len(found) == 2
    assert found[0] == found[1]


def test_an_unknown_reader_is_named(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="openslide"):
        open_reader(tiled(tmp_path / "a.tif", [RGB]), "opensldie", isolate=True)


def test_it_pickles_isolated(tmp_path: Path) -> None:
    slide = open_slide(tiled(tmp_path / "a.tif", [RGB]), isolate=True)
    with slide, pickle.loads(pickle.dumps(slide)) as again:
        assert again.reader.name == slide.reader.name
        assert isinstance(again.reader, IsolatedReader)
        assert np.array_equal(again.read(again.plane(0.5)), slide.read(slide.plane(0.5)))


def test_bad_tiles_are_those_of_the_inner_reader(tmp_path: Path) -> None:
    path = scramble(tiled(tmp_path / "a.tif", [RGB]), 5)
    with open_slide(path) as inner, open_slide(path, isolate=True) as outer:
        one, two = inner.read_partial(inner.plane(0.5)), outer.read_partial(outer.plane(0.5))
    assert one.bad == two.bad
    assert np.array_equal(one.pixels, two.pixels)


@pytest.mark.usefixtures("site")
def test_threads_of_which_some_crash_the_child_all_get_what_is_theirs(tmp_path: Path) -> None:
    reader = isolated(faulty(tmp_path, "read exit"))

    def read(x: int) -> int | None:
        try:
            return int(reader.read(0, x, 0, 1, 1)[0, 0, 0])
        except PixelReadError:
            return None

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(read, [1, 70, 2, 3, 100, 4]))
    assert found == [1, None, 2, 3, None, 4]


def test_a_file_that_changed_before_the_restart_is_refused(tmp_path: Path) -> None:
    path = tiled(tmp_path / "a.tif", [RGB])
    reader = open_reader(path, isolate=True)
    assert isinstance(reader, IsolatedReader)
    reader._child._process.kill()  # type: ignore[union-attr]
    with pytest.raises(PixelReadError, match="SIGKILL"):
        reader.read(0, 0, 0, 1, 1)
    path.unlink()
    tiled(path, [RGB[:200]])
    with pytest.raises(SlideOpenError, match="not the file"):
        reader.read(0, 0, 0, 1, 1)


@pytest.mark.parametrize("how", ["close", "forget"])
def test_the_child_ends_with_its_reader(how: str, tmp_path: Path) -> None:
    others = set(psutil.Process().children())
    reader = open_reader(tiled(tmp_path / "a.tif", [RGB]), isolate=True)
    (child,) = set(psutil.Process().children()) - others
    if how == "close":
        reader.close()
    del reader
    gc.collect()
    assert not child.is_running()


@pytest.mark.usefixtures("site")
def test_the_child_of_a_killed_parent_ends_even_while_it_hangs(tmp_path: Path) -> None:
    code = (
        "import sys, pathlib; from wsikit.slides.isolated import IsolatedReader as R\n"
        "r = R(pathlib.Path(sys.argv[1]), 'faulty', seconds=3.0)\n"
        "print(r._child._process.pid, flush=True); r.read(0, 64, 0, 1, 1)"
    )
    command = [sys.executable, "-c", code, str(faulty(tmp_path, "read hang"))]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as parent:
        assert parent.stdout is not None
        child = psutil.Process(int(parent.stdout.readline()))
        time.sleep(0.5)
        parent.send_signal(signal.SIGKILL)
    # the child is nobody's to wait for now: whoever adopted it may leave it a zombie
    deadline = time.monotonic() + 15
    while child.is_running() and child.status() != psutil.STATUS_ZOMBIE and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE


def test_a_module_in_the_current_folder_is_not_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "json.py").write_text("raise SystemExit('imported')")
    path = tiled(tmp_path / "a.tif", [RGB])
    monkeypatch.chdir(tmp_path)
    open_reader(path, isolate=True).close()


def test_a_run_in_isolation_gives_the_same_objects_and_says_so(tmp_path: Path) -> None:
    path = tiled(tmp_path / "a.tif", [RGB])
    records, objects = [], []
    for isolate in (False, True):
        out = tmp_path / f"out-{isolate}"
        config = RunConfig(num_workers=1, cluster="threads", tissue="whole", isolate=isolate)
        records += run_many(find_slides(path), out, config)
        objects.append((out / "a" / "objects.geojson.gz").read_bytes())
    assert [record["status"] for record in records] == ["complete"] * 2
    assert records[1]["reader"]["name"] == records[0]["reader"]["name"] + ", isolated"
    assert objects[0] == objects[1]
    assert records[0]["key"] == records[1]["key"]


def test_a_run_with_slides_that_crash_their_reader_does_the_others(site: Path, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    tiled(folder / "sound.tif", [RGB])
    faulty(folder, "open segfault")
    command = ["-m", "wsikit.cli", "run", "-i", "in", "-o", "out", "-n", "1", "--isolate", "--tissue", "whole"]
    environment = os.environ | {"PYTHONPATH": str(site)}
    done = subprocess.run([sys.executable, *command], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 3, done.stderr
    records = {path.parent.name: json.loads(path.read_text()) for path in (tmp_path / "out").glob("*/slide.json")}
    assert {name: (record["status"], record["reason"]) for name, record in records.items()} == {
        "sound": ("complete", ""),
        "open-segfault": ("failed", "reader_crash"),
    }
