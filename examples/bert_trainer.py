"""The classic Trainer script: evaluation each epoch, best model by accuracy, two checkpoints kept.

A plain Trainer run; the one line with ``ftplug.attach`` switches its method.
"""

from __future__ import annotations

import argparse

import numpy as np
from sentences import load_sentences
from torch.utils.data import Dataset
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    EvalPrediction,
    Trainer,
    TrainingArguments,
)

import ftplug


class Encoded(Dataset[dict[str, list[int]]]):
    """Tokenised sentences with their labels; the Trainer's collator pads each batch."""

    def __init__(self, sentences, tokenizer) -> None:  # type: ignore[no-untyped-def]
        self.rows = [
            {**tokenizer(s.text, truncation=True, max_length=64), "labels": s.label}
            for s in sentences
        ]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, list[int]]:
        return self.rows[index]


def compute_metrics(prediction: EvalPrediction) -> dict[str, float]:
    """Return the accuracy of the predicted labels."""
    predicted = np.argmax(prediction.predictions, axis=-1)
    return {"accuracy": float((predicted == prediction.label_ids).mean())}


def main() -> None:
    """Train with the chosen method and save the best epoch's artifact."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", required=True, help="Hub id or folder of an encoder.")
    parser.add_argument("--output", default="bert-trainer", help="Checkpoints and artifact.")
    parser.add_argument("--method", default="lora", help="See `ftplug methods`.")
    parser.add_argument("--epochs", type=float, default=3)
    parser.add_argument("--rows", type=int, default=1400, help="Sentences to use.")
    options = parser.parse_args()

    tokenizer = AutoTokenizer.from_pretrained(options.model)
    model = AutoModelForSequenceClassification.from_pretrained(options.model, num_labels=2)
    train, validation = load_sentences(options.rows)
    trainer = Trainer(
        model,
        TrainingArguments(
            options.output,
            num_train_epochs=options.epochs,
            per_device_train_batch_size=32,
            eval_strategy="epoch",
            save_strategy="epoch",
            save_total_limit=2,
            load_best_model_at_end=True,
            metric_for_best_model="accuracy",
            report_to=[],
        ),
        train_dataset=Encoded(train, tokenizer),
        eval_dataset=Encoded(validation, tokenizer),
        processing_class=tokenizer,
        compute_metrics=compute_metrics,
    )
    ftplug.attach(trainer, options.method, lr="suggested")
    trainer.train()
    print(trainer.evaluate())
    ftplug.save(model, options.output, processing_class=tokenizer)


if __name__ == "__main__":
    main()
