"""A plain Trainer script on the demo's data, with no method of its own.

``python -m ftplug.demo.script --epochs 3``: MiniLM with a fresh head learns whether a sentence of a
review is positive. It is evaluated each epoch, the best one is kept and scored on held-out
sentences. What ``ftplug compare`` runs without a script.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

import torch
from transformers import DataCollatorWithPadding, Trainer, TrainingArguments, set_seed

from ftplug.demo import data, minilm

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformers import EvalPrediction, PreTrainedTokenizerBase

MAX_LENGTH = 32  # tokens


def main() -> None:
    """Train, evaluate and print the held-out accuracy."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=float, default=3)
    parser.add_argument("--limit", type=int, help="Most rows of each part of the data.")
    parser.add_argument("--seed", type=int, help="Seed of the head; with --seed of ftplug, its own")
    parser.add_argument("--out", default="ftplug-demo/script", help="Folder of the checkpoints.")
    options = parser.parse_args()
    if options.seed is not None:
        set_seed(options.seed)
    model, tokenizer = minilm.load_base()
    parts = data.split(data.read_sentences())
    train, validation, test = (_encoded(part[: options.limit], tokenizer) for part in parts)
    trainer = Trainer(
        model=model,
        args=_arguments(options.out, options.epochs),
        train_dataset=train,
        eval_dataset=validation,
        processing_class=tokenizer,
        data_collator=DataCollatorWithPadding(tokenizer),
        compute_metrics=_accuracy,
    )
    trainer.train()
    print(trainer.evaluate(test, metric_key_prefix="test"))


def _arguments(out: str, epochs: float) -> TrainingArguments:
    return TrainingArguments(
        output_dir=out,
        num_train_epochs=epochs,
        per_device_train_batch_size=32,
        per_device_eval_batch_size=64,
        learning_rate=5e-5,
        warmup_steps=0.1,  # a share of all steps
        train_sampling_strategy="group_by_length",
        eval_strategy="epoch",
        save_strategy="epoch",
        logging_strategy="epoch",
        save_total_limit=1,
        save_only_model=True,
        load_best_model_at_end=True,
        metric_for_best_model="accuracy",
        dataloader_pin_memory=torch.cuda.is_available(),
        disable_tqdm=True,
        report_to="none",
    )


def _encoded(sentences: Sequence[data.Sentence], tokenizer: PreTrainedTokenizerBase) -> Any:
    return [
        {**tokenizer(text, truncation=True, max_length=MAX_LENGTH), "labels": label}
        for text, label in sentences
    ]


def _accuracy(prediction: EvalPrediction) -> dict[str, float]:
    answers: Any = prediction.predictions
    return {"accuracy": float((answers.argmax(-1) == prediction.label_ids).mean())}


if __name__ == "__main__":
    main()
