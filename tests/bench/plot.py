"""Draws what was measured: the hot path, lateness beside the peers, hand-over, scans by leases in use.

A panel whose numbers are missing is left out.
"""

import re

import matplotlib

matplotlib.use("svg")
from matplotlib import pyplot  # noqa: E402

from table import PEERS, Measured, Missing  # noqa: E402

OURS, OTHERS, FLOOR = "#1f6feb", "#8b949e", "#d0d7de"

HOT_PATH = (
    ("floor", "floor: clock, exchanges, stores", FLOOR),
    ("begin_end", "modelpool begin+end", OURS),
    ("acquire_release/128", "modelpool acquire+release", OURS),
    ("robust_mutex", "robust mutex + stores", OTHERS),
    ("localai", "LocalAI's algorithm", OTHERS),
    ("futimens", "futimens heartbeat", OTHERS),
    ("redis", "Redis, Unix socket", OTHERS),
)


def measured_bars(measured, rows):
    """(value, label, colour) of the rows that were measured."""
    bars = []
    for benchmark, name, label, colour in rows:
        try:
            bars.append((measured.get(benchmark, name), label, colour))
        except Missing:
            pass
    return bars


def draw_bars(axes, bars, title, unit):
    labels = [label for _, label, _ in bars]
    values = [value for value, _, _ in bars]
    axes.barh(labels, values, color=[colour for _, _, colour in bars], height=0.62)
    axes.invert_yaxis()
    axes.set_xscale("log")
    # Room for the numbers at the ends of the bars.
    axes.set_xlim(min(values) / 3, max(values) * 12)
    for row, value in enumerate(values):
        shown = f"{value:,.0f}" if value >= 10 else f"{value:.2g}"
        axes.text(value * 1.15, row, f"{shown} {unit}", va="center", fontsize=8)
    axes.set_title(title, loc="left", fontsize=10, fontweight="bold")
    axes.tick_params(length=0)
    axes.set_xticks([], [])  # the numbers stand at the bars
    axes.set_xticks([], [], minor=True)
    axes.spines["bottom"].set_visible(False)


def hot_path(measured):
    rows = [("hot_path", name, label, colour) for name, label, colour in HOT_PATH]
    bars = measured_bars(measured, rows)
    return bars and (lambda axes: draw_bars(axes, bars, "One request's bookkeeping (ns, log scale)", "ns"))


def lateness(measured):
    rows = []
    for load in ("light", "full"):
        under = "" if load == "light" else ", CPUs saturated"
        for rule in ("busy", "idle", "load"):
            name = f"{rule}/{load}/signalled/due"
            rows.append(("lateness", name, f"modelpool {rule}{under}", OURS))
        rows += [("peers", f"{peer}/{load}", f"{peer}{under}", OTHERS) for peer in PEERS]
    bars = [bar for bar in measured_bars(measured, rows) if bar[0] > 0]
    title = "Past a timeout (median ms, log scale)"
    return bars and (lambda axes: draw_bars(axes, bars, title, "ms"))


def handover(measured):
    rows = []
    for ours, label, floor, floor_label in (
        ("exit_to_grant", "a victim's exit: a waiter's grant", "exit_to_pidfd", "floor: its pidfd"),
        ("ready_to_64", "ready: 64 waiters", "futex_to_64", "floor: 64 futexes"),
        ("kill_to_clear", "a worker's kill: its leases cleared", "kill_to_pidfd", "floor: its pidfd "),
    ):
        rows += [("handover", ours, label, OURS), ("handover", floor, floor_label, FLOOR)]
    bars = measured_bars(measured, rows)
    return bars and (lambda axes: draw_bars(axes, bars, "Hand-over (median ms, log scale)", "ms"))


def scans(measured):
    report = measured.reports.get("scale", {})
    lines = {}  # by backends: [(leases in use, us)]
    for result in report.get("results", []):
        found = re.fullmatch(r"scan/(\d+)x(\d+)x(\d+)", result["name"])
        if found and int(found[2]) * int(found[3]) > 0:
            microseconds = measured.microseconds("scale", result["name"])
            in_use = int(found[2]) * int(found[3])
            lines.setdefault(int(found[1]), []).append((in_use, microseconds))

    def draw_lines(axes):
        shades = ("#9ecbff", OURS, "#0a3069")
        for shade, (backends, points) in zip(shades, sorted(lines.items())):
            points.sort()
            axes.plot(*zip(*points), marker="o", ms=3.5, lw=1.2, color=shade,
                      label=f"{backends} backends")  # fmt: skip
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.minorticks_off()
        axes.set_xlabel("leases in use", fontsize=8)
        axes.legend(frameon=False, fontsize=8)
        axes.set_title("One scan + decision (us, log scale)", loc="left", fontsize=10,
                       fontweight="bold")  # fmt: skip

    return lines and draw_lines


def draw(everything, path):
    measured = Measured(everything)
    panels = [panel for make in (hot_path, lateness, handover, scans) if (panel := make(measured))]
    if not panels:
        return
    pyplot.rcParams.update(
        {"svg.fonttype": "none", "svg.hashsalt": "modelpool", "font.family": "sans-serif"}
    )
    rows = (len(panels) + 1) // 2
    figure, all_axes = pyplot.subplots(
        rows, 2, figsize=(10.4, 3.6 * rows), squeeze=False, layout="constrained"
    )
    for axes in all_axes.flat[len(panels) :]:
        axes.remove()
    for axes, panel in zip(all_axes.flat, panels):
        panel(axes)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=8)
    where = f"{everything['machine']}, Linux {everything['kernel']}, {everything['date']}"
    figure.supxlabel(f"{where}: {everything['command']}", fontsize=7, color="#57606a")
    figure.savefig(path, format="svg", facecolor="white", metadata={"Date": None})
