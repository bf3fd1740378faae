"""torchrun starts two processes: as two agents on this machine, in place of two nodes, or as one agent."""

import subprocess

import pytest

import finetune
from tests.entry.curves import SAME_CURVE, STEPS_PER_EPOCH, curve_deviation, steady_run
from tests.entry.outputs import read_log
from tests.entry.processes import ENVIRONMENT, ROOT, TORCHRUN, call, free_port

DEEPSPEED = ["--deepspeed", "--deepspeed_config", str(ROOT / "configs" / "deepspeed" / "ds_config_zero2.json")]
SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    ("nodes", "engine"),
    [(2, []), pytest.param(2, DEEPSPEED, marks=SLOW), pytest.param(1, [], marks=SLOW)],
    ids=["two nodes", "two nodes with ZeRO 2", "one node"],
)
def test_two_nodes_have_the_curve_of_one_process(nodes, engine, world, tmp_path):
    one, two, more = tmp_path / "one", tmp_path / "two", ["--total-iters", STEPS_PER_EPOCH]
    assert call(finetune.main, steady_run(world, tmp_path, "adaptive-srkl", one, 1, 2, more)) == 0
    launcher = [*TORCHRUN, "--nnodes", nodes, "--nproc_per_node", 2 // nodes]
    launcher += ["--master_addr", "127.0.0.1", "--master_port", free_port()]
    options = steady_run(world, tmp_path, "adaptive-srkl", two, 2, 2, [*more, *engine])
    agents = [
        subprocess.Popen(
            [*map(str, launcher), "--node_rank", str(rank), "finetune.py", *options], cwd=ROOT, env=ENVIRONMENT
        )
        for rank in range(nodes)
    ]
    try:
        assert [agent.wait(timeout=300) for agent in agents] == [0] * nodes
    finally:
        for agent in agents:
            agent.kill()
    assert curve_deviation(read_log(one), read_log(two)) < SAME_CURVE
    assert (two / "finished.json").exists() and (two / "model.safetensors").exists()
