"""Draw one figure of an experiment: how the runs went on the dev set, and how the models score on the test sets.

    python3 tools/plot_results.py --save results/tiny/mine.png \\
        --run DistiLLM=results/tiny/train/distillm/student --row SFT=results/tiny/eval_main/sft_student \\
        --row DistiLLM=results/tiny/eval_main/distillm_student

`--run NAME=FOLDER FOLDER …` names the folders of a model's training runs; `--row` is that of make_results_table.py.
A name has one colour in all panels. Bars are means and their error bars one standard deviation, as in the table.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from operator import index
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

from data_utils.files import atomic_file
from tools.command_line import ToolParser, named_folders
from tools.evaluation_results import Row, add_result_options, mean_and_std, open_rows, spread_is_over_runs

# Okabe and Ito's palette, which suits colour-blind readers; line styles and hatches for more names than colours.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#000000", "#F0E442")
LINES, MARKERS, HATCHES = ("-", "--", "-."), "os^Dvx*P", ("", "///", "...")
PANELS = {"dev_rougeL": "dev ROUGE-L", "dev_loss": "dev loss (nats per token)"}

Records = list[dict[str, Any]]


def read_log(folder: Path) -> Records:
    """Return the records of a run's log.jsonl, without a last line that was cut short by a kill."""
    path = folder / "log.jsonl"
    if not path.is_file():
        raise UserError(f"{path} does not exist; expected it in the save folder of a training run")
    records: Records = []
    lines = path.read_bytes().splitlines()
    for number, line in enumerate(lines, start=1):
        try:
            records.append(json.loads(line))
            index(records[-1]["step"])
        except (ValueError, KeyError, TypeError):
            if number == len(lines):
                return records[: number - 1]
            raise UserError(f"{path}:{number} is not a record of a step; expected the log of a training run") from None
    return records


def curve(records: Records, key: str) -> tuple[list[float], list[float]]:
    """Return the percentage of the run done, and the value, for each record that holds `key`."""
    last = max((record["step"] for record in records), default=0) or 1
    points = sorted((100 * record["step"] / last, record[key]) for record in records if key in record)
    return [x for x, _ in points], [y for _, y in points]


def draw_curves(axes: Axes, runs: Mapping[str, Sequence[Records]], key: str, places: Mapping[str, int]) -> None:
    for name, logs in runs.items():
        place = places[name]
        for records in logs:
            axes.plot(
                *curve(records, key),
                color=COLOURS[place % len(COLOURS)],
                linestyle=LINES[place // len(COLOURS) % len(LINES)],
                marker=MARKERS[place % len(MARKERS)],
                markersize=4,
                label=name,
            )
    axes.set(xlabel="share of the run's steps (%)", ylabel=PANELS[key])
    axes.grid(alpha=0.3)


def draw_bars(axes: Axes, rows: Sequence[Row], places: Mapping[str, int]) -> None:
    over_runs = spread_is_over_runs(rows)
    groups = list(rows[0].columns if len(rows[0].scores) > 1 else rows[0].scores)
    width = 0.8 / len(rows)
    for number, row in enumerate(rows):
        place = places[row.name]
        means, stds = zip(*(mean_and_std(row.columns[group], over_runs) for group in groups), strict=True)
        axes.bar(
            np.arange(len(groups)) - 0.4 + width * (number + 0.5),
            means,
            width,
            yerr=None if None in stds else stds,
            capsize=2,
            color=COLOURS[place % len(COLOURS)],
            hatch=HATCHES[place // len(COLOURS) % len(HATCHES)],
            edgecolor="white",
            label=row.name,
        )
    axes.set_xticks(np.arange(len(groups)), groups)
    axes.set(ylabel="test ROUGE-L", axisbelow=True)
    axes.grid(axis="y", alpha=0.3)


def draw(runs: Mapping[str, Sequence[Records]], rows: Sequence[Row], title: str | None) -> pyplot.Figure:
    """Return the figure: dev curves on the left (what the logs hold), bars on the right, one legend below."""
    places = {name: place for place, name in enumerate(dict.fromkeys([*(row.name for row in rows), *runs]))}
    logs = [log for of_name in runs.values() for log in of_name]
    panels = [key for key in PANELS if any(key in record for log in logs for record in log)]
    widths = ([5.0] if panels else []) + [max(5.0, 2.0 + 0.22 * len(rows) * len(rows[0].columns))]
    mosaic: Any = [[key, "test"] for key in panels] or [["test"]]
    figure, axes = pyplot.subplot_mosaic(mosaic, width_ratios=widths, figsize=(sum(widths), 5.2), layout="constrained")
    for key in panels:
        draw_curves(axes[key], runs, key, places)
    draw_bars(axes["test"], rows, places)
    handles: dict[str, Any] = {}
    for panel in (axes["test"], *(axes[key] for key in panels)):
        panel.spines[["top", "right"]].set_visible(False)
        for handle, label in zip(*panel.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    figure.legend(handles.values(), handles, loc="outside lower center", ncols=min(4, len(handles)), frameon=False)
    figure.suptitle(title or "")
    return figure


def main() -> None:
    parser = ToolParser(__doc__)
    add_result_options(parser)
    parser.add_argument("--title", help="heading")
    parser.add_argument("--save", type=Path, required=True, help="PNG file to write")
    options = parser.parse_args()
    rows = open_rows(named_folders("--row", options.row), options.data_names, options.seeds, options.max_length)
    folders = named_folders("--run", options.run)
    figure = draw(
        {name: [read_log(folder) for folder in of_name] for name, of_name in folders.items()}, rows, options.title
    )
    with atomic_file(options.save) as temporary:
        figure.savefig(temporary, format="png", dpi=150)
    print(options.save)


if __name__ == "__main__":
    run_as_script(main)
