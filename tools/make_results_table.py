"""Write one Markdown table of ROUGE-L: a row a model, a column a test set, and their average.

    python3 tools/make_results_table.py --save results/tiny/table.md --baseline SFT \\
        --row Teacher=results/tiny/eval_main/sft/teacher --row SFT=results/tiny/eval_main/sft/student \\
        --row DistiLLM=results/tiny/eval_main/distillm

A cell is the mean over seeds ± their sample standard deviation: how much sampling an answer moves the score.
The average weighs every set alike. What cannot be compared is refused: a row of several models, rows that were
evaluated with other options (temperature, prompt length, …) or on other data; each job's `args.json` tells.

With `--baseline NAME` (repeat for several), a second table shows each model's difference to that one with a
95 % interval: how sure the difference is, given that the test rows are a sample too. Both models answered the
same rows, so the differences are taken row by row (each the mean over seeds), rows are drawn with replacement
within each set 2,000 times (paired bootstrap), and the interval holds the middle 95 % of the resampled means.
It says nothing about training once more with another seed. Differences whose interval excludes 0 are bold.
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
from tools.command_line import ToolParser
from tools.evaluation_results import (
    Evaluation,
    add_result_options,
    check_same_prompts,
    mean_and_std,
    open_evaluations,
)

RESAMPLES = 2000


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table whose first column is text and whose others are numbers."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def score_table(evaluations: Sequence[Evaluation]) -> str:
    rows = [
        [
            evaluation.name,
            *(_score_cell(scores) for scores in evaluation.scores),
            _score_cell(evaluation.scores.mean(0)),
        ]
        for evaluation in evaluations
    ]
    return markdown_table(["ROUGE-L", *evaluations[0].sets, "average"], rows)


def _score_cell(scores: np.ndarray) -> str:
    mean, std = mean_and_std(scores)
    return f"{mean:.2f}" if std is None else f"{mean:.2f} ± {std:.2f}"


def resampled_means(evaluations: Sequence[Evaluation], data_name: str) -> np.ndarray:
    """Return every model's ROUGE-L on one set, as measured and on resampled rows: `[1 + RESAMPLES, models]`."""
    columns = [evaluation.row_scores(data_name).mean(0) for evaluation in evaluations]
    counts = {len(column): evaluation.name for column, evaluation in zip(columns, evaluations, strict=True)}
    if len(counts) != 1:
        rows = " and ".join(f"{count} rows of {name}" for count, name in sorted(counts.items()))
        raise UserError(f"{data_name}: {rows} cannot be paired; evaluate all models on the same data")
    check_same_prompts(evaluations, data_name)
    scores = np.stack(columns, axis=1)
    count = len(scores)
    generator = keyed_generator(0, f"bootstrap of {data_name}", count)
    # How often each row is drawn; one draw serves all models, which is what pairs them.
    draws = (generator.multinomial(count, np.full(count, 1 / count)) for _ in range(RESAMPLES))
    return np.stack([scores.mean(0), *(draw @ scores / count for draw in draws)])


def difference_tables(evaluations: Sequence[Evaluation], baselines: Sequence[str]) -> list[str]:
    """Return one table for each baseline: every other model's difference to it."""
    sets, names = evaluations[0].sets, [evaluation.name for evaluation in evaluations]
    columns = [resampled_means(evaluations, data_name) for data_name in sets]
    columns.append(np.mean(columns, axis=0))
    tables = []
    for baseline in baselines:
        differences = [means - means[:, [names.index(baseline)]] for means in columns]
        rows = [
            [name, *(_difference_cell(column[:, model]) for column in differences)]
            for model, name in enumerate(names)
            if name != baseline
        ]
        tables.append(markdown_table([f"minus {baseline}", *sets, "average"], rows))
    return tables


def _difference_cell(differences: np.ndarray) -> str:
    """Format the measured difference, which stands first, with the interval of the resampled ones."""
    mean, (low, high) = differences[0], np.quantile(differences[1:], [0.025, 0.975])
    bold = "**" if low > 0 or high < 0 else ""
    return f"{bold}{mean:+.2f}{bold} [{low:+.2f}, {high:+.2f}]"


def document(
    evaluations: Sequence[Evaluation], baselines: Sequence[str], title: str | None, command: str, notes: str
) -> str:
    """Return the whole Markdown text."""
    names = [evaluation.name for evaluation in evaluations]
    unknown = [name for name in baselines if name not in names]
    if unknown:
        raise UserError(f"--baseline {unknown[0]!r} is no --row: choose from {', '.join(names)}")
    seeds = evaluations[0].seeds
    spread = f"mean ± standard deviation over {len(seeds)} seeds" if len(seeds) > 1 else f"seed {seeds[0]}"
    parts = [f"# {title}\n"] if title else []
    parts += [f"ROUGE-L (0 to 100), {spread}.\n", score_table(evaluations)]
    if baselines:
        parts.append(
            f"Differences, with 95 % intervals from a paired bootstrap over test rows ({RESAMPLES:,} resamples; "
            "bold: the interval excludes 0).\n"
        )
        parts += difference_tables(evaluations, baselines)
    if notes:
        parts.append(notes.strip() + "\n")
    parts.append(f"Made with:\n\n```bash\n{command}\n```\n")
    return "\n".join(parts)


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
    evaluations = open_evaluations(
        options.row, options.data_names, options.seeds, options.max_length, options.skip_missing
    )
    left_out = {name for name, _ in options.row} - {evaluation.name for evaluation in evaluations}
    baselines = [name for name in options.baseline if name not in left_out]
    command = options.command or shlex.join(["python3", *sys.argv])
    notes = options.notes_file.read_text(encoding="utf-8") if options.notes_file else ""
    if options.plot:
        notes = f"![ROUGE-L, and validation while training]({options.plot})\n\n{notes}"
    text = document(evaluations, baselines, options.title, command, notes)
    with atomic_file(options.save) as temporary:
        temporary.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    run_as_script(main)
