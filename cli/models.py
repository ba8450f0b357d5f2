"""``wsikit models``: what -m can be."""

from __future__ import annotations

from typing import Annotated

import typer


def models(
    names: Annotated[bool, typer.Option("--names", help="Print only the names, one a line.")] = False,
) -> None:
    """List the models that can be run."""
    from wsikit.predictors import PREDICTORS, load_predictor

    if names:
        print("\n".join(PREDICTORS))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("model", "gives", "um/px", "patch", "classes", "what it does", box=None)
    for name in PREDICTORS:
        predictor = load_predictor(name)
        tile, classes = predictor.tile, ", ".join(label.name for label in predictor.labels)
        description = PREDICTORS.load(name).description
        table.add_row(name, predictor.produces.__name__, f"{tile.mpp:g}", f"{tile.patch} px", classes, description)
    Console().print(table)
