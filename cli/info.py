"""``wsikit info``: what a slide file holds, which reader serves it, and why a file cannot be run."""

from __future__ import annotations

import json as jsonlib
import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import running

if TYPE_CHECKING:
    from wsikit.errors import WsikitError
    from wsikit.slides import Reader

NOT_RUNNABLE = 3
"""Exit code where the file cannot be run as a slide."""


def info(
    path: Annotated[Path, typer.Argument(help="The slide's own file.")],
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    isolate: running.Isolate = None,
) -> None:
    """Show the levels, resolution, vendor, bounds and associated images of a slide, and which reader serves it."""
    from wsikit.errors import ResolutionError, SlideOpenError
    from wsikit.slides import open_reader
    from wsikit.slides.slide import checked_mpp

    facts: dict[str, Any] = {"path": str(path)}
    try:
        reader = open_reader(path, isolate=bool(isolate))
    except SlideOpenError as error:
        facts |= _problem(error)
    else:
        facts |= _facts(path, reader, isolate=bool(isolate))
        try:
            checked_mpp(reader, None)
        except ResolutionError as error:
            facts |= _problem(error)
        reader.close()
    if json:
        # surrogates of undecodable file names become \\udcXX escapes
        print(jsonlib.dumps(facts, indent=2, ensure_ascii=True))
    else:
        _show(facts)
    if "code" in facts:
        raise typer.Exit(NOT_RUNNABLE)


def _problem(error: WsikitError) -> dict[str, str]:
    return {"code": error.code, "message": str(error), "remedy": error.remedy}


def _facts(path: Path, reader: Reader, *, isolate: bool) -> dict[str, Any]:
    from wsikit.slides.isolated import ISOLATED
    from wsikit.slides.levels import true_downsamples

    # JSON has no NaN; mpp_source and the message quote what the file says
    mpp = reader.mpp if reader.mpp and all(math.isfinite(v) for v in reader.mpp) else None
    downsamples = true_downsamples(reader.sizes, reader.downsamples)
    levels = [
        {
            "level": i,
            "width": width,
            "height": height,
            "downsample": downsample,
            "mpp": mpp[0] * downsample if mpp else None,
            "tile": list(reader.tile_size(i)),
        }
        for i, ((width, height), downsample) in enumerate(zip(reader.sizes, downsamples, strict=True))
    ]
    return {
        "reader": reader.name,
        "refused": _refusals(path, reader.name.removesuffix(ISOLATED), isolate=isolate),
        "vendor": reader.vendor,
        "mpp": list(mpp) if mpp else None,
        "mpp_source": reader.mpp_source,
        "bounds": list(reader.bounds) if reader.bounds else None,
        "background": list(reader.background),
        "plain_image": reader.is_field,
        "levels": levels,
        "associated": {name: list(size) for name, size in reader.associated().items()},
    }


def _refusals(path: Path, chosen: str, *, isolate: bool) -> dict[str, str]:
    """Why each reader before the chosen one does not take the file."""
    from wsikit.errors import SlideOpenError
    from wsikit.slides import open_with, tried

    reasons: dict[str, str] = {}
    for name in tried():
        if name == chosen:
            break
        try:
            open_with(name, path, isolate=isolate).close()
        except SlideOpenError as error:
            reasons[name] = str(error)
    return reasons


def _show(facts: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.text import Text

    console = Console()
    # Text, not markup: a file name may hold brackets
    console.print(Text(_printable(facts["path"]), style="bold"), soft_wrap=True)
    if "reader" in facts:
        for label, value in _rows(facts):
            console.print(Text(f"{label:<11}", style="cyan") + Text(_printable(value)), soft_wrap=True)
        console.print(_level_table(facts["levels"]))
    if "code" in facts:
        console.print(Text(f"cannot be run: {facts['code']}", style="bold red"))
        console.print(Text(_printable(facts["message"])), soft_wrap=True)
        if facts["remedy"]:
            console.print(Text(f"remedy: {facts['remedy']}", style="green"), soft_wrap=True)


def _rows(facts: dict[str, Any]) -> list[tuple[str, str]]:
    mpp = f"{facts['mpp'][0]:.4g} x {facts['mpp'][1]:.4g} um per pixel" if facts["mpp"] else "not stated"
    bounds = "x={} y={} {}x{} px".format(*facts["bounds"]) if facts["bounds"] else "none"
    images = ", ".join(f"{name} {width}x{height}" for name, (width, height) in facts["associated"].items())
    rows = [("reader", facts["reader"])]
    rows += [("", f"not {name}: {reason}") for name, reason in facts["refused"].items()]
    rows += [("vendor", facts["vendor"]), ("mpp", f"{mpp} ({facts['mpp_source']})"), ("bounds", bounds)]
    rows += [("background", "#{:02x}{:02x}{:02x}".format(*facts["background"])), ("images", images or "none")]
    return [*rows, ("kind", "plain image, all of it tissue" if facts["plain_image"] else "slide")]


def _level_table(levels: list[dict[str, Any]]) -> Any:
    from rich.table import Table

    table = Table("level", "width", "height", "downsample", "um/px", "tile", box=None)
    for level in levels:
        mpp = f"{level['mpp']:.4g}" if level["mpp"] else "-"
        tile = "{}x{}".format(*level["tile"])
        size = str(level["width"]), str(level["height"])
        table.add_row(str(level["level"]), *size, f"{level['downsample']:.4g}", mpp, tile)
    return table


def _printable(text: str) -> str:
    """Without the surrogates and control characters that a hostile file name can hold."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
