"""What the examples share: the sentences that ship with ftplug, a collate function, accuracy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.utils.data import DataLoader
from transformers import BatchEncoding

from ftplug.demo.data import Sentence, read_sentences


def load_sentences(rows: int) -> tuple[Any, Any]:
    """Return ``rows`` sentences in a fixed random order: four fifths to train, one fifth not."""
    sentences = read_sentences()
    order = torch.randperm(len(sentences), generator=torch.Generator().manual_seed(0))
    chosen = [sentences[i] for i in order[:rows].tolist()]
    return chosen[: rows * 4 // 5], chosen[rows * 4 // 5 :]


def collate_with(tokenizer: Any) -> Callable[[Sequence[Sentence]], BatchEncoding]:
    """Return a collate function: a batch of sentences becomes padded tensors with labels."""

    def collate(sentences: Sequence[Sentence]) -> BatchEncoding:
        batch: BatchEncoding = tokenizer(
            [sentence.text for sentence in sentences],
            padding=True,
            truncation=True,
            max_length=64,
            return_tensors="pt",
        )
        batch["labels"] = torch.tensor([sentence.label for sentence in sentences])
        return batch

    return collate


@torch.no_grad()
def accuracy(model: Any, batches: DataLoader[Any]) -> float:
    """Return the share of sentences whose label the model predicts."""
    model.eval()
    right = total = 0
    for batch in batches:
        labels = batch.to(model.device)["labels"]
        right += int((model(**batch).logits.argmax(-1) == labels).sum())
        total += len(labels)
    return right / total
