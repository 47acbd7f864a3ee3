"""The recipes of docs/launching.md: each is parsed by its launcher or runs, where that is here.

Launchers that the tests' environment lacks are in the set ``launchers`` of tools/matrix.toml.
"""

import ast
import importlib.util
import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import script
import tiny
import typer
import yaml
from documents import DOCS

from ftplug import cli

PAGE = next(page for page in DOCS if page.path.name == "launching.md")
FILES = {body[2:].partition("\n")[0]: body for body in PAGE.blocks("yaml")}
SHELL = "\n".join([*PAGE.blocks("bash"), *PAGE.commands])
SBATCH = next(body for body in PAGE.blocks("bash") if "#SBATCH" in body)
SUBMITIT, RAY = PAGE.blocks("python")
OURS = ["run", "--method", "lora", "--", "train.py", "--out", "out"]
# Of sbatch(1).
SBATCH_OPTIONS = {"job-name", "nodes", "ntasks-per-node", "gpus-per-node", "cpus-per-task", "time"}


def needs(module, how="tools/matrix.py launchers"):
    if importlib.util.find_spec(module) is None:
        pytest.skip(f"needs {module}: {how}")


def read(name):
    return yaml.safe_load(FILES[name])


def commands(shell, program):
    """Return the arguments of a program's calls in a shell script, with 2 for what it fills in."""
    text = re.sub(r"\\\n\s*", "", shell)
    text = re.sub(r"\$\w+|\$\([^)]*\)", "2", text)
    lines = [line.removeprefix("srun ") for line in text.splitlines()]
    return [shlex.split(line)[1:] for line in lines if line.startswith(f"{program} ")]


def in_pods():
    yield read("sky.yaml")["run"]
    yield from read("ftplug.dstack.yml")["commands"]
    yield shlex.join(["torchrun", *read("trainjob.yaml")["spec"]["trainer"]["args"]])


def require_ours(arguments):
    """Read what a launcher gives to Python, as ftplug does."""
    command = typer.main.get_command(cli.app).get_command(None, "run")
    given = command.make_context("run", arguments[1:]).params
    script, *after = given["command"]
    assert [arguments[0], given["method"]] == ["run", ["lora"]]
    assert (Path(script).name, after[0]) == ("train.py", "--out")


def test_every_recipe_ends_in_the_same_command():
    text = re.sub(r"\\\n\s*", "", SHELL) + "\n".join(in_pods())
    assert text.count("ftplug run") == text.count("ftplug run --method lora -- ")
    assert text.count("ftplug run") == 11


def test_torchrun_parses_its_recipes():
    from torch.distributed.run import get_args_parser

    found = commands("\n".join([SHELL, *in_pods()]), "torchrun")
    assert len(found) == 6
    for arguments in found:
        parsed = get_args_parser().parse_args(arguments)
        assert (parsed.module, parsed.training_script) == (True, "ftplug")
        require_ours(parsed.training_script_args)
    nodes = [get_args_parser().parse_args(arguments).nnodes for arguments in found]
    assert nodes == ["2", "2", "1:1", "2", "2", "1:1"]  # as PET_NNODES says, in the last


def test_accelerate_parses_its_recipes_and_reads_their_files(tmp_path):
    from accelerate.commands.config.config_args import load_config_from_file
    from accelerate.commands.launch import launch_command_parser
    from accelerate.utils import DistributedType

    kinds = {"ddp.yaml": DistributedType.MULTI_GPU, "fsdp2.yaml": DistributedType.FSDP}
    found = commands(SHELL, "accelerate")
    assert len(found) == 2
    for arguments in found:
        assert arguments[0] == "launch"
        parsed = launch_command_parser().parse_args(arguments[1:])
        assert (parsed.module, parsed.training_script) == (True, "ftplug")
        require_ours(parsed.training_script_args)
        path = tmp_path / parsed.config_file
        path.write_text(FILES[parsed.config_file])
        config = load_config_from_file(str(path))
        assert config.distributed_type == kinds.pop(parsed.config_file)
        for name in config.fsdp_config:
            assert hasattr(parsed, name), name
    more = re.search(r"give `(--num_machines .*?)`", PAGE.text)[1].replace("RANK", "1")
    assert launch_command_parser().parse_args([*shlex.split(more), "x"]).num_machines == 2


@pytest.mark.deepspeed
def test_deepspeed_parses_its_recipe(monkeypatch):
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    from deepspeed.launcher.runner import parse_args

    (arguments,) = commands(SHELL, "deepspeed")
    parsed = parse_args(arguments)
    assert (parsed.module, parsed.user_script, parsed.no_local_rank) == (True, "ftplug", True)
    require_ours(parsed.user_args)


