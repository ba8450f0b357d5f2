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
    "cam_onss.yaml": "train cam_onss -c {} --data PATCHES -o OUT",
    "luad_histoseg.yaml": "train cam_onss -c {} --data LUAD-HistoSeg -o OUT",
    "bcss_wsss.yaml": "train cam_onss -c {} --data BCSS-WSSS -o OUT",
    "points.yaml": "train points -c {} --data IMAGES -o OUT",
    "nuclei.yaml": "train points -c {} --data DSB2018 -o OUT",
    "slurm.yaml": "run --cluster slurm --cluster-options {} -i SLIDES -o OUT",
}
"""Template -> how what is made of it is used."""


@config_app.callback()
def config() -> None:
    """Configuration files."""


@config_app.command("init")
def init(
    path: Annotated[Path, typer.Argument(help=f"File to write: {', '.join(USES)}.")] = Path("run.yaml"),
    force: Annotated[bool, typer.Option("--force", "-f", help="Replace the file if it is there.")] = False,
) -> None:
    """Write a configuration file with every option, its default and what it means.

    Its name says what it is of: run.yaml, or any other name, of `run`; tile.yaml of `tile`; counting.yaml,
    cam_onss.yaml and points.yaml of `train`, luad_histoseg.yaml and bcss_wsss.yaml with the schedules of those data
    sets, nuclei.yaml as the model `nuclei` was trained; slurm.yaml holds the options of a cluster.
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
