"""Kill one of two workers at random moments; both start again, and end as a run left alone.

    make soak
    python tests/soak/kill_a_worker.py --seed 7 --kills 60 --engines ddp zero2

Two processes are each ``ftplug run --resume auto`` over the same unmodified script, as torchrun
starts them: when one is killed (SIGKILL), the other gets torchrun's SIGTERM, and both are started
again. A run is killed one to three times. Under ``zero2`` DeepSpeed's engine trains, which
``make zero`` installs: without it that part is skipped, and the reason is said.

Exits with 1 where a run leaves an incomplete checkpoint as its last, does not go on, or ends with
other weights, optimizer state or losses than a run that nobody killed.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # DDP's hints
sys.path.extend(
    str(Path(__file__).parents[1] / place)
    for place in ("support", "zero/support", "ftplug/training/restarting/support")
)

import kills
import restarted
import workers
import zero_ranks

ENGINES = {"ddp": [], "zero2": ["--zero", "2"]}
RUN = ["--steps", "24", "--save", "2"]
COLUMNS = ("kills", "a checkpoint found", "nothing yet", "runs", "equal")


class Soak:
    """The kills under one engine."""

    def __init__(self, spawner: kills.Spawner, engine: str, root: Path, seed: int) -> None:
        self.spawner, self.engine, self.root = spawner, engine, root
        self.draw = random.Random(f"{seed} {engine}")
        self.counts: Counter[str] = Counter()
        self.faults: list[str] = []
        self.seconds = 0.0  # that a run takes which nobody kills

    def start(self, out: Path) -> list[Any]:
        """Start both workers."""
        command = [*workers.GOES_ON, "--", restarted.__file__, out, *RUN, *ENGINES[self.engine]]
        return workers.start(self.spawner, 2, *command)

    def run(self, total: int) -> None:
        """Kill so often; each run is finished after one to three kills."""
        straight, twin = self.root / "straight", self.root / "twin"
        assert workers.codes(self.start(straight)) == [0, 0]
        began = time.monotonic()
        assert workers.codes(self.start(twin)) == [0, 0]
        self.seconds = time.monotonic() - began
        assert kills.differences(twin, straight, ranks=2) == [], "two runs alike end differently"
        say(f"{self.engine}: a run takes {self.seconds:.1f} s")
        while self.counts["kills"] < total:
            out = self.root / f"run-{self.counts['runs']}"
            for _ in range(min(self.draw.randint(1, 3), total - self.counts["kills"])):
                if not self.kill(out, self.draw.uniform(0.1, 1) * self.seconds):
                    break
            self.finish(out, straight)

    def kill(self, out: Path, moment: float) -> bool:
        """Kill one of both, and look at what is left; False where the run had ended before."""
        processes = self.start(out)
        time.sleep(moment)
        victim = processes[self.draw.randrange(2)]
        victim.kill()
        victim.join()
        killed = victim.exitcode == kills.KILLED
        if killed:
            time.sleep(0.1)  # torchrun looks so often
            for process in processes:
                process.terminate()
        codes = workers.codes(processes)
        if not killed:
            say(f"  {out.name}: it had ended already: {codes}")
            self.seconds = min(self.seconds, moment)
            self.faults += [f"{out.name}: exit codes {codes}"] if any(codes) else []
            return False
        wrong, last = kills.incomplete(out), kills.last(out)
        self.counts.update(["kills", COLUMNS[1] if last else COLUMNS[2]])
        self.faults += [f"{out.name}: {wrong}"] if wrong else []
        found = wrong or (f"{Path(last).name} is whole" if last else "no checkpoint yet")
        say(f"  {out.name}: kill {self.counts['kills']} after {moment:.1f} s, {codes}: {found}")
        return True

    def finish(self, out: Path, straight: Path) -> None:
        """Let a run end, and compare it."""
        codes = workers.codes(self.start(out))
        wrong = [f"exit codes {codes}"] if any(codes) else []
        wrong = wrong or kills.differences(out, straight, ranks=2)
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
    parser.add_argument("--kills", type=int, default=60, help="under each engine")
    parser.add_argument("--engines", nargs="+", default=list(ENGINES), choices=ENGINES)
    options = parser.parse_args()
    engines, began = list(options.engines), time.monotonic()
    if "zero2" in engines and (reason := zero_ranks.why_skipped()):
        say(f"zero2 is skipped: {reason}")
        engines.remove("zero2")
    if "zero2" in engines:
        zero_ranks.processes()  # compiles what both need: they would wait for each other
    spawner, soaks = kills.Spawner(), []
    with tempfile.TemporaryDirectory(prefix="ftplug-soak-") as folder:
        for engine in engines:
            soaks.append(Soak(spawner, engine, Path(folder, engine), options.seed))
            soaks[-1].root.mkdir()
            soaks[-1].run(options.kills)
    print(f"\n| engine | {' | '.join(COLUMNS)} |\n{'|---' * (1 + len(COLUMNS))}|")
    for soak in soaks:
        print(f"| {soak.engine} | {' | '.join(str(soak.counts[name]) for name in COLUMNS)} |")
    faults = [f"{soak.engine}: {fault}" for soak in soaks for fault in soak.faults]
    print("\n".join(["", *faults, f"{len(faults)} faults in {time.monotonic() - began:.0f} s"]))
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
