"""``ftplug run``: run somebody's script unmodified, with a method in every Trainer it builds."""

from __future__ import annotations

import functools
import json
import os
import runpy
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import CallbackHandler

from ftplug.artifacts.loading import manifest_of, methods_of
from ftplug.artifacts.registries import artifact_folder
from ftplug.attaching.reach import towers
from ftplug.attaching.sharding import local_parameters
from ftplug.base.fingerprint import sample
from ftplug.errors import FtplugError, MethodError
from ftplug.files.staged import replace_file, stated_write_errors
from ftplug.frames import trainer_in_construction
from ftplug.method import Method
from ftplug.training import record
from ftplug.training.binding import FTPlugCallback, bind_at_train
from ftplug.training.launchers import watched_processes
from ftplug.training.run import LearningRateChoice, Run


@dataclass
class Launch:
    """One ``ftplug run``: the methods for every Trainer of a script, and what became of them."""

    methods: Sequence[Method]
    train_head: bool = True
    lr: LearningRateChoice = None
    start_from: str | None = None
    dry_run: bool = False
    report: Path | None = None
    check_finite: bool = True
    callbacks: list[LaunchedCallback] = field(default_factory=list)
    trainers: int = 0

    def run(self, command: Sequence[str], *, module: bool = False) -> None:
        """Run ``SCRIPT ARGS…`` (or ``MODULE ARGS…``) as ``__main__``; its exit is passed on."""
        # The script may change the working directory: what is relative now is relative to this one.
        report = self.report.resolve() if self.report else None
        if self.start_from:
            self.start_from = str(artifact_folder(self.start_from).resolve())

        sys.excepthook = _print_from_script
        watched = watched_processes(command[0], lambda: self.trainers > 0)
        try:
            with watched as started, _in_every_trainer(self):
                _run_as_main(command, module=module)
            self._require_a_trainer(command[0], started)
        except SystemExit as done:
            if not done.code:
                self._require_a_trainer(command[0], started)
            raise
        finally:
            if report is not None and int(os.environ.get("RANK", "0")) == 0:
                runs = [summary for callback in self.callbacks if (summary := callback.summary())]
                with stated_write_errors(report):
                    write_report(report, {"command": list(command), "runs": runs})

    def callbacks_of_a_trainer(self) -> list[TrainerCallback]:
        """Return what a Trainer that the script builds is given."""
        return [LaunchedCallback(self)]

    def _require_a_trainer(self, name: str, started: Sequence[str]) -> None:
        if not self.trainers:
            others = f"; it started another Python: {started[0]}" if started else ""
            raise MethodError(
                f"{name} built no transformers Trainer: no method was applied{others}"
            )


