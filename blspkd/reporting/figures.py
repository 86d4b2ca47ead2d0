"""The report's pictures, by matplotlib, as SVG data URIs that need nothing from outside.

Text stays text in them, so that a reader's own fonts show every script; nothing in it is taken for mathematics.
"""

import base64
import io
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

STYLE = {
    "svg.fonttype": "none", "text.parse_math": False, "font.family": "sans-serif", "font.size": 9,
    "axes.spines.top": False, "axes.spines.right": False, "axes.edgecolor": "#888", "axes.titlesize": 9.5,
    "axes.grid": True, "grid.color": "#e6e6e6", "grid.linewidth": 0.7, "axes.axisbelow": True,
    "legend.frameon": False, "legend.fontsize": 8, "lines.linewidth": 1.5, "figure.dpi": 100,
}
COLOURS = ("#1f6feb", "#d1242f", "#2da44e", "#bf8700", "#8250df", "#0f8a8a", "#bc4c00", "#57606a", "#e85aad", "#6e7781")
MARKERS = "osD^vP*X"
LABELS = {"input_kl": "input KL (nats)", "response_kl": "response KL (nats)", "first_kl": "KL of first token (nats)",
          "top1": "input top-1 agreement (%)", "input_top1": "input top-1 agreement (%)",
          "response_top1": "response top-1 agreement (%)", "count_accuracy": "token-count accuracy (%)",
          "response_ce": "response cross-entropy (nats)", "quantity": "quantity loss"}
WIDTH = 10.0  # inches
WINDOW, HOP = 0.025, 0.010  # seconds, of the spectrogram
BANDS = 72


