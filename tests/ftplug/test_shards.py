"""Parameters in parts, as DeepSpeed ZeRO-3 leaves them, in one process that plays both of two."""

import copy
from enum import Enum
from types import SimpleNamespace

import pytest
import tiny
import torch
from transformers import TrainingArguments

import ftplug
from ftplug.attaching.attachment import require_attachment
from ftplug.attaching.sharding import is_sharded, refuse_divided
from ftplug.base.fingerprint import fingerprint
from ftplug.errors import ArtifactError, MethodError
from ftplug.structure import shards, weightless_copy
from ftplug.testing.compare import difference, weights
from ftplug.training.optimizers import method_optimizer

Status = Enum("Status", ["AVAILABLE", "NOT_AVAILABLE"])


def part(parameter, rank=0, *, persist=False):
    """Give a parameter the attributes that DeepSpeed gives it; another process has the rest."""
    count, shape = parameter.numel(), parameter.shape
    size = -(-count // 2)
    padded = torch.zeros(2 * size, dtype=parameter.dtype)
    padded[:count] = parameter.detach().flatten()
    parts = [half.clone() for half in padded.split(size)]
    parameter.ds_id, parameter.ds_shape, parameter.ds_numel = id(parameter), shape, count
    parameter.ds_tensor = parts[rank]
    parameter.ds_tensor.ds_numel = size
    parameter.ds_zero_partition_rank, parameter.ds_persist = rank, persist
    parameter.ds_active_sub_modules = set()

    def all_gather():
        parameter.data = torch.cat(parts)[:count].view(shape)
        parameter.ds_status = Status.AVAILABLE

    def partition():
        parameter.data = torch.empty(0, dtype=parameter.dtype)
        parameter.ds_status = Status.NOT_AVAILABLE

    parameter.all_gather, parameter.partition = all_gather, partition
    partition()
    return parameter


def parted(rank=0):
    model = tiny.bert()
    for parameter in model.parameters():
        part(parameter, rank)
    return model


def vector(rank, **options):
    return part(torch.nn.Parameter(torch.arange(5.0)), rank, **options)


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("persist", [False, True])
def test_a_value_is_written_into_the_part_that_is_here(rank, persist):
    parameter = vector(rank, persist=persist)
    memory = parameter.ds_tensor
    if persist:
        parameter.all_gather()
    undo = shards.replace_values(parameter, torch.arange(5.0) + 10)
    assert parameter.ds_tensor is memory  # the engine reads it there
    assert memory.tolist() == ([10, 11, 12], [13, 14, 0])[rank]
    assert (parameter.ds_status is Status.AVAILABLE) == persist
    if persist:  # what was kept whole is not left with the values it had
        assert parameter.tolist()[3 * rank : 3 * rank + 3] == memory.tolist()[: 3 - rank]
    undo()
    assert memory.tolist() == ([0, 1, 2], [3, 4, 0])[rank]


def test_a_part_takes_the_part_of_another_as_it_is():
    parameter, other = vector(1), vector(1)
    other.ds_tensor.add_(7)
    shards.write_values(parameter, other)
    assert parameter.ds_tensor.tolist() == [10, 11, 7]


def test_values_are_remembered_and_given_back():
    for parameter in (vector(0), torch.nn.Parameter(torch.arange(5.0))):
        undo = shards.remember_values(parameter)
        shards.write_values(parameter, torch.zeros(5))
        undo()
        assert shards.whole(parameter).tolist() == [0, 1, 2, 3, 4]


def test_whole_leaves_it_in_parts():
    parameter = vector(0)
    assert shards.whole(parameter).tolist() == [0, 1, 2, 3, 4]
    assert parameter.shape == (0,)
    assert shards.shape_of(parameter) == (5,)
    assert shards.numel_of(parameter) == 5


def test_at_rest_only_what_is_kept_whole_is_whole():
    model = torch.nn.Module()
    model.one, model.two, model.three = vector(0), vector(0, persist=True), vector(0)
    for parameter in model.parameters():
        parameter.all_gather()
    model.three.partition()
    model.ds_inflight_param_registry = {model.three: SimpleNamespace(wait=model.three.all_gather)}
    shards.put_to_rest(model)
    assert model.ds_inflight_param_registry == {}
    statuses = [parameter.ds_status for parameter in model.parameters()]
    assert statuses == [Status.NOT_AVAILABLE, Status.AVAILABLE, Status.NOT_AVAILABLE]


def test_a_base_in_parts_has_the_fingerprint_of_its_values():
    plain, model = dict(tiny.bert().named_parameters()), dict(parted().named_parameters())
    assert fingerprint(model) == fingerprint(plain)
    assert fingerprint(plain) is not None


def test_its_weightless_copy_has_the_whole_shapes():
    shapes = [parameter.shape for parameter in weightless_copy(parted()).parameters()]
    assert shapes == [parameter.shape for parameter in tiny.bert().parameters()]


@pytest.mark.parametrize("method", ["lora", "freeze", "full", "bottleneck"])
def test_a_method_on_parts_plans_what_it_plans_on_the_whole(method):
    whole, model = ftplug.apply(tiny.bert(), method), ftplug.apply(parted(), method)
    one, other = require_attachment(whole), require_attachment(model)
    assert other.plan == one.plan
    assert other.base == one.base
    assert other.plan.trained_count(model) == one.plan.trained_count(whole)
    for name, value in one.original_values.kept.items():
        assert value.equal(other.original_values.kept[name])


@pytest.mark.parametrize("method", ["ln-tuning", "delora", "loha", "frod", "osf"])
def test_a_method_that_takes_an_empty_tensor_for_a_weight_is_refused(method):
    """It would fail within peft, or train something else without a word."""
    model = parted()
    before = [name for name, _ in model.named_parameters()]
    with pytest.raises(MethodError, match=rf"^{method}: .* on a base in parts") as raised:
        ftplug.apply(model, method)
    assert "load the base before the TrainingArguments" in str(raised.value)
    assert "\n" not in str(raised.value)
    assert [name for name, _ in model.named_parameters()] == before
    ftplug.apply(model, "lora")


def rates(model, tmp_path):
    model = ftplug.apply(model, "lora", "lora-plus")
    args = TrainingArguments(tmp_path, report_to=[])
    groups = method_optimizer(model, require_attachment(model), args).param_groups
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {names[id(p)]: group["lr"] for group in groups for p in group["params"]}


def test_rates_by_the_shape_of_a_parameter_are_those_of_the_whole(tmp_path):
    assert rates(parted(), tmp_path) == rates(tiny.bert(), tmp_path)


def test_it_is_sharded_and_takes_up_more_until_it_has_an_engine():
    model = parted()
    assert is_sharded(model)
    refuse_divided(model, "lora")
    model.ds_inflight_param_registry = {}
    with pytest.raises(MethodError, match="sharded over processes already"):
        ftplug.apply(model, "lora")


def test_values_are_put_back_within_disabled():
    model = ftplug.apply(parted(), "full")
    before = [parameter.ds_tensor.clone() for parameter in model.parameters()]
    for parameter in model.parameters():
        parameter.ds_tensor.add_(1)
    after = [parameter.ds_tensor.clone() for parameter in model.parameters()]
    with ftplug.disabled(model):
        held = [parameter.ds_tensor for parameter in model.parameters()]
        assert all(map(torch.equal, held, before))
    assert all(map(torch.equal, [p.ds_tensor for p in model.parameters()], after))


def test_what_was_trained_in_parts_is_saved_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: 0)
    model = ftplug.apply(parted(), "freeze", layers=1)
    ftplug.save(model, tmp_path / "artifact")
    loaded = ftplug.load(tiny.bert(), tmp_path / "artifact")
    assert difference(weights(loaded), weights(tiny.bert())) is None


def test_an_empty_tensor_is_in_no_artifact(tmp_path):
    model = ftplug.apply(tiny.bert(), "lora")
    model.classifier.weight.data = torch.empty(0)
    with pytest.raises(ArtifactError, match=r"classifier.weight has the shape \(0,\)") as raised:
        ftplug.save(model, tmp_path / "artifact")
    assert "\n" not in str(raised.value)
    assert not any((tmp_path / "artifact").glob("*"))


def test_nor_is_one_that_a_script_gathered_itself(tmp_path):
    model = ftplug.apply(tiny.bert(), "freeze", layers=1)
    gathered = copy.copy(dict(model.state_dict()))
    gathered["classifier.bias"] = torch.empty(0)
    with pytest.raises(ArtifactError, match=r"save by trainer\.save_model"):
        model.save_pretrained(tmp_path / "artifact", state_dict=gathered)
