"""Faults that leave an artifact without its effect, in several dtypes: which of them are found.

python tests/soak/faults.py                # a table of 35 faults x 6 methods, and honest loads
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "tests" / "ftplug" / "effect" / "support")]

import torch  # noqa: E402
from noop_faults import FAULTS, loaded  # noqa: E402
from trained_artifacts import KINDS, made  # noqa: E402

from ftplug.effect.replaying import replay  # noqa: E402

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
SHORT = {"trained": "TRAINED", "no effect": "none", "other": "other", "not decidable here": "?"}


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rate", type=float, default=None)
    parser.add_argument("--dtypes", nargs="+", default=list(DTYPES))
    parser.add_argument("--only", default="")
    parser.add_argument("--verbose", action="store_true")
    o = parser.parse_args()
    logging.disable(logging.WARNING)
    counts: dict[str, Counter[str]] = {d: Counter() for d in o.dtypes}
    start = time.time()
    with tempfile.TemporaryDirectory() as folder:
        for name, kind in KINDS.items():
            root = Path(folder, name)
            root.mkdir()
            one, other = (made(kind, root, steps=o.steps, seed=s, rate=o.rate) for s in (0, 1))
            probe = one.probe
            for d in o.dtypes:
                print(
                    f"## {name} {d}: honest {replay(loaded(one, other, DTYPES[d]).model, probe).line()}"
                )
                for fault, breaks in FAULTS.items():
                    if o.only not in fault:
                        continue
                    model = breaks(loaded(one, other, DTYPES[d]))
                    if model is None:
                        counts[d]["-"] += 1
                        continue
                    found = replay(model, probe)
                    counts[d][found.verdict] += 1
                    if (
                        o.verbose
                        or found.verdict == "trained"
                        or (d == "fp32" and found.verdict == "not decidable here")
                    ):
                        print(f"  {fault:34} {found.line()}")
    print(time.time() - start)
    for d, c in counts.items():
        print(d, dict(c))
    return 0


if __name__ == "__main__":
    sys.exit(main())
