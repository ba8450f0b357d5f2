"""The feed: passes of one size, buffers used again, and what happens when a device has no memory."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from wsikit.errors import PredictionError
from wsikit.nn.device import gpu_seconds
from wsikit.nn.feed import Feed
from wsikit.nn.images import Preprocess

AS_BYTES = Preprocess((0, 0, 0), (1 / 255,) * 3)
"""Leaves 0 to 255 as they are."""


def patches(count: int, side: int = 8, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(1, 256, (count, side, side, 3), dtype=np.uint8)


def means(pixels: torch.Tensor) -> torch.Tensor:
    return pixels.mean(dim=(2, 3))


def wanted(images: NDArray[np.uint8]) -> NDArray[np.float64]:
    return images.mean(axis=(1, 2))


class Watched:
    """A network that keeps what it is shown, and has memory for so many patches."""

    def __init__(self, memory: int = 1000) -> None:
        self.memory = memory
        self.seen: list[torch.Tensor] = []

    def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
        self.seen.append(pixels.clone())
        if len(pixels) > self.memory:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return means(pixels)

    def sizes(self) -> list[int]:
        return [len(pixels) for pixels in self.seen]


def feed(network: Callable[[torch.Tensor], torch.Tensor], batch: int = 4, **options: Any) -> Feed:
    return Feed("net", network, AS_BYTES, "cpu", batch, **options)


@pytest.mark.parametrize("count", [1, 3, 4, 5, 8, 11])
def test_every_patch_is_answered_in_passes_of_one_size(count: int) -> None:
    network, images = Watched(), patches(count)
    assert np.allclose(feed(network)(images), wanted(images), atol=1e-4)
    assert network.sizes() == [4] * -(-count // 4)


def test_padding_is_black_whatever_the_buffer_held_before() -> None:
    network = Watched()
    fed = feed(network)
    for count in (3, 1, 2):
        fed(patches(count, seed=count))
        assert not network.seen[-1][count:].any()
        assert network.seen[-1][:count].all()


def buffers_of(fed: Feed, *batches: NDArray[np.uint8]) -> list[int]:
    """Where in memory the bytes of each batch's last pass lay."""
    found: list[int] = []

    class Noting(Preprocess):
        def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
            found.append(pixels.data_ptr())
            return super().__call__(pixels)

    fed._preprocess = Noting(AS_BYTES.mean, AS_BYTES.std)
    for batch in batches:
        fed(batch)
    return found


def test_a_whole_pass_is_not_copied_and_a_padded_one_goes_through_one_buffer() -> None:
    whole = patches(4)
    first, second, third = buffers_of(feed(means), whole, patches(3), patches(2))
    assert first == whole.ctypes.data
    assert second == third != first


def test_patches_of_another_size_get_a_buffer_of_their_own() -> None:
    fed = feed(means)
    for images in (patches(3, 8), patches(3, 16), patches(2, 8)):
        assert np.allclose(fed(images), wanted(images), atol=1e-4)


def test_the_patches_stay_as_they_were() -> None:
    images = patches(7)
    before = images.copy()
    feed(means)(images)
    assert np.array_equal(images, before)


@pytest.mark.parametrize("strided", [False, True])
def test_views_and_read_only_arrays_are_taken_without_a_word(strided: bool) -> None:
    images = patches(8)[::2] if strided else patches(4)
    images.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.allclose(feed(means)(images), wanted(images), atol=1e-4)


@pytest.mark.parametrize(("last", "strides"), [(True, (192, 1, 24, 3)), (False, (192, 64, 8, 1))])
def test_channels_lie_last_or_first_in_memory_as_the_network_wants(last: bool, strides: tuple[int, ...]) -> None:
    network = Watched()
    feed(lambda pixels: network(pixels), channels_last=last)(patches(4))
    assert network.seen[0].stride() == strides


def test_shorter_precision_reaches_the_network() -> None:
    network = torch.nn.Conv2d(3, 2, 1)
    types = []

    def noted(pixels: torch.Tensor) -> torch.Tensor:
        values = network(pixels)
        types.append(values.dtype)
        return means(values)

    for precision in ("float32", "bfloat16"):
        assert feed(noted, precision=precision)(patches(2)).dtype == np.float32
    assert types == [torch.float32, torch.bfloat16]


