"""The command line: one file per verb; this one only puts them together and says what went wrong."""

from __future__ import annotations

import io
import logging
import sys
from typing import Annotated

import typer

from .config import config_app
from .convert import convert
from .doctor import doctor
from .embed import embed
from .evaluate import evaluate
from .info import info
from .models import models
from .report import report
from .run import run
from .samples import samples
from .status import status
from .tile import tile
from .tissue import tissue
from .train import train
from .verify import verify

USAGE = 2
"""Exit code where the command itself is wrong or cannot start."""
INTERRUPTED = 130
"""Exit code after Ctrl-C."""


def _print_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        print(f"wsikit {version('wsikit')}")
        raise typer.Exit


typer_app = typer.Typer(
    name="wsikit",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


@typer_app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and stop.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Whole-slide images in, QuPath GeoJSON and OME-Zarr masks out."""


VERBS = (info, doctor, tissue, tile, run, embed, status, verify, report, train, evaluate, convert, models, samples)
for verb in VERBS:
    typer_app.command()(verb)
typer_app.add_typer(config_app, name="config")


def app() -> None:
    """Entry point: wsikit's own errors become one message and exit code 2, or that of what stopped a run."""
    from wsikit.errors import WsikitError

    from .ending import EXIT_CODES

    # what tifffile thinks of a broken file is in the slide's own message
    logging.getLogger("tifffile").setLevel(logging.CRITICAL)
    if isinstance(sys.stdout, io.TextIOWrapper):
        # file names may hold what the output's encoding lacks
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        typer_app()
    except WsikitError as error:
        sys.stderr.write(f"wsikit: {error}\n")
        if error.remedy:
            sys.stderr.write(f"  what to do: {error.remedy}\n")
        sys.exit(EXIT_CODES.get(error.code, USAGE))
    except SystemExit as end:
        # typer turns an interrupt into this exit code and says nothing
        if end.code == INTERRUPTED:
            sys.stderr.write("wsikit: interrupted; the same command goes on where it stopped\n")
        raise
