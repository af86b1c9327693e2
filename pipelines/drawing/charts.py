"""Draw charts as PNG: precision over recall, and the confusion of classes. `report_charts` calls it."""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure

from pipelines.runtime.redaction import printable
from zse_model.evaluation import Evaluation

LONGEST = 32  # characters of a class name
RECALLS = np.linspace(0, 1, 11)


@dataclass(frozen=True, eq=False)
class Charted:
    """The data of a report's charts: its first search, by class."""

    by_mode: Mapping[str, Evaluation]
    """The first mode is the default."""
    names: Sequence[str]
    """Names of the classes, by label."""
    curves: Mapping[str, Sequence[float]]
    """Mode -> mean interpolated precision at recall 0, 0.1, ..., 1, for modes that rank the whole gallery."""
    shares: np.ndarray
    """float64 [classes, classes], 0..1: the share of each class (column) in the `first` photos of the sketches of a
    class (row), by the default mode."""
    first: int


def precision_recall(curves: Mapping[str, Sequence[float]]) -> bytes:
    """A PNG with one curve a mode. curves: mode -> mean interpolated precision at recall 0, 0.1, ..., 1."""
    figure = Figure(figsize=(5.5, 4.2), layout="constrained")
    axes = figure.add_subplot()
    for mode, precision in curves.items():
        axes.plot(RECALLS, precision, marker="o", markersize=3, label=mode)
    axes.set(xlabel="recall", ylabel="interpolated precision", xlim=(0, 1), ylim=(0, 1.02))
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    return to_png(figure)


def confusion(shares: np.ndarray, names: Sequence[str], first: int) -> bytes:
    """A PNG of the matrix `shares`, [c, c] of 0..1: sketches by class in rows, found photos by class in columns."""
    side = 2.2 + 0.24 * len(names)
    figure = Figure(figsize=(side + 0.8, side), layout="constrained")
    axes = figure.add_subplot()
    picture = axes.imshow(shares, cmap="viridis", vmin=0, vmax=1)
    # In a name, $ does not start a formula. Long names are cut: 300 letters would leave no room for the chart.
    shown = [name if len(name) <= LONGEST else f"{name[: LONGEST - 1]}…" for name in map(printable, names)]
    axes.set_xticks(range(len(names)), shown, rotation=90, fontsize=7, parse_math=False)
    axes.set_yticks(range(len(names)), shown, fontsize=7, parse_math=False)
    axes.set(xlabel=f"of the first {first} photos", ylabel="sketch")
    figure.colorbar(picture, ax=axes, shrink=0.8)
    return to_png(figure)


def reliability_diagram(bins: Mapping[str, Sequence[Mapping[str, float]]]) -> bytes:
    """A PNG with one line a mode: the share of relevant photos over the confidence that was said, the diagonal dotted.

    bins: mode -> `Reliability.bins`. The area of a point is as the share of the mode's photos.
    """
    figure = Figure(figsize=(4.8, 4.4), layout="constrained")
    axes = figure.add_subplot()
    axes.plot((0, 1), (0, 1), color="grey", linestyle=":", label="as said")
    for mode, each in bins.items():
        said, true, photos = (np.array([one[key] for one in each]) for key in ("confidence", "relevant", "photos"))
        (line,) = axes.plot(said, true, linewidth=1, label=mode)
        axes.scatter(said, true, s=8 + 160 * photos / photos.sum(), color=line.get_color(), alpha=0.7)
    axes.set(xlabel="confidence of found photos", ylabel="share that is relevant", xlim=(0, 1), ylim=(0, 1.02))
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    return to_png(figure)


def to_png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")  # matplotlib draws a box instead
        warnings.filterwarnings("ignore", "constrained_layout not applied")  # names overlap
        figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()
