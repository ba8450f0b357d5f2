"""``wsikit config``: configuration files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

config_app = typer.Typer(help="Configuration files.", no_args_is_help=True)


USES = {
    "run.yaml": "run -c {} -i SLIDES -o OUT",
    "tile.yaml": "tile -c {} -i SLIDES -o OUT",
    "counting.yaml": "train counting -c {} --data IMAGES -o OUT",
    "slurm.yaml": "run --cluster slurm --cluster-options {} -i SLIDES -o OUT",
}
"""Template -> how what is made of it is used."""


@config_app.callback()
def config() -> None:
    """Configuration files."""


@config_app.command("init")
def init(
    path: Annotated[
        Path, typer.Argument(help="File to write: run.yaml, tile.yaml, counting.yaml or slurm.yaml.")
    ] = Path("run.yaml"),
    force: Annotated[bool, typer.Option("--force", "-f", help="Replace the file if it is there.")] = False,
) -> None:
    """Write a configuration file with every option, its default and what it means.

    It is of `run`; one called tile.yaml is of `tile`, counting.yaml of `train counting`, and slurm.yaml holds the
    options of a cluster.
    """
    from importlib.resources import files

    from wsikit.errors import ConfigError, OutputError

    if path.exists() and not force:
        raise ConfigError(f"{path} is there already; --force replaces it")
    try:
        name = path.name if path.name in USES else "run.yaml"
        path.write_text(files("wsikit.configs").joinpath(name).read_text("utf-8"), "utf-8")
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror}") from error
    print(f"wrote {path}; use it with: wsikit {USES[name].format(path)}")
