import json
from collections import Counter

import numpy as np
import pytest
import torch

from data_utils.batching import Row
from data_utils.errors import UserError
from distillm import on_policy
from distillm.arguments import OnPolicyArguments
from distillm.on_policy import AdaptiveThreshold, DatasetRows, OnPolicyRows, ReplayBuffer, draw_case
from tests.distillm.tiny import EOS, make_batch

ROWS = [Row([5, 6, 7, 8][: 1 + index % 4], [9, EOS], index) for index in range(4)]


class Answers:
    """A generator that answers a prompt with its length and the step, and remembers what it was asked."""

    def __init__(self):
        self.calls = []

    def respond(self, model, prompts, row_ids, *, seed, purpose, step):
        self.calls.append((list(row_ids), step))
        return [[10 + len(prompt), 20 + step, EOS] for prompt in prompts]


def make_policy(sampling="adaptive", threshold=0.0, capacity=1000, mixed_alpha=1.0, seed=10) -> OnPolicyRows:
    arguments = OnPolicyArguments(mixed_alpha=mixed_alpha, init_threshold=threshold, capacity=capacity)
    return OnPolicyRows(sampling, arguments, seed, torch.nn.Identity(), Answers())


@pytest.fixture
def draws(monkeypatch):
    """Set what the steps draw: a list, used from its front."""
    values: list[float] = []

    class Drawn:
        def random(self):
            return values.pop(0)

    monkeypatch.setattr(on_policy, "keyed_generator", lambda *key: Drawn())
    return values


@pytest.mark.parametrize(
    ("ratio", "step", "share"),
    [("decreasing", 25, 0.75), ("decreasing", 100, 0.0), ("constant", 25, 0.5), ("increasing", 25, 0.25)],
)
def test_adaptive_cases_follow_the_table(ratio, step, share):
    """s = φ · share; below s, or below φ with room in the buffer: generated; below φ: replayed; else dataset."""
    phi = 0.4

    def case(draw, buffered):
        return draw_case("adaptive", OnPolicyArguments(replay_ratio=ratio), draw, phi, step, 100, buffered)

    below, at = np.nextafter(phi * share, 0), phi * share
    if share:
        assert case(below, 1000) == "generated"
    assert case(at, 1000) == "replayed"
    assert case(at, 999) == "generated"
    assert case(np.nextafter(phi, 0), 1000) == "replayed"
    assert case(np.nextafter(phi, 0), 999) == "generated"
    assert case(phi, 1000) == case(phi, 0) == case(0.999, 0) == "dataset"


def test_a_threshold_of_zero_always_uses_the_data_set():
    assert draw_case("adaptive", OnPolicyArguments(), 0.0, 0.0, 1, 100, 0) == "dataset"


@pytest.mark.parametrize("threshold", [0.0, 1.0])
def test_mixed_cases_depend_on_mixed_alpha_alone(threshold):
    def case(alpha, draw, buffered):
        return draw_case("mixed", OnPolicyArguments(mixed_alpha=alpha), draw, threshold, 9, 10, buffered)

    for buffered in (0, 1000):
        assert case(0.5, 0.499, buffered) == "mixed"
        assert case(0.5, 0.5, buffered) == "dataset"
    assert case(1.0, 0.999, 0) == "mixed"


def test_a_data_set_step_returns_its_rows_and_generates_nothing(draws):
    draws[:] = [0.9]
    policy = make_policy(threshold=0.5)
    assert policy.rows(1, 10, ROWS) is ROWS
    assert not policy.generator.calls and not len(policy.buffer)
    assert DatasetRows().rows(1, 10, ROWS) is ROWS


def test_a_generated_step_stores_and_uses_its_own_rows(draws):
    draws[:] = [0.0]
    policy = make_policy(threshold=1.0)
    rows = policy.rows(3, 10, ROWS)
    assert rows == [Row(row.prompt, [10 + len(row.prompt), 23, EOS], row.row_id) for row in ROWS]
    assert list(policy.buffer.rows) == rows
    assert policy.generator.calls == [([0, 1, 2, 3], 3)]


