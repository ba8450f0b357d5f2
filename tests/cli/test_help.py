"""docs/cli.md and `--help` say the same, of every verb."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from wsikit.cli.main import typer_app

DOCS = Path(__file__).parents[2] / "docs"


def leaves(command: Any, words: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], Any]]:
    """(words, command) of every verb that does something."""
    if not hasattr(command, "commands"):
        return [(words, command)]
    return [leaf for name, inner in command.commands.items() for leaf in leaves(inner, (*words, name))]


VERBS = leaves(typer.main.get_command(typer_app))


def test_the_page_is_what_make_docs_writes() -> None:
    spec = importlib.util.spec_from_file_location("make_cli", DOCS / "make_cli.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.page() == (DOCS / "cli.md").read_text(encoding="utf-8"), "run `make docs`"


@pytest.mark.parametrize(("words", "command"), VERBS, ids=lambda value: "-".join(value) if type(value) is tuple else "")
def test_help_shows_every_option_of_the_page(words: tuple[str, ...], command: Any) -> None:
    shown = CliRunner().invoke(typer_app, [*words, "--help"], env={"COLUMNS": "200", "TERM": "dumb"}).output
    section = (DOCS / "cli.md").read_text(encoding="utf-8").split(f"## wsikit {' '.join(words)}\n")[1].split("\n## ")[0]
    options = set(re.findall(r"^\| `(--[a-z0-9-]+)`", section, re.M))
    assert options == {p.opts[0] for p in command.params if p.param_type_name == "option" and p.name != "help"}
    assert not [option for option in options if option not in shown]


@pytest.mark.parametrize(("words", "command"), VERBS, ids=lambda value: "-".join(value) if type(value) is tuple else "")
def test_every_option_is_explained(words: tuple[str, ...], command: Any) -> None:
    assert command.help
    assert not [p.name for p in command.params if p.name != "help" and not p.help]
