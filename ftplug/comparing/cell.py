"""A cell of a comparison: the script, run in this process with one candidate, and measured."""

from __future__ import annotations

import dataclasses
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from transformers import Trainer, TrainerCallback
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK
from transformers.trainer_utils import IntervalStrategy

from ftplug.artifacts.author import named_by_author
from ftplug.artifacts.saving import annotate, save
from ftplug.comparing.candidates import parse
from ftplug.comparing.comparison import Comparison
from ftplug.comparing.folder import ARTIFACT, OUTPUT
from ftplug.comparing.measuring.ending import Ended, exit_reason, status_of
from ftplug.comparing.measuring.forgetting import mean_divergence, not_measured
from ftplug.comparing.measuring.gathering import gather_course, gather_measured, gather_trained
from ftplug.comparing.measuring.retained import retained_text
from ftplug.comparing.measuring.watching import GoOn, Watching
from ftplug.comparing.results import Cell, Result
from ftplug.errors import FtplugError
from ftplug.training.record import training_facts
from ftplug.training.running import alone
from ftplug.training.running.as_main import print_from_script
from ftplug.training.script import Launch


def run_cell(
    comparison: Comparison, cell: Cell, folder: Path, *, go_on: Callable[[float, float], bool]
) -> Result:
    """Run the script as a cell, in this process; return how it ended and what was measured.

    ``folder`` is ``DIR/cells/ID``: the Trainer's output, the artifact and the outcomes go there,
    and ``{cell}`` in the script's arguments stands for it, ``{seed}`` for the seed. ``go_on`` is
    asked after each evaluation by epoch, with the epoch and the metric turned so that more is
    better; where it says no the cell ends as ``pruned``.

    Whatever the script does ends in a result; a KeyboardInterrupt passes. What it printed, and its
    traceback, are on the process's own streams. ``train_seconds`` are those of ``train()`` without
    evaluations (``train_cpu_seconds`` of the processor, all threads), ``evaluation_seconds`` those
    of all evaluations, ``start_seconds`` those from this call until training begins. ``peak_rss``
    is the process's. Raises :class:`FtplugError` where this is one of several processes.
    """
    if alone.number(os.environ, "WORLD_SIZE") > 1:
        raise FtplugError("compare runs a cell in one process: start it without a launcher")
    began = time.perf_counter()
    result = Result(**dataclasses.asdict(cell), status="failed")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        launch = _launch(comparison, cell, folder.resolve(), go_on, result)
    except (FtplugError, OSError) as error:
        result.status, result.reason = status_of(error)
        return result
    command = [_filled(word, launch.folder, cell.seed) for word in comparison.command]
    with _in_folder(comparison.folder):
        result.status, result.reason = _ran(launch, command, module=comparison.module)
    if watched := launch.trained:
        gather_course(result, watched)
        if watched.has_begun:
            result.start_seconds = watched.timed.began.clock - began
    return result


