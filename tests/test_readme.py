"""The README is true: its commands and its Python run as they stand, its targets and verbs exist."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)


COMMANDS = [line for block in blocks("sh") for line in block.splitlines() if line.startswith("wsikit ")]


@pytest.fixture(scope="module")
def workspace(cmu: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as it is after ``wsikit samples -o samples``."""
    folder = tmp_path_factory.mktemp("readme")
    (folder / "samples").mkdir()
    shutil.copyfile(cmu, folder / "samples" / "cmu-1-small-region.svs")
    return folder


def run(command: list[str], folder: Path, cmu: Path) -> None:
    # the sample is found in a cache, so that `wsikit samples` fetches nothing
    cache = folder / "cache"
    cache.mkdir(exist_ok=True)
    if not (cache / "cmu-1-small-region.svs").exists():
        shutil.copyfile(cmu, cache / "cmu-1-small-region.svs")
    environment = {**os.environ, "WSIKIT_CACHE": str(cache)}
    answer = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    assert answer.returncode == 0, f"{shlex.join(command)}\n{answer.stdout}\n{answer.stderr}"


@pytest.mark.parametrize("line", COMMANDS)
def test_command_runs_as_it_stands(line: str, workspace: Path, cmu: Path) -> None:
    words = shlex.split(line, comments=True)
    run([str(Path(sys.executable).with_name("wsikit")), *words[1:]], workspace, cmu)


@pytest.mark.parametrize("code", blocks("python"))
def test_python_runs_as_it_stands(code: str, workspace: Path, cmu: Path) -> None:
    # its workers may be processes that import the main module: a file, guarded, is what a user would run
    body = "".join(f"    {line}\n" if line else "\n" for line in code.splitlines())
    script = workspace / "readme.py"
    script.write_text(f'if __name__ == "__main__":\n{body}', encoding="utf-8")
    run([sys.executable, str(script)], workspace, cmu)
    assert (workspace / "objects.geojson.gz").stat().st_size > 0


def test_there_is_something_to_run() -> None:
    assert len(COMMANDS) >= 3
    assert len(blocks("python")) == 1


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md"])
def test_make_targets_exist(page: str) -> None:
    named = set(re.findall(r"\bmake ([a-z][a-z-]*)", "\n".join(re.findall(r"`[^`]*`|^make .*", page_text(page), re.M))))
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M))
    assert {"env", "test"} <= named
    assert named <= targets


def page_text(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def test_links_lead_somewhere() -> None:
    links = re.findall(r"\]\((?!https?://)([^)#]+)\)", README + page_text("CONTRIBUTING.md"))
    assert links
    assert not [link for link in links if not (ROOT / link).exists()]


def test_the_table_lists_every_verb() -> None:
    import typer

    from wsikit.cli.main import typer_app

    listed = set(re.findall(r"^\| `wsikit ([a-z]+)`", README, re.M))
    command = typer.main.get_command(typer_app)
    assert listed == set(command.commands)  # type: ignore[attr-defined]
