"""What every kind of workers does: one suite over all of them. A new kind is one row in ``KINDS``."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor, wait
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest

from tests.conformance import worker_tasks as tasks
from wsikit.errors import SlideOpenError
from wsikit.pipeline.workers import IN_FLIGHT, Workers, bounded
from wsikit.pipeline.workers.children import ChildWorkers
from wsikit.pipeline.workers.threads import ThreadWorkers


def cluster(slots: int) -> Workers:
    """Dask workers of this process; tests/pipeline/test_cluster.py has some that are processes, to be killed."""
    from distributed import Client, LocalCluster

    from wsikit.pipeline.workers.cluster import DaskWorkers

    class Closing(DaskWorkers):
        def stop(self) -> None:
            super().stop()
            local.close()

    local = LocalCluster(
        n_workers=1, threads_per_worker=slots, processes=False, memory_limit=0, dashboard_address=":0"
    )  # fmt: skip
    return Closing(Client(local, set_as_default=False))


KINDS: dict[str, Callable[[int], Workers]] = {"threads": ThreadWorkers, "children": ChildWorkers, "cluster": cluster}
"""Name -> workers with so many slots."""
SECONDS = 30.0
"""Longest that anything here may take on a busy machine."""

MakeWorkers = Callable[[int], Workers]


@pytest.fixture(params=KINDS)
def make(request: pytest.FixtureRequest) -> Iterator[MakeWorkers]:
    """Makes workers of each kind; they are stopped afterwards."""
    made: list[Workers] = []

    def make(slots: int) -> Workers:
        made.append(KINDS[request.param](slots))
        return made[-1]

    yield make
    for workers in made:
        workers.stop()


@pytest.fixture
def busy(make: MakeWorkers, tmp_path: Path) -> Iterator[tuple[Workers, Future[bool]]]:
    """Workers of one slot, which is taken by a task until the test ends, and that task."""
    workers = make(1)
    running = workers.submit(tasks.announce_and_wait, tmp_path / "started", tmp_path / "released")
    assert tasks.wait_for(tmp_path / "started", SECONDS)
    yield workers, running
    (tmp_path / "released").touch()


def test_a_result_comes_back(make: MakeWorkers) -> None:
    assert make(1).submit(tasks.square, 7).result(SECONDS) == 49


def test_all_slots_work_at_once_and_no_more(make: MakeWorkers, tmp_path: Path) -> None:
    workers = make(2)
    assert workers.slots == 2
    both = [workers.submit(tasks.meet, tmp_path, "a", "b"), workers.submit(tasks.meet, tmp_path, "b", "a")]
    third = workers.submit(tasks.note, tmp_path / "third", "here")
    assert all(future.result(SECONDS) for future in both)
    assert third.result(SECONDS) is None


def test_tasks_start_in_the_order_of_their_submission(make: MakeWorkers, tmp_path: Path) -> None:
    workers = make(1)
    wait([workers.submit(tasks.note, tmp_path / "notes", str(i), gpu=i % 2 == 0) for i in range(30)], SECONDS)
    assert (tmp_path / "notes").read_text().split() == [str(i) for i in range(30)]


def test_several_threads_submit(make: MakeWorkers, tmp_path: Path) -> None:
    workers = make(2)

    def squares(start: int) -> list[int]:
        return [workers.submit(tasks.square, start + i).result(SECONDS) for i in range(20)]

    with ThreadPoolExecutor(8) as callers:
        found = list(callers.map(squares, range(0, 800, 100)))
    assert found == [[(start + i) ** 2 for i in range(20)] for start in range(0, 800, 100)]


def test_an_error_keeps_its_class_code_and_remedy_and_says_where_it_was_raised(make: MakeWorkers) -> None:
    error = make(1).submit(tasks.refuse, "bad_header", "copy it again").exception(SECONDS)
    assert type(error) is SlideOpenError
    assert (str(error), error.code, error.remedy) == ("no slide", "bad_header", "copy it again")
    assert error.__cause__ is not None
    assert "invalid literal" in str(error.__cause__)


def test_after_an_error_the_next_task_runs(make: MakeWorkers) -> None:
    workers = make(1)
    assert workers.submit(tasks.refuse, "bad_header", "").exception(SECONDS)
    assert workers.submit(tasks.square, 3).result(SECONDS) == 9


def test_the_gpu_flag_changes_nothing_where_no_gpus_are_dealt_out(make: MakeWorkers) -> None:
    assert make(1).submit(tasks.square, 5, gpu=True).result(SECONDS) == 25


def test_what_ends_in_time_is_not_disturbed(make: MakeWorkers) -> None:
    assert make(1).submit(tasks.square, 5, seconds=20.0).result(SECONDS) == 25


def test_what_has_not_started_can_be_cancelled(busy: tuple[Workers, Future[bool]], tmp_path: Path) -> None:
    workers, running = busy
    waiting = workers.submit(tasks.note, tmp_path / "notes", "cancelled")
    after = workers.submit(tasks.note, tmp_path / "notes", "kept")
    assert waiting.cancel()
    time.sleep(0.5)  # the workers of a cluster hear of it a moment later
    (tmp_path / "released").touch()
    assert running.result(SECONDS)
    after.result(SECONDS)
    assert (tmp_path / "notes").read_text() == "kept\n"


def test_stopping_ends_what_waits_and_twice_is_fine(busy: tuple[Workers, Future[bool]], tmp_path: Path) -> None:
    workers, running = busy
    waiting = [workers.submit(tasks.note, tmp_path / "notes", "late") for _ in range(5)]
    begun = time.monotonic()
    workers.stop()
    workers.stop()
    assert time.monotonic() - begun < 10
    for future in waiting:
        with pytest.raises(CancelledError):
            future.result(1)
    (tmp_path / "released").touch()  # threads go on to the end of their task, as they say
    wait([running], SECONDS)
    assert isinstance(_error(running), CancelledError | None)
    assert not (tmp_path / "notes").exists()


def _error(future: Future[bool]) -> BaseException | None:
    try:
        return future.exception(1)
    except CancelledError as error:
        return error


def test_what_is_submitted_after_the_stop_is_cancelled(make: MakeWorkers) -> None:
    workers = make(1)
    workers.stop()
    with pytest.raises(CancelledError):
        workers.submit(tasks.square, 3).result(SECONDS)


def test_stopping_wakes_who_waits_for_tasks_in_another_thread(
    busy: tuple[Workers, Future[bool]], tmp_path: Path
) -> None:
    workers, _ = busy
    ended: list[type[BaseException] | None] = []

    def consume() -> None:
        for _, future in bounded(workers, tasks.square, [1, 2]):
            try:
                future.result()
            except CancelledError as error:
                ended.append(type(error))

    thread = threading.Thread(target=consume, daemon=True)
    thread.start()
    time.sleep(0.2)  # for it to wait; where it does not yet, the test is only weaker
    workers.stop()
    (tmp_path / "released").touch()
    thread.join(10)
    assert not thread.is_alive()
    assert ended == [CancelledError, CancelledError]


@pytest.mark.parametrize("slots", [1, 2])
def test_a_bounded_number_is_in_flight_and_each_item_comes_with_its_own_future(make: MakeWorkers, slots: int) -> None:
    workers = make(slots)
    taken, most, seen = 0, 0, 0

    def items() -> Iterator[int]:
        nonlocal taken, most
        for i in range(40):
            taken += 1
            most = max(most, taken - seen)
            yield i

    for item, future in bounded(workers, tasks.square, items()):
        assert future.done()
        assert future.result() == item**2
        seen += 1
    assert (taken, seen) == (40, 40)
    # one that was handed over is not counted as seen before the loop comes round
    assert IN_FLIGHT * slots <= most <= IN_FLIGHT * slots + 1


def test_bounded_goes_on_after_a_task_that_failed(make: MakeWorkers) -> None:
    found = {item: future.exception() for item, future in bounded(make(2), int, ["1", "two", "3"])}
    assert [item for item, error in found.items() if error] == ["two"]
    assert isinstance(found["two"], ValueError)


def test_closing_bounded_cancels_what_has_not_started(make: MakeWorkers, tmp_path: Path) -> None:
    workers = make(1)
    paths = [tmp_path / str(i) for i in range(10)]
    with closing(bounded(workers, Path.touch, paths)) as stream:
        next(stream)
    workers.submit(tasks.square, 1).result(SECONDS)
    assert len(list(tmp_path.iterdir())) <= IN_FLIGHT + 1


def test_closing_bounded_waits_for_what_has_started(
    make: MakeWorkers, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    if "[cluster" in request.node.name:
        request.applymarker(pytest.mark.xfail(reason="dask calls what runs cancelled at once", strict=True))
    workers, started, released = make(2), tmp_path / "started", tmp_path / "released"
    stream = bounded(workers, partial(tasks.announce_wait_and_note, started, released), [tmp_path / "notes", None])
    assert next(stream)[0] is None  # it ended while the other is under way
    assert tasks.wait_for(started, SECONDS)
    threading.Timer(0.3, released.touch).start()
    stream.close()
    assert (tmp_path / "notes").exists()
