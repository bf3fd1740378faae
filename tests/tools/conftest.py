"""What the tests of the tools share."""

import sys

import pytest


@pytest.fixture
def run(monkeypatch, capsys):
    """Run a tool in this process; return what it printed."""

    def run_tool(tool, *options):
        monkeypatch.setattr(sys, "argv", [f"{tool.__name__.replace('.', '/')}.py", *map(str, options)])
        tool.main()
        return capsys.readouterr().out

    return run_tool
