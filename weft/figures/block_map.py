"""What became of every block of a deformable stage."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from weft.blocks import index_of
from weft.figures import style
from weft.registration.ledger import NOT_TRIED

STATUS_COLOURS = {
    "ok": "#3aa17e",
    "unchanged": "#8fcfb8",
    "skipped": "#f3f1ea",
    "empty": "#e4e8ec",
    "outside_moving": "#c3cad2",
    "no_overlap": "#97a2ae",
    "low_information": "#a9c4e4",
    "diverged": "#e8743b",
    "folded": "#c1121f",
    "metric_worse": "#f2b134",
    "disagrees": "#b5651d",
    "timeout": "#8e44ad",
    "error": "#3d1a78",
}
NO_BLOCK = "#ffffff"
MOST_SLABS = 24
COLUMNS = ("block", "status", "used", "metric_before", "metric_after", "largest_displacement_um")
DISAGREEMENT = "how far each block differs from its neighbours in the overlap (um)"
# Of what is measured afterwards, the columns that are drawn: words, and the value of the brightest colour (None: the largest).
MEASURED = {
    "local_ncc_median": ("local correlation of both images (median of each block)", 1.0),
    "dice": ("overlap of the labels (Dice of each block)", 1.0),
    "round_trip_p95_um": ("there and back: 95 % of the voxels of each block end nearer than this (um)", None),
}
COLOURS = "cividis"  # of a number per block


def block_map(
    ledger: pd.DataFrame | str | Path,
    path: str | Path,
    title: str,
    measured: pd.DataFrame | str | Path | None = None,
) -> None:
    """Draw the status of the blocks, slab by slab along z, with counts, metric and displacements.

    Parameters
    ----------
    ledger
        The block table, or the path of ``ledger.tsv``: columns ``block`` (``i.j.k``, the block's place along
        z, y, x), ``status``, ``used``, ``metric_before``, ``metric_after``, ``largest_displacement_um`` and others.
        A dot marks a block that fell back to an affine of its own, a ring one that fell back to the stage before, a triangle
        one over which the neighbours' displacement was carried on. With the column
        ``disagreement_um`` a second map shows how far the blocks differ from their neighbours, where there are several.
    path
        PNG to write.
    title
        Above the picture.
    measured
        What was measured of each block afterwards, or the path of ``quality/blocks.tsv``: of its columns those of `MEASURED` are
        drawn as further maps. None for none.

    Raises
    ------
    ValueError
        When the table lacks a column, has no rows or an unknown status.
    """
    table = _read(ledger)
    missing = [name for name in COLUMNS if name not in table]
    if missing or not len(table):
        raise ValueError(
            f"the block table has {len(table)} rows and lacks {missing or 'no column'}; wanted rows of all columns"
        )
    unknown = sorted(set(table["status"]) - set(STATUS_COLOURS))
    if unknown:
        raise ValueError(
            f"the block table has the status {unknown[0]!r}; wanted one of {', '.join(STATUS_COLOURS)}"
        )

    places = np.array([index_of(str(name)) for name in table["block"]])
    shape = tuple(int(n) for n in places.max(axis=0) + 1)
    maps = _maps(table, measured, shape)
    gallery = _Gallery(shape, places)
    height = gallery.height
    bottom = 0.8 + (1 + len(maps)) * height + 0.34 * len(maps)
    with style.picture(path, 10.0, bottom + 2.85, title) as figure:
        images = _status_images(table, places, shape)

        def status(axes: Axes, slab: int, here: np.ndarray) -> None:
            _slab(axes, images[slab], table[here], places[here], gallery.cell)

        gallery.draw(figure, 0.8, status)
        figure.text(
            0.016, 1 - 0.6 / figure.get_figheight(), "status of each block; slabs along z, y downwards, x to the right",
            fontsize=8, color=style.MUTED,
        )  # fmt: skip
        for number, (words, values, largest) in enumerate(maps, start=1):
            top = 0.8 + number * (height + 0.34)
            _draw_map(figure, gallery, top, words, values, largest)
        if gallery.left_out:
            figure.text(
                0.6, 1 - 0.6 / figure.get_figheight(), gallery.left_out, fontsize=8, color=style.MUTED
            )
        _counts(style.add_axes(figure, 1.35, bottom + 0.45, 2.5, 1.75), table)
        _metrics(style.add_axes(figure, 4.75, bottom + 0.45, 1.9, 1.75), table)
        _displacements(figure, bottom + 0.1, table)


def _read(table: pd.DataFrame | str | Path) -> pd.DataFrame:
    return table if isinstance(table, pd.DataFrame) else pd.read_csv(table, sep="\t", dtype={"block": str})


def _maps(
    ledger: pd.DataFrame, measured: pd.DataFrame | str | Path | None, shape: tuple[int, ...]
) -> list[tuple[str, np.ndarray, float]]:
    """The maps of numbers that tell blocks apart: words, numbers at the blocks' places, value of the brightest colour."""
    if len(ledger) < 2:
        return []
    used = ledger[ledger["used"] == "deformable"]
    wanted: list[tuple[str, pd.DataFrame, str, float | None]] = [
        (DISAGREEMENT, used, "disagreement_um", None)
    ]
    if measured is not None:
        table = _read(measured)
        wanted += [(words, table, column, most) for column, (words, most) in MEASURED.items()]
    maps = []
    for words, table, column, most in wanted:
        numbers = pd.to_numeric(table.get(column, pd.Series(np.nan, table.index)), errors="coerce").to_numpy(
            float
        )
        values = np.full(shape, np.nan)
        values[tuple(np.array([index_of(str(name)) for name in table["block"]]).reshape(-1, 3).T)] = numbers
        if (numbers > 0).any():
            maps.append((words, values, float(np.nanmax(numbers)) if most is None else most))
    return maps


