"""What all hostile tests share: a file system without waiting, and tiny models."""

import os

import pytest


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch):
    """No test here cuts the power; flushing to disk would take most of their time."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
