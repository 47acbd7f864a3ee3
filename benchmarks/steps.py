"""Trainers that take one step per call, of a model of MiniLM's shape: what step benchmarks time.

22.7 M parameters with random values, dropout 0; a batch is 16 x 48 tokens. Needs transformers and
torch alone, so that a library with other pins can be measured in an environment of its own.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from tempfile import TemporaryDirectory
from typing import Any

import torch
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

BATCH, TOKENS = 16, 48
WARM_UP = 2  # steps
Arm = Callable[[str], Trainer]  # from the folder that it may write to


def model(layers: int = 6) -> BertForSequenceClassification:
    """Return MiniLM's shape with a classification head, always with the same values."""
    torch.manual_seed(0)
    config = BertConfig(
        hidden_size=384, num_hidden_layers=layers, intermediate_size=1536,
        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    return BertForSequenceClassification(config)


def data(examples: int, tokens: int = TOKENS) -> Any:
    """Return examples that all differ, without padding."""
    draw = torch.Generator().manual_seed(1)
    ids = torch.randint(1000, 30000, (examples, tokens), generator=draw)
    return [
        {"input_ids": row, "attention_mask": torch.ones_like(row), "labels": number % 2}
        for number, row in enumerate(ids)
    ]


def arguments(folder: str, **options: Any) -> TrainingArguments:
    """Return the arguments of a Trainer that does nothing but train."""
    chosen: dict[str, Any] = {
        "per_device_train_batch_size": BATCH, "save_strategy": "no", "logging_strategy": "no",
        "report_to": [], "disable_tqdm": True, "use_cpu": True, "label_names": ["labels"],
        "learning_rate": 1e-3, "optim": "adamw_torch",
    }  # fmt: skip
    return TrainingArguments(folder, **chosen | options)


def trainer(of: Any, folder: str, cls: type[Trainer] = Trainer, **options: Any) -> Trainer:
    """Return a Trainer that takes steps without end."""
    args = arguments(folder, max_steps=10_000, **options)
    made = cls(of, args, train_dataset=data(4 * BATCH))
    made.remove_callback(PrinterCallback)
    return made


class Held(TrainerCallback):
    """Runs a Trainer's loop in a thread that takes one step, the next batch included, per call."""

    def __init__(self, held: Trainer) -> None:
        self.go, self.done, self.over = threading.Semaphore(0), threading.Semaphore(0), False
        self.failed: BaseException | None = None
        held.add_callback(self)
        self.thread = threading.Thread(target=self._train, args=(held,))
        self.thread.start()
        self._wait()

    def __call__(self) -> None:
        """Take a step; raises what the Trainer raised."""
        self.go.release()
        self._wait()

    def _train(self, held: Trainer) -> None:
        try:
            held.train()
        except BaseException as error:
            self.failed = error
        self.done.release()

    def _wait(self) -> None:
        self.done.acquire()
        if self.failed is not None:
            raise self.failed

    def stop(self) -> None:
        """End the loop."""
        self.over = True
        self.go.release()
        self.thread.join()

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Wait for the first call."""
        self.done.release()
        self.go.acquire()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Give the turn back and wait for the next."""
        self.done.release()
        self.go.acquire()
        control.should_training_stop = self.over


@contextmanager
def held(arms: Sequence[Arm]) -> Iterator[list[Held]]:
    """Give these Trainers, each after its first steps, and end them behind."""
    with ExitStack() as stack:
        running = []
        for arm in arms:
            running.append(Held(arm(stack.enter_context(TemporaryDirectory()))))
            stack.callback(running[-1].stop)
        for one in running * WARM_UP:
            one()
        yield running


def in_turn(steps: Mapping[str, Callable[[], None]], pairs: int) -> dict[str, list[float]]:
    """Return CPU seconds of steps taken in turn, by name: A B B A A B … ."""
    taken: dict[str, list[float]] = {name: [] for name in steps}
    for pair in range(pairs):
        for name in list(steps)[:: 1 if pair % 2 else -1]:
            start = time.process_time()
            steps[name]()
            taken[name].append(time.process_time() - start)
    return taken


def in_both_orders(
    measure: Callable[[Sequence[str]], Mapping[str, Sequence[float]]], names: Sequence[str]
) -> dict[str, list[float]]:
    """Return the means of what is measured when arms are built in this order and in reverse.

    The one that is built last is some per cent faster throughout, by where its memory lies.
    """
    first, second = measure(names), measure(names[::-1])
    return {
        name: [(a + b) / 2 for a, b in zip(seconds, second[name], strict=True)]
        for name, seconds in first.items()
    }
