"""Kill training runs at random moments, resume them, and compare with a run that nobody killed.

    make soak
    python tests/soak/kill_and_resume.py --seed 7 --kills 100 --pairs 20 --methods lora galore

Half of the kills (SIGKILL) come at random moments of a run's wall clock, from its first step to its
saved artifact; the others at random steps of saving a checkpoint. A run is killed one to
three times, resumed by ``resume_from_checkpoint=True`` in a fresh process each time, and then left
to end. ``--pairs`` are kills of one of two processes (DistributedDataParallel): the other has to
end by itself within ``ddp_timeout``, with a line.

Exits with 1 where a killed run leaves an incomplete checkpoint as its last, ends with other
weights, optimizer state, losses or artifact, where a stage is left over, and where a survivor
waits for longer or ends without a line.
"""

from __future__ import annotations

import argparse
import itertools
import os
import random
import sys
import tempfile
import time
from collections import Counter, deque
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # DDP's hints
sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

import kills

OPTIONS: dict[str, Any] = {
    "max_steps": 24,
    "save_steps": 4,
    "save_total_limit": 2,
    "artifact": True,
}
SAVES = OPTIONS["max_steps"] // OPTIONS["save_steps"]
COLUMNS = (
    *("kills", "by clock", "inside a save", "complete found", "nothing yet", "survivors ended"),
    *("longest wait", "runs", "equal"),
)
SLACK = 10.0  # seconds that a survivor may take beside waiting, on a busy machine


