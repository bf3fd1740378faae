"""The tiny world of the entry scripts' tests; everything runs in processes of its own, since CUDA does not fork."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.entry.conftest import call_script, contents, read_log, world  # noqa: F401 (fixtures)
from tests.entry.every_method import make_pairs

ROOT = Path(__file__).resolve().parents[2]


def pytest_collection_modifyitems(items):
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.gpu)
            item.add_marker(pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"))


@pytest.fixture(scope="session")
def pairs(world, tmp_path_factory, call_script):  # noqa: F811
    return make_pairs(world, tmp_path_factory.mktemp("pairs"), call_script)


@pytest.fixture
def launch():
    """Run a script as a user would: on one GPU, on several, or (0) on none."""

    def run_script(script, options, gpus=1):
        command = [sys.executable, *TORCHRUN, "--nproc_per_node", str(gpus)] if gpus > 1 else [sys.executable]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        if gpus == 0:
            environment["CUDA_VISIBLE_DEVICES"] = ""
        subprocess.run([*command, script, *map(str, options)], cwd=ROOT, env=environment, check=True, timeout=900)

    return run_script


TORCHRUN = ["-m", "torch.distributed.run", "--standalone"]
