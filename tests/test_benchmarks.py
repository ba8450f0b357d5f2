"""The benchmark's own arithmetic, its check of pixels, and the page that is made of its results."""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def bench() -> Iterator[SimpleNamespace]:
    """The modules of ``benchmarks``, which is a folder of scripts and no package."""
    with pytest.MonkeyPatch.context() as patch:
        for folder in (ROOT / "benchmarks" / "peers", ROOT / "benchmarks"):
            patch.syspath_prepend(str(folder))
        import benches
        import figures
        import inputs
        import page
        import turns
        import worker

        yield SimpleNamespace(benches=benches, figures=figures, inputs=inputs, page=page, turns=turns, worker=worker)


@pytest.mark.parametrize("exponent", [0.0, 0.08, 1.0, 1.3])
def test_slope_finds_the_exponent(bench: SimpleNamespace, exponent: float) -> None:
    sizes = [67e6, 268e6, 1074e6]
    assert bench.figures.slope(sizes, [3.5 * s**exponent for s in sizes]) == pytest.approx(exponent, abs=1e-9)


def test_slope_stands_some_noise(bench: SimpleNamespace) -> None:
    found = []
    for seed in range(20):
        noise = random.Random(seed)
        sizes = [67e6, 268e6, 1074e6]
        found.append(bench.figures.slope(sizes, [s * noise.uniform(0.95, 1.05) for s in sizes]))
    assert np.mean(found) == pytest.approx(1, abs=0.02)
    assert max(abs(b - 1) for b in found) < 0.06


def test_a_slow_moment_that_hits_both_of_a_pair_changes_no_ratio(bench: SimpleNamespace) -> None:
    ours, theirs = [1.0, 1.0, 3.0, 1.0, 3.0], [5.0, 5.0, 15.0, 5.0, 15.0]
    assert bench.figures.paired_ratio(ours, theirs) == 5


def test_spread_is_the_range_over_the_median(bench: SimpleNamespace) -> None:
    assert bench.figures.spread([2.0, 1.9, 2.2]) == pytest.approx(0.15)


@pytest.mark.parametrize(
    ("figure", "need", "at_most", "passed"),
    [(5.0, 5.0, False, True), (4.9, 5.0, False, False), (1.06, 1.05, True, False), (0.9, 1.05, True, True),
     (None, 5.0, False, False), (0.1, None, False, True)],
)  # fmt: skip
def test_a_bar_holds_on_its_side_only(
    bench: SimpleNamespace, figure: float | None, need: float | None, at_most: bool, passed: bool
) -> None:
    assert bench.figures.Bar("R1", "x", figure, need, at_most=at_most).passed is passed


def patches(count: int = 6) -> list[tuple[tuple[int, int], np.ndarray]]:
    pixels = np.random.default_rng(0).integers(0, 256, (count, 64, 64, 3), np.uint8)
    return [((64 * i, 0), patch) for i, patch in enumerate(pixels)]


def hashed(bench: SimpleNamespace, given: list[tuple[tuple[int, int], np.ndarray]]) -> int:
    sink = bench.worker.Hashed()
    for position, patch in given:
        sink.add(position, patch)
    return sink.hash


def test_the_hash_does_not_depend_on_order_or_batches(bench: SimpleNamespace) -> None:
    given = patches()
    batch = bench.worker.Hashed()
    batch.add_batch([position for position, _ in given], np.stack([patch for _, patch in given]))
    assert hashed(bench, given) == hashed(bench, given[::-1]) == batch.hash


def test_the_hash_sees_one_changed_value_and_two_swapped_places(bench: SimpleNamespace) -> None:
    given = patches()
    changed = [(position, patch.copy()) for position, patch in given]
    changed[3][1][17, 5, 1] ^= 1
    swapped = [(given[1][0], given[0][1]), (given[0][0], given[1][1]), *given[2:]]
    assert len({hashed(bench, one) for one in (given, changed, swapped, given[:-1])}) == 4


@pytest.mark.parametrize(
    ("offset", "stride", "size", "count"), [(0, 256, 256, 16), (128, 256, 256, 9), (0, 128, 256, 49)]
)
def test_a_case_asks_for_whole_patches_only(
    bench: SimpleNamespace, offset: int, stride: int, size: int, count: int
) -> None:
    case = bench.worker.Case("", 2, 0.25, 1100, 1100, size=size, offset=offset, stride=stride)
    places = case.positions()
    assert len(places) == len(set(places)) == count
    assert all(0 <= v <= 1100 - size for place in places for v in place)


@pytest.mark.parametrize("share", ["by_rows", "by_bands"])
def test_threads_share_every_patch_once(bench: SimpleNamespace, share: str) -> None:
    case = bench.worker.Case("", 3, 0.25, 4096, 4096)
    seen, lock = [], threading.Lock()

    def work(positions: Iterator[tuple[int, int]], sink: object) -> None:
        for place in positions:
            with lock:
                seen.append(place)

    getattr(case, share)(work)
    assert sorted(seen) == sorted(case.positions())
    assert len(case.sinks) == 3


def test_an_error_in_a_thread_is_the_call_s(bench: SimpleNamespace) -> None:
    case = bench.worker.Case("", 2, 0.25, 1024, 1024)

    def work(positions: Iterator[tuple[int, int]], sink: object) -> None:
        raise ValueError("no pixels")

    with pytest.raises(ValueError, match="no pixels"):
        case.by_rows(work)