def test_hf_jobs_takes_its_recipes(tmp_path, monkeypatch, capsys):
    from huggingface_hub.cli.hf import app
    from huggingface_hub.cli.jobs import JobHardware

    monkeypatch.chdir(tmp_path)
    Path("train.py").touch()
    found = commands(SHELL, "hf")
    assert len(found) == 2
    for arguments in found:
        JobHardware(arguments[arguments.index("--flavor") + 1])
        words = [*arguments[:3], "--dry-run", "--namespace", "me", *arguments[3:]]
        app.main(args=words, standalone_mode=False)
        said = capsys.readouterr().out
        assert "(dry run) Job not submitted." in said
        assert re.search(rf"^ +args +.*{shlex.join(OURS)}$", said, re.MULTILINE), said
        assert re.search(r"^ +with +ftplug @ git\+https", said, re.MULTILINE), said


def test_the_sbatch_script_is_one():
    subprocess.run(["bash", "-n"], input=SBATCH, text=True, check=True)
    assert SBATCH.startswith("#!/bin/bash\n")
    options = dict(re.findall(r"^#SBATCH --([\w-]+)=(\S+)$", SBATCH, re.MULTILINE))
    assert len(options) == SBATCH.count("#SBATCH")
    assert options.keys() <= SBATCH_OPTIONS
    assert options["ntasks-per-node"] == "1"  # torchrun starts the others


@pytest.mark.parametrize("block", [SUBMITIT, RAY], ids=["submitit", "ray"])
def test_the_python_of_a_recipe_is_python(block):
    ast.parse(block)


@pytest.mark.filterwarnings("ignore")  # its own
def test_skypilot_reads_its_recipe(tmp_path):
    needs("sky", "pip install skypilot, whose click is older than ours")
    import sky

    path = tmp_path / "sky.yaml"
    path.write_text(FILES[path.name].replace("workdir: .", f"workdir: {tmp_path}"))
    task = sky.Task.from_yaml(str(path))
    assert task.num_nodes == 2
    assert [r.accelerators for r in task.resources] == [{"A100": 8}]


@pytest.mark.filterwarnings("ignore")
def test_dstack_reads_its_recipe():
    needs("dstack")
    from dstack._internal.core.models.configurations import parse_run_configuration

    found = parse_run_configuration(read("ftplug.dstack.yml"))
    assert (found.type, found.nodes, found.resources.gpu.count.min) == ("task", 2, 8)


def test_kubeflow_reads_its_recipe():
    needs("kubeflow_trainer_api")
    from kubeflow_trainer_api.models import TrainerV1alpha1TrainJob

    written = read("trainjob.yaml")
    assert TrainerV1alpha1TrainJob.from_dict(written).to_dict() == written
    assert written["spec"]["trainer"]["command"] == ["torchrun"]


# What runs: on two CPU processes, with a script that knows nothing of ftplug.


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with the script and the configurations, and what a launcher finds on its PATH."""
    programs = {
        "torchrun": f'exec {sys.executable} -m torch.distributed.run "$@"',
        "accelerate": f'exec {sys.executable} -m accelerate.commands.accelerate_cli "$@"',
        "srun": 'exec "$@"',
        "scontrol": "echo localhost",
    }
    path = tmp_path / "bin"
    path.mkdir()
    for name, body in programs.items():
        (path / name).write_text(f"#!/bin/bash\n{body}\n")
        (path / name).chmod(0o755)
    shutil.copy(script.__file__, tmp_path / "train.py")
    for name in ("ddp.yaml", "fsdp2.yaml"):
        (tmp_path / name).write_text(FILES[name])
    support = str(Path(tiny.__file__).parent)
    monkeypatch.setenv("PATH", f"{path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", f"{os.environ.get('PYTHONPATH', '')}{os.pathsep}{support}")
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def require_two_processes(folder):
    training = json.loads((folder / "out/ftplug.json").read_text())["training"]
    assert training["hyperparameters"]["processes"] == 2


def port():
    with socket.socket() as free:
        free.bind(("", 0))
        return str(free.getsockname()[1])


@pytest.mark.slow
@pytest.mark.ddp
def test_accelerate_runs_its_first_configuration(here):
    command = next(line for line in SHELL.splitlines() if "ddp.yaml" in line)
    ported = command.replace("launch", f"launch --main_process_port {port()}")
    subprocess.run(ported, shell=True, check=True, timeout=300)
    require_two_processes(here)


@pytest.mark.slow
@pytest.mark.ddp
def test_the_sbatch_script_runs_with_stand_ins_for_slurm(here, monkeypatch):
    slurm = {"SLURM_NNODES": "1", "SLURM_GPUS_ON_NODE": "2", "SLURM_JOB_ID": "7"}
    for name, value in (slurm | {"SLURM_JOB_NODELIST": "localhost"}).items():
        monkeypatch.setenv(name, value)
    (here / "train.sbatch").write_text(SBATCH.replace("29500", port()))
    subprocess.run(["bash", "train.sbatch"], check=True, timeout=300)
    require_two_processes(here)


@pytest.mark.slow
@pytest.mark.ddp
def test_submitit_runs_its_recipe_on_this_machine(here):
    needs("submitit")
    (here / "bin/srun").unlink()  # by which it knows a Slurm
    (here / "submit.py").write_text(SUBMITIT)
    subprocess.run([sys.executable, "submit.py"], check=True, timeout=400)
    require_two_processes(here)
