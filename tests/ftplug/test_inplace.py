"""Wrapped forwards: in place, independent under deepcopy, and switched off without a trace."""

import copy
import inspect

import pytest
import tiny
import torch
from torch import nn

from ftplug import MethodError
from ftplug.inplace import (
    forwards_disabled,
    in_eval_mode,
    is_wrapped,
    unwrap_forward,
    wrap_forward,
    wraps,
)


def plus_bias(module, forward, *args, **kwargs):
    return forward(*args, **kwargs) + module.extra


def wrapped_linear():
    layer = nn.Linear(3, 3)
    layer.extra = nn.Parameter(torch.ones(3))
    wrap_forward(layer, plus_bias)
    return layer


def test_the_wrapper_runs_and_the_class_keeps_its_name():
    layer, x = wrapped_linear(), torch.randn(2, 3)
    assert torch.equal(layer(x), nn.functional.linear(x, layer.weight, layer.bias) + 1)
    assert isinstance(layer, nn.Linear)
    assert str(type(layer)) == str(nn.Linear)
    assert inspect.signature(layer.forward) == inspect.signature(nn.Linear(3, 3).forward)


def test_wraps_nest_in_the_order_they_were_made():
    layer, x = wrapped_linear(), torch.randn(2, 3)
    before = layer(x)
    wrap_forward(layer, lambda module, forward, x: 2 * forward(x))
    assert torch.equal(layer(x), 2 * before)


def test_a_deepcopy_runs_its_own_weights():
    layer, x = wrapped_linear(), torch.randn(2, 3)
    twin = copy.deepcopy(layer)
    with torch.no_grad():
        twin.extra.fill_(5)
        twin.weight.zero_()
        twin.bias.zero_()
    assert torch.equal(twin(x), torch.full((2, 3), 5.0))
    assert not torch.equal(layer(x), twin(x))


def test_an_instance_forward_set_by_a_library_still_runs():
    layer, x = nn.Linear(3, 3), torch.randn(2, 3)
    layer.extra = nn.Parameter(torch.ones(3))
    layer.forward = lambda x: x  # as accelerate's device hooks do
    wrap_forward(layer, plus_bias)
    assert torch.equal(layer(x), x + 1)


def test_two_wraps_of_a_hooked_instance_both_run():
    layer, x = nn.Linear(3, 3), torch.randn(2, 3)
    layer.extra = nn.Parameter(torch.ones(3))
    layer.forward = lambda x: x
    wrap_forward(layer, plus_bias)
    wrap_forward(layer, lambda module, forward, x: 2 * forward(x))
    assert torch.equal(layer(x), 2 * (x + 1))


def test_unwrapping_takes_off_one_wrap_at_a_time():
    layer, x = nn.Linear(3, 3), torch.randn(2, 3)
    layer.extra = nn.Parameter(torch.ones(3))
    layer.forward = lambda x: x
    wrap_forward(layer, plus_bias)
    wrap_forward(layer, lambda module, forward, x: 2 * forward(x))
    unwrap_forward(layer)
    assert is_wrapped(layer)
    assert torch.equal(layer(x), x + 1)
    unwrap_forward(layer)
    assert not is_wrapped(layer)
    assert type(layer) is nn.Linear
    assert torch.equal(layer(x), x)
    with pytest.raises(MethodError, match="this Linear is not wrapped"):
        unwrap_forward(layer)


def test_disabled_is_what_was_there_before_and_nests():
    layer, x = wrapped_linear(), torch.randn(2, 3)
    plain = nn.functional.linear(x, layer.weight, layer.bias)
    with forwards_disabled(layer):
        assert torch.equal(layer(x), plain)
        with forwards_disabled(layer):
            assert torch.equal(layer(x), plain)
        assert torch.equal(layer(x), plain)
    assert torch.equal(layer(x), plain + 1)


def test_transformers_still_finds_what_it_keys_by_class():
    model = tiny.bert()
    wrap_forward(model.bert, lambda module, forward, *args, **kwargs: forward(*args, **kwargs))
    out = model(**tiny.inputs(model), output_hidden_states=True)
    assert len(out.hidden_states) == tiny.LAYERS + 1


def nothing_more(module, forward, *args, **kwargs):
    return forward(*args, **kwargs)


def test_layers_wrapped_alike_stay_of_one_class():
    """FSDP takes the class of the first layer it finds for the class of all."""
    first, second, other = (wrapped_linear() for _ in range(3))
    assert type(first) is type(second)
    unwrap_forward(other)
    assert type(other) is nn.Linear
    wrap_forward(other, nothing_more)
    assert type(other) is not type(first)
    x = torch.randn(2, 3)
    for layer, added in ((first, 1), (second, 1), (other, 0)):
        assert torch.equal(layer(x), nn.functional.linear(x, layer.weight, layer.bias) + added)


def test_what_wraps_a_module_is_known_in_order():
    layer = wrapped_linear()
    wrap_forward(layer, nothing_more)
    assert wraps(layer) == wraps(copy.deepcopy(layer)) == [nothing_more, plus_bias]
    with forwards_disabled(layer):
        assert wraps(layer) == [nothing_more, plus_bias]
    unwrap_forward(layer)
    assert wraps(layer) == [plus_bias]
    assert wraps(nn.Linear(3, 3)) == []


def test_eval_mode_ends_with_the_block_for_each_module():
    model = nn.Sequential(nn.Dropout(), nn.Sequential(nn.Dropout())).train()
    model[1][0].eval()

    def modes():
        return [module.training for module in model.modules()]

    before = modes()
    with in_eval_mode([model[1]]):
        assert modes() == [True, True, False, False]
    held = in_eval_mode(model.modules())
    held.__enter__()
    assert modes() == [False] * 4
    assert not held.__exit__(ValueError, ValueError(), None)  # what was raised goes on
    assert modes() == before == [True, True, True, False]