def test_a_replayed_step_draws_from_the_buffer_and_generates_nothing(draws):
    draws[:] = [0.0, 0.0, 0.99]
    policy = make_policy(threshold=1.0, capacity=8)
    earlier = [*policy.rows(1, 100, ROWS), *policy.rows(2, 100, ROWS)]
    replayed = policy.rows(50, 100, ROWS)
    assert len(policy.generator.calls) == 2 and len(policy.buffer) == 8
    assert len({id(row) for row in replayed}) == 4 and all(row in earlier for row in replayed)


def test_each_replayed_step_draws_other_rows(draws):
    draws[:] = [0.99] * 9
    policy = make_policy(threshold=1.0, capacity=50)
    policy.buffer.add(Row([5], [row_id], row_id) for row_id in range(50))
    drawn = {tuple(row.row_id for row in policy.rows(step, 100, ROWS)) for step in range(91, 100)}
    assert policy.cases["replayed"] == len(drawn) == 9


def test_a_mixed_step_generates_stores_and_then_draws(draws):
    draws[:] = [0.0] * 20
    policy = make_policy("mixed")
    steps = [policy.rows(step, 20, ROWS) for step in range(1, 21)]
    assert len(policy.generator.calls) == 20 and len(policy.buffer) == 80
    ages = {step - (row.response[1] - 20) for step, rows in enumerate(steps, 1) for row in rows}
    assert ages >= {0, 1, 5}  # fresh rows and old ones


def test_replay_needs_the_rows_of_a_whole_step_and_generates_before(draws):
    draws[:] = [0.9]
    policy = make_policy(threshold=1.0, capacity=3)  # full with 3 rows, a step has 4
    policy.buffer.add(ROWS[:3])
    rows = policy.rows(9, 10, ROWS)
    assert policy.generator.calls == [([0, 1, 2, 3], 9)]
    assert [row.response[1] for row in rows] == [29] * 4
    assert policy.cases == {"dataset": 0, "generated": 1, "mixed": 0, "replayed": 0}


def test_each_step_draws_once_from_a_generator_of_its_own():
    """A run that starts at step 30 decides like one that has reached it."""
    whole, late = (make_policy("mixed", mixed_alpha=0.5) for _ in range(2))
    cases = []
    for step in range(1, 61):
        before = dict(whole.cases)
        whole.rows(step, 60, ROWS)
        cases += [case for case in before if whole.cases[case] > before[case]]
    assert 15 < cases.count("mixed") < 45
    for step in range(30, 61):
        late.rows(step, 60, ROWS)
    assert Counter(cases[29:]) == Counter(late.cases)


def test_rows_are_generated_and_replayed_alike_for_one_seed_and_otherwise_for_another():
    def run(seed):
        policy = make_policy("mixed", mixed_alpha=0.7, seed=seed)
        return [list(policy.rows(step, 20, ROWS)) for step in range(1, 21)]

    assert run(1) == run(1) != run(2)


def test_a_generated_row_is_collated_like_a_row_of_the_data_set(draws):
    draws[:] = [0.0]
    prompt = [5, 6, 7]
    policy = make_policy(threshold=1.0)
    generated = policy.rows(1, 10, [Row(prompt, [9, EOS], 3)])
    batch, expected = make_batch(generated), make_batch([Row(prompt, [13, 21, EOS], 3)])
    for found, wanted in zip(vars(batch).values(), vars(expected).values(), strict=True):
        assert torch.equal(torch.as_tensor(found), torch.as_tensor(wanted))
    assert batch.input_ids[0, :5].tolist() == [5, 6, 7, 13, 21]
    assert batch.response_positions.tolist() == [2, 3, 4]
    assert batch.labels.tolist() == [13, 21, EOS]


def test_the_buffer_keeps_the_latest_rows_in_order():
    buffer = ReplayBuffer(5)
    buffer.add(range(4))
    buffer.add(range(4, 8))
    assert len(buffer) == 5 and list(buffer.rows) == [3, 4, 5, 6, 7]
    buffer.add(range(100))
    assert list(buffer.rows) == [95, 96, 97, 98, 99]


