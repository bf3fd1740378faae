"""Write one Markdown table of ROUGE-L: one row per model, one column per test set, and their average.

    python3 tools/make_results_table.py --save results/tiny/mine.md --baseline SFT \\
        --row SFT=results/tiny/eval_main/sft_student \\
        --row DistiLLM=results/tiny/eval_main/distillm_student results/tiny/seed-20/eval_main/distillm_student

A row is a model, of one training run or of several: `--row NAME=FOLDER FOLDER …` names the results of each. A cell is
the mean over runs and sampling seeds, and ± their sample standard deviation: over runs where a row has several, else
over sampling seeds (how much sampling an answer moves the score). The first line says which. The average weights every
set equally. What cannot be compared is refused: results of several models in one folder, rows that were evaluated with
other options (temperature, prompt length, …) or on other data; each job's `args.json` tells.

With `--baseline NAME` (repeat for several), a further table shows each model's difference to that one with a 95 %
interval: the middle 95 % of 2,000 bootstrap resamples with two levels. Bold: it excludes 0.

- Test rows: they are a sample, too. Rows are drawn with replacement within each set. All models answered the same
  rows, so one draw serves them all: differences are taken row by row (each the mean over sampling seeds).
- Training runs: a resample weighs a row's runs at random, with one draw for all sets, and for all rows of as many runs:
  the k-th run of each is taken to share its seed, so that differences are taken run by run. Resampling runs like
  test rows would not work: two or three runs cannot give anything outside their own results, so the interval would
  contain the truth only half the time (two runs) or three times in four (three). The weights are therefore drawn from a
  bell curve as wide as so few runs require (Student's t): if all test rows agree, the interval is the usual
  t-interval of the runs' differences, 12.7 standard errors to each side from two runs, 4.3 from three, 2.8 from five.
- A row of one run says nothing about training it again, so nothing is added for it; rows that differ in their number of
  runs are not paired. With one run of each row, intervals cover test rows alone.

`--run NAME=FOLDER FOLDER …` names the training runs themselves; how they were run then stands below the table.
"""

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data_utils.errors import UserError, run_as_script

# isort: split

import numpy as np

from data_utils.files import atomic_file
from data_utils.randomness import keyed_generator
from distillm.run.header import git_commit
from tools.command_line import ToolParser, named_folders
from tools.evaluation_results import (
    Row,
    add_result_options,
    check_same_prompts,
    every_run,
    mean_and_std,
    open_rows,
    spread_is_over_runs,
)
from tools.training_records import training_lines

RESAMPLES = 2000


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table whose first column is text and whose others are numbers."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def score_table(rows: Sequence[Row]) -> str:
    over_runs = spread_is_over_runs(rows)
    lines = [[row.name, *(_score_cell(scores, over_runs) for scores in row.columns)] for row in rows]
    return markdown_table(["ROUGE-L", *rows[0].runs[0].sets, "average"], lines)


def _score_cell(scores: np.ndarray, over_runs: bool) -> str:
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
    scores = paired_scores(rows, data_name)
    count = len(scores)
    generator = keyed_generator(0, f"bootstrap of {data_name}", count)
    # How often each test row is drawn; one draw serves all runs of all models, which is what pairs them.
    draws = (generator.multinomial(count, np.full(count, 1 / count)) for _ in range(RESAMPLES))
    means = np.stack([scores.mean(0), *(draw @ scores / count for draw in draws)])
    counts = [len(row.runs) for row in rows]
    of_models = np.split(means, np.cumsum(counts)[:-1], axis=1)
    return np.stack(
        [(run_weights(runs) * of_runs).sum(1) for runs, of_runs in zip(counts, of_models, strict=True)], axis=1
    )


def paired_scores(rows: Sequence[Row], data_name: str) -> np.ndarray:
    """Return the mean over sampling seeds of every test row of a set, for every run: `[test rows, all runs]`."""
    runs = every_run(rows)
    columns = [run.row_scores(data_name).mean(0) for run in runs]
    counts = {len(column): run.name for column, run in zip(columns, runs, strict=True)}
    if len(counts) != 1:
        several = " and ".join(f"{count} rows of {name}" for count, name in sorted(counts.items()))
        raise UserError(f"{data_name}: {several} cannot be paired; evaluate all models on the same data")
    check_same_prompts(runs, data_name)
    return np.stack(columns, axis=1)


