"""Batches that draw random numbers draw the same ones when a run is resumed."""

import random

import numpy as np
import pytest
import tiny
import torch
from runs import StopAt, weights
from transformers import (
    Trainer,
    TrainerCallback,
    TrainingArguments,
    default_data_collator,
    set_seed,
)

import ftplug
from ftplug.artifacts.checkpoint import SEAL
from ftplug.errors import ArtifactError
from ftplug.training.batches import FILE, GeneratorStates

LENGTH, VOCABULARY = 8, 50


class Cropped(torch.utils.data.Dataset):
    """Rows that a transform changes whenever they are read, by every generator."""

    def __init__(self, draws=True):
        generator = torch.Generator().manual_seed(1)
        self.rows = torch.randint(5, VOCABULARY, (22, LENGTH), generator=generator)
        self.draws = draws

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        row = self.rows[index].clone()
        if self.draws:
            row[0], row[1] = random.randrange(5, VOCABULARY), np.random.randint(5, VOCABULARY)
        return {"input_ids": row, "labels": index % 2}


class Masking:
    """A collator that masks tokens, as for masked language modelling."""

    def __call__(self, samples):
        ids = torch.stack([sample["input_ids"] for sample in samples])
        ids[torch.rand(ids.shape) < 0.3] = 3
        return {"input_ids": ids, "labels": torch.tensor([sample["labels"] for sample in samples])}


class StopAtBegin(TrainerCallback):
    """Save and stop once the batches of a step are fetched, as the checkpoint on SIGTERM does."""

    def __init__(self, step):
        self.step = step

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            control.should_save = control.should_training_stop = True


def build(out, callback=None, *, data=None, collator=None, **settings):
    """Return a Trainer whose epoch has 11 batches: 6 steps, the last of one batch alone."""
    set_seed(0)
    settings = {"gradient_accumulation_steps": 2, "max_steps": 14} | settings
    args = TrainingArguments(
        str(out), per_device_train_batch_size=2, learning_rate=1e-2, save_strategy="no",
        report_to=[], disable_tqdm=True, use_cpu=True, **settings,
    )  # fmt: skip
    model = tiny.bert(dropout=0.1)
    trainer = Trainer(
        model, args, train_dataset=data or Cropped(), data_collator=collator or Masking(),
        callbacks=[callback] if callback else None,
    )  # fmt: skip
    return ftplug.attach(trainer, "lora")


def straight_and_resumed(out, callback, **settings):
    """Return the weights of an uninterrupted run, and of one that was stopped and resumed."""
    straight = build(out / "straight", **settings)
    straight.train()
    build(out / "stopped", callback, **settings).train()
    torch.manual_seed(9), random.seed(9), np.random.seed(9)  # as a fresh process, elsewhere
    again = build(out / "stopped", **settings)
    again.train(resume_from_checkpoint=True)
    return weights(straight.model), weights(again.model)


def equal(first, second):
    return all(value.equal(second[name]) for name, value in first.items())


# Steps 6 and 12 end an epoch; before step 5 the batch ahead is the last one of its epoch.
@pytest.mark.parametrize("step", [1, 3, 5, 6, 7, 11])
def test_collators_and_transforms_draw_the_same(tmp_path, step):
    assert equal(*straight_and_resumed(tmp_path, StopAt(step)))


@pytest.mark.parametrize("step", [2, 8])
def test_steps_of_one_batch(tmp_path, step):
    assert equal(*straight_and_resumed(tmp_path, StopAt(step), gradient_accumulation_steps=1))


@pytest.mark.parametrize("step", [1, 5, 8])
def test_a_checkpoint_whose_batches_are_fetched_but_not_trained_on(tmp_path, step):
    assert equal(*straight_and_resumed(tmp_path, StopAtBegin(step)))


def test_a_resumed_run_that_is_stopped_in_its_first_step(tmp_path):
    straight = build(tmp_path / "straight")
    straight.train()
    build(tmp_path, StopAt(3)).train()
    build(tmp_path, StopAtBegin(3)).train(resume_from_checkpoint=True)
    again = build(tmp_path)
    again.train(resume_from_checkpoint=True)
    assert again.state.global_step == 14
    assert equal(weights(straight.model), weights(again.model))


@pytest.mark.parametrize("step", [3, 8])
def test_an_order_that_comes_from_the_generators(tmp_path, step):
    settings = {"train_sampling_strategy": "group_by_length"}
    assert equal(*straight_and_resumed(tmp_path, StopAt(step), **settings))


