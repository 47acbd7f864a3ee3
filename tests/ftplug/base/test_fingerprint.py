"""The fingerprint: changed by values, names and shapes; not by a cast, an order or a device."""

import pytest
import torch

from ftplug.base.fingerprint import fingerprint


def tensors(seed=0):
    draw = torch.Generator().manual_seed(seed)
    return {name: torch.randn(40, 30, generator=draw) for name in "abc"}


def test_equal_tensors_agree_in_any_order():
    first, second = tensors(), dict(reversed(tensors().items()))
    assert fingerprint(first) == fingerprint(second)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_cast_does_not_change_it(dtype):
    cast = {name: value.to(dtype) for name, value in tensors().items()}
    assert fingerprint(cast).matches(fingerprint(tensors()))
    assert fingerprint(tensors()).matches(fingerprint(cast))


def test_values_names_and_shapes_change_it():
    original = fingerprint(tensors())
    renamed = {f"x{name}": value for name, value in tensors().items()}
    reshaped = {name: value.reshape(30, 40) for name, value in tensors().items()}
    moved = tensors() | {"a": tensors()["a"] * 1.02}
    for other in (fingerprint(renamed), fingerprint(reshaped), fingerprint(moved)):
        assert not other.matches(original)


def test_a_transposed_view_has_its_own_values():
    values = tensors()["a"]
    view, copied = {"a": values.T}, {"a": values.T.contiguous()}
    assert fingerprint(view) == fingerprint(copied)


@pytest.mark.parametrize(
    "odd",
    [torch.zeros(2, dtype=torch.uint8), torch.zeros(2, device="meta")],
    ids=["quantized", "meta"],
)
def test_what_has_no_values_at_hand_has_no_fingerprint(odd):
    assert fingerprint(tensors() | {"odd": odd}) is None


def test_empty_tensors_are_allowed():
    assert fingerprint(tensors() | {"empty": torch.zeros(0, 3)}) is not None
    assert fingerprint({}) is None
