"""The picture of a training: its loss and the monitored metric over the epochs."""

from __future__ import annotations

import io
from collections.abc import Sequence

from wsikit.nn.card import COLORS
from wsikit.training.history import Row

TRAIN, VALIDATION = (tuple(channel / 255 for channel in COLORS[i]) for i in (1, 0))


def draw_curves(rows: Sequence[Row], *, monitor: str, best: int, title: str) -> bytes:
    """PNG of the losses above and the monitored metric below; a dotted line marks the best epoch (0: none yet)."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(7, 5.6), dpi=120, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    figure.suptitle(title)
    alone = monitor == "loss"
    axes = figure.subplots(1 if alone else 2, 1, sharex=True, squeeze=False)[:, 0]
    for axis, name in zip(axes, ["loss"] if alone else ["loss", monitor], strict=True):
        for part, color in (("train", TRAIN), ("validation", VALIDATION)):
            points = [(row["epoch"], row[f"{part}_{name}"]) for row in rows if f"{part}_{name}" in row]
            if points:
                axis.plot(*zip(*points, strict=True), color=color, marker="o", markersize=3, label=part)
        if best:
            axis.axvline(best, color="0.35", linestyle=":", label=f"best epoch ({best})")
        axis.set_ylabel(name.replace("_", " "))
        axis.grid(color="0.9")
        axis.spines[["top", "right"]].set_visible(False)
        if axis.get_legend_handles_labels()[0]:
            axis.legend(frameon=False)
    figure.align_ylabels()
    axes[-1].set_xlabel("epoch")
    axes[-1].xaxis.set_major_locator(MaxNLocator(integer=True))
    file = io.BytesIO()
    canvas.print_png(file)  # type: ignore[no-untyped-call]
    return file.getvalue()
