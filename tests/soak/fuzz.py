"""``make fuzz``: ten thousand malformed artifacts, by number, in two processes; ends with a table.

python tests/soak/fuzz.py                 # all; 1 where any case is other than it should be
python tests/soak/fuzz.py --first 4711 --count 1    # one of them again, with all that it says
"""

import argparse
import collections
import os
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

sys.path[:0] = [
    str(Path(__file__).parents[1] / "support"),
    str(Path(__file__).parents[1] / "registry" / "support"),
]
os.environ |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}


WORLD: Any = None  # as the processes of the pool inherit it


def run(numbers: range) -> list[tuple[str, str, str]]:
    import fuzzing

    return list(fuzzing.run_all(WORLD, numbers))


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--jobs", type=int, default=2)
    asked = parser.parse_args()
    import fuzzing
    import transformers

    transformers.utils.logging.disable_progress_bar()
    start = time.monotonic()
    outcomes: collections.Counter[tuple[str, str]] = collections.Counter()
    with tempfile.TemporaryDirectory(prefix="fuzz-") as root:
        global WORLD
        WORLD = world = fuzzing.World(Path(root))
        numbers = range(asked.first, asked.first + asked.count)
        with ProcessPoolExecutor(asked.jobs, get_context("fork")) as pool:  # both are warm
            parts = [numbers[start : start + 25] for start in range(0, len(numbers), 25)]
            runs = (result for part in pool.map(run, parts) for result in part)
            for number, (outcome, door, what) in zip(numbers, runs, strict=True):
                outcomes[door, outcome] += 1
                if outcome in fuzzing.BAD or asked.count == 1:
                    print(f"{number} {outcome} {door} {what}", flush=True)
        world.close()
    columns = ["refused", "accepted", *fuzzing.BAD]
    print(f"{'':8}" + "".join(f"{name:>15}" for name in columns))
    for door in (*dict.fromkeys(fuzzing.DOORS), "?"):
        print(f"{door:8}" + "".join(f"{outcomes[door, name]:15}" for name in columns))
    total = [sum(n for (_, o), n in outcomes.items() if o == name) for name in columns]
    print(f"{'all':8}" + "".join(f"{n:15}" for n in total))
    print(f"{asked.count} cases in {time.monotonic() - start:.0f} s")
    return 1 if sum(total[2:]) else 0


if __name__ == "__main__":
    sys.exit(main())