@dataclass
class CellLaunch(Launch):
    """A launch that measures, and lets the script write into the cell's folder alone."""

    comparison: Comparison = field(kw_only=True)
    folder: Path = field(kw_only=True)
    go_on: GoOn = field(kw_only=True)
    result: Result = field(kw_only=True)
    watched: list[Watching] = field(default_factory=list)

    reaches_children: ClassVar[bool] = False  # what trains elsewhere is not measured

    def before_a_trainer(self, trainer: Any, callbacks: Sequence[Any]) -> Sequence[Any]:
        """Keep what a Trainer writes and tells within the cell; let it evaluate by epoch."""
        args = getattr(trainer, "args", None)
        if not isinstance(trainer, Trainer) or args is None:
            return callbacks
        output = str(self.folder / OUTPUT)
        if args.output_dir != output:
            with suppress(OSError, TypeError):  # the Trainer makes it, and a script may write there
                os.makedirs(args.output_dir, exist_ok=True)
            args.output_dir = output
            self.note("args.output_dir is a folder of the cell's own")
        if args.push_to_hub:
            args.push_to_hub = False
            self.note("args.push_to_hub is off")
        if args.eval_strategy == IntervalStrategy.NO and trainer.eval_dataset is not None:
            args.eval_strategy = IntervalStrategy.EPOCH
            self.note("args.eval_strategy is 'epoch', not 'no'")
        reporting = tuple(INTEGRATION_TO_CALLBACK.values())
        kept = [c for c in callbacks if not isinstance(c, reporting) and c not in reporting]
        if len(kept) < len(callbacks):
            args.report_to = []
            self.note("args.report_to is 'none'")
        return kept

    def callbacks_of_a_trainer(self) -> list[TrainerCallback]:
        """Return what measures, behind what puts the methods on."""
        asked = self.comparison
        watching = Watching(asked.metric, self.go_on, self._trained, asked.greater_is_better)
        self.watched.append(watching)
        return [*super().callbacks_of_a_trainer(), watching]

    def note(self, said: str) -> None:
        """Note once what is not as the script has it."""
        if said not in self.result.notes:
            self.result.notes.append(said)

    @property
    def trained(self) -> Watching | None:
        """The Trainer that counts: the last that trained, else the last there is."""
        begun = sorted((w for w in self.watched if w.has_begun), key=lambda w: w.timed.began.clock)
        return next(iter([*begun[::-1], *self.watched[::-1]]), None)

    def _trained(self, watched: Watching) -> None:
        """Keep what was trained, and see what it has forgotten."""
        model, trainer = watched.run.model, watched.trainer
        assert trainer is not None
        tokenizer = trainer.processing_class or getattr(trainer.data_collator, "tokenizer", None)
        artifact = save(
            model,
            self.folder / ARTIFACT,
            author=watched.run.author,
            processing_class=tokenizer,
        )
        gather_trained(self.result, watched, artifact)
        reads = getattr(tokenizer, "tokenizer", tokenizer)  # a processor has one
        if (why := not_measured(model, reads)) is None:
            retain = Path(self.comparison.retain) if self.comparison.retain else None
            retain = retain and Path(self.comparison.folder) / retain
            self.result.forgetting = mean_divergence(model, reads, retained_text(retain))
        elif why:
            self.note(why)

    def measure(self) -> None:
        """Judge what was trained, once the script has ended."""
        watched = self.trained
        if watched is None or not watched.trained:
            raise Ended("failed", "the script built a Trainer, but never called train()")
        if (calls := sum(one.trained for one in self.watched)) > 1:
            self.note(f"the script trains {calls} times: the last counts")
        gather_measured(self.result, watched, self.comparison.key, self.folder)
        facts = training_facts(watched.trainer, watched.run.measured)
        annotate(self.folder / ARTIFACT, training=facts)  # with what was measured since


def _launch(
    comparison: Comparison, cell: Cell, folder: Path, go_on: GoOn, result: Result
) -> CellLaunch:
    return CellLaunch(
        parse(cell.candidate).methods,
        lr=cell.lr,
        author=named_by_author(dataset_name=comparison.dataset_name),
        seed=cell.seed,
        seed_arg=comparison.seed_arg,
        comparison=comparison,
        folder=folder,
        go_on=go_on,
        result=result,
    )


def _ran(launch: CellLaunch, command: Sequence[str], *, module: bool) -> tuple[Any, str | None]:
    """Run and judge a script; return the status and the reason."""
    try:
        try:
            launch.run(command, module=module)
        except SystemExit as done:
            if reason := exit_reason(done.code):
                return "failed", reason
        launch.measure()
    except (Ended, Exception) as error:
        if not isinstance(error, Ended):
            print_from_script(type(error), error, error.__traceback__)
        return status_of(error)
    return "finished", None


def _filled(word: str, folder: Path, seed: int) -> str:
    """Fill in ``{cell}`` and ``{seed}``; other braces are the script's."""
    return word.replace("{cell}", str(folder)).replace("{seed}", str(seed))


@contextmanager
def _in_folder(folder: str) -> Iterator[None]:
    """Be in the script's working directory; what a script leaves changed is put back."""
    before, hook = os.getcwd(), sys.excepthook
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)
        sys.excepthook = hook