@pytest.mark.parametrize("collator", [Masking(), default_data_collator], ids=["both", "transform"])
@pytest.mark.parametrize("step", [3, 13])
def test_worker_processes(tmp_path, step, collator, caplog):
    settings = {"dataloader_num_workers": 2, "gradient_accumulation_steps": 1, "max_steps": 16}
    settings |= {"collator": collator}
    assert equal(*straight_and_resumed(tmp_path, StopAt(step), **settings))
    assert "uninterrupted" not in caplog.text


def test_batches_of_workers_that_draw_nothing_are_not_read_again(tmp_path):
    read = torch.zeros(1, dtype=torch.int64).share_memory_()

    class Counting(Cropped):
        def __getitem__(self, index):
            read.add_(1)
            return super().__getitem__(index)

    options = {"dataloader_num_workers": 1, "gradient_accumulation_steps": 1, "max_steps": 9}
    options |= {"data": Counting(draws=False), "collator": default_data_collator}
    build(tmp_path, StopAt(8), **options).train()
    read.zero_()
    build(tmp_path, **options).train(resume_from_checkpoint=True)
    assert 0 < read.item() <= 3 * 2  # the last three batches of eleven


class Stream(torch.utils.data.IterableDataset):
    """The same rows, without an order that could be skipped in."""

    def __init__(self, draws):
        self.rows = Cropped(draws)

    def __iter__(self):
        yield from (self.rows[i] for i in range(len(self.rows)))


def test_streams_in_worker_processes(tmp_path):
    options = {"data": Stream(draws=True), "dataloader_num_workers": 1}
    assert equal(*straight_and_resumed(tmp_path, StopAt(3), **options))


@pytest.mark.parametrize("draws", [True, False])
def test_a_stream_that_draws_is_said(tmp_path, caplog, draws):
    options = {"data": Stream(draws)} | ({} if draws else {"collator": default_data_collator})
    build(tmp_path, StopAt(2), **options).train()
    build(tmp_path, **options).train(resume_from_checkpoint=True)
    said = [record for record in caplog.records if "no order to go by" in record.getMessage()]
    assert len(said) == draws


def test_another_number_of_workers_is_said(tmp_path, caplog):
    options = {"gradient_accumulation_steps": 1}
    build(tmp_path, StopAt(3), dataloader_num_workers=1, **options).train()
    build(tmp_path, dataloader_num_workers=2, **options).train(resume_from_checkpoint=True)
    assert "dataloader_num_workers was 1, and is 2 now" in caplog.text


def test_persistent_workers_are_said(tmp_path, caplog):
    options = {"dataloader_num_workers": 1, "dataloader_persistent_workers": True}
    build(tmp_path, StopAt(8), **options).train()
    build(tmp_path, **options).train(resume_from_checkpoint=True)
    assert "persistent workers go on from the epoch before" in caplog.text


def test_a_checkpoint_without_the_states_is_said(tmp_path, caplog):
    build(tmp_path, StopAt(3)).train()
    for name in (FILE.format(0), SEAL):
        (tmp_path / "checkpoint-3" / name).unlink()
    build(tmp_path).train(resume_from_checkpoint=True)
    assert f"the checkpoint has no {FILE.format(0)}" in caplog.text


@pytest.mark.parametrize("content", [b"", b"PK", torch.zeros(2)])
def test_a_damaged_file_of_states_is_one_line(tmp_path, content):
    build(tmp_path, StopAt(3)).train()
    path = tmp_path / "checkpoint-3" / FILE.format(0)
    path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)
    (path.parent / SEAL).unlink()
    with pytest.raises(ArtifactError, match=r"ftplug_batches_0\.pth: not readable") as said:
        build(tmp_path).train(resume_from_checkpoint=True)
    assert "\n" not in str(said.value)


def test_the_script_gets_its_loader_back(tmp_path):
    trainer = build(tmp_path, dataloader_num_workers=1)
    loader = trainer.get_train_dataloader()
    sampler, collate = loader.batch_sampler, loader.collate_fn
    trainer.get_train_dataloader = lambda: loader
    trainer.train()
    assert loader.batch_sampler is sampler
    assert loader.collate_fn is collate


def test_states_are_equal_where_nothing_was_drawn():
    states = GeneratorStates.now()
    assert states == GeneratorStates.now()
    for draw in (random.random, np.random.random, lambda: torch.rand(1)):
        first = draw()
        assert states != GeneratorStates.now()
        states.restore()
        assert draw() == first
        states.restore()
        assert states == GeneratorStates.now()
