"""``wsikit models``: what -m can be."""

from __future__ import annotations

from typing import Annotated

import typer


def models(
    names: Annotated[bool, typer.Option("--names", help="Print only the names, one a line.")] = False,
) -> None:
    """List the models that can be run: wsikit's own, those of installed packages, and the files that -m takes."""
    from wsikit.predictors import FORMS, PREDICTORS

    if names:
        print("\n".join(PREDICTORS))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("model", "gives", "um/px", "patch", "classes", "from", "what it does", box=None)
    for name in PREDICTORS:
        table.add_row(name, *_described(name))
    Console().print(table)
    print("\nor a file; .py and TorchScript files are code that runs when they are loaded:")
    for form, meaning in FORMS.items():
        print(f"  -m {form}  {meaning}")


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
