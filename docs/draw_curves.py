"""Draws the curves in the README: `python docs/draw_curves.py docs/curves.svg LABEL=RUN[,RUN ...] ...`.

Each label is a line: the mean of its runs' validations, with the least and the greatest as a band, and at the
right the final test over all passages. BM25's Hit Rate is that of the first run.
"""

import json
import sys
from pathlib import Path
from statistics import mean

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7")
GREY = "#767676"
METRIC = "hr_at_5"


def main(arguments: list[str]) -> int:
    """The command line; returns the exit code."""
    path, *lines = arguments
    plt.rcParams.update({"svg.hashsalt": "curves", "svg.fonttype": "none", "font.size": 11})
    figure, axes = plt.subplots(figsize=(8.4, 3.4), layout="constrained")
    first = None
    for colour, line in zip(COLOURS, lines, strict=False):
        label, _, folders = line.partition("=")
        runs = [Path(folder) for folder in folders.split(",")]
        first = first or runs[0]
        draw_line(axes, label, runs, colour)
    assert first is not None, "give at least one LABEL=RUN"
    steps, of_bm25 = validations(first, f"bm25/{METRIC}")
    tested = summary(first)["bm25"][f"bm25/{METRIC}"]["after"]
    last = steps[-1]
    axes.plot([steps[0], last], [of_bm25[0]] * 2, color=GREY, linestyle="--", label="BM25")
    axes.plot([last * 1.15], [tested], color=GREY, marker="_", markersize=16)
    axes.set_xticks([*steps, last * 1.15], [*(str(step) for step in steps), "test\n(all passages)"])
    axes.set(xlabel="training step", ylabel="Hit Rate@5", ylim=(0, 0.8))
    axes.grid(axis="y", color="#dddddd", linewidth=0.6)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.legend(frameon=False, loc="lower right")
    figure.savefig(path, metadata={"Date": None})
    return 0


def draw_line(axes: plt.Axes, label: str, runs: list[Path], colour: str) -> None:
    """The validations of some runs, and their tests."""
    of_runs = [validations(run, METRIC) for run in runs]
    steps = of_runs[0][0]
    by_step = list(zip(*(values for _, values in of_runs), strict=True))
    axes.fill_between(
        steps, [min(v) for v in by_step], [max(v) for v in by_step], color=colour, alpha=0.15, linewidth=0
    )
    axes.plot(steps, [mean(v) for v in by_step], color=colour, marker="o", markersize=4, label=label)
    tests = [summary(run)[METRIC]["after"] for run in runs]
    axes.plot([steps[-1] * 1.15] * len(tests), tests, color=colour, marker="o", markersize=4, linestyle="")


def validations(run: Path, metric: str) -> tuple[list[int], list[float]]:
    """Steps and values; of two validations at one step the last."""
    lines = [json.loads(line) for line in (run / "validations.jsonl").read_text().splitlines()]
    found = {int(line["step"]): float(line["metrics"][f"validation/{metric}"]) for line in lines}
    return sorted(found), [found[step] for step in sorted(found)]


def summary(run: Path) -> dict:
    return json.loads((run / "summary.json").read_text())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
