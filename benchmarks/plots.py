"""The two plots of docs/benchmarks.md; matplotlib is only in the environment of the readers.

python plots.py RESULT.json PATCHES.png GROWTH.png
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt

# Okabe and Ito's colours, which the colour-blind tell apart; ours is the strongest
COLOURS = {
    "wsikit": "#d55e00",
    "pyvips Region.fetch": "#0072b2",
    "cuCIM batch": "#009e73",
    "fastslide": "#cc79a7",
    "openslide-python": "#555555",
}
STYLE = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e4e4e4",
    "axes.axisbelow": True,
}


def points(
    benches: dict[str, Any], keys: dict[str, float], system: str, figure: Any
) -> tuple[list[float], list[float]]:
    """x and y of a line; benches that the system did not do are left out."""
    found = [(x, benches[key]["systems"].get(system, {})) for key, x in keys.items() if key in benches]
    done = [(x, figure(one)) for x, one in found if "wall" in one]
    return [x for x, _ in done], [y for _, y in done]


def patches(benches: dict[str, Any], path: Path) -> None:
    """Throughput against offset and overlap."""
    figure, axes = plt.subplots(1, 2, figsize=(10, 4.2), sharey=True)
    offsets = {f"P-offset-{px}": float(px) for px in (0, 32, 64, 128)}
    overlaps = {"P-offset-0": 0.0} | {f"P-overlap-{share}": float(share) for share in (12, 25, 50)}
    for axis, keys, label in zip(
        axes, (offsets, overlaps), ("offset from the file's tiles, px", "overlap of patches, %"), strict=True
    ):
        for name, colour in COLOURS.items():
            x, y = points(benches, keys, name, lambda one: one["megapixels"] / one["wall"])
            axis.plot(x, y, "o-", color=colour, label=name, linewidth=2.4 if name == "wsikit" else 1.4, markersize=4)
        axis.set_xlabel(label)
        axis.set_xticks(list(keys.values()))
    # once both are drawn: a limit set earlier holds the shared axis at what the first one needs
    axes[0].set_ylim(bottom=0)
    axes[0].set_ylabel("megapixels of patches a second")
    axes[0].set_title("256 px patches, shifted", loc="left")
    axes[1].set_title("256 px patches, overlapping", loc="left")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower center", ncols=5, frameon=False)
    figure.tight_layout(rect=(0, 0.07, 1, 1))
    figure.savefig(path, dpi=120)


def growth(benches: dict[str, Any], path: Path) -> None:
    """Time and memory against the slide's area."""
    figure, axes = plt.subplots(1, 2, figsize=(10, 4.2))
    kinds = {"G-read": ("read all patches", "#d55e00"), "G-tile": ("tile the tissue to a store", "#0072b2")}
    for kind, (name, colour) in kinds.items():
        keys = {key: int(key.rsplit("-", 1)[1]) ** 2 / 1e6 for key in benches if key.startswith(kind)}
        x, y = points(benches, keys, "wsikit", lambda one: one["wall"])
        axes[0].loglog(x, y, "o-", color=colour, label=name, linewidth=2)
        if x and kind == "G-read":
            axes[0].loglog(x, [y[0] * v / x[0] for v in x], ":", color="#888888", label="in proportion to the area")
        axes[1].semilogx(*points(benches, keys, "wsikit", lambda one: one["peak_mb"]), "o-", color=colour, linewidth=2)
        for axis in axes:
            axis.set_xticks(x, [f"{v:,.0f}" for v in x])
            axis.minorticks_off()
    seconds = [0.2, 0.5, 1, 2, 5]
    axes[0].set_yticks(seconds, [f"{v:g}" for v in seconds])
    for axis, title in zip(axes, ("seconds", "peak memory, MB"), strict=True):
        axis.set_title(title, loc="left")
        axis.set_xlabel("slide, megapixels")
    axes[1].set_ylim(bottom=0)
    axes[0].legend(frameon=False)
    figure.tight_layout()
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    plt.rcParams.update(STYLE)
    measured = json.loads(Path(sys.argv[1]).read_text())["benches"]
    patches(measured, Path(sys.argv[2]))
    growth(measured, Path(sys.argv[3]))
