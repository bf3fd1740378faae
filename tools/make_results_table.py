"""Write one Markdown table of ROUGE-L: one row per model, one column per test set, and their average.

    python3 tools/make_results_table.py --save results/tiny/mine.md --baseline SFT \\
        --row SFT=results/tiny/eval_main/sft_student \\
        --row DistiLLM=results/tiny/eval_main/distillm_student results/tiny/seed-20/eval_main/distillm_student

A row is a model, of one training run or of several: `--row NAME=FOLDER FOLDER …` names the results of each. A cell is
the mean over runs and sampling seeds, and ± their sample standard deviation: over runs where a row has several, else
over sampling seeds (how much sampling alone moves the score). The first line says which. The average weights every
set equally. What cannot be compared is refused: results of several models in one folder, rows that were evaluated with
other options (temperature, prompt length, …) or on other data, according to each job's `args.json`.

With `--baseline NAME` (repeat for several), a further table shows each model's difference from that one with a 95 %
interval: the middle 95 % of 2,000 bootstrap resamples with two levels. Bold: it excludes 0.

- Test rows: they are a sample, too. Rows are drawn with replacement within each set. All models answered the same
  rows, so one draw serves them all: differences are taken row by row (each the mean over sampling seeds).
- Training runs: a resample weights a row's runs at random, with one draw for all sets, and for all rows with the same
  number of runs: the k-th run of each is taken to share its seed, so that differences are taken run by run. Resampling
  runs like test rows would not work: two or three runs never give anything outside the range of their results, so the
  interval would contain the truth only half the time (two runs) or three times in four (three). The weights are
  therefore drawn from a bell curve as wide as so few runs require (Student's t): if all test rows agree, the interval
  is the usual t-interval of the runs' differences, 12.7 standard errors to each side for two runs, 4.3 for three, 2.8
  for five.
- A row of one run says nothing about retraining, so nothing is added for it; rows that differ in their number of runs
  are not paired. With one run of each row, intervals cover test rows alone.

`--run NAME=FOLDER FOLDER …` names the training runs themselves; the text below the table then says how they were run.
"""

import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data_utils.errors import UserError, run_as_script

# isort: split

import numpy as np

from data_utils.files import atomic_file
from data_utils.randomness import keyed_generator
from distillm.run.header import git_commit
from tools.command_line import ToolParser, named_folders
from tools.evaluation_results import Row, add_result_options, mean_and_std, open_rows, spread_is_over_runs
from tools.training_records import training_lines

RESAMPLES = 2000


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table whose first column is text and whose others are numbers."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def score_table(rows: Sequence[Row]) -> str:
    over_runs = spread_is_over_runs(rows)
    lines = [[row.name, *(score_cell(scores, over_runs) for scores in row.columns.values())] for row in rows]
    return markdown_table(["ROUGE-L", *rows[0].columns], lines)


def score_cell(scores: np.ndarray, over_runs: bool) -> str:
    mean, std = mean_and_std(scores, over_runs)
    return f"{mean:.2f}" if std is None else f"{mean:.2f} ± {std:.2f}"


def run_weights(count: int) -> np.ndarray:
    """Return what each of `count` training runs weighs, as measured and in each resample: `[1 + RESAMPLES, count]`.

    The weights of a resample sum to 1; the weighted mean spreads like Student's t for this number of runs.
    """
    equal = np.full((1, count), 1 / count)
    if count == 1:
        return np.repeat(equal, 1 + RESAMPLES, axis=0)
    generator = keyed_generator(0, "bootstrap of training runs", count)
    normal = generator.standard_normal((RESAMPLES, count))
    chi_square = generator.chisquare(count - 1, (RESAMPLES, 1))
    student = (normal - normal.mean(1, keepdims=True)) * np.sqrt((count - 1) / chi_square)
    return np.concatenate([equal, equal + student / np.sqrt(count * (count - 1))])


def resampled_means(rows: Sequence[Row], data_name: str) -> np.ndarray:
    """Return every model's ROUGE-L on one set, as measured and resampled: `[1 + RESAMPLES, models]`."""
    scores = [row.scores[data_name].mean(1) for row in rows]  # of each model `[runs, test rows]`
    count = scores[0].shape[1]
    generator = keyed_generator(0, f"bootstrap of {data_name}", count)
    # How often each test row is drawn; one draw serves all runs of all models, which is what pairs them.
    draws = generator.multinomial(count, np.full(count, 1 / count), RESAMPLES)
    weights = np.concatenate([np.ones((1, count)), draws]) / count
    return np.stack([(run_weights(len(of_runs)) * (weights @ of_runs.T)).sum(1) for of_runs in scores], axis=1)


