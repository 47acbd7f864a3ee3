import random
import socket
from collections.abc import Callable
from typing import Any

import pytest

from ftplug.demo import data
from ftplug.demo.data import Sentence, Split

GOOD = ("great", "good", "wonderful", "lovely", "excellent")
BAD = ("awful", "bad", "terrible", "boring", "broken")
THINGS = ("phone", "film", "soup", "sound", "waiter", "plot", "cable", "cake", "actor", "table")


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail on any attempt to reach another machine; the demo's own Hub is on this one."""
    connect = socket.socket.connect

    def only_here(self: socket.socket, address: Any) -> None:
        if address[0] != "127.0.0.1":
            raise AssertionError(f"the demo tried to connect to {address}")
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", only_here)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)


@pytest.fixture(scope="session")
def tiny_parts() -> Split:
    """Sixty train, thirty validation and thirty held-out sentences; one word decides."""
    rows = [
        Sentence(f"the {thing} and the {other} was {word}", int(word in GOOD))
        for thing in THINGS
        for other in THINGS[:3]
        for word in GOOD + BAD
    ]
    random.Random(1).shuffle(rows)
    return data.split(rows, train=60, validation=30, test=30)


@pytest.fixture(scope="session")
def tiny_base() -> Callable[[], Any]:
    """A loader of a random two-layer BERT, the same on each call, with a word tokenizer."""
    import torch
    from transformers import BertConfig, BertForSequenceClassification, BertTokenizer

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "and", "was"]
    vocab = {word: index for index, word in enumerate([*words, *GOOD, *BAD, *THINGS])}

    def load() -> Any:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(11)
            config = BertConfig(
                vocab_size=len(vocab),
                hidden_size=16,
                num_hidden_layers=2,
                num_attention_heads=2,
                intermediate_size=32,
                max_position_embeddings=32,
                initializer_range=0.3,  # wide enough that a few steps teach it something
                id2label=data.LABELS,
                label2id={label: index for index, label in data.LABELS.items()},
            )
            return BertForSequenceClassification(config), BertTokenizer(vocab=vocab)

    return load
