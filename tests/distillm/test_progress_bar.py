"""Guarantees of distillm/progress_bar.py."""

from distillm.progress_bar import progress_bar


def test_progress_bars_stay_silent_on_other_ranks_and_short_in_files(capfd):
    assert list(progress_bar(range(3), rank=1)) == [0, 1, 2]
    assert capfd.readouterr().err == ""
    assert sum(progress_bar(range(100_000), desc="rows")) == 4_999_950_000
    assert len(capfd.readouterr().err) < 400
