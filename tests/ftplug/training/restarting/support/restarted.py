"""Somebody's script, which knows nothing of restarts: ``restarted.py OUT``.

``--strike STEP:HOW:RANK`` once comes down on a process at the end of a step: by a signal, or, with
``error``, by an exception. What the script ends with is written beside OUT.
"""

import argparse
import os
import signal
from pathlib import Path
from typing import Any

import kills
import runs
import tiny
from transformers import TrainerCallback


class Strike(TrainerCallback):
    """Comes down once: a file beside the run's folder says that it has."""

    def __init__(self, out: Path, where: str) -> None:
        self.step, self.how, self.rank = where.split(":")
        self.mark = kills.beside(out, ".struck")

    def on_step_end(self, args, state, control, **kwargs):
        here = (str(state.global_step), str(args.process_index)) == (self.step, self.rank)
        if not here or self.mark.exists():
            return
        self.mark.touch()
        if self.how == "error":
            raise RuntimeError("struck")
        os.kill(os.getpid(), getattr(signal, self.how))


def build(options: argparse.Namespace):
    engine: dict[str, Any] = {"use_cpu": True}
    if options.zero:
        import zero_ranks

        engine = zero_ranks.options(options.zero)
    strikes = [Strike(options.out, options.strike)] if options.strike else []
    return runs.trainer(
        tiny.bert(dropout=options.dropout),
        options.out,
        callbacks=strikes,
        max_steps=options.steps,
        save_steps=options.save,
        save_strategy="steps" if options.save else "no",
        per_device_train_batch_size=options.batch,
        gradient_accumulation_steps=options.accumulate,
        **engine,
        **({"ddp_timeout": kills.TIMEOUT} if "WORLD_SIZE" in os.environ else {}),
    )


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser()
    made.add_argument("out", type=Path)
    made.add_argument("--steps", type=int, default=8)
    made.add_argument("--save", type=int, default=2)
    made.add_argument("--batch", type=int, default=4)
    made.add_argument("--accumulate", type=int, default=1)
    made.add_argument("--dropout", type=float, default=0.1)
    made.add_argument("--strike")
    made.add_argument("--zero", type=int, default=0, help="DeepSpeed's stage")
    made.add_argument("--resume")
    return made


def main() -> None:
    options = parser().parse_args()
    trainer = build(options)
    trainer.train(resume_from_checkpoint=options.resume)
    if options.zero:
        import zero_ranks

        zero_ranks.require_engine(trainer, options.zero)
    kills.result(trainer, options.out, kills.end_name(trainer.args.process_index))


if __name__ == "__main__":
    main()
