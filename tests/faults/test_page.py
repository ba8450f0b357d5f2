"""docs/reliability.md names tests that are there."""

from __future__ import annotations

import ast
import re

from tests.faults.runs import ROOT


def test_every_test_of_the_page_exists() -> None:
    named = set(re.findall(r"`([\w/]+\.py)::(\w+)`", (ROOT / "docs" / "reliability.md").read_text()))
    assert len(named) > 60
    missing = {(file, name) for file, name in named if name not in _functions(file)}
    assert not missing


def test_every_case_has_its_row() -> None:
    text = (ROOT / "docs" / "reliability.md").read_text()
    cases: set[int] = set()
    for cell in re.findall(r"^\| ([\d, to]+) \|", text, re.MULTILINE):
        numbers = [int(number) for number in re.findall(r"\d+", cell)]
        cases.update(range(numbers[0], numbers[-1] + 1) if "to" in cell else numbers)
    assert cases == set(range(1, 63))


def _functions(file: str) -> set[str]:
    path = ROOT / "tests" / file
    tree = ast.parse(path.read_text()) if path.exists() else ast.Module([], [])
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
