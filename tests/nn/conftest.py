"""Small encoders on disk, with weights that no training has seen."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file


def weights(architecture: str, path: Path, **arguments: Any) -> Path:
    """Random weights of a timm network, the same every time."""
    torch.manual_seed(0)
    save_file(timm.create_model(architecture, **arguments).state_dict(), path)
    return path


@pytest.fixture(scope="session")
def resnet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of a resnet10t."""
    return weights("resnet10t", tmp_path_factory.mktemp("resnet") / "resnet.safetensors")


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as hubs ship it, of a network that takes 64 px."""
    return hub_folder(tmp_path_factory.mktemp("hub") / "small")


def hub_folder(path: Path) -> Path:
    """config.json and model.safetensors of a resnet18 for 64 px patches."""
    path.mkdir()
    weights("resnet18", path / "model.safetensors", num_classes=0)
    config = {
        "architecture": "resnet18",
        "num_classes": 0,
        "pretrained_cfg": {"input_size": [3, 64, 64], "mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]},
    }
    (path / "config.json").write_text(json.dumps(config))
    return path
