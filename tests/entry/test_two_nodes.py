"""Two nodes train together: two agents of torchrun on this machine, each with a process of its own."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

import finetune
from tests.entry.curves import SAME_CURVE, STEPS_PER_EPOCH, curve_deviation, steady_run

ROOT = Path(__file__).resolve().parents[2]
NODES = 2
DEEPSPEED = ["--deepspeed", "--deepspeed_config", ROOT / "configs" / "deepspeed" / "ds_config_zero2.json"]


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.mark.parametrize("engine", [[], pytest.param(DEEPSPEED, marks=pytest.mark.slow)], ids=["plain", "ZeRO 2"])
def test_two_nodes_have_the_curve_of_one_process(engine, world, call_script, read_log, tmp_path):
    one, two, more = tmp_path / "one", tmp_path / "two", ["--total-iters", STEPS_PER_EPOCH]
    assert call_script(finetune.main, steady_run(world, tmp_path, "adaptive-srkl", one, 1, 2, more)) == 0
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nnodes", NODES, "--nproc_per_node", 1]
    launcher += ["--master_addr", "127.0.0.1", "--master_port", free_port()]
    options = steady_run(world, tmp_path, "adaptive-srkl", two, NODES, 2, [*more, *engine])
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    agents = [
        subprocess.Popen(
            [*map(str, launcher), "--node_rank", str(rank), "finetune.py", *options], cwd=ROOT, env=environment
        )
        for rank in range(NODES)
    ]
    try:
        assert [agent.wait(timeout=300) for agent in agents] == [0] * NODES
    finally:
        for agent in agents:
            agent.kill()
    assert curve_deviation(read_log(one), read_log(two)) < SAME_CURVE
    assert (two / "finished.json").exists() and (two / "model.safetensors").exists()
