"""Draw one figure of an experiment: how the runs went on the dev set, and how the models score on the test sets.

    python3 tools/plot_results.py --save results/tiny/mine.png \\
        --run DistiLLM=results/tiny/train/distillm/student --row SFT=results/tiny/eval_main/sft_student \\
        --row DistiLLM=results/tiny/eval_main/distillm_student

`--run NAME=FOLDER FOLDER …` names the folders of a model's training runs; `--row` is that of make_results_table.py.
A name has one colour in all panels. Bars are means and their error bars one standard deviation, as in the table.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data_utils.errors import UserError, run_as_script

# isort: split

import matplotlib

matplotlib.use("Agg")  # before pyplot: there is no display on a server
import numpy as np
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.layout_engine import ConstrainedLayoutEngine

from data_utils.files import atomic_file
from tools.command_line import ToolParser, named_folders
from tools.evaluation_results import Row, add_result_options, mean_and_std, open_rows, spread_is_over_runs

# Okabe and Ito's palette, told apart by colour-blind readers; line styles and hatches for more names than colours.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#000000", "#F0E442")
LINES, MARKERS, HATCHES = ("-", "--", "-."), "os^Dvx*P", ("", "///", "...")
PANELS = (("dev_rougeL", "dev ROUGE-L"), ("dev_loss", "dev loss (nats per token)"))

Records = list[dict[str, Any]]


def read_log(path: Path) -> Records:
    """Return the records of a run's log.jsonl; a line torn by a kill can only be the last."""
    path = path / "log.jsonl"
    if not path.is_file():
        raise UserError(f"{path} does not exist; expected it in the save folder of a training run")
    records: Records = []
    lines = path.read_bytes().splitlines()
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
        except ValueError:
            if number < len(lines):
                raise UserError(f"{path}:{number} is not JSON; it is no log of a training run") from None
        else:
            if not isinstance(record, dict) or not isinstance(record.get("step"), int):
                raise UserError(f"{path}:{number} has no step; it is no log of a training run")
            records.append(record)
    return records


def curve(records: Records, key: str) -> tuple[list[float], list[float]]:
    """Return share of the run done, 0 to 1, and value for each record that holds `key`."""
    last = max((record.get("step", 0) for record in records), default=0) or 1
    points = sorted((record["step"] / last, record[key]) for record in records if key in record)
    return [x for x, _ in points], [y for _, y in points]


def draw_curves(axes: Axes, runs: dict[str, list[Records]], key: str, label: str, style: dict[str, int]) -> None:
    for name, logs in runs.items():
        index = style[name]
        curves = [curve(records, key) for records in logs]
        for place, (x, y) in enumerate(each for each in curves if each[0]):
            axes.plot(
                [100 * share for share in x],
                y,
                color=COLOURS[index % len(COLOURS)],
                linestyle=LINES[index // len(COLOURS) % len(LINES)],
                marker=MARKERS[index % len(MARKERS)],
                markersize=4,
                linewidth=1.5,
                label=None if place else name,
            )
    axes.set_ylabel(label)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)


def draw_bars(axes: Axes, rows: Sequence[Row], style: dict[str, int]) -> None:
    over_runs = spread_is_over_runs(rows)
    groups = list(rows[0].columns) if len(rows[0].scores) > 1 else list(rows[0].scores)
    width = 0.8 / len(rows)
    for place, row in enumerate(rows):
        index = style[row.name]
        means, stds = zip(*(mean_and_std(row.columns[group], over_runs) for group in groups), strict=True)
        axes.bar(
            np.arange(len(groups)) - 0.4 + width * (place + 0.5),
            means,
            width,
            yerr=None if None in stds else stds,
            capsize=2,
            color=COLOURS[index % len(COLOURS)],
            hatch=HATCHES[index // len(COLOURS) % len(HATCHES)],
            edgecolor="white",
            label=row.name,
        )
    axes.set_xticks(np.arange(len(groups)), groups)
    axes.set_ylabel("test ROUGE-L")
    axes.grid(axis="y", alpha=0.3)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def draw(runs: dict[str, list[Records]], rows: Sequence[Row], title: str | None) -> pyplot.Figure:
    """Return the figure: dev curves on the left (what the logs hold), bars on the right, one legend below."""
    names = list(dict.fromkeys([*(row.name for row in rows), *runs]))
    style = {name: index for index, name in enumerate(names)}
    records = [record for logs in runs.values() for log in logs for record in log]
    panels = [panel for panel in PANELS if any(panel[0] in record for record in records)]
    bars = len(rows) * len(rows[0].columns)
    sides = ([5.0] if panels else []) + [max(5.0, 2.0 + 0.22 * bars)]
    figure = pyplot.figure(figsize=(sum(sides), 5.2), layout=ConstrainedLayoutEngine(w_pad=0.1))
    grid = figure.add_gridspec(max(1, len(panels)), len(sides), width_ratios=sides)
    first: Axes | None = None
    for place, (key, label) in enumerate(panels):
        axes = figure.add_subplot(grid[place, 0], sharex=first)
        draw_curves(axes, runs, key, label, style)
        axes.tick_params(labelbottom=place == len(panels) - 1)
        first = first or axes
        if place == len(panels) - 1:
            axes.set_xlabel("share of the run's steps (%)")
    draw_bars(figure.add_subplot(grid[:, -1]), rows, style)
    handles = {
        label: handle
        for axes in reversed(figure.axes)
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    shown = sorted(handles, key=style.__getitem__)
    figure.legend(
        [handles[name] for name in shown], shown, loc="outside lower center", ncols=min(4, len(shown)), frameon=False
    )
    if title:
        figure.suptitle(title)
    return figure


def main() -> None:
    parser = ToolParser(__doc__)
    add_result_options(parser)
    parser.add_argument("--title", help="heading")
    parser.add_argument("--save", type=Path, required=True, help="PNG file to write")
    options = parser.parse_args()
    rows = open_rows(named_folders("--row", options.row), options.data_names, options.seeds, options.max_length)
    runs = {
        name: [read_log(folder) for folder in folders] for name, folders in named_folders("--run", options.run).items()
    }
    figure = draw(runs, rows, options.title)
    with atomic_file(options.save) as temporary:
        figure.savefig(temporary, format="png", dpi=150)
    print(options.save)


if __name__ == "__main__":
    run_as_script(main)
