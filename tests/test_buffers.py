"""Memory comes back when nobody looks at it any more, and never before."""

import threading

import numpy as np

from wsikit.buffers import BufferPool


def address(array: np.ndarray) -> int:
    return int(array.__array_interface__["data"][0])


def test_memory_of_a_dropped_array_is_used_again() -> None:
    pool = BufferPool()
    first = pool.take((4, 8, 8, 3))
    where = address(first)
    del first
    assert address(pool.take((8, 4, 8, 3))) == where


def test_a_slice_that_is_still_held_keeps_the_memory() -> None:
    pool = BufferPool()
    array = pool.take((4, 8, 8, 3))
    array[:] = 7
    kept = array[2, 1:5, ::2].reshape(-1)[3:]
    del array
    others = [pool.take((4, 8, 8, 3)) for _ in range(3)]
    for other in others:
        other[:] = 0
    assert (kept == 7).all()


def test_arrays_held_at_once_do_not_share_memory() -> None:
    pool = BufferPool()
    arrays = [pool.take((16,)) for _ in range(10)]
    assert len({address(array) for array in arrays}) == 10


def test_arrays_are_writable_and_contiguous() -> None:
    array = BufferPool().take((2, 3, 3, 3))
    assert array.shape == (2, 3, 3, 3)
    assert array.dtype == np.uint8
    assert array.flags.c_contiguous
    assert array.flags.writeable


def test_threads_never_get_the_same_memory() -> None:
    pool = BufferPool()
    wrong = []

    def work(mark: int) -> None:
        for _ in range(300):
            array = pool.take((64,))
            array[:] = mark
            if (array != mark).any():
                wrong.append(mark)

    threads = [threading.Thread(target=work, args=(mark,)) for mark in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
