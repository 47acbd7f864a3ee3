"""One run in two halves: what a resumed run must equal to the last bit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from runs import StopAt, same, trainer, weights
from transformers import Trainer

import ftplug


def straight_and_resumed(
    make: Callable[[], Any], out: Path, *methods: Any, stop: int = 10, **options: Any
) -> tuple[Trainer, Trainer]:
    """Train 20 steps, and ``stop`` steps resumed by another Trainer to 20; return both Trainers."""
    straight = ftplug.attach(trainer(make(), out / "a", **options), *methods)
    straight.train()
    interrupted = trainer(make(), out / "b", callbacks=[StopAt(stop)], **options)
    ftplug.attach(interrupted, *methods).train()
    assert interrupted.state.global_step == stop
    resumed = ftplug.attach(trainer(make(), out / "b", **options), *methods)
    resumed.train(resume_from_checkpoint=True)
    assert resumed.state.global_step == straight.state.global_step
    assert not same(weights(resumed.model), weights(interrupted.model))
    return straight, resumed