def data_uri(figure: Figure) -> str:
    """`figure` as an SVG data URI."""
    file = io.BytesIO()
    with matplotlib.rc_context(STYLE | {"svg.hashsalt": "blspkd"}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # the reader's fonts count, not ours
        figure.savefig(file, format="svg", bbox_inches="tight", pad_inches=0.05,
                       metadata={"Date": None, "Creator": None})
    return "data:image/svg+xml;base64," + base64.b64encode(file.getvalue()).decode("ascii")


def system_of(label: str) -> str:
    """A label without its seed and its folder: BLSP-KD (seed 1) [a] -> BLSP-KD."""
    return re.sub(r"( \(seed \d+\))?( \[[^]]*\])?$", "", label)


def palette(labels: Iterable[str]) -> dict[str, str]:
    """A colour per label; seeds of one system share theirs."""
    systems = list(dict.fromkeys(map(system_of, labels)))
    colours = COLOURS
    if len(systems) > len(COLOURS):
        colours = [to_hex(colour) for colour in matplotlib.colormaps["turbo"](np.linspace(0.05, 0.95, len(systems)))]
    return {label: colours[systems.index(system_of(label))] for label in labels}


def learning_curves(curves: Mapping[str, Mapping[str, Sequence[tuple[int, float]]]],
                    names: Sequence[str], colours: Mapping[str, str]) -> Figure:
    """curves: system -> {"train/<name>": [(step, value)], "eval/<name>": ...}; one panel per name.

    colours: of every system (`palette`), here and in the other figures of a page.
    """
    with _panels(names, 3, 2.5, {system: colours[system] for system in curves}) as (figure, panels):
        for axes, name in panels:
            values = []
            for system, found in curves.items():
                for kind, look in (("train", {"alpha": 0.45, "linewidth": 1}),
                                   ("eval", {"marker": "o", "markersize": 3})):
                    if points := found.get(f"{kind}/{name}"):
                        axes.plot(*zip(*points, strict=True), color=colours[system], **look)
                        values += [value for _, value in points]
            if "kl" in name and values and min(values) > 0:
                _log_scale(axes)
            axes.set_title(LABELS.get(name, name))
            axes.set_xlabel("step")
            axes.xaxis.get_major_locator().set_params(integer=True)
    return figure


def kl_by_position(curves: Mapping[str, Mapping[str, Sequence[Mapping]]], keys: Sequence[str],
                   colours: Mapping[str, str]) -> Figure:
    """curves: system -> {key: [{"position", "mean", "n"}]}; positions that few utterances reach are left out."""
    titles = {"input_kl": "input: KL at the n-th transcript token", "response_kl": "response: KL of the n-th token"}
    with _panels(keys, 2, 2.8, {system: colours[system] for system in curves}) as (figure, panels):
        for axes, key in panels:
            for system, found in curves.items():
                points = reached(found.get(key, []))
                axes.plot([point["position"] for point in points], [point["mean"] for point in points],
                          color=colours[system], marker="o", markersize=3)
            axes.set_title(titles.get(key, key))
            axes.set_xlabel("position")
            axes.set_ylabel("nats")
            axes.set_ylim(bottom=0)
            axes.xaxis.get_major_locator().set_params(integer=True)
    return figure


def reached(points: Sequence[Mapping]) -> list[Mapping]:
    """Positions that at least a tenth of the utterances reach."""
    return [point for point in points if point["n"] * 10 >= points[0]["n"]]


def scatter(trails: Mapping[tuple[str, str], Sequence[tuple[str, str, Sequence[tuple[float, float]]]]],
            titles: Mapping[tuple[str, str], str], colours: Mapping[str, str]) -> Figure:
    """trails: (x name, y name) -> [(system, set, [(x, y)])]; a colour per system, a marker per set.

    Of several points of a trail, those before the last are steps on the way to it: small, and joined by a line.
    """
    systems = dict.fromkeys(system for found in trails.values() for system, _, _ in found)
    sets = list(dict.fromkeys(name for found in trails.values() for _, name, _ in found))
    columns = len(dict.fromkeys(x for x, _ in trails))
    with _panels(list(trails), columns, 2.3, {system: colours[system] for system in systems}, sets) as (figure, panels):
        for axes, (x_name, y_name) in panels:
            for system, name, points in trails[x_name, y_name]:
                look = {"color": colours[system], "marker": MARKERS[sets.index(name) % len(MARKERS)], "linewidth": 0.6}
                axes.plot(*zip(*points, strict=True), **look, markersize=2.5, alpha=0.5)
                axes.plot(*points[-1], **look, markersize=5, alpha=0.85)
            axes.set_xlabel(LABELS.get(x_name, x_name))
            axes.set_ylabel(y_name)
            axes.set_title(titles.get((x_name, y_name), ""), fontsize=8, color="#57606a")
    return figure


def utterance(samples: np.ndarray, rate: int, row: Mapping) -> Figure:
    """Spectrogram with fires and tokens, alpha, and the true words below, of a row of `utterances.jsonl`.

    samples: float32 [samples] at `rate` Hz.
    """
    duration = len(samples) / rate
    lanes = {"spectrogram": 2.0}
    if row.get("alpha"):
        lanes["alpha"] = 0.75
    if row.get("words"):
        lanes["words"] = 0.32
    with matplotlib.rc_context(STYLE | {"axes.grid": False}):
        figure = Figure(figsize=(WIDTH, sum(lanes.values()) + 0.5))
        grid = figure.add_gridspec(len(lanes), 1, height_ratios=list(lanes.values()), hspace=0.08)
        axes = {name: figure.add_subplot(grid[number, 0]) for number, name in enumerate(lanes)}
        top = axes["spectrogram"]
        top.imshow(spectrogram(samples, rate), origin="lower", aspect="auto", cmap="magma", interpolation="none",
                   extent=(0, duration, 0, 1))
        top.set_yticks([0, 1], ["0", f"{rate // 2000} kHz"])
        for label, place in zip(top.get_yticklabels(), ("bottom", "top"), strict=True):
            label.set_verticalalignment(place)
        _draw_fires(top, axes.get("alpha"), row, duration)
        if "alpha" in axes:
            edges, alpha = np.array(row["frame_times"]), np.array(row["alpha"])
            axes["alpha"].stairs(alpha, edges, fill=True, color="#1f6feb", alpha=0.35)
            axes["alpha"].stairs(alpha, edges, color="#1f6feb", linewidth=1)
            axes["alpha"].set_ylabel("alpha")
            axes["alpha"].set_ylim(0, max(0.5, 1.1 * float(alpha.max(initial=0))))
        if "words" in axes:
            for start, end, text in row["words"]:
                axes["words"].axvspan(start, end, color="#eef1f4" if text else "white")
                for edge in (start, end):
                    axes["words"].axvline(edge, color="#57606a", linewidth=0.8)
                axes["words"].text((start + end) / 2, 0.5, text, ha="center", va="center", clip_on=True,
                                   fontsize=_font_size((end - start) / duration, text))
            axes["words"].set_yticks([])
            axes["words"].set_ylabel("words", rotation=0, ha="right", va="center")
        for name, lane in axes.items():
            lane.set_xlim(0, duration)
            if name != list(axes)[-1]:
                lane.set_xticks([])
        list(axes.values())[-1].set_xlabel("seconds")
    return figure


def spectrogram(samples: np.ndarray, rate: int) -> np.ndarray:
    """Log power [BANDS, frames] on the mel scale, in dB within 70 of the loudest."""
    size, step = int(WINDOW * rate), int(HOP * rate)
    padded = np.pad(samples.astype(np.float64), (size // 2, size))
    starts = np.arange(0, max(1, len(samples)), step)
    frames = padded[starts[:, None] + np.arange(size)] * np.hanning(size)
    power = np.abs(np.fft.rfft(frames, n=1 << (size - 1).bit_length(), axis=1)) ** 2
    hertz = 700 * (np.exp(np.linspace(0, np.log(1 + rate / 2 / 700), BANDS + 1)) - 1)
    edges = (hertz / (rate / 2) * (power.shape[1] - 1)).round().astype(int)
    bands = [power[:, low:max(high, low + 1)].mean(1) for low, high in zip(edges, edges[1:], strict=False)]
    decibels = 10 * np.log10(np.array(bands) + 1e-12)
    return np.clip(decibels, decibels.max() - 70, None)


def _draw_fires(top: Axes, below: Axes | None, row: Mapping, duration: float) -> None:
    """White lines where tokens close, and what they are; numbers where their count is not the transcript's."""
    times = row.get("fire_times") or []
    right = len(times) == len(row["tokens"])
    for number, (start, end) in enumerate(zip([0.0, *times], times, strict=False)):
        top.axvline(end, color="white", linewidth=1.1)
        if below is not None:
            below.axvline(end, color="#888", linewidth=0.7, linestyle=":")
        text = row["tokens"][number].strip() if right else str(number + 1)
        size = _font_size((end - start) / duration, text)
        top.text((start + end) / 2, 1.03, text, ha="center", va="bottom", fontsize=size, color="#24292f",
                 rotation=0 if size > 5 else 60)
    if times:
        top.text(-0.005, 1.03, "tokens", ha="right", va="bottom", transform=top.transAxes)


def _font_size(share: float, text: str) -> float:
    """Points that make `text` fit into `share` of the width, from 5 to 9."""
    return float(np.clip(share * WIDTH * 0.8 * 72 / (0.62 * max(1, len(text))), 5.0, 9.0))


@contextmanager
def _panels(names: Sequence, columns: int, height: float, colours: Mapping[str, str],
            sets: Sequence[str] = ()) -> Iterator[tuple[Figure, list[tuple[Axes, Any]]]]:
    """A figure and (axes, name) of its panels, to be drawn within; in the end it gets a legend."""
    columns = max(1, min(columns, len(names)))
    lines = -(-len(names) // columns)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH * min(1.0, columns * 0.4 + 0.1), height * lines), layout="constrained")
        panels = figure.subplots(lines, columns, squeeze=False).flatten().tolist()
        for axes in panels[len(names):]:
            axes.set_visible(False)
        yield figure, list(zip(panels, names, strict=False))
        _legend(figure, panels[0], colours, sets)


def _log_scale(axes: Axes) -> None:
    """Plain numbers on the ticks: with `parse_math` off, powers of ten would show their markup."""
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def _legend(figure: Figure, axes: Axes, colours: Mapping[str, str], sets: Sequence[str]) -> None:
    """Below the figure: a line per system, a marker per set; nothing where there is only one."""
    for system, colour in dict((system_of(label), colour) for label, colour in colours.items()).items():
        axes.plot([], [], "o" if sets else "-", color=colour, label=system)
    for number, name in enumerate(sets if len(sets) > 1 else []):
        axes.plot([], [], MARKERS[number % len(MARKERS)], color="#888", label=name)
    handles, labels = axes.get_legend_handles_labels()
    if len(labels) > 1:
        figure.legend(handles, labels, loc="outside lower center", ncols=min(5, len(labels)))
