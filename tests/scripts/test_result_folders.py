"""One checkpoint has one folder of results, two checkpoints have two, however they are named."""

import os
import shlex
import shutil
import subprocess

import pytest

from tests.scripts.commands import REPOSITORY, Command, assert_one_line, bash, dry_run, environment

EVALUATION = "scripts/gpt2/eval/run_eval.sh"
ADAPTERS = "scripts/llama2/eval/eval_main_dolly_lora.sh"


@pytest.fixture
def repository(tmp_path):
    """A copy of the scripts with two checkpoints, a link to all of it, and a checkpoint elsewhere."""
    copy = tmp_path / "a b" / "repository"
    shutil.copytree(REPOSITORY / "scripts", copy / "scripts")
    for folder in (
        copy / "results/gpt2/train/contra/distillm/base",
        copy / "results/gpt2-other/train/kd/base",
        tmp_path / "elsewhere/model",
        tmp_path / "disk/fdd",
    ):
        folder.mkdir(parents=True)
        (folder / "config.json").touch()
    (tmp_path / "link").symlink_to(copy)
    (tmp_path / "alias").symlink_to(tmp_path / "elsewhere")
    (copy / "results/gpt2/train/fdd").symlink_to(tmp_path / "disk/fdd")
    return copy


def evaluated(repository, checkpoint, cwd=None, base=".", **variables):
    """Return the model and the folder of results that an evaluation would use."""
    command = ["bash", f"{base}/{EVALUATION}", "0", checkpoint]
    variables = environment(DRY_RUN="1", BASE_PATH=base, **variables)
    result = subprocess.run(command, cwd=cwd or repository, env=variables, check=True, capture_output=True, text=True)
    parsed = Command(shlex.split(result.stdout))
    return parsed.value("model-path"), parsed.value("save")


@pytest.mark.parametrize(
    "name",
    [
        "{0}",
        "{0}/",
        "./results/gpt2/train/{0}",
        "results/gpt2/train/{0}",
        "results/gpt2/train//contra/./distillm//base//",
        "results/gpt2/../gpt2/train/{0}",
        "{repository}/results/gpt2/train/{0}",
        "{link}/results/gpt2/train/{0}/",
        "../../link/results/gpt2/train/{0}",
    ],
)
def test_a_checkpoint_has_one_folder_of_results_however_it_is_named(name, repository):
    name = name.format("contra/distillm/base", repository=repository, link=repository.parent.parent / "link")
    model, folder = evaluated(repository, name)
    assert folder == "./results/gpt2/eval_main/contra_distillm_base"
    assert model == "./results/gpt2/train/contra/distillm/base"


def test_it_has_one_folder_from_wherever_the_script_is_started(repository):
    link = repository.parent.parent / "link"
    expected = "results/gpt2/eval_main/contra_distillm_base"
    named = f"{repository}/results/gpt2/train/contra/distillm/base"
    assert evaluated(repository, named, cwd=repository.parent, base="repository")[1] == f"repository/{expected}"
    assert evaluated(repository, named, cwd=link)[1] == f"./{expected}"
    assert evaluated(repository, named, base=str(link))[1] == f"{link}/{expected}"


def test_a_checkpoint_that_is_a_link_to_a_bigger_disk_keeps_its_name(repository):
    for name in ("fdd", "results/gpt2/train/fdd/", f"{repository.parent.parent}/link/results/gpt2/train/fdd"):
        assert evaluated(repository, name) == ("./results/gpt2/train/fdd", "./results/gpt2/eval_main/fdd")


@pytest.mark.parametrize("prefix", ["", "./", "{repository}/", "{link}//"])
def test_a_checkpoint_of_other_results_is_named_by_its_path_below_the_repository(prefix, repository):
    prefix = prefix.format(repository=repository, link=repository.parent.parent / "link")
    _, folder = evaluated(repository, f"{prefix}results/gpt2-other/train/kd/base")
    assert folder == "./results/gpt2/eval_main/results_gpt2-other_train_kd_base"


def test_a_checkpoint_elsewhere_is_named_by_its_real_path(repository):
    root = repository.parent.parent
    names = [f"{root}/elsewhere/model", f"{root}/alias/model/", "../../elsewhere/model", "./../../alias//model"]
    folders = {evaluated(repository, name)[1] for name in names}
    assert folders == {"./results/gpt2/eval_main/" + os.path.realpath(names[0]).replace("/", "_")}


@pytest.mark.parametrize("name", ["kd/base", "results/gpt2/train/kd/base/", "./results/gpt2/train/kd/base"])
def test_a_dry_run_names_it_the_same_before_it_exists(name):
    (command,) = dry_run(EVALUATION, "0", name)
    assert command.value("model-path") == "./results/gpt2/train/kd/base"
    assert command.value("save") == "./results/gpt2/eval_main/kd_base"


def test_results_of_an_adapter_are_named_after_the_adapter():
    arguments = [".", "2012", "1", "my/run", "distillm/7B_13B", "some/base", "--seeds", "10"]
    (command,) = dry_run(ADAPTERS, *arguments)
    assert command.value("model-path") == "some/base"
    assert command.value("peft-path") == "./results/llama2/train/distillm/7B_13B"
    assert command.value("save") == "./results/llama2/eval_main/distillm_7B_13B"
    assert (command.options["data-names"], command.options["seeds"]) == (["dolly"], ["10"])


def test_bug_two_adapters_with_one_name_replaced_each_others_results():
    saved = {dry_run(ADAPTERS, ".", "2012", "1", "mine", name, "base")[0].value("save") for name in ("kd/a", "kd/b")}
    assert len(saved) == 2


def test_a_missing_argument_of_an_adapters_evaluation_is_one_clear_line():
    assert_one_line(bash(ADAPTERS, ".", "2012", "1", "name"), "NAME ADAPTER BASE_MODEL")
