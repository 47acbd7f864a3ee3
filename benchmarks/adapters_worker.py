"""Take steps of full fine-tuning and of a bottleneck adapter with the library ``adapters``.

Runs in an environment of its own (``make .venv/adapters/installed``), whose transformers is older
than ftplug's. Builds the kinds that it is given, in this order; for each line on stdin, ``full`` or
``bottleneck``, it takes one step and answers with its CPU seconds.
"""

from __future__ import annotations

import os
import sys
import time
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is loaded

import adapters
import torch
from adapters import AdapterTrainer, DoubleSeqBnConfig
from steps import held, model, trainer
from transformers import Trainer
from transformers.utils import logging


def bottleneck(folder: str) -> Trainer:
    """Return adapters after attention and feed-forward, a sixteenth as wide (Houlsby)."""
    adapted: Any = model()
    adapters.init(adapted)
    adapted.add_adapter("houlsby", config=DoubleSeqBnConfig(reduction_factor=16))
    adapted.train_adapter("houlsby")
    for name, parameter in adapted.named_parameters():  # train_adapter leaves the head frozen
        parameter.requires_grad_(parameter.requires_grad or name.startswith("classifier"))
    return trainer(adapted, folder, AdapterTrainer)


def full(folder: str) -> Trainer:
    """Return full fine-tuning, by the same Trainer as everybody's."""
    return trainer(model(), folder)


KINDS = {"full": full, "bottleneck": bottleneck}


def main() -> None:
    """Serve steps until stdin ends."""
    torch.set_num_threads(1)
    logging.set_verbosity_error()
    kinds = sys.argv[1:]
    with held([KINDS[kind] for kind in kinds]) as running:
        steps = dict(zip(kinds, running, strict=True))
        for line in sys.stdin:
            start = time.process_time()
            steps[line.strip()]()
            print(time.process_time() - start, flush=True)


if __name__ == "__main__":
    main()