def test_the_buffer_is_drawn_uniformly_and_without_replacement():
    buffer = ReplayBuffer(10)
    buffer.add(range(10))
    generator = torch.Generator().manual_seed(0)
    draws = [buffer.sample(4, generator) for _ in range(2000)]
    assert all(len(set(draw)) == 4 for draw in draws)
    counts = Counter(row for draw in draws for row in draw)
    assert all(700 < counts[row] < 900 for row in range(10))  # 800 expected, σ 22
    assert sorted(buffer.sample(10, generator)) == list(range(10)) and len(buffer) == 10


def test_a_draw_is_a_function_of_the_generator_alone():
    buffer = ReplayBuffer(10)
    buffer.add(range(10))
    torch.manual_seed(1)
    first = buffer.sample(5, torch.Generator().manual_seed(3))
    torch.manual_seed(2)
    state = torch.get_rng_state()
    assert buffer.sample(5, torch.Generator().manual_seed(3)) == first
    assert torch.equal(torch.get_rng_state(), state)


def test_more_rows_than_the_buffer_holds_cannot_be_drawn():
    buffer = ReplayBuffer(5)
    buffer.add(range(3))
    with pytest.raises(ValueError, match="4 rows"):
        buffer.sample(4, torch.Generator())


def test_a_buffer_without_room_is_refused():
    with pytest.raises(UserError, match="--capacity is 0"):
        ReplayBuffer(0)


def test_the_first_validation_loss_is_the_reference():
    threshold = AdaptiveThreshold(0.2, 0.1)
    threshold.update(100.0)
    assert threshold.threshold == 0.2 and threshold.reference == 100.0


def test_the_threshold_rises_when_the_loss_rises_by_the_tolerance_and_the_reference_follows():
    threshold = AdaptiveThreshold(0.0, 0.125)
    threshold.update(2.0)
    for loss in (2.1, 1.0, 2.12499):  # within the tolerance, or better: nothing changes
        threshold.update(loss)
        assert (threshold.threshold, threshold.reference) == (0.0, 2.0)
    threshold.update(2.125)
    assert (threshold.threshold, threshold.reference) == (0.1, 2.125)
    threshold.update(2.2)
    assert (threshold.threshold, threshold.reference) == (0.1, 2.125)


def test_the_threshold_never_exceeds_one():
    threshold = AdaptiveThreshold(0.85, 0.1)
    for loss in range(5):
        threshold.update(float(loss))
    assert threshold.threshold == 1.0


def test_only_adaptive_types_move_the_threshold():
    for sampling, expected in (("adaptive", 0.1), ("mixed", 0.0)):
        policy = make_policy(sampling)
        for loss in (1.0, 2.0):
            policy.update(loss)
        assert policy.threshold.threshold == expected


def test_a_resumed_policy_goes_on_as_if_nothing_had_happened(tmp_path):
    def advance(policy, steps):
        results = []
        for step in steps:
            results.append(list(policy.rows(step, 40, ROWS)))
            policy.update(float(step))
        return results

    whole, interrupted, resumed = (make_policy(threshold=0.3, capacity=12) for _ in range(3))
    expected = advance(whole, range(1, 41))[20:]
    advance(interrupted, range(1, 21))
    interrupted.save(tmp_path)
    resumed.load(tmp_path)
    assert advance(resumed, range(21, 41)) == expected
    assert resumed.description() == whole.description()
    assert resumed.cases["generated"] and resumed.cases["replayed"]
    assert json.loads((tmp_path / "on_policy.json").read_text())["threshold"]["reference"] == 20.0


def test_the_log_tells_the_threshold_and_the_share_of_each_case(draws):
    draws[:] = [0.9, 0.0, 0.0, 0.9]
    policy = make_policy(threshold=0.5)
    for step in range(1, 5):
        policy.rows(step, 10, ROWS)
    assert policy.description() == {"threshold": 0.5, "dataset_share": 0.5, "generated_share": 0.5}
