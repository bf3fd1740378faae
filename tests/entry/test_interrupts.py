"""Ctrl-C is one line and exit status 130, from the first import on."""

import os
import signal
import subprocess
import sys
import time

import pytest

from data_utils import errors
from data_utils.errors import run_as_script
from tests.entry.processes import ROOT, in_child, wait_for
from tools.processing import map_in_order

SCRIPTS = [path for path in (*ROOT.glob("*.py"), *ROOT.glob("tools/*.py")) if "def main()" in path.read_text()]
LIBRARIES = "numpy torch transformers tokenizers matplotlib tqdm safetensors datasets requests"
# What a library may do while it is imported: it turns the exception into another one.
INTERRUPTED = """
import os, signal
try:
    os.kill(os.getpid(), signal.SIGINT)
    for _ in range(1000): pass
except KeyboardInterrupt:
    raise TypeError("expected a message argument")
"""


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_ctrl_c_while_a_script_imports_is_one_line(script, tmp_path):
    for name in LIBRARIES.split():
        (tmp_path / f"{name}.py").write_text(INTERRUPTED)
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    ended = subprocess.run([sys.executable, script, "--help"], env=environment, capture_output=True, text=True)
    if ended.returncode != 0:
        assert (ended.returncode, ended.stderr) == (130, "interrupted\n")
    else:  # it imports nothing that takes time before it runs
        assert ended.stdout.startswith("usage: ")


def test_ctrl_c_while_a_script_runs_is_one_line(capsys):
    def main():
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(SystemExit) as end:
        run_as_script(main)
    assert (end.value.code, capsys.readouterr().err) == (130, "interrupted\n")


def test_a_program_that_only_imports_this_project_keeps_its_own_handler():
    assert signal.getsignal(signal.SIGINT) is not errors._end_at_once


def test_what_ignores_ctrl_c_goes_on_ignoring_it(tmp_path):
    """A job in the background of a shell."""
    code = "import os, signal; signal.signal(signal.SIGINT, signal.SIG_IGN); "
    code += "os.execv(os.sys.executable, [os.sys.executable, 'tools/build_response_pairs.py', '--help'])"
    (tmp_path / "torch.py").write_text(INTERRUPTED + "\nraise SystemExit('went on')")
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert ended.stderr == "went on\n"


def test_ctrl_c_is_one_line_though_a_tool_has_workers(tmp_path):
    """A terminal sends it to all of them."""
    started, said = tmp_path / "started", tmp_path / "said"

    def work(item):
        started.touch()
        time.sleep(60)

    def child():
        os.setsid()
        sys.stderr = said.open("w")
        os.dup2(sys.stderr.fileno(), 2)  # of the workers, too
        try:
            run_as_script(lambda: print(list(map_in_order(work, range(4), 2))))
        except SystemExit as end:
            return end.code
        return 0

    process, ends = in_child(child), time.monotonic() + 60
    while not started.exists() and time.monotonic() < ends:
        time.sleep(0.05)
    time.sleep(0.2)  # both have begun
    os.killpg(process, signal.SIGINT)
    assert (wait_for(process), said.read_text()) == (130, "interrupted\n")


def test_bug_a_worker_that_waited_for_a_lock_did_not_hear_that_it_shall_end(monkeypatch):
    """A tool ends its workers by SIGTERM. Python handlers do not run while a process waits for a semaphore."""

    def is_heard_at_once(item):
        return [signal.getsignal(number) for number in errors.STOP_SIGNALS] == [signal.SIG_DFL] * 2

    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    heard = []
    run_as_script(lambda: heard.extend(map_in_order(is_heard_at_once, range(4), 2)))
    assert heard == [True] * 4
