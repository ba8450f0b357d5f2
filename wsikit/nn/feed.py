"""Patches to a network, whatever it is a model of: in passes of one size, through buffers that are used again.

1. A pass always has the same number of patches, the last one padded: other sizes go other ways through the libraries,
   which moves the last bits. On the CPU that makes results the same bytes; nothing there changes the size.
2. On a GPU bytes wait in pinned buffers and are copied on a stream of their own, so that a pass is copied while the
   network works on the one before it; resizing and normalisation happen on the device. The host waits for the device
   once a call, when the last pass is under way.
3. Where the device has no memory for a pass, passes have half as many patches from then on. Results stay the same up to
   what the libraries round.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from functools import cache
from itertools import cycle
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from wsikit.errors import PredictionError
from wsikit.nn.device import Precision, add_gpu_seconds, fix_threads
from wsikit.nn.images import Preprocess

if TYPE_CHECKING:
    from wsikit.nn.networks import Network

BUFFERS = 3
"""Between host and device: one is filled, one is copied, one is in use."""

Forward = Callable[[torch.Tensor], torch.Tensor]
"""(N, 3, H, W) float32 on the device -> (N, ...) of the same N."""

_LOADING = threading.Lock()


def loaded(network: Network, device: str) -> torch.nn.Module:
    """The network, ready to answer on a device; loaded once in a process.

    Raises ConfigError (code bad_weights) where its file changed or is not whole.
    """
    with _LOADING:
        return _load(network, device)


@cache
def _load(network: Network, device: str) -> torch.nn.Module:
    return network.load().eval().to(device)


class Feed:
    """A network that takes any number of patches. Safe to call from several threads; does not pickle.

    Args:
        name: of the model, for errors.
        forward: the network.
        preprocess: what it takes of bytes.
        device: cpu or cuda.
        batch: patches in a pass.
        precision: of the network; other than float32 by torch's autocast.
        channels_last: hand tensors over channels last in memory, as they come, or first, which scripted code may
            take for granted.
    """

    def __init__(
        self,
        name: str,
        forward: Forward,
        preprocess: Preprocess,
        device: str,
        batch: int,
        *,
        precision: Precision = "float32",
        channels_last: bool = True,
    ) -> None:
        self.batch = batch
        self._name, self._forward, self._preprocess = name, forward, preprocess
        self._device, self._precision, self._channels_last = torch.device(device), precision, channels_last
        self._halving, self._own = threading.Lock(), threading.local()

    def __call__(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """What the network gives for N patches, in order.

        Args:
            images: (N, H, W, 3) RGB, N at least 1.

        Raises:
            PredictionError: code no_gpu_memory where the device has none for a single patch.
        """
        fix_threads()
        while True:
            size = self.batch
            try:
                return self._passes(images, size)
            except torch.OutOfMemoryError as error:
                if size == 1:
                    raise PredictionError(
                        f"the model {self._name!r} finds no memory on the GPU for one patch of "
                        f"{images.shape[2]} x {images.shape[1]} px",
                        code="no_gpu_memory",
                        remedy="end what else uses the GPU, take fewer --num-workers, or run with --device cpu",
                    ) from error
            self._halve(size)

    def _passes(self, images: NDArray[np.uint8], size: int) -> NDArray[np.float32]:
        cast = torch.autocast(self._device.type, getattr(torch, self._precision), enabled=self._precision != "float32")
        upload = self._buffers((size, *images.shape[1:])).upload
        outputs, marks = [], []
        with torch.inference_mode(), cast:
            for start in range(0, len(images), size):
                pixels = upload(images[start : start + size])
                begun = self._mark()
                outputs.append(self._forward(self._input(pixels)))
                marks.append((begun, self._mark()))
            output = outputs[0] if len(outputs) == 1 else torch.cat(outputs)
            padded = len(images) % size
            found: NDArray[np.float32] = (output[: len(images)] if padded else output).float().cpu().numpy()
        # what came back has waited for all of them
        add_gpu_seconds(_between(marks))
        return found

    def _input(self, pixels: torch.Tensor) -> torch.Tensor:
        tensor = self._preprocess(pixels)
        return tensor if self._channels_last else tensor.contiguous()

    def _mark(self) -> torch.cuda.Event | None:
        """This point of the GPU's work."""
        if self._device.type != "cuda":
            return None
        mark = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        mark.record()
        return mark

    def _buffers(self, shape: tuple[int, ...]) -> _Buffers:
        """This thread's own: two threads must not fill one buffer."""
        kept: _Buffers | None = getattr(self._own, "buffers", None)
        if kept is None or kept.shape != shape:
            kept = self._own.buffers = _Buffers(shape, self._device)
        return kept

    def _halve(self, size: int) -> None:
        """Once for all threads that ran out of memory with this size."""
        with self._halving:
            if self.batch == size:
                self.batch = size // 2
        if self._device.type == "cuda":
            torch.cuda.empty_cache()


class _Buffers:
    """Host memory that bytes go to the device from, used in turn; pinned where the device is a GPU."""

    def __init__(self, shape: tuple[int, ...], device: torch.device) -> None:
        self.shape, self._device = shape, device
        self._gpu = device.type == "cuda"
        made = [torch.zeros(shape, dtype=torch.uint8, pin_memory=self._gpu) for _ in range(BUFFERS if self._gpu else 1)]
        self._copying = torch.cuda.Stream(device) if self._gpu else None  # type: ignore[no-untyped-call]
        events = [torch.cuda.Event() if self._gpu else None for _ in made]  # type: ignore[no-untyped-call]
        self._turn = cycle(zip(made, events, strict=True))

    def upload(self, images: NDArray[np.uint8]) -> torch.Tensor:
        """(N, H, W, 3) on the device for at most N patches, padded with black.

        On the CPU it is a view of ``images`` or of the buffer, good until the next call.
        """
        if not self._gpu and images.shape == self.shape and images.flags.carray:
            return torch.from_numpy(images)
        buffer, copied = next(self._turn)
        if copied is not None:
            copied.synchronize()  # the copy that this buffer was last used for
        host = buffer.numpy()
        host[: len(images)], host[len(images) :] = images, 0
        return buffer if copied is None else self._copied(buffer, copied)

    def _copied(self, buffer: torch.Tensor, copied: torch.cuda.Event) -> torch.Tensor:
        assert self._copying is not None
        with torch.cuda.stream(self._copying):
            pixels = buffer.to(self._device, non_blocking=True)
            copied.record()
        computing = torch.cuda.current_stream(self._device)
        computing.wait_event(copied)
        # made on one stream and read on the other: its memory must not be given away before that
        pixels.record_stream(computing)
        return pixels


def _between(marks: Sequence[tuple[torch.cuda.Event | None, torch.cuda.Event | None]]) -> float:
    """Seconds between the two marks of each pass, by the GPU's own clock; all must have happened."""
    pairs = ((begun, ended) for begun, ended in marks if begun is not None and ended is not None)
    return float(sum(begun.elapsed_time(ended) for begun, ended in pairs)) / 1000
