"""``ftplug run``: run somebody's script unmodified, with a method in every Trainer it builds."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from multiprocessing.util import Finalize
from pathlib import Path
from typing import Any, ClassVar

from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import CallbackHandler

from ftplug import __version__
from ftplug.artifacts.author import Author
from ftplug.artifacts.loading import manifest_of
from ftplug.artifacts.methods import methods_of
from ftplug.artifacts.registries import artifact_folder
from ftplug.attaching import script_adapters
from ftplug.attaching.sharding import local_parameters
from ftplug.base.fingerprint import sample
from ftplug.errors import FtplugError, MethodError
from ftplug.files.write_errors import stated_write_errors
from ftplug.frames import calling_object, trainer_in_construction
from ftplug.host import Host
from ftplug.method import Method
from ftplug.training import record
from ftplug.training.binding import FTPlugCallback, bind_at_train
from ftplug.training.checkpoint_folder import make_output_dir
from ftplug.training.facts.launched import script_facts
from ftplug.training.launchers import watched_processes
from ftplug.training.restarting.going_on import Restarts
from ftplug.training.run import LearningRateChoice
from ftplug.training.running.as_main import print_from_script, run_as_main
from ftplug.training.running.dry_run import dry_run_text
from ftplug.training.running.reporting import write_report
from ftplug.training.running.seeding import seed_order, seed_script, seed_trainer
from ftplug.training.running.telling import Records, told, wait_for_children

_TOLD = (  # to the processes that a script starts; and what Restarts says of itself
    "train_head", "lr", "start_from", "dry_run", "check_finite", "author", "drop_peft_config",
    "seed", "probe",
)  # fmt: skip


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
    probe: bool = True
    author: Author = field(default_factory=Author)
    drop_peft_config: bool = False
    seed: int | None = None
    seed_arg: str | None = None
    restarts: Restarts = field(default_factory=Restarts)
    script: dict[str, Any] = field(default_factory=dict)
    callbacks: list[LaunchedCallback] = field(default_factory=list)
    trainers: int = 0
    records: Records = field(default_factory=Records)
    process: int = field(default_factory=os.getpid)

    reaches_children: ClassVar[bool] = True

    def run(self, command: Sequence[str], *, module: bool = False) -> None:
        """Run ``SCRIPT ARGS…`` (or ``MODULE ARGS…``) as ``__main__``; its exit is passed on.

        Trainers of the processes that it starts get the methods too, and count.
        """
        # The script may change the working directory: what is relative now is relative to this one.
        report = self.report.resolve() if self.report else None
        self.script = script_facts(command, module=module)
        if self.start_from:
            self.start_from = str(artifact_folder(self.start_from).resolve())
        if self.seed is not None:
            command = seed_script(command, self.seed, self.seed_arg)

        sys.excepthook = print_from_script
        with ExitStack() as within:
            if self.reaches_children:
                self.records = within.enter_context(told(self._for_children()))
            try:
                self._run_script(command, module=module)
            finally:
                if report is not None and int(os.environ.get("RANK", "0")) == 0:
                    self._report(report, command)

    def _run_script(self, command: Sequence[str], *, module: bool) -> None:
        with ExitStack() as within:
            watched = watched_processes(command[0], reached=self.reaches_children)
            started = within.enter_context(watched)
            within.enter_context(_in_every_trainer(self))
            if self.drop_peft_config:
                within.enter_context(script_adapters.left_out())
            try:
                run_as_main(command, module=module)
            except SystemExit as done:
                self._end_of_script(command[0], started, done.code)
                raise
            self._end_of_script(command[0], started, None)

    def before_a_trainer(self, trainer: Any, callbacks: Sequence[Any]) -> Sequence[Any]:
        """Return the callbacks that a Trainer in construction gets beside ours."""
        return callbacks

    def callbacks_of_a_trainer(self) -> list[TrainerCallback]:
        """Return what a Trainer that the script builds is given."""
        return [LaunchedCallback(self)]

    @property
    def is_in_child(self) -> bool:
        """Whether this is another process than the script's own: one that it started or forked."""
        return os.getpid() != self.process

    def _for_children(self) -> dict[str, Any]:
        options = {name: getattr(self, name) for name in _TOLD}
        options["restarts"] = self.restarts.options()
        return {"version": __version__, "methods": Host(self.methods).spec(), "options": options}

    def _end_of_script(self, name: str, started: Sequence[str], code: str | int | None) -> None:
        """Refuse a run that trained nowhere, or not in a child; a code of the script's own stays.

        ``sys.exit()`` and ``sys.exit(None)`` give none: that is how a script ends that is done.
        """
        if self.is_in_child:
            return
        wait_for_children(self.records)
        records = self.records.read()
        if code:
            return
        if reason := next((r["refused"] for r in records if r["refused"]), None):
            raise MethodError(f"{name}: a process that it started was refused: {reason}")
        if code is None and not self.trainers and not records:
            others = f"; it started another Python: {started[0]}" if started else ""
            raise MethodError(
                f"{name} built no transformers Trainer: no method was applied{others}"
            )

    def _report(self, path: Path, command: Sequence[str]) -> None:
        if self.is_in_child:
            return
        runs = [callback.summary() for callback in self.callbacks]
        runs += [record["summary"] for record in self.records.read()]
        with stated_write_errors(path):
            write_report(path, {"command": list(command), "runs": [run for run in runs if run]})


