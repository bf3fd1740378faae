"""What all hostile tests share: the tiny world of the entry scripts, and writes that are not flushed."""

import os

import pytest

from tests.entry.conftest import world  # noqa: F401 (a fixture)


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch):
    """No test here cuts the power; flushing to disk would take most of their time."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
