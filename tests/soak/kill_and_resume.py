"""Kill training runs at random moments, resume them, and compare with a run that nobody killed.

    make soak
    python tests/soak/kill_and_resume.py --seed 7 --kills 100 --methods lora gradual-unfreezing

Half of the kills (SIGKILL) come at random moments of a run's wall clock, from its first step to its
saved artifact; the others at every step of saving a checkpoint in turn. A run is killed one to
three times, resumed by ``resume_from_checkpoint=True`` in a fresh process each time, and then left
to end. Exits with 1 where a killed run leaves an incomplete checkpoint as its last, ends with other
weights, optimizer state, losses or artifact, or where a stage is left over.
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
sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

import kills

OPTIONS: dict[str, Any] = {
    "max_steps": 24,
    "save_steps": 4,
    "save_total_limit": 2,
    "artifact": True,
}
SAVES = OPTIONS["max_steps"] // OPTIONS["save_steps"]
COLUMNS = ("kills", "by clock", "inside a save", "complete found", "nothing yet", "runs", "equal")


class Soak:
    """The kills of one method."""

    def __init__(self, spawner: kills.Spawner, method: str, root: Path, seed: int) -> None:
        self.spawner, self.method, self.root = spawner, method, root
        self.draw = random.Random(f"{seed} {method}")
        self.straight = root / "straight"
        self.counts: Counter[str] = Counter()
        self.faults: list[str] = []

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
        process, started = self.start(self.straight, {"save": SAVES, "change": 0})
        process.join()
        seconds = time.monotonic() - started
        self.changes = len(kills.beside(self.straight, ".trail").read_text().splitlines())
        twin = self.root / "twin"
        assert self.spawner.run(kills.train, twin, self.method, dict(OPTIONS), {}) == 0
        assert kills.differences(twin, self.straight) == [], "two runs alike end differently"
        say(f"{self.method}: a run takes {seconds:.2f} s, each save has {self.changes} steps")
        return seconds

    def moments(self, total: int, seconds: float) -> deque[float | int]:
        """Return seconds after the first step, and numbers of a save's steps, in random order."""
        aimed = min(total, max(total // 2, self.changes))
        inside = list(itertools.islice(itertools.cycle(range(1, self.changes + 1)), aimed))
        clock = [self.draw.uniform(0, seconds) for _ in range(total - len(inside))]
        drawn: list[float | int] = [*inside, *clock]
        self.draw.shuffle(drawn)
        return deque(drawn)

    def start(self, out: Path, when: dict[str, Any]) -> tuple[Any, float]:
        """Start a run, and return its process and the time at which it begins to train."""
        ready = self.spawner.context.Event()
        process = self.spawner.start(
            kills.train, out, self.method, OPTIONS | {"ready": ready}, when
        )
        assert ready.wait(120), "a run did not start"
        return process, time.monotonic()

    def kill(self, out: Path, moment: float | int, total: int) -> bool:
        """Kill a run, and look at what it leaves; False where it had ended before."""
        if isinstance(moment, int):
            save = self.draw_save(out)
            process, _ = self.start(out, {"save": save, "change": moment})
            where, kind = f"in its save {save}, before step {moment}", "inside a save"
        else:
            process, started = self.start(out, {})
            time.sleep(max(0.0, started + moment - time.monotonic()))
            process.kill()
            where, kind = f"{moment:.3f} s after the first step", "by clock"
        process.join()
        if process.exitcode != kills.KILLED:
            say(f"  {out.name}: {where}: it had ended already ({process.exitcode})")
            if process.exitcode != 0:
                self.faults.append(f"{out.name}: exit code {process.exitcode}")
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

    def draw_save(self, out: Path) -> int:
        """Return one of the saves that a run has left in which rotation removes a checkpoint."""
        last = kills.last(out)
        done = int(last.rpartition("-")[2]) // OPTIONS["save_steps"] if last else 0
        first = max(1, 1 + OPTIONS["save_total_limit"] - done)
        return self.draw.randint(first, max(first, SAVES - done))

    def finish(self, out: Path) -> None:
        """Let a run end, and compare it with the one that nobody killed."""
        code = self.spawner.run(kills.train, out, self.method, dict(OPTIONS), {})
        wrong = [f"exit code {code}"] if code else kills.differences(out, self.straight)
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
    parser.add_argument("--kills", type=int, default=30, help="for each method")
    parser.add_argument("--methods", nargs="+", default=["lora", "lisa"], choices=kills.METHODS)
    options = parser.parse_args()
    say(f"seed {options.seed}, {options.kills} kills a method")
    started = time.monotonic()
    spawner = kills.Spawner()
    soaks = []
    with tempfile.TemporaryDirectory(prefix="ftplug-soak-") as folder:
        for method in options.methods:
            soaks.append(Soak(spawner, method, Path(folder, method), options.seed))
            soaks[-1].run(options.kills)
    print(f"\n| method | {' | '.join(COLUMNS)} |")
    print("|---" * (1 + len(COLUMNS)) + "|")
    for soak in soaks:
        print(f"| {soak.method} | {' | '.join(str(soak.counts[name]) for name in COLUMNS)} |")
    faults = [f"{soak.method} {fault}" for soak in soaks for fault in soak.faults]
    print("\n".join(["", *faults, f"{len(faults)} faults in {time.monotonic() - started:.0f} s"]))
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
