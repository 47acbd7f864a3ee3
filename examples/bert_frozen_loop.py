"""The classic loop on a frozen trunk: BERT as a feature extractor, only the classifier trains."""

from __future__ import annotations

import argparse
from typing import Any

import torch
from sentences import accuracy, collate_with, load_sentences
from torch.optim import AdamW
from torch.utils.data import DataLoader
from transformers import AutoModelForSequenceClassification, AutoTokenizer

import ftplug


def main() -> None:
    """Train the classifier for a fixed number of epochs and save it: a few kilobytes."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", required=True, help="Hub id or folder of an encoder.")
    parser.add_argument("--output", default="bert-frozen", help="Folder for the artifact.")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--rows", type=int, default=1400, help="Sentences to use.")
    options = parser.parse_args()

    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    model = AutoModelForSequenceClassification.from_pretrained(options.model, num_labels=2)
    model.to(torch.accelerator.current_accelerator() or torch.device("cpu"))
    ftplug.apply(model, "freeze", train=["classifier.*"], frozen_eval=True)

    train, validation = load_sentences(options.rows)
    batches: DataLoader[Any] = DataLoader(
        train, 32, shuffle=True, collate_fn=collate_with(tokenizer)
    )
    held_out: DataLoader[Any] = DataLoader(validation, 32, collate_fn=collate_with(tokenizer))
    optimizer = AdamW([p for p in model.parameters() if p.requires_grad], lr=options.lr)

    for epoch in range(1, options.epochs + 1):
        model.train()
        for batch in batches:
            optimizer.zero_grad()
            model(**batch.to(model.device)).loss.backward()
            optimizer.step()
        print(f"epoch {epoch}: validation accuracy {accuracy(model, held_out):.3f}")
    ftplug.save(model, options.output, processing_class=tokenizer)
    print(f"saved in {options.output}")


if __name__ == "__main__":
    main()
