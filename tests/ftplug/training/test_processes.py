"""Two processes under DistributedDataParallel: equal bits, one writer, and no waiting for ever.

The contract (``test_two_processes_agree``) trains and resumes every method in both.
"""

from types import SimpleNamespace

import pytest
import ranks
from contracts import contract

import ftplug
from ftplug.artifacts.checkpoint import read_checkpoint
from ftplug.files.staged import STAGE, close_stage, open_stage
from ftplug.host import Host, resolve
from ftplug.testing import Case, ddp
from ftplug.testing.compare import base_model
from ftplug.training.processes import check_launch, together

pytestmark = pytest.mark.ddp

FAMILIES = (
    "full", "freeze", "bitfit", "layernorm", "lora", "adalora", "ia3", "oft", "bottleneck", "reft",
    "prompt-tuning", "gradual-unfreezing", "lisa", "layerwise-lr", "galore", "apollo", "lora-plus",
    "l2-sp",
)  # fmt: skip


def case(name, *beside):
    declared = {k: v for k, v in contract(name).items() if k in ("settings", "beside")}
    return Case(name, "bert", **(declared | ({"beside": beside} if beside else {})))


@pytest.mark.parametrize("method", FAMILIES)
def test_activation_checkpointing_changes_no_bit(method):
    """The Trainer then lets DDP wait for a gradient of every parameter, idle ones included."""
    plain = ddp.ranks_agree(case(method))
    again = ddp.ranks_agree(case(method), gradient_checkpointing=True)
    assert again.digests == plain.digests


@pytest.mark.parametrize("beside", [("lora",), ("lisa", "l2-sp"), ("bottleneck", "layerwise-lr")])
def test_compositions_agree(beside):
    plain = ddp.ranks_agree(case("layernorm", *beside))
    again = ddp.ranks_agree(case("layernorm", *beside), gradient_checkpointing=True)
    assert again.digests == plain.digests


@pytest.mark.parametrize("method", ["lisa", "gradual-unfreezing"])
@pytest.mark.parametrize(
    "waits", [{"ddp_find_unused_parameters": False}, {"ddp_static_graph": True}], ids=str
)
def test_a_schedule_trains_the_same_however_ddp_waits(method, waits):
    """Also over several batches a step, which torch cannot do with a static graph."""
    batches = {} if "ddp_static_graph" in waits else {"gradient_accumulation_steps": 2}
    plain = ddp.ranks_agree(case(method), **batches)
    again = ddp.ranks_agree(case(method), **batches, **waits)
    assert again.digests == plain.digests


def test_prefix_tuning_under_activation_checkpointing_is_refused_by_both(tmp_path):
    said = ranks.refusals(
        ranks.ddp_weights,
        methods={"prefix-tuning": {}},
        out=tmp_path,
        gradient_checkpointing=True,
    )
    assert said[0] == said[1]
    assert "activation checkpointing drops the cache" in said[0]


FSDP = {"fsdp_version": 2, "cpu_ram_efficient_loading": False, "activation_checkpointing": False}
DEEPSPEED = {"zero_stage": 2, "deepspeed_config": {}}


@pytest.mark.parametrize(
    ("launch", "plugin", "method", "reason"),
    [
        ("fsdp", FSDP | {"fsdp_version": 1}, "lora", "FSDP1 flattens parameters into others"),
        ("deepspeed", DEEPSPEED, "lisa", "DeepSpeed keeps the gradients to itself"),
        ("deepspeed", DEEPSPEED, "galore", "galore: .*one flat tensor: use DDP, or another method"),
        ("deepspeed", DEEPSPEED, "apollo", "apollo: .*one flat tensor: use DDP, or another method"),
        ("deepspeed", DEEPSPEED, "l2-sp", "DeepSpeed keeps the gradients to itself"),
        (
            "deepspeed",
            DEEPSPEED | {"deepspeed_config": {"optimizer": {"type": "AdamW"}}},
            "galore",
            "config names an optimizer, which would replace the method's own",
        ),
        ("fsdp_xla", {}, "lora", "FSDP on XLA is not supported"),
    ],
)
def test_launches_that_cannot_be_run_here_are_refused_by_name(launch, plugin, method, reason):
    state = SimpleNamespace(**{f"{launch}_plugin": SimpleNamespace(**plugin)})
    kinds = {f"is_{kind}_enabled": kind == launch for kind in ("fsdp", "fsdp_xla", "deepspeed")}
    trainer = SimpleNamespace(accelerator=SimpleNamespace(state=state), **kinds)
    with pytest.raises(ftplug.MethodError, match=reason):
        check_launch(trainer, Host(resolve([method], {})))


