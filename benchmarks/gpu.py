"""All that must be seen on a GPU, in nine minutes at most: make gpu.

Installs the kit of wheels (make gpu-kit) into a folder of its own, without a network; runs the
tests marked gpu, then the comparisons of gpu_steps.py. Each step has a limit of time, and what it
finds is written at once into the folder that $OUT names (else build/gpu): a cut-off loses the step
it falls into, and nothing else.

python benchmarks/gpu.py               all steps
python benchmarks/gpu.py --half 1      install, tests and LoRA; --half 2: the rest
python benchmarks/gpu.py --rehearse    the same steps with a tiny model; on a CPU, too
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from collections.abc import Iterator

HERE = Path(__file__).parent
ROOT = HERE.parent
KITS = ROOT / "build/gpu-kit"
TESTS = (  # by file: others import what a machine with a GPU need not have
    "tests/ftplug/training/test_cuda.py",
    "tests/ftplug/training/test_devices.py",
    "tests/ftplug/training/test_numerics.py",
    "tests/ftplug/training/test_trainer_features.py",
    "tests/ftplug/artifacts/test_method_state.py",
    "tests/ftplug/training/test_cuda_contract.py",
)
WHERE = """
import json, torch
from importlib.metadata import version
names = ("torch", "transformers", "peft", "accelerate", "huggingface-hub", "ftplug")
card = torch.cuda.get_device_name() if torch.cuda.is_available() else None
print(json.dumps({"card": card} | {name: version(name) for name in names}))
"""


@dataclass(frozen=True)
class Step:
    """A part of the whole, with the seconds that it may take."""

    name: str
    limit: int
    half: int = 2
    compared: tuple[str, ...] = ()  # comparisons that it makes; else the one of its name
    script: str = "gpu_steps.py"


PATIENCE = 4  # in a rehearsal: the limits are those of a machine with a GPU and many cores
INSTALL, TEST = Step("install", 30, 0), Step("tests", 105, 1)  # 0: each half begins with it
COMPARED = (
    Step("lora-all", 45, 1), Step("lora-qv", 40, 1), Step("checkpointing", 45, 1),
    Step("8b", 50), Step("full", 45), Step("adapters", 40), Step("qlora", 25),
    Step("trunk-cache", 25), Step("attach", 25), Step("compile", 40),
)  # fmt: skip
SHAPES = Step("shapes", 25, script="lora_shapes.py")
STEPS = (INSTALL, TEST, *COMPARED, SHAPES)


class Day:
    """One run of the steps: what is installed where, and what was found."""

    def __init__(self, out: Path, site: Path, log: TextIO, kit: str | None) -> None:
        """``kit``: a folder of build/gpu-kit; None is a rehearsal."""
        self.out, self.site, self.log, self.kit = out, site, log, kit
        self.results: dict[str, Any] = {"date": date.today().isoformat(), "steps": {}}

    def run(self, step: Step) -> bool:
        """Take one step and keep what it found; return whether it went well."""
        start = time.perf_counter()
        found, what = self._take(step)
        taken = round(time.perf_counter() - start, 1)
        self.results["steps"][step.name] = {"ended": what, "seconds": taken, "found": found}
        self._keep()
        print(f"{step.name}: {what}, {taken} s of {step.limit}", flush=True)
        return what == "well"

    def _take(self, step: Step) -> tuple[Any, str]:
        if step is INSTALL:
            return self._install(step)
        if step is TEST:
            return self._test(step)
        with tempfile.TemporaryDirectory() as folder:
            kept = Path(folder, "found.json")
            names = step.compared or (step.name,)
            tiny = ["--rehearse"] if self.kit is None else []
            command = [str(HERE / step.script), *names, "--json", str(kept), *tiny]
            what = self._python(command, step)
            return json.loads(kept.read_text("utf-8")) if kept.exists() else None, what

    def _install(self, step: Step) -> tuple[Any, str]:
        with _kit(self.kit) as kit:
            wheels = sorted(str(wheel) for wheel in kit.glob("*.whl"))
            pip = ["-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--no-index",
                   "--no-deps", "--no-compile", "--target", str(self.site), *wheels]  # fmt: skip
            if (what := self._python(pip, step)) != "well":
                return None, what
        seen = subprocess.run(
            [sys.executable, "-c", WHERE], env=self._environment(), capture_output=True, text=True
        )
        if seen.returncode:
            self.log.write(seen.stderr)
            return None, "failed"
        where = {"python": platform.python_version()} | json.loads(seen.stdout)
        print(where, flush=True)
        return where, "well"

    def _test(self, step: Step) -> tuple[Any, str]:
        report = self.out / "tests.xml"
        command = ["-m", "pytest", "-m", "gpu", "-o", "filterwarnings=ignore",
                   "-p", "no:cacheprovider", f"--junit-xml={report}", *TESTS]  # fmt: skip
        if self.kit is None:
            command += ["--collect-only", "-q"]
        elif importlib.util.find_spec("xdist"):  # a tiny model leaves a card idle
            command += ["--numprocesses", "6", "--dist", "loadscope"]
        return None, self._python(command, step)

    def _python(self, arguments: Sequence[str], step: Step) -> str:
        """Run this Python within the step's limit; what it prints goes to the log alone."""
        self.log.write(f"== {step.name}\n")
        self.log.flush()
        process = subprocess.Popen(
            [sys.executable, *arguments], cwd=ROOT, env=self._environment(), text=True,
            stdout=self.log, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        limit = step.limit * (PATIENCE if self.kit is None else 1)
        try:
            return "well" if process.wait(limit) == 0 else f"failed ({process.returncode})"
        except subprocess.TimeoutExpired:
            return "cut off"
        finally:
            if process.poll() is None:  # too long, or somebody pressed Ctrl-C
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()

    def _environment(self) -> Mapping[str, str]:
        path = os.pathsep.join([str(self.site), *filter(None, [os.environ.get("PYTHONPATH")])])
        own = {"PYTHONPATH": path, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
        return os.environ | own

    def _keep(self) -> None:
        text = json.dumps(self.results, indent=1, ensure_ascii=False)
        new = self.out / "results.json.new"
        new.write_text(text + "\n", encoding="utf-8")
        new.replace(self.out / "results.json")
        (self.out / "table.md").write_text(render(self.results), encoding="utf-8")


@contextmanager
def _kit(name: str | None) -> Iterator[Path]:
    """Give the folder of wheels; in a rehearsal ftplug's alone, made here."""
    if name is not None:
        if not list((KITS / name).glob("*.whl")):
            raise SystemExit(f"{KITS / name} has no wheels: make gpu-kit, where there is a network")
        yield KITS / name
        return
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "--quiet",
                   "--no-deps", "--wheel-dir", folder, str(ROOT)]  # fmt: skip
        subprocess.run(command, check=True)
        yield Path(folder)


def render(results: Mapping[str, Any]) -> str:
    """Return what was found as markdown tables; a step that ended badly is a row, too."""
    import report

    steps = results["steps"]
    where = (steps.get(INSTALL.name) or {}).get("found") or {}
    head = ", ".join(f"{name} {value}" for name, value in where.items())
    compared = [
        step["found"] for name, step in steps.items() if name not in (INSTALL.name, TEST.name)
    ]
    found = [report.Found.read(one) for one in compared if one]
    parts = [
        f"{results['date']}: {head}\n",
        report.table(
            ("step", "ended", "seconds"),
            [(name, step["ended"], str(step["seconds"])) for name, step in steps.items()],
        ),
        report.table(
            ("A", "B", "A / B (95 % interval)", "medians", "must be"),
            [ratio.cells() for one in found for ratio in one.ratios],
        ),
        report.table(
            ("what", "measured", "must be"),
            [figure.cells() for one in found for figure in one.figures],
        ),
    ]
    return "\n".join(parts)


def chosen(half: int | None, only: Sequence[str] | None) -> list[Step]:
    """Return the steps of a half, or of these names; installing comes before all others."""
    steps = [step for step in STEPS if half is None or step.half in (0, half)]
    return [step for step in steps if only is None or step is INSTALL or step.name in only]


def together(steps: Sequence[Step]) -> list[Step]:
    """Return the steps with all comparisons in one: to import takes longer than a tiny model."""
    compared = [step for step in steps if step in COMPARED]
    limit, names = sum(step.limit for step in compared), tuple(step.name for step in compared)
    others = [step for step in steps if step not in COMPARED]
    return [*others, Step("comparisons", limit, compared=names)] if compared else others


def main() -> int:
    """Take the steps; return 1 where one did not end well."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--half", type=int, choices=(1, 2))
    names = [step.name for step in STEPS[1:]]
    parser.add_argument("--only", nargs="+", choices=names, metavar="STEP", help=", ".join(names))
    parser.add_argument("--rehearse", action="store_true", help="a tiny model, two pairs of steps")
    parser.add_argument("--kit", default="own", help="own (default) or newest")
    parser.add_argument("--list", action="store_true", help="print the steps and their limits")
    options = parser.parse_args()
    steps = chosen(options.half, options.only)
    if options.list:
        for step in steps:
            print(f"{step.name:14} {step.limit:4} s")
        print(f"{'all':14} {sum(step.limit for step in steps):4} s")
        return 0
    out = Path(os.environ.get("OUT") or ROOT / "build/gpu")
    out.mkdir(parents=True, exist_ok=True)
    site = Path(tempfile.mkdtemp(prefix="ftplug-gpu-"))
    try:
        with (out / "log.txt").open("w", encoding="utf-8") as log:
            day = Day(out, site, log, None if options.rehearse else options.kit)
            if options.rehearse:
                steps = together(steps)
            # Without what the kit brings nothing else can run.
            well = day.run(INSTALL) and all([day.run(step) for step in steps[1:]])
    finally:
        shutil.rmtree(site, ignore_errors=True)
    print(f"results.json, table.md and log.txt are in {out}")
    return int(not well)


if __name__ == "__main__":
    sys.exit(main())
