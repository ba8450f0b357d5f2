"""Where a network runs, how many patches at once, and the setting that would change its numbers from run to run."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Literal

from wsikit.errors import ConfigError

if TYPE_CHECKING:
    import torch

THREADS = 1
"""Intra-op threads of torch on the CPU. Sums are cut by the number of threads, so another number moves the last bits of
every result; the machine is filled by workers instead."""

CPU_BATCH, GPU_BATCH = 8, 64
"""Patches in a pass where nothing else is said. On 2 cores 8 was as fast as 16 and 32."""
Precision = Literal["float32", "bfloat16", "float16"]
"""What a network computes in."""
_SPENT = threading.local()


def pass_size(device: str) -> int:
    """Patches in a pass where nothing else is said."""
    return CPU_BATCH if device == "cpu" else GPU_BATCH


def gpu_seconds() -> float:
    """How long a GPU has worked for this thread so far, by its own clock; 0 where there is none."""
    return getattr(_SPENT, "seconds", 0.0)


def add_gpu_seconds(seconds: float) -> None:
    """Count work of a GPU for this thread."""
    _SPENT.seconds = gpu_seconds() + seconds


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


def fast_precision(device: str) -> Precision:
    """bfloat16 on the CPU where the processor multiplies it by itself (AVX-512 BF16 or AMX), and networks answer about
    twice as fast; else float32."""
    import torch

    native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return "bfloat16" if device == "cpu" and native else "float32"


def fix_threads() -> None:
    """Set torch's intra-op threads of this process to ``THREADS``; called before every pass of a network.

    Each time, since it is a setting of the whole process that other code may change in between.
    """
    import torch

    if torch.get_num_threads() != THREADS:
        torch.set_num_threads(THREADS)