def difference_table(rows: Sequence[Row], baseline: str, means: Mapping[str, np.ndarray]) -> str:
    """Return the table of every other model's difference from a baseline; `means` are those of `resampled_means`."""
    names = [row.name for row in rows]
    first = names.index(baseline)
    lines = [
        [name, *(difference_cell(column[:, model] - column[:, first]) for column in means.values())]
        for model, name in enumerate(names)
        if model != first
    ]
    return markdown_table([f"minus {baseline}", *means], lines)


def difference_cell(differences: np.ndarray) -> str:
    """Format the measured difference, which comes first, with the interval of the resampled ones."""
    mean, (low, high) = differences[0], np.quantile(differences[1:], [0.025, 0.975])
    bold = "**" if low > 0 or high < 0 else ""
    return f"{bold}{mean:+.2f}{bold} [{low:+.2f}, {high:+.2f}]"


def difference_tables(rows: Sequence[Row], baselines: Sequence[str]) -> list[str]:
    means = {data_name: resampled_means(rows, data_name) for data_name in rows[0].scores}
    means["average"] = np.mean(list(means.values()), axis=0)
    return [difference_table(rows, baseline, means) for baseline in baselines]


def first_line(rows: Sequence[Row], with_intervals: bool) -> str:
    """Say what a cell is, and what the table does not show."""
    seeds, counts = rows[0].seeds, {row.name: row.num_runs for row in rows}
    sampling = f"{len(seeds)} sampling seeds" if len(seeds) > 1 else f"sampling seed {seeds[0]}"
    if not spread_is_over_runs(rows):
        spread = f"mean ± standard deviation over {sampling}" if len(seeds) > 1 else sampling
        missing = ": the intervals cover test rows, not retraining" if with_intervals else ""
        return f"ROUGE-L (0 to 100), {spread}; one training run per row{missing}.\n"
    most = max(counts.values())
    fewer = "".join(f", {count} of {name}" for name, count in counts.items() if count < most)
    return (
        f"ROUGE-L (0 to 100), mean over training runs ({most} of each row{fewer}) and {sampling} ± standard deviation "
        "over training runs.\n"
    )


def interval_line(rows: Sequence[Row]) -> str:
    drawn = "training runs and test rows" if spread_is_over_runs(rows) else "test rows"
    return (
        f"Differences, with 95 % intervals from a paired bootstrap over {drawn} ({RESAMPLES:,} resamples; "
        "bold: the interval excludes 0).\n"
    )


def tables(rows: Sequence[Row], baselines: Sequence[str]) -> list[str]:
    """Return the Markdown of all tables, each with the line that explains it."""
    names = [row.name for row in rows]
    unknown = [name for name in baselines if name not in names]
    if unknown:
        raise UserError(f"--baseline {unknown[0]!r} is not a --row: choose from {', '.join(names)}")
    scores = [first_line(rows, bool(baselines)), score_table(rows)]
    return [*scores, interval_line(rows), *difference_tables(rows, baselines)] if baselines else scores


def made_with(command: str, runs: dict[str, list[Path]]) -> str:
    lines = "".join(f"- {line}\n" for line in training_lines(runs))
    trained = f"\nTrained:\n\n{lines}" if lines else ""
    return f"\nMade at commit {git_commit() or 'unknown'} with:\n\n```bash\n{command}\n```\n{trained}"


def main() -> None:
    parser = ToolParser(__doc__)
    add_result_options(parser)
    parser.add_argument("--baseline", action="append", default=[], help="row to compare the others with; repeatable")
    parser.add_argument("--title", help="heading")
    parser.add_argument("--command", help="command to show as the source of the table; default: this one")
    parser.add_argument("--plot", help="image to show below the tables, relative to the Markdown file")
    parser.add_argument("--save", type=Path, required=True, help="Markdown file to write")
    options = parser.parse_args()
    rows = open_rows(named_folders("--row", options.row), options.data_names, options.seeds, options.max_length)
    parts = [f"# {options.title}\n"] if options.title else []
    parts += tables(rows, options.baseline)
    parts += [f"![ROUGE-L, and validation while training]({options.plot})\n"] if options.plot else []
    command = options.command or shlex.join(["python3", *sys.argv])
    text = "\n".join(parts) + made_with(command, named_folders("--run", options.run))
    with atomic_file(options.save) as temporary:
        temporary.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    run_as_script(main)
