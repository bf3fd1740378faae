"""Guarantees of the intervals of a table: what they cover, with one training run and with several."""

import random
import statistics

import numpy as np
import pytest

from data_utils.randomness import keyed_generator
from tests.tools.test_results_table import write_job
from tools.evaluation_results import open_rows
from tools.make_results_table import RESAMPLES, difference_tables, resampled_means

STUDENTS_T = {2: 12.706, 3: 4.303, 5: 2.776}  # the 97.5 % quantile, by number of runs


def difference_interval(folder, runs_of_a, runs_of_b) -> tuple[float, float, float]:
    """Write the scores of two models, `[runs, test rows]` each; return b - a with its interval."""
    folders = {}
    for name, runs in (("a", runs_of_a), ("b", runs_of_b)):
        folders[name] = [folder / f"{name}{number}" for number in range(len(runs))]
        for path, scores in zip(folders[name], runs, strict=True):
            write_job(path / "dolly-512" / "10", scores)
    means = resampled_means(open_rows(folders), "dolly")
    differences = means[:, 1] - means[:, 0]
    low, high = np.quantile(differences[1:], [0.025, 0.975])
    return differences[0], low, high


def test_with_one_run_the_interval_is_that_of_the_bootstrap_over_rows(tmp_path):
    """The same draws and the same figures as before there could be several runs."""
    scores = np.random.default_rng(0).uniform(20, 60, (2, 50))
    generator = keyed_generator(0, "bootstrap of dolly", 50)
    draws = [generator.multinomial(50, np.full(50, 1 / 50)) @ scores.T / 50 for _ in range(RESAMPLES)]
    expected = np.quantile([b - a for a, b in draws], [0.025, 0.975])
    _, *interval = difference_interval(tmp_path, scores[:1], scores[1:])
    assert interval == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("count", STUDENTS_T)
def test_a_difference_that_varies_from_run_to_run_alone_has_the_t_interval_of_its_runs(count, tmp_path):
    """The k-th runs of both are paired: what they share, here up to 30, does not widen the interval."""
    generator = np.random.default_rng(count)
    shared, gains = generator.uniform(0, 30, count), generator.normal(3, 1, count)
    rows = generator.uniform(0, 40, 20)
    a = [rows + share for share in shared]
    b = [rows + share + gain for share, gain in zip(shared, gains, strict=True)]
    mean, low, high = difference_interval(tmp_path, a, b)
    assert mean == pytest.approx(statistics.mean(gains))
    half = STUDENTS_T[count] * statistics.stdev(gains) / count**0.5
    assert (mean - low, high - mean) == pytest.approx((half, half), rel=0.2)


def slow_differences(a, b, generator: random.Random) -> list[float]:
    """The two levels one draw at a time: test rows with replacement, runs by their own standard error times t."""
    count, rows = len(a), len(a[0])
    resamples = []
    for _ in range(RESAMPLES):
        drawn = [generator.randrange(rows) for _ in range(rows)]
        gains = [statistics.fmean(b[run][row] - a[run][row] for row in drawn) for run in range(count)]
        squares = sum(generator.gauss(0, 1) ** 2 for _ in range(count - 1))
        student = generator.gauss(0, 1) / (squares / (count - 1)) ** 0.5
        resamples.append(statistics.fmean(gains) + student * statistics.stdev(gains) / count**0.5)
    return resamples


def test_the_interval_is_that_of_a_slow_independent_bootstrap_over_runs_and_rows(tmp_path):
    generator = np.random.default_rng(5)
    a = generator.uniform(20, 60, (1, 30)) + generator.normal(0, 2, (4, 30))
    b = a + 1 + generator.normal(0, 3, (4, 1)) + generator.normal(0, 8, (1, 30)) + generator.normal(0, 2, (4, 30))
    expected = np.quantile(slow_differences(a.tolist(), b.tolist(), random.Random(5)), [0.025, 0.975])
    mean, *interval = difference_interval(tmp_path, a, b)
    assert mean == pytest.approx((b - a).mean())
    assert interval == pytest.approx(expected, rel=0.15)


@pytest.mark.parametrize(("runs", "spread_of_runs"), [(1, 0.0), (2, 2.0), (3, 2.0)])
def test_the_interval_covers_as_often_as_it_says(runs, spread_of_runs, tmp_path):
    """In 60 experiments whose true difference is 2, nearly all intervals contain it, even with two runs."""
    generator, covered, trials = np.random.default_rng(1), 0, 60
    for trial in range(trials):
        a = generator.uniform(0, 50, (1, 40)) + generator.normal(0, spread_of_runs, (runs, 1))
        gains = generator.normal(2, spread_of_runs, (runs, 1)) + generator.normal(0, 6, (1, 40))
        _, low, high = difference_interval(tmp_path / str(trial), a, a + gains)
        covered += low < 2 < high
    assert covered >= 0.87 * trials


def test_a_run_is_drawn_for_all_sets_at_once(tmp_path):
    """Otherwise the average over sets would vary less between training runs than each set does."""
    folders = {name: [tmp_path / f"{name}{run}" for run in range(3)] for name in ("a", "b")}
    for run in range(3):
        for data_name in ("dolly", "vicuna"):
            write_job(folders["a"][run] / f"{data_name}-512" / "10", np.arange(20.0))
            write_job(folders["b"][run] / f"{data_name}-512" / "10", np.arange(20.0) + [1, 2, 6][run])
    (table,) = difference_tables(open_rows(folders), ["a"])
    _, *cells = table.splitlines()[-1].strip("| ").split(" | ")
    assert len(cells) == 3 and len(set(cells)) == 1 and cells[0].startswith("+3.00 [")


def test_one_run_of_a_teacher_adds_nothing_for_its_training(tmp_path):
    """Against three runs of a student, its interval is as wide as the student's runs require."""
    runs = np.array([[10.0] * 20, [11.0] * 20, [15.0] * 20])
    mean, low, high = difference_interval(tmp_path, runs, np.full((1, 20), 30.0))
    assert mean == pytest.approx(18)
    half = STUDENTS_T[3] * statistics.stdev([10, 11, 15]) / 3**0.5
    assert (mean - low, high - mean) == pytest.approx((half, half), rel=0.2)
