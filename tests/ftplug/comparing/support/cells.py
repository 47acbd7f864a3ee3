"""Cells of a comparison in this process: small scripts on tiny models, and what they leave."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import tiny

from ftplug.comparing.cell import run_cell
from ftplug.comparing.comparison import Comparison
from ftplug.comparing.results import Cell, Result

KEY = "ab" * 32
BEGIN = f"""
import sys
sys.path.insert(0, {str(Path(tiny.__file__).parent)!r})
import numpy, torch, tiny
from transformers import Trainer, TrainingArguments
from runs import rows

def arguments(**more):
    defaults = dict(
        output_dir="theirs", per_device_train_batch_size=4, per_device_eval_batch_size=4,
        num_train_epochs=2, save_strategy="no", learning_rate=1e-2, report_to=[],
        disable_tqdm=True, use_cpu=True, logging_steps=100,
    )
    return TrainingArguments(**(defaults | more))

def accuracy(p):
    return {{"accuracy": float((p.predictions.argmax(-1) == p.label_ids).mean())}}
"""
CLASSIFIES = """
model = tiny.bert()
data = rows(model, 26)
trainer = Trainer(
    model, arguments(), train_dataset=data[:16], eval_dataset=data[16:], compute_metrics=accuracy
)
trainer.train()
"""


def comparison(folder: Path, **more: Any) -> Comparison:
    """Return a comparison of ``folder/train.py``."""
    asked: dict[str, Any] = {
        "command": ("train.py",),
        "module": False,
        "folder": str(folder),
        "candidates": ("lora r=4",),
        "baseline": "lora r=4",
        "key": KEY,
    }
    return Comparison(**(asked | more))


def ran(
    folder: Path,
    code: str,
    candidate: str = "lora r=4",
    *,
    lr: float | None = None,
    seed: int = 1,
    go_on: Callable[[float, float], bool] = lambda epoch, value: True,
    **more: Any,
) -> Result:
    """Run code as a cell of a comparison whose folder is ``folder/DIR``; return its result."""
    folder.mkdir(exist_ok=True, parents=True)
    (folder / "train.py").write_text(BEGIN + code)
    cell = Cell(candidate, lr, seed)
    return run_cell(comparison(folder, **more), cell, place(folder, cell), go_on=go_on)


def place(folder: Path, cell: Cell) -> Path:
    """Return the folder of a cell."""
    return folder / "DIR" / "cells" / cell.id