def _draw_map(
    figure: Figure, gallery: _Gallery, top: float, words: str, values: np.ndarray, largest: float
) -> None:
    """A number per block, slab by slab, with its scale."""
    above = 1 - (top - 0.2) / figure.get_figheight()
    figure.text(0.016, above, words, fontsize=8, color=style.MUTED)
    shown: list[QuadMesh] = []

    def slab(axes: Axes, number: int, here: np.ndarray) -> None:
        shown.append(_values(axes, values[number], largest, gallery.cell))

    gallery.draw(figure, top, slab)
    bar = style.add_axes(figure, gallery.right + 0.1, top + 0.05, 0.12, min(1.2, gallery.height - 0.4))
    figure.colorbar(shown[0], cax=bar).outline.set_visible(False)


class _Gallery:
    """Slabs of blocks along z, laid out in rows."""

    def __init__(self, shape: tuple[int, ...], places: np.ndarray) -> None:
        slabs, rows, columns = shape
        self.places = places
        self.shown = np.unique(np.linspace(0, slabs - 1, min(slabs, MOST_SLABS)).round().astype(int))
        self.cell = float(np.clip(2.2 / max(rows, columns), 0.06, 0.45))
        self.size = (columns * self.cell, rows * self.cell)
        self.across = max(1, min(len(self.shown), int(8.8 // (self.size[0] + 0.18))))
        self.height = math.ceil(len(self.shown) / self.across) * (self.size[1] + 0.34)
        self.right = 0.2 + self.across * (self.size[0] + 0.18) - 0.18
        self.left_out = f"{len(self.shown)} of {slabs} slabs" if len(self.shown) < slabs else ""

    def draw(self, figure: Figure, top: float, fill: Callable[[Axes, int, np.ndarray], None]) -> None:
        """Call ``fill`` with the axes of each slab, its number and which blocks lie in it."""
        width, height = self.size
        for n, slab in enumerate(self.shown):
            left = 0.2 + (n % self.across) * (width + 0.18)
            axes = style.add_axes(figure, left, top + (n // self.across) * (height + 0.34), width, height)
            fill(axes, int(slab), self.places[:, 0] == slab)
            axes.set_title(f"slab {slab}", loc="left", fontsize=7.5, color=style.MUTED, pad=2)


def _values(axes: Axes, values: np.ndarray, largest: float, cell: float) -> QuadMesh:
    """A number per block; blocks without one stay empty."""
    shown = axes.pcolormesh(
        np.ma.masked_invalid(values), cmap=COLOURS, vmin=0, vmax=largest, edgecolors="white",
        linewidth=min(1, 6 * cell),
    )  # fmt: skip
    axes.set(xlim=(0, values.shape[1]), ylim=(values.shape[0], 0), facecolor="#eef1f4")
    style.bare(axes)
    return shown


def _status_images(table: pd.DataFrame, places: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Number of the status (1 and up) at every block's place, 0 where there is no block."""
    number = {status: i + 1 for i, status in enumerate(STATUS_COLOURS)}
    images = np.zeros(shape, int)
    images[tuple(places.T)] = [number[status] for status in table["status"]]
    return images


def _slab(axes: Axes, image: np.ndarray, table: pd.DataFrame, places: np.ndarray, cell: float) -> None:
    colours = ListedColormap([NO_BLOCK, *STATUS_COLOURS.values()])
    axes.pcolormesh(
        image,
        cmap=colours,
        vmin=-0.5,
        vmax=len(STATUS_COLOURS) + 0.5,
        edgecolors="white",
        linewidth=min(1, 6 * cell),
    )
    for used, marker, filled in (("affine", "o", True), ("parent", "o", False), ("neighbours", "^", True)):
        # Nothing was to be registered in an empty or skipped block: its fallback is no news.
        marked = places[((table["used"] == used) & ~table["status"].isin(NOT_TRIED)).to_numpy()]
        size = (cell * 72 * 0.28) ** 2
        axes.scatter(
            marked[:, 2] + 0.5, marked[:, 1] + 0.5, s=size, marker=marker, linewidths=min(1.0, 4 * cell),
            facecolors=style.INK if filled else "none", edgecolors=style.INK,
        )  # fmt: skip
    axes.set(xlim=(0, image.shape[1]), ylim=(image.shape[0], 0))
    style.bare(axes)


def _counts(axes: Axes, table: pd.DataFrame) -> None:
    counts = Counter(table["status"])
    words = [status for status in STATUS_COLOURS if counts[status]]
    bars = axes.barh(
        range(len(words)), [counts[w] for w in words], color=[STATUS_COLOURS[w] for w in words], height=0.7
    )
    axes.bar_label(bars, padding=3, fontsize=8, color=style.INK)
    axes.set_yticks(range(len(words)), [word.replace("_", " ") for word in words])
    axes.set_ylim(max(len(words), 4) - 0.5, -0.5)
    axes.set_xlim(0, 1.2 * max(counts.values()))
    axes.set_xticks([])
    axes.spines["bottom"].set_visible(False)
    axes.tick_params(axis="y", length=0)
    fallbacks = Counter(table.loc[~table["status"].isin(NOT_TRIED), "used"])
    axes.set_title("blocks", loc="left")
    marks = f"\u25cf {fallbacks['affine']} fell back to an affine, \u25cb {fallbacks['parent']} to the stage before"
    if fallbacks["neighbours"]:
        marks += f",\n\u25b2 {fallbacks['neighbours']} to what their neighbours found"
    axes.set_xlabel(marks, fontsize=7.5, color=style.MUTED, loc="left", labelpad=4)


def _metrics(axes: Axes, table: pd.DataFrame) -> None:
    axes.set_title("similarity (the backend's metric)", loc="left")
    before = pd.to_numeric(table["metric_before"], errors="coerce").to_numpy(float)
    after = pd.to_numeric(table["metric_after"], errors="coerce").to_numpy(float)
    # What was not tried has nothing to compare; its zeros would widen the axes.
    known = np.isfinite(before) & np.isfinite(after) & ~table["status"].isin(NOT_TRIED).to_numpy()
    axes.set(xlabel="before", ylabel="after")
    if not known.any():
        _nothing(axes)
        return
    both = np.concatenate([before[known], after[known]])
    pad = 0.05 * (np.ptp(both) or 1)
    limits = (both.min() - pad, both.max() + pad)
    axes.plot(limits, limits, color=style.MUTED, linewidth=0.7, linestyle=(0, (4, 3)))
    colours = table["status"].map(STATUS_COLOURS).to_numpy()[known]
    axes.scatter(before[known], after[known], s=14, c=colours, linewidths=0.3, edgecolors="white", zorder=3)
    axes.set(xlim=limits, ylim=limits)
    axes.grid()


def _displacements(figure: Figure, bottom: float, table: pd.DataFrame) -> None:
    axes = style.add_axes(figure, 7.4, bottom + 0.35, 2.35, 1.75)
    axes.set_title("largest displacement of a block", loc="left")
    registered = table.loc[table["used"] == "deformable", "largest_displacement_um"]
    lengths = pd.to_numeric(registered, errors="coerce").to_numpy(float)
    lengths = lengths[np.isfinite(lengths)]
    axes.set(xlabel="um", ylabel="blocks")
    axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    if not lengths.size:
        _nothing(axes)
        return
    bins = np.linspace(0, max(float(lengths.max()), 1e-6), 21).tolist()
    axes.hist(lengths, bins=bins, color=style.ACCENT, rwidth=0.9)
    axes.grid(axis="y")


def _nothing(axes: Axes) -> None:
    axes.text(
        0.5, 0.5, "none recorded", color=style.MUTED, ha="center", va="center", transform=axes.transAxes
    )
    axes.set_xticks([])
    axes.set_yticks([])