class Soak:
    """The kills of one method, in one process or in two."""

    def __init__(
        self, spawner: kills.Spawner, method: str, root: Path, seed: int, ranks: int = 1
    ) -> None:
        self.spawner, self.method, self.root, self.ranks = spawner, method, root, ranks
        self.draw = random.Random(f"{seed} {method} {ranks}")
        self.straight = root / "straight"
        self.counts: Counter[str] = Counter()
        self.longest = 0.0
        self.faults: list[str] = []

    def row(self) -> str:
        """Return what came, as a line of a table."""
        told = {"longest wait": f"{self.longest:.1f} s"}
        if self.ranks == 1:
            told = dict.fromkeys(("longest wait", "survivors ended"), "")
        cells = [told.get(name, str(self.counts[name])) for name in COLUMNS]
        return f"| {self.method} | {self.ranks} | {' | '.join(cells)} |"

    def run(self, total: int) -> None:
        """Kill so often; each run is finished after one to three of them."""
        seconds = self.train_straight()
        moments = self.moments(total, seconds)
        for number in itertools.count(1):
            if self.counts["kills"] == total:
                return
            out = self.root / f"run-{number}"
            for _ in range(min(self.draw.randint(1, 3), len(moments))):
                if not self.kill(out, moment := moments.popleft(), total):  # it came too late
                    again = isinstance(moment, int)
                    moments.append(moment if again else self.draw.uniform(0, seconds))
                    break
            self.finish(out)

    def train_straight(self) -> float:
        """Return how long a run takes that nobody kills, from its first step on."""
        processes, started = self.start(self.straight, {"save": SAVES, "change": 0})
        for process in processes:
            process.join()
        seconds = time.monotonic() - started
        self.changes = len(kills.beside(self.straight, ".trail").read_text().splitlines())
        twin = self.root / "twin"
        assert self.ends(twin) == [0] * self.ranks
        wrong = kills.differences(twin, self.straight, self.ranks)
        assert wrong == [], f"two runs alike end differently: {wrong}"
        say(
            f"{self.method} in {self.ranks}: a run takes {seconds:.2f} s, "
            f"each save has {self.changes} steps"
        )
        return seconds

    def moments(self, total: int, seconds: float) -> deque[float | int]:
        """Return seconds after the first step, and numbers of a save's steps, in random order."""
        steps = self.draw.sample(range(1, self.changes + 1), self.changes)
        inside = list(itertools.islice(itertools.cycle(steps), total // 2))
        clock = [self.draw.uniform(0, seconds) for _ in range(total - len(inside))]
        drawn: list[float | int] = [*inside, *clock]
        self.draw.shuffle(drawn)
        return deque(drawn)

    def start(self, out: Path, when: dict[str, Any]) -> tuple[list[Any], float]:
        """Start a run, and return its processes and the time at which all begin to train.

        The first process, which writes, is the one to be interrupted.
        """
        options = dict(OPTIONS) | ({"port": kills.free_port()} if self.ranks > 1 else {})
        ready = [self.spawner.context.Event() for _ in range(self.ranks)]
        processes = [
            self.spawner.start(
                *(kills.train, out, self.method),
                *(options | {"ready": event, "rank": rank}, {} if rank else when),
            )
            for rank, event in enumerate(ready)
        ]
        for event in ready:
            assert event.wait(120), "a run did not start"
        return processes, time.monotonic()

    def ends(self, out: Path) -> list[int]:
        """Let a run end; return the exit codes of its processes."""
        processes, _ = self.start(out, {})
        for process in processes:
            process.join()
        return [process.exitcode for process in processes]

    def kill(self, out: Path, moment: float | int, total: int) -> bool:
        """Kill a run, and look at what it leaves; False where it had ended before."""
        if isinstance(moment, int):
            save, victim = self.draw_save(out), 0
            processes, _ = self.start(out, {"save": save, "change": moment})
            where, kind = f"in its save {save}, before step {moment}", "inside a save"
        else:
            victim = self.draw.randrange(self.ranks)
            processes, started = self.start(out, {})
            time.sleep(max(0.0, started + moment - time.monotonic()))
            processes[victim].kill()
            where, kind = f"process {victim} {moment:.3f} s after the first step", "by clock"
        processes[victim].join()
        code = processes[victim].exitcode
        self.await_survivors(out, [p for p in processes if p is not processes[victim]], code)
        if code != kills.KILLED:
            say(f"  {out.name}: {where}: it had ended already ({code})")
            if code != 0:
                self.faults.append(f"{out.name}: exit code {code}")
            return False
        self.counts.update(["kills", kind])
        last, wrong = kills.last(out), kills.incomplete(out)
        if wrong:
            self.faults.append(f"{out.name}: {wrong}")
        else:
            self.counts.update(["complete found" if last else "nothing yet"])
        found = wrong or (f"{Path(last).name} is complete" if last else "no checkpoint yet")
        say(f"  {out.name}: kill {self.counts['kills']}/{total} {where}: {found}")
        return True

    def await_survivors(self, out: Path, survivors: list[Any], victims: int) -> None:
        """Wait for the other process; one that had nothing left to wait for ends as usual."""
        since = time.monotonic()
        for survivor in survivors:
            survivor.join(kills.TIMEOUT + SLACK)
            waited = time.monotonic() - since
            if survivor.exitcode is None:
                self.faults.append(f"{out.name}: the survivor still waits after {waited:.0f} s")
                survivor.kill()
                survivor.join()
            if victims != kills.KILLED:
                continue
            self.longest = max(self.longest, waited)
            errors = [kills.beside(out, kills.error_name(rank)) for rank in range(self.ranks)]
            said = [error.read_text() for error in errors if error.is_file()]
            if survivor.exitcode in (0, 1) and (said or survivor.exitcode == 0):
                self.counts.update(["survivors ended"])
                say(f"  {out.name}: the survivor ended after {waited:.1f} s: {said}")
            else:
                self.faults.append(f"{out.name}: the survivor ended by {survivor.exitcode}, {said}")
            for error in errors:
                error.unlink(missing_ok=True)

    def draw_save(self, out: Path) -> int:
        """Return one of the saves that a run has left in which rotation removes a checkpoint."""
        last = kills.last(out)
        done = int(last.rpartition("-")[2]) // OPTIONS["save_steps"] if last else 0
        first = max(1, 1 + OPTIONS["save_total_limit"] - done)
        return self.draw.randint(first, max(first, SAVES - done))

    def finish(self, out: Path) -> None:
        """Let a run end, and compare it with the one that nobody killed."""
        codes = self.ends(out)
        wrong = [f"exit codes {codes}"] if any(codes) else []
        wrong = wrong or kills.differences(out, self.straight, self.ranks)
        # A run killed before its last rotation keeps a checkpoint more.
        strays = {name for name in kills.names(out) if not name.startswith("checkpoint-")}
        strays |= {p.name for p in kills.beside(out, "-artifact").rglob("_ftplug*")}
        wrong += [f"left over: {name}" for name in sorted(strays)]
        self.counts.update(["runs"] if wrong else ["runs", "equal"])
        self.faults += [f"{out.name}: {what}" for what in wrong]
        say(f"  {out.name}: {'; '.join(wrong) or 'ends bit-identical'}")


def say(text: str) -> None:
    """Show progress at once."""
    print(text, flush=True)


def main() -> int:
    """Return 1 where anything differed."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seed", type=int, default=20_240, help="draws all moments")
    parser.add_argument("--kills", type=int, default=20, help="for each method, of one process")
    parser.add_argument("--pairs", type=int, default=10, help="for each, of one of two processes")
    parser.add_argument("--methods", nargs="+", default=list(kills.METHODS), choices=kills.METHODS)
    options = parser.parse_args()
    say(f"seed {options.seed}, {options.kills} kills a method, {options.pairs} of one of two")
    started = time.monotonic()
    spawner = kills.Spawner()
    soaks = []
    with tempfile.TemporaryDirectory(prefix="ftplug-soak-") as folder:
        for method in options.methods:
            for ranks, total in ((1, options.kills), (2, options.pairs)):
                place = Path(folder, f"{method}-{ranks}")
                soaks.append(Soak(spawner, method, place, options.seed, ranks))
                if total:
                    soaks[-1].run(total)
    print(f"\n| method | processes | {' | '.join(COLUMNS)} |")
    print("|---" * (2 + len(COLUMNS)) + "|")
    for soak in soaks:
        print(soak.row())
    faults = [f"{soak.method} in {soak.ranks}: {fault}" for soak in soaks for fault in soak.faults]
    print("\n".join(["", *faults, f"{len(faults)} faults in {time.monotonic() - started:.0f} s"]))
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