@pytest.mark.parametrize(("memory", "stays"), [(8, 8), (7, 4), (3, 2), (1, 1)])
def test_where_memory_runs_out_passes_are_halved_and_stay_so(memory: int, stays: int) -> None:
    network, images = Watched(memory), patches(19)
    fed = feed(network, batch=8)
    expected = feed(Watched(), batch=8)(images)
    assert np.array_equal(fed(images), expected)
    assert fed.batch == stays
    network.seen.clear()
    assert np.array_equal(fed(images), expected)
    assert set(network.sizes()) == {stays}, "memory is not asked for again"


def test_memory_that_runs_out_in_the_middle_loses_nothing_and_doubles_nothing() -> None:
    network, images = Watched(), patches(11)
    passes = iter([8, 1, 8])

    def sometimes(pixels: torch.Tensor) -> torch.Tensor:
        network.memory = next(passes, 8)
        return network(pixels)

    assert np.allclose(feed(sometimes)(images), wanted(images), atol=1e-4)


def test_no_memory_for_one_patch_is_an_error_that_says_what_to_do() -> None:
    with pytest.raises(PredictionError, match=r"'net' finds no memory .* one patch of 8 x 8 px") as caught:
        feed(Watched(0))(patches(5))
    assert caught.value.code == "no_gpu_memory"
    assert isinstance(caught.value.__cause__, torch.OutOfMemoryError)
    assert "--device cpu" in caught.value.remedy


def test_other_errors_of_the_network_are_its_own() -> None:
    def broken(pixels: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    fed = feed(broken)
    with pytest.raises(RuntimeError, match="mat1"):
        fed(patches(1))
    assert fed.batch == 4


def test_threads_do_not_write_into_one_anothers_buffers() -> None:
    both = threading.Barrier(2)

    class Meeting(Preprocess):
        def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
            both.wait(10)  # both have filled their buffers
            return super().__call__(pixels)

    fed = Feed("net", means, Meeting(AS_BYTES.mean, AS_BYTES.std), "cpu", 4)
    batches = [patches(3, seed=1), patches(3, seed=2)]
    with ThreadPoolExecutor(2) as pool:
        for found, images in zip(pool.map(fed, batches), batches, strict=True):
            assert np.allclose(found, wanted(images), atol=1e-4)


def test_threads_that_run_out_of_memory_together_halve_once() -> None:
    both = threading.Barrier(2)

    def network(pixels: torch.Tensor) -> torch.Tensor:
        if len(pixels) == 8:
            both.wait(10)
            raise torch.OutOfMemoryError
        return means(pixels)

    fed = feed(network, batch=8)
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(fed, [patches(3), patches(3)]))
    assert fed.batch == 4


def test_the_processor_is_no_gpu() -> None:
    before = gpu_seconds()
    feed(means)(patches(9))
    assert gpu_seconds() == before


GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU on this machine")


@GPU
@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 64, 200])
def test_a_gpu_gives_what_the_processor_gives(count: int) -> None:
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Conv2d(8, 8, 3)).eval()
    images, prepared = patches(count, 96), Preprocess(size=64)
    expected = Feed("net", lambda x: means(network(x)), prepared, "cpu", 8)(images)
    on_gpu = network.cuda()
    fed, before = Feed("net", lambda x: means(on_gpu(x)), prepared, "cuda", 16), gpu_seconds()
    for _ in range(3):
        assert np.allclose(fed(images), expected, atol=2e-3)
    assert gpu_seconds() > before


@GPU
@pytest.mark.slow
def test_a_gpu_whose_memory_runs_out_gives_the_same_with_smaller_passes() -> None:
    def hungry(pixels: torch.Tensor) -> torch.Tensor:
        free, _ = torch.cuda.mem_get_info()
        ballast = torch.empty(int(len(pixels) / 40 * free), dtype=torch.uint8, device="cuda")
        return means(pixels) + 0 * ballast[0]

    images = patches(150)
    fed = Feed("net", hungry, AS_BYTES, "cuda", 64)
    assert np.allclose(fed(images), wanted(images), atol=1e-3)
    assert fed.batch == 32
