"""The classic loop: fine-tune all of BERT for text classification, evaluate after each epoch.

Once written with ``transformers.AdamW`` and ``encode_plus``; this is how it reads today. Only the
two lines with ``ftplug`` differ from plain PyTorch: another name there is another method.
"""

from __future__ import annotations

import argparse
from typing import Any

import torch
from sentences import accuracy, collate_with, load_sentences
from torch.optim import AdamW
from torch.utils.data import DataLoader
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    get_linear_schedule_with_warmup,
)

import ftplug


def main() -> None:
    """Train, keep the epoch with the best validation accuracy, save it as an artifact."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", required=True, help="Hub id or folder of an encoder.")
    parser.add_argument("--output", default="bert-full", help="Folder for the artifact.")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--lr", type=float, default=5e-5)
    parser.add_argument("--rows", type=int, default=1400, help="Sentences to use.")
    options = parser.parse_args()

    torch.manual_seed(0)
    device = torch.accelerator.current_accelerator() or torch.device("cpu")
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    model = AutoModelForSequenceClassification.from_pretrained(options.model, num_labels=2)
    model.to(device)
    ftplug.apply(model, "full")

    collate = collate_with(tokenizer)
    train, validation = load_sentences(options.rows)
    batches: DataLoader[Any] = DataLoader(
        train, options.batch_size, shuffle=True, collate_fn=collate
    )
    held_out: DataLoader[Any] = DataLoader(validation, options.batch_size, collate_fn=collate)

    optimizer = AdamW((p for p in model.parameters() if p.requires_grad), lr=options.lr)
    steps = options.epochs * len(batches)
    scheduler = get_linear_schedule_with_warmup(optimizer, steps // 10, steps)

    best = -1.0
    for epoch in range(1, options.epochs + 1):
        model.train()
        for batch in batches:
            loss = model(**batch.to(device)).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
        found = accuracy(model, held_out)
        print(f"epoch {epoch}: validation accuracy {found:.3f}")
        if found > best:  # over-fitting is what fine-tuning on small data does
            best = found
            ftplug.save(model, options.output, processing_class=tokenizer)
    print(f"best validation accuracy {best:.3f}, saved in {options.output}")


if __name__ == "__main__":
    main()