class LaunchedCallback(FTPlugCallback):
    """The callback of ``ftplug run``: it reports, and ends a dry run before the first step."""

    def __init__(self, launch: Launch) -> None:
        super().__init__(
            *launch.methods,
            train_head=launch.train_head,
            lr=launch.lr,
            start_from=launch.start_from,
            check_finite=launch.check_finite,
        )
        self.dry_run = launch.dry_run
        self.before: dict[str, Any] = {}
        self.last: dict[str, Any] = {}
        launch.callbacks.append(self)
        launch.trainers += 1

    def on_init_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Leave a Trainer that only evaluates as it is: it measures a model, it trains none.

        One without training data may still make its own, or be given it later.
        """
        trainer = trainer_in_construction(self)
        if trainer.train_dataset is not None:
            super().on_init_end(args, state, control, **kwargs)
        else:
            bind_at_train(trainer, self)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Note the values before training; a dry run prints its plan and exits with 0."""
        super().on_train_begin(args, state, control, **kwargs)
        if self.dry_run:
            if state.is_world_process_zero:
                print(dry_run_text(self.run, args))
            raise SystemExit(0)
        if not self.before:
            self.before = self._samples()

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Keep what there is to report, for when the script drops its Trainer."""
        super().on_train_end(args, state, control, **kwargs)
        self.last = self.summary()

    def summary(self) -> dict[str, Any]:
        """Return what this Trainer trained and measured, as JSON values; nothing if unused."""
        trainer = self.run.trainer
        if trainer is None or trainer.model is None:
            return self.last
        attached = self.run.attached
        after = self._samples() if self.before else {}
        moved = sum(not self.before[name].equal(after[name]) for name in after)
        model = self.run.model
        return {
            "trainer": type(trainer).__name__,
            "model": attached.context.model_class,
            "base": {"id": attached.base.id, "revision": attached.base.revision},
            "methods": attached.host.spec(),
            "parameters": {
                "trained": attached.plan.trained_count(model),
                "total": attached.base.total,
            },
            "tensors": {"may_train": len(attached.plan.may_train), "moved": moved},
            "training": record.training_facts(trainer, self.run.measured),
            "log_history": trainer.state.log_history,
        }

    def _samples(self) -> dict[str, Any]:
        live = local_parameters(self.run.model)  # of shards, this process's own
        return {name: sample(live[name]) for name in self.run.attached.plan.may_train}


def methods_from(start_from: str) -> list[Method]:
    """Return the methods an artifact was made with: what ``--from`` alone continues."""
    directory = artifact_folder(start_from)
    return methods_of(manifest_of(directory), directory)


def _run_as_main(command: Sequence[str], *, module: bool) -> None:
    """Do what ``python SCRIPT`` or ``python -m MODULE`` does, in this process."""
    name, path, argv = command[0], sys.path[0], sys.argv
    sys.argv = list(command)
    try:
        if module:
            sys.path[0] = os.getcwd()
            runpy.run_module(name, run_name="__main__", alter_sys=True)
            return
        script = Path(name)
        if not script.is_file():
            raise FtplugError(f"no script at {name}: ftplug run … -- SCRIPT ARGS (or -m MODULE)")
        sys.path[0] = str(script.resolve().parent)
        runpy.run_path(os.path.abspath(name), run_name="__main__")  # as __file__ is to python
    except ImportError as error:
        if module and name.partition(".")[0] in str(error) and "No module named" in str(error):
            raise FtplugError(f"no module named {name}: {error}") from error
        raise
    finally:
        sys.path[0], sys.argv = path, argv


@contextmanager
def _in_every_trainer(launch: Launch) -> Iterator[None]:
    """Give every Trainer that is built a callback, whatever a package makes the default ones."""
    init = CallbackHandler.__init__

    @functools.wraps(init)
    def init_with_ours(self: Any, callbacks: Any, *args: Any, **kwargs: Any) -> None:
        ours = launch.callbacks_of_a_trainer()
        init(self, [*ours, *callbacks], *args, **kwargs)  # type: ignore[no-untyped-call]

    CallbackHandler.__init__ = init_with_ours  # type: ignore[method-assign]
    try:
        yield
    finally:
        CallbackHandler.__init__ = init  # type: ignore[method-assign]


def _print_from_script(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    """Print a script's traceback as ``python SCRIPT`` would, without the launcher's frames."""
    start, frame = trace, trace
    while frame is not None and frame.tb_frame.f_code is not _run_as_main.__code__:
        frame = frame.tb_next
    while frame is not None and frame.tb_frame.f_globals.get("__name__") in (__name__, "runpy"):
        start = frame = frame.tb_next
    sys.__excepthook__(kind, error.with_traceback(start), start)


def write_report(path: Path, content: dict[str, Any]) -> None:
    """Write the report; it appears complete or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, (json.dumps(content, indent=2, default=str) + "\n").encode("utf-8"))


def dry_run_text(run: Run, args: TrainingArguments) -> str:
    """Return the plan of a run: targets, trained parameters, memory without activations."""
    attached, model = run.attached, run.model
    live = dict(model.named_parameters())
    trained = {name: live[name] for name in attached.plan.may_train}
    count, total = sum(p.numel() for p in trained.values()), attached.base.total
    weights = sum(p.numel() * p.element_size() for p in live.values())
    gradients = sum(p.numel() * p.element_size() for p in trained.values())
    mib = 2**20
    lines = [
        f"ftplug dry run: {attached.host.names} on {attached.context.model_class}",
        f"  trains {count:,} of {total:,} parameters ({count / total:.2%}) "
        f"in {len(trained)} tensors",
        *(f"    {name} {tuple(p.shape)}" for name, p in list(trained.items())[:8]),
    ]
    if len(trained) > 8:
        lines.append(f"    … and {len(trained) - 8} more")
    lines += [f"  in {part}: {n} tensors" for part, n in towers(model, attached.plan).items()]
    lines += [
        f"  learning rate {args.learning_rate:g}, optimizer {getattr(args.optim, 'value', '')}",
        f"  memory without activations: weights {weights / mib:,.1f} MiB, gradients "
        f"{gradients / mib:,.1f} MiB, two optimizer moments {2 * gradients / mib:,.1f} MiB",
        "  stopped before the first step",
    ]
    return "\n".join(lines)
