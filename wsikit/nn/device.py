"""Where a network runs, and the one setting that would otherwise change its numbers from run to run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wsikit.errors import ConfigError

if TYPE_CHECKING:
    import torch

THREADS = 1
"""Intra-op threads of torch on the CPU. Sums are cut by the number of threads, so another number moves the last bits of
every result; the machine is filled by workers instead."""


def choose_device(name: str = "auto") -> torch.device:
    """The device that a name stands for: auto takes the GPU where torch sees one, else the CPU.

    Raises:
        ConfigError: an unknown name, or cuda where torch sees no GPU (code no_gpu).
    """
    import torch

    if name not in {"auto", "cpu", "cuda"}:
        raise ConfigError(f"device is auto, cpu or cuda, got {name!r}")
    found = torch.cuda.is_available()
    if name == "cuda" and not found:
        built = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "built for the CPU only"
        raise ConfigError(
            f"device cuda: torch {torch.__version__} ({built}) sees no GPU on this machine",
            code="no_gpu",
            remedy="use --device cpu or auto, or look at what nvidia-smi says",
        )
    return torch.device("cuda" if found and name != "cpu" else "cpu")


def fix_threads() -> None:
    """Set torch's intra-op threads of this process to ``THREADS``; called before every pass of a network.

    Each time, since it is a setting of the whole process that other code may change in between.
    """
    import torch

    if torch.get_num_threads() != THREADS:
        torch.set_num_threads(THREADS)
