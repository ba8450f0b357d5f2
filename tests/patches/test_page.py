"""docs/patches.md is true: its Python runs as it stands, on datasets as its commands make them."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from wsikit.geometry import TileSpec
from wsikit.patches import FORMATS, PatchRows, open_dataset
from wsikit.patches.images import encode
from wsikit.patches.slide import cut_slides

PAGE = (Path(__file__).parents[2] / "docs" / "patches.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)


COMMANDS = [shlex.split(line) for block in blocks("sh") for line in block.splitlines()]


@pytest.fixture(scope="module")
def workspace(cmu: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sample slide and its patches in every format, in the folders that the page names."""
    folder = tmp_path_factory.mktemp("patches")
    (folder / "samples").mkdir()
    slide = shutil.copyfile(cmu, folder / "samples" / "cmu-1-small-region.svs")
    [source] = cut_slides([slide], TileSpec(0.5, 256))
    data = [encode(source.read(index), "jpeg") for index in range(len(source))]
    rows = PatchRows(source.corners, source.xy, np.ones(len(source), np.float32), data)
    for name in FORMATS:
        made, out = FORMATS.load(name), folder / ("out" if name == "zarr" else f"out-{name}")
        writer = made(out / made.filename.format(slide_id=source.patches.slide_id))
        writer.begin(source.patches)
        writer.write(rows)
        writer.commit()
    return folder


@pytest.mark.parametrize("code", blocks("python"), ids=lambda code: code.splitlines()[-1])
def test_python_runs_as_it_stands(code: str, workspace: Path) -> None:
    # workers may be processes that import the main module: a file, guarded, is what a user would run
    body = "".join(f"    {line}\n" if line else "\n" for line in code.splitlines())
    script = workspace / "page.py"
    script.write_text(f'if __name__ == "__main__":\n{body}', encoding="utf-8")
    answer = subprocess.run([sys.executable, script.name], cwd=workspace, capture_output=True, text=True, timeout=120)
    assert answer.returncode == 0, f"{code}\n{answer.stdout}\n{answer.stderr}"


def test_commands_make_what_the_page_says(cmu: Path, tmp_path: Path) -> None:
    import typer

    from wsikit.cli.main import typer_app

    if "tile" not in typer.main.get_command(typer_app).commands:  # type: ignore[attr-defined]
        pytest.skip("needs the verb `wsikit tile`")
    (tmp_path / "samples").mkdir()
    shutil.copyfile(cmu, tmp_path / "samples" / "cmu-1-small-region.svs")
    for words in COMMANDS:
        command = [str(Path(sys.executable).with_name("wsikit")), *words[1:]]
        answer = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
        assert answer.returncode == 0, f"{shlex.join(words)}\n{answer.stdout}\n{answer.stderr}"
    outs = [words[words.index("-o") + 1] for words in COMMANDS]
    for out, name in zip(outs, ("zarr", "folder", "webdataset", "coords"), strict=True):
        [source] = open_dataset(tmp_path / out, name)
        assert len(source) > 40


def test_every_format_is_on_the_page() -> None:
    assert re.findall(r"^\| `([a-z]+)`", PAGE, re.MULTILINE) == list(FORMATS)


def test_there_is_something_to_run() -> None:
    assert len(blocks("python")) >= 9
    assert len(COMMANDS) == len(FORMATS)
