"""Faults that leave a loaded artifact without its effect, and honest loads: what replays say.

    python tests/soak/faults.py      # all: 35 faults x 6 methods x 4 types, 200 honest loads
    python tests/soak/faults.py --only lora --types fp32 bf16 --honest 0
    python tests/soak/faults.py --seed 100      # other artifacts than those of the tests

Tiny models are trained for some steps, saved, loaded in each type, broken, and asked again. It ends
with 1 where a fault passes as trained, where one is not found in float32, or where an honest load
is said to have no effect or another.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "tests" / "support"), str(ROOT / "tests/ftplug/effect/support")]

import torch  # noqa: E402
from noop_faults import FAULTS, loaded  # noqa: E402
from trained_artifacts import DTYPES, KINDS, MORE, Artifact, Kind, made  # noqa: E402

import ftplug  # noqa: E402
from ftplug.artifacts.merged_model import merged  # noqa: E402
from ftplug.effect.replaying import Replayed, replay  # noqa: E402

MARKS = {"trained": "PASSED", "no effect": "none", "other": "other", "not decidable here": "?"}
EFFECTS = ((20, 1.0), (20, 0.3), (6, 1.0), (3, 0.1))  # steps, and of the usual learning rate


def main() -> int:
    """Print the tables; return 1 where something is not as it should be."""
    options = parsed()
    logging.disable(logging.WARNING)
    wrong = []
    with tempfile.TemporaryDirectory() as folder:
        for name, kind in KINDS.items():
            if options.only in name:
                wrong += faults(name, kind, Path(folder, name), options.types, options.seed)
        if options.honest:
            wrong += honest(Path(folder, "honest"), options.honest, options.seed)
    print(f"{len(wrong)} not as they should be", *wrong, sep="\n  ")
    return 1 if wrong else 0


def parsed() -> Any:
    """Return the command line's options."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="Methods whose names have this in them.")
    parser.add_argument("--types", nargs="+", default=list(DTYPES), choices=list(DTYPES))
    parser.add_argument("--honest", type=int, default=200, help="How many honest loads at least.")
    parser.add_argument("--seed", type=int, default=0, help="The first seed of what is trained.")
    return parser.parse_args()


def faults(name: str, kind: Kind, root: Path, types: list[str], first: int) -> list[str]:
    """Break one method's artifact in every way and type; print a line for each fault."""
    one, other = (made(kind, root, steps=20, seed=seed) for seed in (first, first + 1))
    probe, wrong = one.probe, []
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    print(f"\n{name:34}", *(f"{each:>8}" for each in types))
    for fault, breaks in FAULTS.items():
        marks = []
        for each in types:
            with attempted(f"{name}, {fault}, {each}", wrong):
                model = breaks(loaded(one, other, DTYPES[each]))
                found = replay(model, probe) if model is not None else None
                marks.append(MARKS[found.verdict] if found else "-")
                counts[each][found.verdict if found else "means nothing here"] += 1
                passed = ("trained", "not decidable here") if each == "fp32" else ("trained",)
                if found and found.verdict in passed:
                    wrong.append(f"{name}, {fault}, {each}: {found.line()}")
        print(f"{fault:34}", *(f"{mark:>8}" for mark in marks), flush=True)
    for each in types:
        print(f"  {each}: {dict(counts[each])}")
    return wrong


def honest(root: Path, least: int, first: int) -> list[str]:
    """Load artifacts as they are, of effects from large to tiny, in every way."""
    wrong: list[str] = []
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for seed in range(first + 2, first + 20):
        for name, kind in (KINDS | MORE).items():
            for steps, rate in EFFECTS:
                artifact = made(kind, root / name, steps=steps, seed=seed, rate=kind.rate * rate)
                for way, model in ways(artifact):
                    with attempted(f"{name}, {steps} steps, {way}", wrong):
                        found = model if isinstance(model, Replayed) else asked(artifact, model)
                        counts[way][found.verdict] += 1
                        if found.verdict in ("no effect", "other"):
                            wrong.append(f"honest {name}, {steps} steps, {way}: {found.line()}")
        if sum(sum(each.values()) for each in counts.values()) >= least:
            break
    print("\nhonest loads")
    for way, found in counts.items():
        print(f"  {way}: {dict(found)}")
    return wrong


def ways(artifact: Artifact) -> Iterator[tuple[str, Any]]:
    """Yield models with the artifact by the way they were loaded."""
    sentences = artifact.kind.family == "sentences"
    for name, dtype in DTYPES.items():
        if not (isinstance(dtype, str) and sentences):
            yield name, artifact.new_base(dtype)
    if not sentences:
        for name in ("fp32", "bf16"):
            yield f"merged, {name}", name


def asked(artifact: Artifact, given: Any) -> Replayed:
    """Load onto a base and ask, first one input as loading does; or merge and read back."""
    if isinstance(given, str):
        return merged_and_asked(artifact, DTYPES[given])
    quantized = getattr(given, "is_quantized", False)  # of those no fingerprint is taken
    ftplug.load(given, artifact.folder, force=quantized)
    one = replay(given, artifact.probe, one=True)
    return one if one.verdict in ("no effect", "other") else replay(given, artifact.probe)


def merged_and_asked(artifact: Artifact, dtype: Any) -> Replayed:
    """Merge an artifact on a base of this type, as ``ftplug merge`` does."""
    with tempfile.TemporaryDirectory() as folder:
        base = artifact.base
        if dtype != torch.float32:
            base = Path(folder, "base")
            artifact.new_base(dtype).save_pretrained(base)
        try:
            done = merged(artifact.folder, Path(folder, "merged"), base=base)
        except ftplug.MethodError:
            return Replayed("not replayable", "it cannot be folded")
        except ftplug.ArtifactError as error:
            return Replayed("other", str(error))
    return Replayed(done.effect.split(": ")[1].split(" (")[0])  # type: ignore[arg-type]


@contextlib.contextmanager
def attempted(what: str, wrong: list[str]) -> Iterator[None]:
    """Note what raises, and go on."""
    try:
        yield
    except Exception as error:
        wrong.append(f"{what}: {type(error).__name__}: {error}")


if __name__ == "__main__":
    sys.exit(main())
