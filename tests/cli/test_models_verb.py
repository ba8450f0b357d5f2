"""``wsikit models``: methods beside models, and the checkpoints of a folder."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import typer
from typer.testing import CliRunner

from wsikit.cli.models import models
from wsikit.errors import ConfigError
from wsikit.nn.card import CardLabel
from wsikit.predictors import METHODS
from wsikit.training.checkpoint import MethodCard, save_checkpoint

app = typer.Typer()
app.command()(models)


def lines(*words: object) -> list[str]:
    answer = CliRunner().invoke(app, list(map(str, words)), env={"COLUMNS": "400"}, catch_exceptions=False)
    assert answer.exit_code == 0
    return answer.output.splitlines()


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    """A folder with one checkpoint of a run inside it."""
    labels = (CardLabel(name="Nucleus"), CardLabel(name="Other [x]"))
    measured = {"mae": 1.23456, "per_image": [1, 2], "r2": 0.9}
    card = MethodCard(
        method="counting", name="small", version=1, labels=labels, mpp=0.5, core=256, metrics=measured, licence="CC0"
    )
    save_checkpoint(tmp_path / "run" / "best.safetensors", {"x": torch.zeros(1)}, card)
    return tmp_path


def test_methods_are_listed_with_the_first_line_of_their_module() -> None:
    said = lines()
    for name in METHODS:
        first = METHODS.load(name).__doc__.splitlines()[0]
        assert any(line.split()[:2] == [name, "wsikit"] and first in line for line in said), said


def test_a_checkpoint_is_listed_as_it_is_given_to_m(trained: Path) -> None:
    row = next(line for line in lines(trained) if "best.safetensors" in line)
    assert row.split()[0] == f"counting:{trained / 'run' / 'best.safetensors'}"
    for fact in ("small", "0.5", "Nucleus, Other [x]", "mae 1.235, r2 0.9", "CC0"):
        assert f" {fact} " in f"{row} "


def test_names_of_checkpoints_are_what_m_takes(trained: Path) -> None:
    assert lines(trained, "--names") == [f"counting:{trained / 'run' / 'best.safetensors'}"]


@pytest.mark.parametrize("name", [".", "gone"])
def test_a_folder_without_any_is_an_error(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError) as caught:
        lines(tmp_path / name)
    assert caught.value.code == "no_weights"
    assert "wsikit train" in str(caught.value.remedy)
