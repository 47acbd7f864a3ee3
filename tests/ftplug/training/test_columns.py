"""The Trainer drops the columns that a forward does not name: a wrapped forward names the same."""

import pytest
import tiny
from datasets import Dataset
from runs import METHODS, trainer, weights

import ftplug


@pytest.mark.parametrize("method", METHODS)
def test_a_wrapped_forward_keeps_its_columns_and_drops_others(method, tmp_path):
    bound = trainer(tiny.bert(), tmp_path, max_steps=2, save_strategy="no")
    columns = {name: v.tolist() for name, v in tiny.inputs(tiny.bert(), rows=16).items()}
    bound.train_dataset = Dataset.from_dict(columns | {"source": ["a text"] * 16})
    ftplug.attach(bound, method, **METHODS[method])
    start = weights(bound.model)
    [batch, *_] = bound.get_train_dataloader()
    assert set(batch) == set(columns)  # "source" could not be collated, and would not fit
    bound.train()
    after = weights(bound.model)
    still = {n for n in bound.ftplug.attached.plan.may_train if after[n].equal(start[n])}
    assert all(name.endswith("key.bias") for name in still)
