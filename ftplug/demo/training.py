"""The demo's Trainer: evaluates each epoch, keeps the best one, stops when none gets better."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from ftplug.demo.report import Epoch

if TYPE_CHECKING:
    from transformers import (
        EvalPrediction,
        PreTrainedModel,
        PreTrainedTokenizerBase,
        Trainer,
        TrainingArguments,
    )

    from ftplug.demo.data import Sentence, Split
    from ftplug.method import Method

_PATIENCE = 2  # epochs in a row without a better validation accuracy, then training stops


@dataclass(frozen=True)
class Recipe:
    """How to train. ``learning_rate`` None takes what the methods suggest."""

    epochs: int = 3
    seed: int = 0
    learning_rate: float | None = None
    batch_size: int = 32
    max_length: int = 32
    bf16: bool = False


def make_trainer(
    methods: Sequence[Method],
    recipe: Recipe,
    parts: Split,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    checkpoints: str,
) -> Trainer:
    """Return a Trainer as any script would build it, with the methods attached."""
    from transformers import (
        DataCollatorWithPadding,
        EarlyStoppingCallback,
        PrinterCallback,
        Trainer,
    )

    from ftplug.training.binding import attach

    trainer = Trainer(
        model=model,
        args=_arguments(recipe, checkpoints),
        train_dataset=_encoded(parts.train, tokenizer, recipe.max_length),
        eval_dataset=_encoded(parts.validation, tokenizer, recipe.max_length),
        data_collator=DataCollatorWithPadding(tokenizer),
        compute_metrics=_validation_scores,
        callbacks=[EarlyStoppingCallback(early_stopping_patience=_PATIENCE)],
    )
    trainer.remove_callback(PrinterCallback)
    return attach(trainer, *methods, lr=_learning_rate(methods, recipe))


def train(trainer: Trainer, title: str, *, progress: bool) -> None:
    """Train under a progress bar."""
    from ftplug.demo.progress import ProgressBar, progress_bar

    with progress_bar(shown=progress) as bar:
        trainer.add_callback(ProgressBar(bar, title))
        trainer.train()


def epochs_of(trainer: Trainer) -> tuple[Epoch, ...]:
    """Return what each epoch ended with."""
    log = trainer.state.log_history
    losses = {entry["step"]: entry["loss"] for entry in log if "loss" in entry}
    return tuple(
        Epoch(round(entry["epoch"]), losses[entry["step"]], entry["eval_accuracy"])
        for entry in log
        if "eval_accuracy" in entry
    )


def best_epoch(trainer: Trainer) -> Epoch:
    """Return the epoch whose weights were kept: the first with the best validation accuracy."""
    return max(epochs_of(trainer), key=lambda epoch: epoch.validation_accuracy)


def _arguments(recipe: Recipe, checkpoints: str) -> TrainingArguments:
    import torch
    from transformers import TrainingArguments

    return TrainingArguments(
        output_dir=checkpoints,
        num_train_epochs=recipe.epochs,
        per_device_train_batch_size=recipe.batch_size,
        per_device_eval_batch_size=2 * recipe.batch_size,
        warmup_steps=0.1,  # a share of all steps
        train_sampling_strategy="group_by_length",
        eval_strategy="epoch",
        save_strategy="epoch",
        logging_strategy="epoch",
        save_total_limit=1,
        save_only_model=True,
        load_best_model_at_end=True,
        metric_for_best_model="accuracy",
        seed=recipe.seed,
        bf16=recipe.bf16,
        dataloader_pin_memory=torch.cuda.is_available(),
        disable_tqdm=True,
        report_to="none",
    )


def _learning_rate(
    methods: Sequence[Method], recipe: Recipe
) -> float | Literal["suggested"] | None:
    if recipe.learning_rate is not None:
        return recipe.learning_rate
    return "suggested" if any(m.suggested_learning_rate() for m in methods) else None


def _encoded(
    sentences: Sequence[Sentence], tokenizer: PreTrainedTokenizerBase, max_length: int
) -> list[dict[str, Any]]:
    texts = [sentence.text for sentence in sentences]
    columns = tokenizer(texts, truncation=True, max_length=max_length)
    return [
        {name: values[row] for name, values in columns.items()} | {"labels": sentence.label}
        for row, sentence in enumerate(sentences)
    ]


def _validation_scores(prediction: EvalPrediction) -> dict[str, float]:
    from ftplug.demo.metrics import scores

    logits: Any = prediction.predictions
    return scores(logits.argmax(-1), prediction.label_ids)
