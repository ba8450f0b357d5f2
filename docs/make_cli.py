"""Writes docs/cli.md from the command line itself: `python docs/make_cli.py` (`make docs`)."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

from wsikit.cli.main import typer_app

PAGE = Path(__file__).with_name("cli.md")
HEAD = """# The command line

Every verb with its options, as `wsikit VERB --help` shows them. Written by `make docs`.
"""


def page() -> str:
    """The whole page."""
    root: Any = typer.main.get_command(typer_app)
    return "\n".join([HEAD, *(line for name, command in root.commands.items() for line in _verb(name, command))])


def _verb(name: str, command: Any) -> Iterator[str]:
    if hasattr(command, "commands"):
        for inner, part in command.commands.items():
            yield from _verb(f"{name} {inner}", part)
        return
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    usage = " ".join(["wsikit", name, "[OPTIONS]", *(_metavar(p) for p in arguments)])
    yield from (f"## wsikit {name}", "", f"`{usage}`", "", inspect.cleandoc(command.help), "")
    yield from ("| option | what it does |", "|---|---|")
    yield from (_row(p) for p in command.params if p.name != "help")
    yield ""


def _metavar(parameter: Any) -> str:
    name = parameter.metavar or parameter.name.upper()
    return name if parameter.required else f"[{name}]"


def _row(parameter: Any) -> str:
    names = ", ".join(f"`{name}`" for name in parameter.opts) if parameter.param_type_name == "option" else ""
    default = parameter.default
    shown = "" if default in (None, False, (), []) or callable(default) else f" Default: {default}."
    cell = f"{parameter.help or ''}{' Required.' if parameter.required else ''}{shown}".replace("|", "\\|")
    return f"| {names or f'`{_metavar(parameter)}`'} | {cell} |"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
