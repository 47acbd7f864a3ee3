"""Gather what a machine with a GPU and no network lacks: wheels, ftplug's own among them.

python tools/gpu_kit.py            the kits of gpu_kit.toml, into build/gpu-kit
python tools/gpu_kit.py newest     one of them

There: python -m pip install --no-index --no-deps --target FOLDER build/gpu-kit/own/*.whl
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
TABLE = Path(__file__).with_suffix(".toml")
KITS = ROOT / "build/gpu-kit"
# pip matches each tag exactly, and a wheel for an older glibc runs on a newer one.
GLIBC = (12, 17, 24, 27, 28, 31, 34)


@dataclass(frozen=True)
class Machine:
    """A machine, by its Python, its platform as uv names it, and what was seen on it."""

    python: str
    platform: str
    has: Sequence[str]
    lacks: Sequence[str] = ()  # of what these would bring, were they installed anew

    def resolved(self, requirements: Iterable[str]) -> set[str]:
        """Return the pins of these requirements and of all that they need, on this machine."""
        out = _output(
            [sys.executable, "-m", "uv", "pip", "compile", "--quiet", "--no-header",
             "--no-annotate", "--python-version", self.python,
             "--python-platform", self.platform, "-"],
            "\n".join(requirements),
        )  # fmt: skip
        return {line.partition(";")[0].strip() for line in out.splitlines() if "==" in line}

    def missing(self, wants: Sequence[str], replaces: Sequence[str] = ()) -> list[str]:
        """Return the pins that bring ``wants`` to the machine; what it has stays as it is.

        But for ``replaces``, which come in the newest versions that fit.
        """
        there = {pin for pin in self.resolved(self.has) if project(pin) not in self.lacks}
        kept = {pin for pin in there if project(pin) not in replaces}
        return sorted(self.resolved([*wants, *sorted(kept)]) - there)


def project(pin: str) -> str:
    """Return the project that a pin names."""
    return re.split(r"[=<>!~\[; ]", pin, maxsplit=1)[0]


def gather(machine: Machine, kit: Mapping[str, Sequence[str]], folder: Path) -> None:
    """Fill a folder with the wheels of a kit; it appears complete or not at all."""
    wants = [str(ROOT) if want == "." else want for want in kit["wants"]]
    pins = machine.missing(wants, kit.get("replaces", ()))
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as new:
        tags = [f"--platform=manylinux_2_{minor}_x86_64" for minor in GLIBC]
        tags += ["--platform=manylinux2014_x86_64", "--platform=manylinux1_x86_64"]
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
        print(f"{folder.name}: {', '.join(pins)}", flush=True)
        _output(
            [*pip, "download", "--quiet", "--no-deps", "--only-binary=:all:", *tags,
             "--implementation=cp", f"--python-version={machine.python}", f"--dest={new}", *pins],
        )  # fmt: skip
        _output([*pip, "wheel", "--quiet", "--no-deps", f"--wheel-dir={new}", str(ROOT)])
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(new, folder)


def megabytes(folder: Path) -> float:
    """Return the weight of a folder's files."""
    return sum(file.stat().st_size for file in folder.iterdir()) / 1e6


def _output(command: Sequence[str], given: str = "") -> str:
    done = subprocess.run(command, input=given, capture_output=True, text=True, cwd=ROOT)
    if done.returncode:
        raise SystemExit(f"{' '.join(command[:6])} …:\n{done.stderr.strip()}")
    return done.stdout


def main() -> None:
    """Gather the kits that were asked for; one that is too heavy is an error."""
    table = tomllib.loads(TABLE.read_text(encoding="utf-8"))
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    kits = table["kits"]
    parser.add_argument("kits", nargs="*", metavar="KIT", help=f"{', '.join(kits)}; none: all")
    names = parser.parse_args().kits or list(kits)
    if unknown := [name for name in names if name not in kits]:
        parser.error(f"no kit {unknown[0]!r} in {TABLE.name}: {', '.join(kits)}")
    machine = Machine(*(table[name] for name in ("python", "platform", "has", "lacks")))
    heavy = False
    for name in names:
        gather(machine, kits[name], KITS / name)
        weight = megabytes(KITS / name)
        heavy |= weight > table["megabytes"]
        print(f"{name}: {weight:.1f} MB of {table['megabytes']} in {KITS / name}")
    sys.exit(heavy)


if __name__ == "__main__":
    main()
