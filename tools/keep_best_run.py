"""Copy the training run with the best validation score, out of several that differ in one setting.

    python3 tools/keep_best_run.py --save results/tiny/train/sft/student \\
        --runs results/tiny/train/sft/student-2e-3 results/tiny/train/sft/student-4e-3

compares the scores that `finetune.py` selected each run's model by (ROUGE-L on the dev set with --eval-gen, else
minus the dev loss): the test sets play no part. The copy is a complete save folder, with `args.json` and the logs; it
replaces only a finished run.
"""

import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data_utils.errors import UserError, run_as_script

# isort: split

from data_utils.files import atomic_folder
from distillm.run.folder import FINISHED
from tools.command_line import ToolParser, require_replaceable


def dev_score(run: Path) -> float:
    """Return the best validation score of a finished run, higher is better."""
    path = run / FINISHED
    if not path.is_file():
        raise UserError(f"{run} is not a finished run ({FINISHED} is missing): finish it first")
    score = json.loads(path.read_text(encoding="utf-8"))["best"]
    if score is None:
        raise UserError(f"{run} was trained without --do-valid: there is no score to compare")
    return score


def check_save(save: Path, runs: Sequence[Path]) -> None:
    """Raise if the copy would remove one of the runs, or something other than a finished run."""
    for run in runs:
        if save.resolve().is_relative_to(run.resolve()) or run.resolve().is_relative_to(save.resolve()):
            raise UserError(f"--save {save} is, holds or lies in {run} of --runs; choose a folder outside of all runs")
    require_replaceable("--save", save, (save / FINISHED).is_file(), "a finished run")


def main() -> None:
    parser = ToolParser(__doc__)
    parser.add_argument("--runs", type=Path, nargs="+", required=True, help="save folders of finished runs")
    parser.add_argument("--save", type=Path, required=True, help="folder for the copy; replaces a finished run")
    options = parser.parse_args()
    check_save(options.save, options.runs)
    scores = {run: dev_score(run) for run in options.runs}
    best = max(scores, key=scores.__getitem__)
    with atomic_folder(options.save) as folder:
        shutil.copytree(best, folder, dirs_exist_ok=True)
    for run, score in scores.items():
        print(f"{run}: dev score {score:.4g}{' (kept)' if run == best else ''}")


if __name__ == "__main__":
    run_as_script(main)
