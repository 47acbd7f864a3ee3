"""Advice on the data: what is counted is what the Trainer's own loader gives."""

import pytest
import tiny
import torch
from datasets import Dataset as Table
from runs import rows as rows_for
from torch.utils.data import IterableDataset
from transformers import Trainer, TrainingArguments

from ftplug.advising import data
from ftplug.advising.advice import Advice
from ftplug.advising.seen import Seen

LENGTHS = [3, 20, 4, 18, 5, 19, 3, 21] * 8


def texts(lengths=LENGTHS, width=None):
    """Return rows of tokens, each padded to ``width`` already if that is given."""
    made = []
    for number, length in enumerate(lengths):
        more = (width or length) - length
        made.append(
            {
                "input_ids": [3 + number % 50] * length + [0] * more,
                "attention_mask": [1] * length + [0] * more,
                "labels": number % 2,
            }
        )
    return made


def collate(examples, width=None):
    longest = width or max(len(example["input_ids"]) for example in examples)
    columns = {}
    for name in ("input_ids", "attention_mask"):
        padded = [e[name] + [0] * (longest - len(e[name])) for e in examples]
        columns[name] = torch.tensor(padded)
    return columns | {"labels": torch.tensor([example["labels"] for example in examples])}


def seen(tmp_path, dataset, model=None, collator=collate, **options):
    args = TrainingArguments(
        str(tmp_path), per_device_train_batch_size=8, use_cpu=True, report_to=[], **options
    )
    trainer = Trainer(model or tiny.bert(), args, data_collator=collator, train_dataset=dataset)
    trainer.state.max_steps = 24
    trainer.model_wrapped = trainer.model
    return Seen(trainer, trainer.get_train_dataloader(), limit=5)


def share_of(loader):
    masks = [batch["attention_mask"] for batch in loader]
    return 1 - sum(int(m.sum()) for m in masks) / sum(m.numel() for m in masks)


@pytest.mark.parametrize("kind", [list, Table.from_list], ids=["list", "datasets"])
def test_grouping_by_length_is_advised_with_the_padding_that_the_trainer_then_has(kind, tmp_path):
    rows = kind(texts(LENGTHS * 8))
    found = seen(tmp_path, rows)
    [advice] = data.padding(found)
    assert advice.setting == 'train_sampling_strategy="group_by_length"'
    assert advice.is_worth_it
    grouped = seen(tmp_path, rows, train_sampling_strategy="group_by_length")
    now, then = (share_of(one.trainer.get_train_dataloader()) for one in (found, grouped))
    assert advice.gain == pytest.approx((1 - then) / (1 - now), rel=0.1)
    assert list(data.padding(grouped)) == []


def test_rows_that_are_padded_already_should_not_be(tmp_path):
    advice = list(data.padding(seen(tmp_path, texts(width=40))))
    assert [one.setting.split("=")[0] for one in advice] == ["padding", "train_sampling_strategy"]
    real = sum(LENGTHS) / len(LENGTHS)
    assert f"{1 - real / 40:.0%} of the tokens are padding" in advice[0].what
    assert advice[0].gain > 1.5


def test_a_collator_that_pads_to_a_fixed_length_is_seen(tmp_path):
    found = seen(tmp_path, texts(), collator=lambda examples: collate(examples, 40))
    assert next(data.padding(found)).setting.startswith("padding=False")


def test_rows_of_one_length_need_nothing(tmp_path):
    assert list(data.padding(seen(tmp_path, texts([7] * 32)))) == []


class Stream(IterableDataset):
    def __iter__(self):
        return iter(texts())


class Lost:
    """Rows that know how many they are, and no more."""

    def __len__(self):
        return 3

    def __getitem__(self, index):
        raise KeyError("input_ids")


@pytest.mark.parametrize(
    "dataset", [Stream(), Lost(), [], [torch.zeros(3)], None], ids=lambda d: type(d).__name__
)
def test_rows_that_nobody_can_count_have_no_lengths(dataset):
    assert data.lengths(dataset) == []


def test_a_stream_is_looked_at_without_advice_on_its_order(tmp_path):
    assert list(data.padding(seen(tmp_path, Stream(), max_steps=4))) == []


def test_images_have_no_padding(tmp_path):
    model = tiny.vit()
    found = seen(tmp_path, rows_for(model), model, collator=None)
    assert found.batches[0].tokens is None
    assert list(data.padding(found)) == []


def test_of_a_large_dataset_some_rows_are_drawn():
    class Many:
        asked = 0

        def __len__(self):
            return 10 * data.ROWS

        def __getitem__(self, index):
            Many.asked += 1
            return {"input_ids": [1] * 3}

    assert len(data.lengths(Many())) == Many.asked == data.ROWS


def test_packing_is_advised_where_attention_keeps_rows_apart(tmp_path):
    found = seen(tmp_path, texts())
    found.args.packing = False
    assert not any(one.setting == "packing=True" for one in data.padding(found))
    found.model.config._attn_implementation = "flash_attention_2"
    [packing] = [one for one in data.padding(found) if one.setting == "packing=True"]
    assert packing.gain == pytest.approx(
        1 / (1 - share_of(found.trainer.get_train_dataloader())), rel=0.1
    )


@pytest.mark.parametrize(("fetching", "expected"), [(0.05, 1.5), (0.001, None)])
def test_workers_are_advised_where_a_device_waits(fetching, expected, tmp_path, monkeypatch):
    found = seen(tmp_path, texts())
    monkeypatch.setattr(data.os, "cpu_count", lambda: 16)
    monkeypatch.setattr(type(found), "fetching", fetching)
    found.seconds = 0.1
    assert list(data.workers(found)) == []  # on a CPU the cores train
    found.device = torch.device("meta")
    advice = list(data.workers(found))
    assert [one.gain for one in advice] == ([pytest.approx(expected)] if expected else [])
    assert all("dataloader_num_workers=4" in one.setting for one in advice)


def test_what_is_unsure_or_little_is_not_worth_it():
    assert Advice("a", 1.2, "", "").is_worth_it
    assert not Advice("a", 1.2, "", "", sure=False).is_worth_it
    assert not Advice("a", 1.01, "", "").is_worth_it
