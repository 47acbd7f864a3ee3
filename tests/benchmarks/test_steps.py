"""The Trainers that benchmarks time take one real step per call."""

import steps
import tiny
import torch
from runs import rows
from transformers import Trainer


def test_a_call_takes_one_step():
    made = []

    def arm(folder):
        model = tiny.bert()
        args = steps.arguments(folder, max_steps=10_000)
        made.append(Trainer(model, args, train_dataset=rows(model)))
        return made[0]

    with steps.held([arm]) as [step]:
        weights = list(made[0].model.parameters())
        before = [parameter.detach().clone() for parameter in weights]
        assert made[0].state.global_step == steps.WARM_UP
        step()
        assert made[0].state.global_step == steps.WARM_UP + 1
        assert any(not torch.equal(a, b) for a, b in zip(before, weights, strict=True))
    assert not step.thread.is_alive()


def test_steps_are_taken_in_turn():
    seen = []
    taken = steps.in_turn({"a": lambda: seen.append("a"), "b": lambda: seen.append("b")}, 3)
    assert "".join(seen) == "baabba"
    assert {name: len(seconds) for name, seconds in taken.items()} == {"a": 3, "b": 3}


def test_arms_are_built_in_either_order():
    built = []

    def measure(names):
        built.append(list(names))
        return {name: [1.0, 2.0] if name == names[0] else [3.0, 4.0] for name in names}

    assert steps.in_both_orders(measure, ["a", "b"]) == {"a": [2.0, 3.0], "b": [2.0, 3.0]}
    assert built == [["a", "b"], ["b", "a"]]
