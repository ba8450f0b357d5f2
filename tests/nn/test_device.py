"""Where a network runs, and what is kept the same wherever it does."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from wsikit.errors import ConfigError
from wsikit.nn.device import THREADS, choose_device, fix_threads


def test_a_gpu_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="sees no GPU") as caught:
        choose_device("cuda")
    assert caught.value.code == "no_gpu"
    assert "--device cpu" in caught.value.remedy


@pytest.mark.parametrize(
    ("gpu", "name", "want"), [(True, "auto", "cuda"), (False, "auto", "cpu"), (True, "cpu", "cpu")]
)
def test_auto_takes_the_gpu_where_there_is_one(
    monkeypatch: pytest.MonkeyPatch, gpu: bool, name: str, want: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    assert choose_device(name).type == want


def test_an_unknown_device_lists_the_choices() -> None:
    with pytest.raises(ConfigError, match="auto, cpu or cuda"):
        choose_device("tpu")


def test_threads_are_set_back_to_the_fixed_number() -> None:
    torch.set_num_threads(THREADS + 1)
    fix_threads()
    assert torch.get_num_threads() == THREADS


def test_importing_the_package_imports_no_torch() -> None:
    code = "import sys, wsikit.nn, wsikit.nn.device, wsikit.nn.images; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
