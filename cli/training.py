"""What a training shows while it runs, and what came of it."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from .progress import time_left

if TYPE_CHECKING:
    from rich.progress import TaskID

    from wsikit.training.fit import Progress as Step


class Progress:
    """Is told of every step: a bar for each stage on a terminal, a line for each epoch elsewhere."""

    def __init__(self) -> None:
        self._live: Any = None
        self._bars: dict[str, TaskID] = {}
        self._begun: dict[str, float] = {}

    def __enter__(self) -> Self:
        if sys.stdout.isatty():
            from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
            from rich.progress import Progress as Live

            said, left = TextColumn("{task.fields[said]}", markup=False), TextColumn("{task.fields[left]}")
            named = TextColumn("{task.description}", markup=False)
            self._live = Live(named, BarColumn(20), said, TimeElapsedColumn(), left, refresh_per_second=4)
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def __call__(self, step: Step) -> None:
        """Show a step."""
        begun = self._begun.setdefault(step.stage, time.monotonic())
        if self._live is not None:
            self._show(step, begun)
        elif _whole(step):
            print(f"{step.stage}: epoch {step.epoch}/{step.epochs}  {_figures(step.metrics)}", flush=True)

    def _show(self, step: Step, begun: float) -> None:
        if step.stage not in self._bars:
            self._bars[step.stage] = self._live.add_task(step.stage, total=step.epochs, said="", left="")
        done = step.epoch if _whole(step) else step.epoch - 1 + (step.step / step.steps if step.steps else 0)
        said = {"said": _figures(step.metrics)} if _whole(step) else {}
        left = time_left(time.monotonic() - begun, done, step.epochs)
        self._live.update(self._bars[step.stage], completed=done, left=left, **said)


def _whole(step: Step) -> bool:
    """Whether it is told of an epoch, not of a step in one."""
    return "epoch" in step.metrics


def _figures(metrics: Any) -> str:
    return "  ".join(f"{name} {value:.4g}" for name, value in metrics.items())


def show_card(method: str, checkpoint: Path) -> None:
    """What the card says of a checkpoint: warnings, metrics, and how it is run."""
    from wsikit.training.checkpoint import load_checkpoint

    _, card = load_checkpoint(checkpoint)
    for warning in card.split.get("warnings", ()):
        print(f"warning: {warning}")
    figures = {name: value for name, value in card.metrics.items() if isinstance(value, int | float)}
    print(f"on test images: {_figures(figures)}" if figures else "no test images: nothing was measured")
    print(f"written: {checkpoint}")
    print(f"run it:  wsikit run -m {method}:{checkpoint} -i SLIDES -o OUT")