@pytest.mark.parametrize("methods", [{"lora": {"r": 4}}, {"full": {}}, {"lisa": {"layers": 1}}])
def test_only_the_first_process_writes(tmp_path, methods):
    ranks.both(ranks.each_in_its_own_folder, methods=methods, out=tmp_path)
    second = {path.name for path in tmp_path.joinpath("1").rglob("*") if path.is_file()}
    own = {"rng_state_1.pth", "ftplug_batches_1.pth"}  # a process's own, by its own name
    assert second == own
    first = {path.name for path in tmp_path.joinpath("0").rglob("*") if path.is_file()}
    assert {"ftplug.json", "README.md", "ftplug_state.safetensors", "rng_state_0.pth"} <= first
    assert not any(path.name.startswith("_ftplug") for path in (tmp_path / "0").rglob("*"))


def test_each_node_saves_its_own_where_asked_to(tmp_path):
    options = {"save_on_each_node": True}
    ranks.both(ranks.each_in_its_own_folder, methods={"bitfit": {}}, out=tmp_path, **options)
    files = {path.name for path in tmp_path.joinpath("0/checkpoint-2").iterdir()}
    assert files >= {"ftplug_state.json", "ftplug_state.safetensors", "optimizer.pt"}


def test_a_misfit_is_refused_by_both_alike(tmp_path):
    for methods, reason in (
        ({"lisa": {"layers": 9}}, "draw fewer"),
        ({"lora": {"target_modules": ("nothing",)}}, "nothing"),
    ):
        said = ranks.refusals(ranks.refused, methods=methods, out=tmp_path)
        assert said[0] == said[1]
        assert reason in said[0]


@pytest.mark.parametrize("what", ["folder", "weights", "optimizer", "name"])
def test_a_disk_that_fills_up_ends_both(tmp_path, what):
    first, second = ranks.refusals(ranks.where_the_first_fills_the_disk, out=tmp_path, what=what)
    assert "No space left on device" in first
    assert "process 0 failed at" in second
    assert "No space left on device" in second
    left = [path.name for path in tmp_path.iterdir()]
    assert left == []  # no half a checkpoint


def test_a_checkpoint_that_one_does_not_see_ends_both(tmp_path):
    said = ranks.refusals(ranks.resumed_where_one_lacks_the_checkpoint, out=tmp_path)
    assert "process 1 failed at looking for the checkpoint: ArtifactError: " in said[0]
    assert "no elsewhere" in said[1]


def test_two_runs_in_one_folder_leave_whole_checkpoints(tmp_path):
    """Two jobs on one host that were given the same folder: each stages under a name of its own."""
    other = open_stage(tmp_path, STAGE)  # the other run is in the middle of its checkpoint
    (other / "half").touch()
    try:
        ranks.both(ranks.ddp_weights, methods={"lora": {"r": 4}}, out=tmp_path)
        assert (other / "half").is_file()
    finally:
        close_stage(other)
    model = ftplug.apply(base_model("bert"), "lora", r=4)
    read_checkpoint(model, tmp_path / "checkpoint-2")


@pytest.fixture
def one_of_two(monkeypatch):
    """Return what makes this look like one of two processes, of which the other is gone."""
    import torch

    def lose(reason, size=2):
        def gather(objects):
            raise RuntimeError(reason)

        monkeypatch.setattr("ftplug.training.processes.gather_object", gather)
        for name, value in {"is_initialized": True, "get_world_size": size, "get_rank": 1}.items():
            monkeypatch.setattr(torch.distributed, name, lambda value=value: value)

    return lose


@pytest.mark.parametrize(
    "reason",
    ["[pair.cc:553] Connection closed by peer [127.0.0.1]", "Timed out waiting 5000ms for recv"],
)
def test_a_partner_that_is_gone_is_one_line(reason, one_of_two):
    one_of_two(f"{reason}\nand more")
    with pytest.raises(ftplug.FtplugError, match="process 1 waited for") as said, together("x"):
        pass
    assert reason in str(said.value)
    assert "and more" not in str(said.value)
    with pytest.raises(ftplug.ArtifactError, match="mine"), together("x"):
        raise ftplug.ArtifactError("mine")


@pytest.mark.parametrize(("reason", "size"), [("shapes differ", 2), ("Connection closed", 1)])
def test_any_other_failure_is_what_it_was(reason, size, one_of_two):
    one_of_two(reason, size)
    with pytest.raises(RuntimeError, match=reason), together("x"):
        pass
