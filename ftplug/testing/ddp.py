"""Two processes that train under DistributedDataParallel, started once and used by many cases.

They talk over gloo on the CPU and meet at a file, so that no port is needed. Whatever goes wrong,
the parent stops waiting, ends both, and starts new ones for the next case.
"""

from __future__ import annotations

import multiprocessing
import tempfile
import time
from functools import cache
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from ftplug.testing.case import Case
from ftplug.testing.rank import Job, Outcome, work

RANKS = 2
WARM = ["ftplug.testing.rank", "peft"]  # what a process imports before it trains
START_SECONDS, RUN_SECONDS = 180, 60  # importing torch and transformers takes a while


def ranks_agree(case: Case, **options: Any) -> Outcome:
    """Under two-process DDP both processes end with the same bits, and what may train moved.

    A run that both resume from its first checkpoint ends with these bits as well. ``options`` are
    more arguments of the Trainer. Returns what the first process ended with.
    """
    first, second = processes().train(case, **options)
    for name, digest in first.digests.items():
        assert second.digests.get(name) == digest, (
            f"{case}: {name} differs between two DDP processes: draw random numbers from "
            "(seed, step) alone, and let on_gradients and on_step do the same in every process"
        )
    for name in sorted(first.active - first.moved):
        assert case.may_stand_still(name, first.original.get(name)), (
            f"{case}: {name} may train but did not move under two-process DDP"
        )
    for rank, outcome in enumerate((first, second)):
        for name, digest in outcome.digests.items():
            assert outcome.resumed.get(name) == digest, (
                f"{case}: {name} differs on rank {rank} after resuming under two-process DDP: what "
                "a step depends on must be in the saved tensors, or follow from (seed, step)"
            )
    return first


class Processes:
    """The warm pair. ``train`` runs a case on both, ``do`` anything else."""

    def __init__(self) -> None:
        self.workers: list[tuple[Any, Connection]] = []
        self._meeting: tempfile.TemporaryDirectory[str] | None = None

    def train(self, case: Case, **options: Any) -> list[Outcome]:
        """Train the case on both processes and return what each ended with."""
        with tempfile.TemporaryDirectory(prefix="ftplug-ddp-") as folder:
            return self.do(Job.of(case, Path(folder), **options), f"{case}: under two-process DDP")

    def do(self, job: Any, what: str) -> list[Any]:
        """Call ``job.do()`` on both processes and return the answers; ``job`` can be pickled."""
        try:
            if not self.workers:
                self._start()
            for _, connection in self.workers:
                connection.send(job)
            return self._answers(RUN_SECONDS, what)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End both processes."""
        for process, connection in self.workers:
            connection.close()
            process.kill()
            process.join()
        self.workers = []
        if self._meeting is not None:
            self._meeting.cleanup()

    def _start(self) -> None:
        context = _context()
        # It stays as long as they do: groups that are made later meet there too.
        self._meeting = tempfile.TemporaryDirectory(prefix="ftplug-ddp-")
        for rank in range(RANKS):
            ours, theirs = context.Pipe()
            arguments = (rank, RANKS, Path(self._meeting.name) / "meeting", theirs)
            process = context.Process(target=work, args=arguments, daemon=True)
            process.start()
            theirs.close()  # so that a death shows as the end of the pipe
            self.workers.append((process, ours))
        self._answers(START_SECONDS, "starting two DDP processes")

    def _answers(self, seconds: float, what: str) -> list[Any]:
        """Wait for one answer of each process; the first failure ends the waiting."""
        ranks = {connection: rank for rank, (_, connection) in enumerate(self.workers)}
        answers: dict[int, Any] = {}
        deadline = time.monotonic() + seconds
        while len(answers) < RANKS:
            waiting = [c for c, rank in ranks.items() if rank not in answers]
            ready = wait(waiting, max(0.0, deadline - time.monotonic()))
            assert ready, (
                f"{what}: rank {ranks[waiting[0]]} has not answered for {seconds} s: do both "
                "processes make the same calls?"
            )
            for connection in ready:
                assert isinstance(connection, Connection)
                try:
                    answer = connection.recv()
                except EOFError:
                    answer = "the process died"
                if isinstance(answer, str):
                    raise AssertionError(f"{what}: rank {ranks[connection]} failed: {answer}")
                answers[ranks[connection]] = answer
        return [answers[rank] for rank in range(RANKS)]


def _context() -> Any:
    """Return how to start a process: forked from one that has imported everything, if possible."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(WARM)
    return context


@cache
def processes() -> Processes:
    """Return this session's pair; it ends with the session."""
    return Processes()
