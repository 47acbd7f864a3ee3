"""A script that sends itself a signal: ``interrupted.py OUT SIGNAL training|saving|artifact``."""

import sys
from pathlib import Path

import kills
import runs
import tiny
from transformers import TrainerCallback

out, name, where = Path(sys.argv[1]), *sys.argv[2:]


class AtStep(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == 3 and where == "training":
            kills.interrupt(name)


kills.quiet()
trainer = runs.trainer(tiny.bert(dropout=0.1), out, callbacks=[AtStep()], max_steps=6, save_steps=2)
if where == "saving":
    kills.arm(trainer, out, save=2, change=6, action=name)
trainer.train(resume_from_checkpoint=True if kills.last(out) else None)
kills.result(trainer, out)
interruption = kills.Interrupt(out, 7, name)
interruption.armed = where == "artifact"
trainer.save_model()
interruption.armed = False