def test_equal_pixels_take_turns_and_others_are_out(bench: SimpleNamespace, cmu: Path, tmp_path: Path) -> None:
    """OpenSlide, wsikit and a reader that is one pixel off, each in a process of its own, on a real slide."""
    slide = bench.inputs.Input(1024)
    slide.path(tmp_path)
    peers = tmp_path / "peers"
    peers.mkdir()
    (peers / "shifted.py").write_text(
        "import numpy as np\nfrom openslide import OpenSlide\n"
        "def read(case):\n"
        "    def work(positions, sink):\n"
        "        with OpenSlide(case.path) as slide:\n"
        "            for x, y in positions:\n"
        "                patch = slide.read_region((x + 1, y), 0, (case.size, case.size)).convert('RGB')\n"
        "                sink.add((x, y), np.asarray(patch))\n"
        "    case.by_rows(work)\n"
    )
    system = bench.benches.System
    systems = (
        system("openslide-python", "own", "readers:openslide"),
        system("wsikit", "own", "own:patches"),
        system("shifted", "own", "shifted:read", largest=20, mean=2.0),
    )
    case = bench.benches.Bench("R2", "unaligned", slide, systems, patches={"offset": 128})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bench.inputs, "FOLDER", tmp_path)
        patch.setattr(bench.inputs.Input.path, "__defaults__", (tmp_path,))
        patch.setenv("PYTHONPATH", str(peers))
        found = bench.turns.Turns(cores=2, rounds=2, gate=False, scratch=tmp_path).take(case)["systems"]
    assert found["openslide-python"]["pixels"] == found["wsikit"]["pixels"] == {"equal": True}
    assert found["wsikit"]["patches"] == found["openslide-python"]["patches"] == 9
    assert len(found["wsikit"]["turns"]) == 2
    assert 20 < found["wsikit"]["peak_mb"] < 1000
    assert "other pixels" in found["shifted"]["error"]
    assert "wall" not in found["shifted"]


def test_the_page_is_what_its_figures_say(bench: SimpleNamespace) -> None:
    result = json.loads((ROOT / "docs" / "benchmarks.json").read_text())
    assert (ROOT / "docs" / "benchmarks.md").read_text() == bench.page.page(result)


def test_the_bars_follow_from_the_times(bench: SimpleNamespace) -> None:
    result = json.loads((ROOT / "docs" / "benchmarks.json").read_text())
    again = [bar.told() for bar in bench.benches.bars(result["benches"])]
    assert [bar["bench"] for bar in again] == [bar["bench"] for bar in result["bars"]]
    for one, two in zip(again, result["bars"], strict=True):
        assert one["passed"] == two["passed"]
        assert one["figure"] == pytest.approx(two["figure"], rel=0.01, abs=0.002)


def test_a_bench_without_its_peer_holds_no_bar(bench: SimpleNamespace) -> None:
    ours = {"turns": [{"wall": 1.0, "patches": 10}]}
    systems = {"wsikit": ours, "cuCIM batch": {"error": "not installed"}, "openslide-python": ours}
    found = {bar.what: bar for bar in bench.benches.bars({"R1": {"systems": systems}})}
    assert found["x cuCIM batch"].figure is None
    assert not found["x cuCIM batch"].passed
    assert found["x openslide-python"].figure == 1


@pytest.fixture(scope="module")
def shares() -> Iterator[ModuleType]:
    pytest.importorskip("torch")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "benchmarks"))
        import shares

        yield shares


def test_a_table_of_shares_has_mean_and_deviation_over_seeds(shares: ModuleType) -> None:
    rows = [
        {"seed": 0, "share": 0.1, "learned": "naive", "f1": 0.5},
        {"seed": 1, "share": 0.1, "learned": "naive", "f1": 0.7},
        {"seed": 0, "share": 1.0, "learned": "naive", "f1": 0.9},
        {"seed": 0, "share": 0.1, "learned": "both", "aji": 0.4},
    ]
    lines = shares.table(rows, shares.DETECTORS, ("f1",)).splitlines()
    assert lines[2:] == ["| 10% | naive | 0.600 ± 0.141 | 2 |", "| 100% | naive | 0.900 ± 0.000 | 1 |"]


def test_shares_that_are_measured_are_not_measured_again(
    shares: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    made: list[tuple[int, float | None]] = []

    def of_share(data: Path, work: Path, seed: int, share: float) -> Iterator[tuple[str, dict[str, float]]]:
        made.append((seed, share))
        yield "naive", {"f1": 0.25}

    def of_masks(data: Path, work: Path, seed: int) -> dict[str, float]:
        made.append((seed, None))
        return {"aji": 0.5}

    for name, value in {"of_share": of_share, "of_masks": of_masks, "arranged": lambda *_: tmp_path}.items():
        monkeypatch.setattr(shares, name, value)
    monkeypatch.setattr(shares, "read_points", lambda _: None)
    monkeypatch.setattr(shares, "split", lambda *_: None)
    out = tmp_path / "rows.jsonl"
    shares.measure(tmp_path, out, tmp_path, [0], [0.1])
    shares.measure(tmp_path, out, tmp_path, [0, 1], [0.1, 0.5])
    assert made == [(0, None), (0, 0.1), (1, None), (1, 0.1), (0, 0.5), (1, 0.5)]
    assert [row["learned"] for row in shares.rows_of(out)] == ["masks", "naive", "masks", "naive", "naive", "naive"]