class LaunchedCallback(FTPlugCallback):
    """The callback of ``ftplug run``: it reports, and ends a dry run before the first step."""

    def __init__(self, launch: Launch) -> None:
        super().__init__(
            *launch.methods,
            train_head=launch.train_head,
            lr=launch.lr,
            start_from=launch.start_from,
            check_finite=launch.check_finite,
            probe=launch.probe,
        )
        self.run.without_adapters = script_adapters.way_out(launch.drop_peft_config)
        self.run.told = launch.author
        self.run.restarts = launch.restarts
        self.run.measured.script = launch.script
        self.launch = launch
        self.dry_run = launch.dry_run
        self.before: dict[str, Any] = {}
        self.last: dict[str, Any] = {}
        self.refused: str | None = None
        self.is_noted = False
        launch.callbacks.append(self)
        launch.trainers += 1
        self.note(ended=False)
        if launch.is_in_child:
            Finalize(None, self.note, kwargs={"ended": True}, exitpriority=0)

    def note(self, *, ended: bool) -> None:
        """Leave a record for the run, in a process that its script started, until it is ended."""
        if self.launch.is_in_child and not self.is_noted:
            self.launch.records.write(
                id(self), ended=ended, refused=self.refused, summary=self.last
            )
            self.is_noted = ended

    def bind(self, trainer: Trainer) -> None:
        """Note what is refused, too."""
        try:
            if self.launch.seed is not None:
                seed_trainer(trainer, self.launch.seed)
            super().bind(trainer)
        except FtplugError as error:
            self.refused = str(error)
            self.note(ended=True)
            raise

    def on_init_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Leave a Trainer that only evaluates as it is: it measures a model, it trains none.

        One without training data may still make its own, or be given it later.
        """
        trainer = trainer_in_construction(self)
        script_adapters.forget(trainer.model)
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

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Let the order of the data follow from the seed."""
        if self.launch.seed is not None:
            seed_order(kwargs["train_dataloader"], self.launch.seed, int(state.epoch or 0))

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Keep what there is to report, for when the script drops its Trainer."""
        super().on_train_end(args, state, control, **kwargs)
        self.last = self.summary() if state.is_world_process_zero else {}
        self.note(ended=True)

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


@contextmanager
def _in_every_trainer(launch: Launch) -> Iterator[None]:
    """Give every Trainer that is built a callback, whatever a package makes the default ones."""
    before = CallbackHandler.__init__
    init = getattr(before, "ftplug_init", before)  # of a run whose script started this one

    @functools.wraps(init)
    def init_with_ours(self: Any, callbacks: Any, *args: Any, **kwargs: Any) -> None:
        trainer = calling_object()
        callbacks = launch.before_a_trainer(trainer, callbacks)
        make_output_dir(trainer)
        init(self, [*launch.callbacks_of_a_trainer(), *callbacks], *args, **kwargs)

    CallbackHandler.__init__ = init_with_ours  # type: ignore[method-assign]
    try:
        yield
    finally:
        CallbackHandler.__init__ = before  # type: ignore[method-assign]
