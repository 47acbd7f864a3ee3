"""The contract on a GPU: methods of every kind, as tests/plugins/test_contract.py on the CPU.

``trunk-cache`` trains nothing: test_devices.py has it.
"""

import typing

import pytest
from contracts import contract

from ftplug import discovery
from ftplug.method import Kind
from ftplug.testing import MethodContract

METHODS = (
    "full", "bitfit", "lora", "bottleneck", "prefix-tuning", "reft", "lisa", "galore", "l2-sp",
)  # fmt: skip
ON_A_GPU = {
    "device": "cuda",
    "families": ("bert", "llama"),
    "pytestmark": pytest.mark.gpu,
    "test_two_processes_agree": None,  # they train on the CPU, whatever the device
}

for name in METHODS:
    title = "Test" + "".join(part.capitalize() for part in name.split("-"))
    globals()[title] = type(title, (MethodContract,), contract(name) | ON_A_GPU)


def test_every_kind_of_method_that_trains_is_there():
    kinds = {discovery.methods()[name].kind for name in METHODS}
    assert kinds == set(typing.get_args(Kind)) - {"execution"}
