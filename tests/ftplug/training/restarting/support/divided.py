"""A run without dropout that one process or two may train, resume and go on with."""

from __future__ import annotations

import copy
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import ranks
from transformers import TrainerCallback

import ftplug
from ftplug.attaching.sharding import optimizer_state
from ftplug.testing.compare import base_model
from ftplug.testing.run import tiny_trainer
from ftplug.training.restarting.going_on import Restarts

STEPS, CHECKPOINT = 7, 3  # of two steps an epoch: the checkpoint is in the middle of one


class Begins(TrainerCallback):
    """Keeps what a run begins with."""

    found: dict[str, Any]

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.found = {
            "step": state.global_step,
            "weights": ranks.whole(kwargs["model"]),
            "optimizer": copy.deepcopy(optimizer_state(kwargs["optimizer"])),
        }


def run(out: Path, *, resume: bool = False, sharded: bool = False, **options: Any) -> Any:
    """Train; return what the run began with and the weights that it ended with."""
    defaults = {"max_steps": STEPS, "save_steps": CHECKPOINT, "learning_rate": 1e-2}
    with ranks.as_if_on_gpus() if sharded else nullcontext():
        if sharded:
            options |= ranks.sharded_options(transformer_layer_cls_to_wrap=["LlamaDecoderLayer"])
        rows = options.pop("rows", list)
        allowed = options.pop("allow_batch_change", False)
        made = tiny_trainer(base_model("llama"), out, **(ranks.KEEPS_LAST | defaults | options))
        made.train_dataset = rows(made.train_dataset)
        ftplug.attach(made, "lora", r=4, allow_batch_change=allowed)
        made.ftplug.restarts.resume = Restarts("auto").resume if resume else None
        made.add_callback(begins := Begins())
        made.train()
        return begins.found, ranks.whole(made.model)
