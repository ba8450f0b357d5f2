"""``wsikit config``: configuration files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

config_app = typer.Typer(help="Configuration files.", no_args_is_help=True)


@config_app.callback()
def config() -> None:
    """Configuration files."""


@config_app.command("init")
def init(
    path: Annotated[Path, typer.Argument(help="File to write; tile.yaml is one for `wsikit tile`.")] = Path("run.yaml"),
    force: Annotated[bool, typer.Option("--force", "-f", help="Replace the file if it is there.")] = False,
) -> None:
    """Write a configuration file with every option, its default and what it means: of `run`, or of `tile`."""
    from importlib.resources import files

    from wsikit.errors import ConfigError, OutputError

    if path.exists() and not force:
        raise ConfigError(f"{path} is there already; --force replaces it")
    try:
        verb = "tile" if path.name == "tile.yaml" else "run"
        path.write_text(files("wsikit.configs").joinpath(f"{verb}.yaml").read_text("utf-8"), "utf-8")
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror}") from error
    print(f"wrote {path}; use it with: wsikit {verb} -c {path} -i SLIDES -o OUT")
