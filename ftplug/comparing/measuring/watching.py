"""A Trainer whose script runs as a cell: what it trains on, evaluates and leaves is noted.

Of the Trainer's methods some are replaced on the instance, by ones that call them and look.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ftplug.comparing.measuring import metrics as named
from ftplug.comparing.measuring import sets
from ftplug.comparing.measuring.ending import Ended
from ftplug.comparing.measuring.evaluations import Evaluation
from ftplug.comparing.measuring.examples import contents, digest
from ftplug.comparing.measuring.hints import could_cache
from ftplug.comparing.measuring.sizes import Batches, batch_rows, fresh_digest
from ftplug.comparing.measuring.timed import Moment, Timed
from ftplug.frames import trainer_in_construction

if TYPE_CHECKING:
    from torch import nn

    from ftplug.training.run import Run

GoOn = Callable[[float, float], bool]
_REPLACED = ("evaluation_loop", "prediction_step", "training_step")


class Watching(TrainerCallback):
    """Watches one Trainer. ``at_train_end`` is called once it has trained, weights final."""

    def __init__(
        self,
        asked: str | None,
        go_on: GoOn,
        at_train_end: Callable[[Watching], None],
        more: bool | None = None,
    ) -> None:
        self.asked, self.go_on, self.at_train_end = asked, go_on, at_train_end
        self.more = more  # whether more of the metric is better, where the comparison says so
        self.trainer: Trainer | None = None
        self.trained = 0  # calls of train() that ended
        self.metric: str | None = None
        self.greater_is_better = True
        self.begins_as: dict[str, Any] = {}  # what is known of a run before its first step
        self.final_step = 0  # of the weights that training left
        self._forget()

    def _forget(self) -> None:
        """Begin anew: of several calls of train() the last counts."""
        self.timed, self.batches = Timed(), Batches()
        self.evaluations: list[Evaluation] = []
        self.is_training = False
        self.first_batch: set[bytes] = set()  # digests of the first examples that it trains on
        self._loop: Evaluation | None = None  # that runs, or ran last and is not reported yet

    @property
    def run(self) -> Run:
        """The methods' run of the Trainer."""
        return cast("Run", self.trainer.ftplug)  # type: ignore[union-attr]

    @property
    def has_begun(self) -> bool:
        """Whether it trains, or has."""
        return self.is_training or self.trained > 0

    # Events.

    def on_init_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Note the Trainer, and look at what it does from now on."""
        self.trainer = trainer_in_construction(self)
        for name in _REPLACED:
            function = getattr(self, f"_{name}")
            self.trainer.__dict__[name] = _passing(function, getattr(self.trainer, name))

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Start the clock."""
        if state.global_step:
            raise Ended(
                "failed",
                f"the script resumed a checkpoint of step {state.global_step}: let it write to "
                "{cell}, a folder of each cell's own",
            )
        self._forget()
        attached, model = self.run.attached, self.run.model
        self.begins_as = {
            "fresh": fresh_digest(model, attached),
            "methods": attached.host.spec(),
            "trained_parameters": attached.plan.trained_count(model),
            "total_parameters": attached.base.total,
            "could_cache": could_cache(self.run, state.num_train_epochs),
        }
        self.is_training = True
        self.timed.began = Moment()

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Stop the clock."""
        self.timed.ended = Moment()
        self.is_training = False
        self.trained += 1
        restored = self.run.measured.restored
        self.final_step = restored[0] if restored else state.global_step
        self.at_train_end(self)

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Take what was measured, choose the metric, and end a cell that need not go on."""
        self._reported("eval", kwargs.get("metrics") or {})

    def on_predict(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: Any,
        **kwargs: Any,
    ) -> None:
        """Take what was measured; predictions without labels measure nothing."""
        self._reported("test", metrics or {})

    def _reported(self, prefix: str, reported: dict[str, Any]) -> None:
        found, self._loop = self._loop or self._begun(prefix, predicts=prefix == "test"), None
        found.reported(reported)
        if not found.metrics:
            return
        self._tell_sets_apart(found)
        self.evaluations.append(found)
        if found.elsewhere:
            return
        if self.metric is None:
            self._choose(found)
        if self.metric in found.metrics and self.is_training and found.step:
            self._judge(found, found.metrics[self.metric])

    def _tell_sets_apart(self, found: Evaluation) -> None:
        assert self.trainer is not None
        earlier, itself = self.evaluations, self.run.measured.is_on_training_data
        found.is_training = sets.is_training_set(found, self.first_batch, itself=itself)
        if found.elsewhere:
            own = sets.is_evaluation_set(found, earlier)
            if self.trainer.eval_dataset is None:
                own = (own and not found.is_training) or sets.stands_for_it(found, earlier)
            found.elsewhere = not own
        known = found.is_training or sets.is_part_of_it(found, earlier)
        found.is_test = found.elsewhere and found.after and not known

    def _choose(self, found: Evaluation) -> None:
        assert self.trainer is not None
        name = named.asked_for(self.asked, self.trainer.args)
        if name is None:
            computes = self.trainer.compute_metrics is not None
            computes = computes or getattr(self.trainer, "evaluator", None) is not None
            name = named.first_computed(found.metrics, computes=computes)
        if name in found.metrics:
            self.metric = name
            self.greater_is_better = named.greater_is_better(name, self.trainer.args, self.more)
        elif not isinstance(self.trainer.eval_dataset, dict):
            raise Ended("failed", unknown(name, found.metrics))

    def _judge(self, found: Evaluation, value: float) -> None:
        epoch = float(found.epoch or 0)
        if not math.isfinite(value):
            others = [name for name, other in found.metrics.items() if math.isfinite(other)]
            way_out = f": --metric may name another ({', '.join(others[:3])})" if others else ""
            raise Ended("diverged", f"{self.metric} is {value} after epoch {epoch:g}{way_out}")
        if not self.go_on(epoch, value if self.greater_is_better else -value):
            raise Ended("pruned", f"stopped after epoch {epoch:g}")

    # What the Trainer does.

    def _begun(self, prefix: str, *, predicts: bool) -> Evaluation:
        assert self.trainer is not None
        run, state = getattr(self.trainer, "ftplug", None), self.trainer.state
        elsewhere = predicts or bool(run and run.measured.is_elsewhere)
        name = self.metric or named.asked_for(self.asked, self.trainer.args)
        no_metrics = self.trainer.compute_metrics is None
        return Evaluation(
            prefix=prefix,
            step=state.global_step,
            epoch=state.epoch,
            elsewhere=elsewhere,
            after=self.trained > 0 and not self.is_training,
            predicts=predicts,
            labels=tuple(self.trainer.label_names or ()),
            divides_loss=named.is_loss(name) if name else no_metrics,
        )

    def _evaluation_loop(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        given = inspect.signature(original).bind_partial(*args, **kwargs).arguments
        for earlier in self.evaluations:
            if not earlier.after:
                earlier.drop()
        predicts = given.get("description") == "Prediction"
        self._loop = loop = self._begun(given.get("metric_key_prefix", "eval"), predicts=predicts)
        try:
            with self.timed.evaluating(in_training=self.is_training), self._captured(loop):
                return original(*args, **kwargs)
        finally:
            if not loop.after:
                loop.keep()

    @contextmanager
    def _captured(self, loop: Evaluation) -> Iterator[None]:
        """Note what ``compute_metrics`` is given, once for all predictions."""
        trainer = self.trainer
        assert trainer is not None
        compute = loop.compute = trainer.compute_metrics
        if compute is None:
            yield
            return

        def note(prediction: Any, *args: Any, **kwargs: Any) -> Any:
            if not trainer.args.batch_eval_metrics:
                loop.prediction = prediction
            return compute(prediction, *args, **kwargs)

        trainer.compute_metrics = note
        try:
            yield
        finally:
            trainer.compute_metrics = compute

    def _prediction_step(
        self, original: Callable[..., Any], model: Any, inputs: Any, *args: Any, **kwargs: Any
    ) -> Any:
        if (loop := self._loop) is None:
            return original(model, inputs, *args, **kwargs)
        rows = batch_rows(inputs)
        loop.sees(inputs, rows)
        labels = inputs.get(loop.labels[0]) if loop.labels and hasattr(inputs, "get") else None
        with _outputs_of(model, wanted=loop.divides_loss) as outputs:
            answer = original(model, inputs, *args, **kwargs)
            loss = answer[0] if isinstance(answer, tuple) else None
            loop.divides(loss, outputs[0] if outputs else None, labels, rows)
        return answer

    def _training_step(
        self, original: Callable[..., Any], model: Any, inputs: Any, *args: Any, **kwargs: Any
    ) -> Any:
        if not self.batches.samples and (rows := batch_rows(inputs)) and hasattr(inputs, "items"):
            labels = tuple(self.trainer.label_names or ()) if self.trainer else ()
            self.first_batch = {digest(one) for one in contents(inputs, rows, labels)}
        self.batches.count(inputs)
        return original(model, inputs, *args, **kwargs)


@contextmanager
def _outputs_of(model: nn.Module, *, wanted: bool) -> Iterator[list[Any]]:
    """Yield what the model answers within the block; a Trainer may keep it to itself."""
    outputs: list[Any] = []
    if not wanted:
        yield outputs
        return

    def keep_last(module: nn.Module, given: Any, output: Any) -> None:
        outputs[:] = [output]

    hook = model.register_forward_hook(keep_last)
    try:
        yield outputs
    finally:
        hook.remove()
        outputs.clear()


def _passing(function: Callable[..., Any], original: Callable[..., Any]) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        return function(original, *args, **kwargs)

    call.__signature__ = inspect.signature(original)  # type: ignore[attr-defined]
    return call


def unknown(name: str | None, found: dict[str, float]) -> str:
    """Say that there is no such metric, and which there are."""
    named = ", ".join(sorted(found)) or "none at all"
    return f"the script's evaluation has no metric {name!r}: there is {named}"
