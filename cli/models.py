"""``wsikit models``: what -m can be."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from wsikit.training.checkpoint import MethodCard


SHOWN_METRICS = 4
"""Of a checkpoint, in one line of a table; its card holds all."""
NAME_WIDTH = 24
"""Characters of a name that are not broken, however narrow the terminal is."""


def models(
    folder: Annotated[
        Path | None, typer.Argument(help="List the checkpoints of `wsikit train` below this folder instead.")
    ] = None,
    names: Annotated[bool, typer.Option("--names", help="Print only the names, one a line.")] = False,
) -> None:
    """List the models that can be run: wsikit's own, those of installed packages, methods to train, and files."""
    from wsikit.predictors import FORMS, METHODS, PREDICTORS

    if folder is not None:
        _checkpoints(folder, names)
        return
    if names:
        print("\n".join(PREDICTORS))
        return
    columns = "model", "gives", "um/px", "patch", "classes", "from", "what it does"
    _show(columns, [(name, *_described(name)) for name in PREDICTORS])
    print("\nor a method, which `wsikit train METHOD` trains and -m METHOD:CHECKPOINT runs:")
    _show(("method", "from", "what it does"), [(n, METHODS.origin(n), _first_line(METHODS[n])) for n in METHODS])
    print("\nor a file; .py and TorchScript files are code that runs when they are loaded:")
    for form, meaning in FORMS.items():
        print(f"  -m {form}  {meaning}")


def _show(columns: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(*columns, box=None)
    # names are to be typed: whole where they are not paths
    table.columns[0].no_wrap = all(len(row[0]) <= NAME_WIDTH for row in rows)
    table.columns[0].overflow = "fold"
    for row in rows:
        table.add_row(*map(escape, row))
    Console().print(table)


def _first_line(target: str) -> str:
    """Of a module's docstring, from its source: to import a method takes seconds."""
    import ast
    from importlib.util import find_spec

    try:
        spec = find_spec(target.partition(":")[0])
        source = Path((spec and spec.origin) or "").read_text("utf-8")
        return (ast.get_docstring(ast.parse(source)) or "").partition("\n")[0]
    except (ImportError, OSError, SyntaxError) as error:
        return f"cannot be used: {error}"


def _checkpoints(folder: Path, names: bool) -> None:
    """What was trained below a folder; a folder that is not there, or holds none, is an error."""
    from wsikit.errors import ConfigError
    from wsikit.training.checkpoint import find_checkpoints

    found = find_checkpoints(folder)
    if not found:
        raise ConfigError(
            f"{folder} holds no checkpoint" if folder.is_dir() else f"there is no folder {folder}",
            code="no_weights",
            remedy="give the folder that `wsikit train` wrote to; a checkpoint is a .safetensors file beside its card",
        )
    if names:
        print("\n".join(f"{card.method}:{path}" for path, card in found))
        return
    columns = "-m", "name", "um/px", "classes", "measured", "licence"
    _show(columns, [(f"{card.method}:{path}", *_facts(card)) for path, card in found])


def _facts(card: MethodCard) -> tuple[str, ...]:
    numbers = {key: value for key, value in card.metrics.items() if isinstance(value, int | float)}
    measured = ", ".join(f"{key} {numbers[key]:.4g}" for key in list(numbers)[:SHOWN_METRICS])
    classes = ", ".join(label.name for label in card.labels)
    return card.name, f"{card.mpp:g}", classes or "-", measured or "-", card.licence or "not stated"


def _described(name: str) -> tuple[str, ...]:
    """A model's row; one that cannot be made says why in it, and does not hide the others."""
    from wsikit.errors import WsikitError
    from wsikit.predictions import Predictor
    from wsikit.predictors import PREDICTORS, load_predictor

    origin = PREDICTORS.origin(name)
    try:
        model = load_predictor(name)
        description = getattr(PREDICTORS.load(name), "description", "")
    except WsikitError as error:
        return "-", "-", "-", "-", origin, f"cannot be used: {error}"
    gives = model.produces.__name__ if isinstance(model, Predictor) else f"{model.width} features"
    classes = ", ".join(label.name for label in model.labels) or "-"
    return gives, f"{model.tile.mpp:g}", f"{model.tile.patch} px", classes, origin, description
