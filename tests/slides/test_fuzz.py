"""Mutated headers and tiles: no crash, no hang, no flood of memory, no foreign exception; and such faults are seen."""

import os
from collections import Counter
from pathlib import Path

import fuzz
import pytest


def test_hundreds_of_mutations_end_in_pixels_bad_tiles_or_a_code(tmp_path: Path) -> None:
    result = fuzz.fuzz(tmp_path, 0, 200)
    assert not result.faults, result.faults
    assert len(result.outcomes) == 200
    # the mutations are neither all harmless nor all deadly
    counts = Counter(result.outcomes.values())
    assert min(counts["pixels"], counts["bad tiles"], counts["bad_header"]) >= 10, counts


@pytest.mark.slow
def test_ten_thousand_mutations(tmp_path: Path) -> None:
    result = fuzz.fuzz(tmp_path, 1000, 11_000)
    assert not result.faults, result.faults
    assert len(result.outcomes) == 10_000


def test_a_case_is_the_same_file_whenever_it_is_made(tmp_path: Path) -> None:
    (tmp_path / "again").mkdir()
    first = [fuzz.mutated(number, tmp_path) for number in range(10)]
    fuzz.seed.cache_clear()
    assert first == [fuzz.mutated(number, tmp_path / "again") for number in range(10)]
    assert len(set(first)) == 10


FAULTS = {
    "import ctypes; ctypes.string_at(0)": "died (SIGSEGV)",
    "import time; time.sleep(99)": "hang",
    "import numpy, time; a = numpy.ones(900 << 20, numpy.uint8); time.sleep(99)": "memory",
    "raise ZeroDivisionError('a bug')": "ZeroDivisionError: a bug",
}


@pytest.mark.parametrize("code", FAULTS)
def test_a_fault_is_told_by_its_case_and_the_next_ones_are_read(
    code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    call = "            said = read_case(number, folder)"
    script = Path(fuzz.__file__).read_text()
    assert script.count(call) == 1
    script = script.replace(call, f"            if number == 2:\n                {code}\n{call}")
    (tmp_path / "fuzz.py").write_text(script)
    monkeypatch.setattr(fuzz, "__file__", os.fspath(tmp_path / "fuzz.py"))
    monkeypatch.setattr(fuzz, "SECONDS", 6)
    monkeypatch.setenv("PYTHONPATH", os.fspath(Path(__file__).parent))
    result = fuzz.fuzz(tmp_path, 1, 4)
    assert FAULTS[code] in result.faults[2]
    assert sorted(result.outcomes) == [1, 3]
