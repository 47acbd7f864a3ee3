"""Runs by hand beside a trunk cache: texts shuffled and padded in another way in each epoch.

``python trunks.py OUT SEED PAUSE`` is a run in a process of its own: ``start``.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import tiny
import torch
from ftplug_plugins.freeze import Freeze
from ftplug_plugins.trunk_cache.method import TrunkCache
from ftplug_plugins.trunk_cache.trunk import TRUNK
from runs import trainer, weights

import ftplug
from ftplug.structure import layer_stacks


def trunk(model):
    """Return the one trunk of a model."""
    [found] = {id(t): t for m in model.modules() if (t := m.__dict__.get(TRUNK))}.values()
    return found


def runs_of_the_trunk(model):
    """Return a list that gets an entry whenever the lowest layer really computes."""
    ran = []
    linear = next(m for m in layer_stacks(model)[0].layers[0].modules() if hasattr(m, "weight"))
    linear.register_forward_hook(lambda *_: ran.append(1))
    return ran


def sentences(count=12, longest=20, seed=0):
    draw = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, longest, (count,), generator=draw)
    return [torch.randint(3, tiny.VOCAB, (int(n),), generator=draw) for n in lengths]


def padded(model, texts, *, more=0, side="right"):
    """Return a batch with labels that depend on the texts alone."""
    length = max(map(len, texts)) + more
    ids = torch.zeros(len(texts), length, dtype=torch.long)
    for row, text in zip(ids, texts, strict=True):
        row[: len(text)] = text
        if side == "left":
            row.copy_(row.roll(length - len(text)))
    batch = {"input_ids": ids, "attention_mask": (ids != 0).long()}
    if model.__class__.__name__.endswith("SequenceClassification"):
        batch["labels"] = torch.tensor([int(text[0]) % 2 for text in texts])
    elif model.__class__.__name__.startswith("T5"):
        batch["labels"] = torch.stack([text[:1].repeat(5) for text in texts])
    else:
        batch["labels"] = ids.masked_fill(ids == 0, -100)
        if "Token" in model.__class__.__name__:
            batch["labels"] = torch.where(ids == 0, -100, ids % 2)
    return batch


def batches(model, side="right"):
    """Yield three epochs, each shuffled and padded in another way."""
    draw = torch.Generator().manual_seed(1)
    images = tiny.inputs(model, rows=12) if "Image" in model.__class__.__name__ else None
    texts = sentences()
    for epoch in range(3):
        order = torch.randperm(12, generator=draw)
        for part in order.split(4):
            if images:
                yield {name: value[part] for name, value in images.items()}
            else:
                yield padded(model, [texts[i] for i in part], more=epoch, side=side)


def trained_losses(model, data):
    """Train by hand, with dropout, under one seed."""
    model.train()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    found = []
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for batch in data:
            loss = model(**batch).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            found.append(float(loss.detach()))
    return found


def changed(model, name):
    """Return the model with one value of a tensor of its backbone changed."""
    tensor = dict(model.bert.named_parameters()) | dict(model.bert.named_buffers())
    with torch.no_grad():
        tensor[name].view(-1)[-1] += 1 if name.endswith("ids") else 0.5
    return model


def train_rows(seed=0):
    """Train a tiny BERT for 20 steps of 4 rows; return its weights."""
    with tempfile.TemporaryDirectory() as out:
        bound = trainer(tiny.bert(dropout=0.1), Path(out), save_strategy="no", seed=seed)
        ftplug.attach(bound, Freeze(layers=1), TrunkCache()).train()
    return weights(bound.model)


def start(out, seed=0, pause=0.0):
    """Train in another process, which stands still for so many seconds within its third rename."""
    command = [sys.executable, __file__, str(out), str(seed), str(pause)]
    return subprocess.Popen(command, env=os.environ | {"PYTHONPATH": str(Path(__file__).parent)})


def stand_still(seconds):
    """Wait in the third rename, where a file is written and has not its name yet."""
    real, calls = os.replace, []

    def replace(source, target):
        if str(source).endswith(".part"):
            calls.append(1)
            if len(calls) == 3:
                time.sleep(seconds)
        real(source, target)

    os.replace = replace


if __name__ == "__main__":
    _, where, number, rest = sys.argv
    torch.set_num_threads(1)
    stand_still(float(rest))
    torch.save(train_rows(int(number)), where)
