"""Steps side by side: a thread works ahead of its caller, by a bounded number of items."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")


def ahead(items: Generator[Item], depth: int = 1) -> Generator[Item]:
    """The same items, of which a thread of its own makes the next ``depth`` while the caller is busy with one.

    An error of the items is raised where it would have been. At the end, on an error and when this is closed, the
    thread finishes the item that it is at, the items are closed and the thread is gone: close it (``closing``).
    """
    ended = object()
    thread = ThreadPoolExecutor(1, "wsikit-ahead")
    try:
        made = deque(thread.submit(next, items, ended) for _ in range(depth))
        while (item := made.popleft().result()) is not ended:
            made.append(thread.submit(next, items, ended))
            yield item  # type: ignore[misc]  # it is none but those of the items
            del item
    finally:
        thread.shutdown(cancel_futures=True)
        items.close()