def difference_tables(rows: Sequence[Row], baselines: Sequence[str]) -> list[str]:
    """Return one table for each baseline: every other model's difference to it."""
    sets, names = rows[0].runs[0].sets, [row.name for row in rows]
    columns = [resampled_means(rows, data_name) for data_name in sets]
    columns.append(np.mean(columns, axis=0))
    tables = []
    for baseline in baselines:
        differences = [means - means[:, [names.index(baseline)]] for means in columns]
        lines = [
            [name, *(_difference_cell(column[:, model]) for column in differences)]
            for model, name in enumerate(names)
            if name != baseline
        ]
        tables.append(markdown_table([f"minus {baseline}", *sets, "average"], lines))
    return tables


def _difference_cell(differences: np.ndarray) -> str:
    """Format the measured difference, which stands first, with the interval of the resampled ones."""
    mean, (low, high) = differences[0], np.quantile(differences[1:], [0.025, 0.975])
    bold = "**" if low > 0 or high < 0 else ""
    return f"{bold}{mean:+.2f}{bold} [{low:+.2f}, {high:+.2f}]"


def first_line(rows: Sequence[Row], with_intervals: bool) -> str:
    """Say what a cell is, and what the table does not tell."""
    seeds, counts = rows[0].runs[0].seeds, {row.name: len(row.runs) for row in rows}
    sampling = f"{len(seeds)} sampling seeds" if len(seeds) > 1 else f"sampling seed {seeds[0]}"
    if not spread_is_over_runs(rows):
        spread = f"mean ± standard deviation over {sampling}" if len(seeds) > 1 else sampling
        missing = ": the intervals cover test rows, not training again" if with_intervals else ""
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


def document(rows: Sequence[Row], baselines: Sequence[str], title: str | None = None, notes: str = "") -> str:
    """Return the Markdown text, except for how it was made."""
    names = [row.name for row in rows]
    unknown = [name for name in baselines if name not in names]
    if unknown:
        raise UserError(f"--baseline {unknown[0]!r} is no --row: choose from {', '.join(names)}")
    parts = [f"# {title}\n"] if title else []
    parts += [first_line(rows, bool(baselines)), score_table(rows)]
    if baselines:
        parts += [interval_line(rows), *difference_tables(rows, baselines)]
    if notes:
        parts.append(notes.strip() + "\n")
    return "\n".join(parts)


def made_with(command: str, runs: dict[str, list[Path]]) -> str:
    lines = "".join(f"- {line}\n" for line in training_lines(runs))
    trained = f"\nTrained:\n\n{lines}" if lines else ""
    return f"\nMade at commit {git_commit() or 'unknown'} with:\n\n```bash\n{command}\n```\n{trained}"


def main() -> None:
    parser = ToolParser(__doc__)
    add_result_options(parser)
    parser.add_argument("--baseline", action="append", default=[], help="row to compare the others with; repeat")
    parser.add_argument("--title", help="heading")
    parser.add_argument("--command", help="the command to show as the one that makes this; default: this one")
    parser.add_argument("--plot", help="image to show below the tables, as seen from the Markdown file")
    parser.add_argument("--notes-file", type=Path, help="Markdown to put below the tables")
    parser.add_argument("--save", type=Path, required=True, help="Markdown file to write")
    options = parser.parse_args()
    rows = open_rows(named_folders("--row", options.row), options.data_names, options.seeds, options.max_length)
    notes = options.notes_file.read_text(encoding="utf-8") if options.notes_file else ""
    if options.plot:
        notes = f"![ROUGE-L, and validation while training]({options.plot})\n\n{notes}"
    text = document(rows, options.baseline, options.title, notes)
    text += made_with(options.command or shlex.join(["python3", *sys.argv]), named_folders("--run", options.run))
    with atomic_file(options.save) as temporary:
        temporary.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    run_as_script(main)
