"""Runs with feature dynamics distillation, plain and with CONTRA."""

import pytest


@pytest.mark.parametrize("type", ["rkl-fdd", "rkl-fdd-contra"])
def test_a_run_with_fdd_logs_its_terms(type, train, read_log, tmp_path):
    options = ["--num-distill-layers", 3, "--total-iters", 4, "--kd-ratio", 0.6]
    assert train(tmp_path / "save", *options, type=type).status == 0
    records = [record for record in read_log(tmp_path / "save") if "loss" in record]
    assert [record["step"] for record in records] == [2, 4]
    distilled = ["rkl", "fdd", *(["contra"] if "contra" in type else [])]
    for record in records:
        assert all(record[name] > 0 for name in distilled)
        expected = 0.4 * record["cross_entropy"] + 0.6 * sum(record[name] for name in distilled) + record["corpus"]
        assert record["loss"] == pytest.approx(expected)
