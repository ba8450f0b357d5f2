"""The rule of the bottleneck, on planted numbers."""

from __future__ import annotations

import pytest

from wsikit.pipeline.busy import Busy


@pytest.mark.parametrize(
    ("busy", "bound", "said"),
    [
        (Busy(9.7, 6.1, 0.3, 0, 10), "reader", "reader-bound, model 61 % busy"),
        (Busy(9.7, 7.0, 0.3, 6.1, 10), "reader", "reader-bound, GPU 61 % busy"),
        (Busy(2.0, 9.9, 0.3, 0, 10), "model", "model-bound, model 99 % busy"),
        (Busy(2.0, 9.9, 0.3, 3.0, 10), "model", "model-bound, GPU 30 % busy"),
        (Busy(1.0, 1.0, 7.0, 0, 10), "post-processing", "post-processing-bound, model 10 % busy"),
        (Busy(5.0, 3.0, 2.0, 0, 10), "reader", "reader-bound, model 30 % busy"),
        (Busy(4.9, 3.0, 2.0, 0, 10), "balanced", "balanced, reader 49 %, model 30 %, post-processing 20 % busy"),
        (
            Busy(1.0, 2.0, 0.5, 1.5, 10),
            "balanced",
            "balanced, model 20 %, reader 10 %, post-processing 5 %, GPU 15 % busy",
        ),
        (Busy(1.0, 2.0, 0.5, 0, 10), "balanced", "balanced, model 20 %, reader 10 %, post-processing 5 % busy"),
        (Busy(), "", ""),
    ],
)
def test_the_stage_that_is_busy_longest_and_at_least_half_the_time_binds(busy: Busy, bound: str, said: str) -> None:
    assert (busy.bound(), str(busy)) == (bound, said)


def test_parts_are_added_up_stage_by_stage() -> None:
    assert Busy.total([Busy(1, 2, 3, 4, 5), Busy(10, 20, 30, 40, 50)]) == Busy(11, 22, 33, 44, 55)
    assert Busy.total([]) == Busy()


def test_a_record_keeps_milliseconds_and_names_a_gpu_only_where_there_is_one() -> None:
    assert Busy(1.23456, 2, 3, 0, 5).rounded() == {"read": 1.235, "model": 2, "post": 3, "wall": 5}
    again = Busy.of(Busy(1.25, 2, 3, 4, 5).rounded() | {"later": 7.0})
    assert again == Busy(1.25, 2, 3, 4, 5)


def test_clocks_that_differ_never_say_more_than_all_of_the_time() -> None:
    assert str(Busy(1, 10.01, 0, 10.02, 10)) == "model-bound, GPU 100 % busy"
