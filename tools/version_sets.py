"""The sets of versions in ``tools/matrix.toml``, and the folders in which they are installed.

A set's folder stands before ``.venv`` on the path and holds only what differs: torch is there once.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dependencies import BROUGHT

ROOT = Path(__file__).parents[1]
TABLE = Path(__file__).with_name("matrix.toml")
OVERLAYS = ROOT / ".venv/matrix"
# What is resolved together: ftplug as its tests need it, and the libraries whose scripts they run.
REQUIREMENTS = (".[demo,testing]", "trl", "sentence-transformers", "datasets")
STAMP = "installed.txt"


@dataclass(frozen=True)
class VersionSet:
    """Versions to test with; ``newest`` lifts every pin of the pinned set but torch's."""

    name: str
    pins: Sequence[str] = ()
    absent: Sequence[str] = ()  # what it has not, though .venv has or something in it asks for
    removed: Sequence[str] = ()  # folders of an installed package that fail here
    requires: Sequence[str] = REQUIREMENTS
    suites: Sequence[str] = ()
    newest: bool = False

    @property
    def folder(self) -> Path:
        """Where what differs from ``.venv`` lies."""
        return OVERLAYS / self.name

    def differs(self) -> bool:
        """Whether anything does, once it is built."""
        return list(self.folder.iterdir()) != [self.folder / STAMP]

    def environment(self) -> dict[str, str]:
        """Return the environment in which a process sees this set."""
        return os.environ | {"PYTHONPATH": str(self.folder), "HF_HUB_OFFLINE": "1"}

    def constraints(self) -> str:
        """Return what the pinned set chooses, with this one's pins in place of its own.

        What its libraries bring is left to pip: older ones bring older ones.
        """
        own = {_project(pin) for pin in self.pins}
        chosen = (ROOT / "constraints.txt").read_text(encoding="utf-8").partition(BROUGHT)[0]
        kept = [line for line in chosen.splitlines() if line and not line.startswith("#")]
        if self.newest:
            kept = [line for line in kept if _project(line) == "torch"]
        return "\n".join([*(line for line in kept if _project(line) not in own), *self.pins]) + "\n"


def _project(requirement: str) -> str:
    """Return the project that a requirement names, as registries write it."""
    return re.split(r"[=<>!~\[; ]", requirement, maxsplit=1)[0].lower().replace("_", "-")


def pip(*arguments: str) -> None:
    """Run pip in ``.venv``, or stop with what it says."""
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    done = subprocess.run([*command, *arguments], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"pip install {' '.join(arguments)}:\n{done.stderr}")


def resolved(versions: VersionSet) -> list[str]:
    """Return what pip would change in ``.venv`` to have these versions, as pins."""
    with tempfile.TemporaryDirectory() as folder:
        report, constraints = Path(folder) / "report.json", Path(folder) / "constraints.txt"
        constraints.write_text(versions.constraints(), encoding="utf-8")
        upgrade = ("--upgrade", "--upgrade-strategy", "eager") if versions.newest else ()
        pip("--dry-run", "--report", str(report), "--constraint", str(constraints), *upgrade,
            *versions.requires, *versions.pins)  # fmt: skip
        found = json.loads(report.read_text(encoding="utf-8"))["install"]
    metadata = [entry["metadata"] for entry in found]
    left_out = {"ftplug", *versions.absent}
    return sorted(f"{m['name']}=={m['version']}" for m in metadata if m["name"] not in left_out)


def build(versions: VersionSet) -> None:
    """Install what differs into the set's folder, unless it lies there already."""
    asked = versions.constraints() + str(versions) + (ROOT / "pyproject.toml").read_text("utf-8")
    stamp, key = versions.folder / STAMP, hashlib.sha256(asked.encode()).hexdigest()
    if stamp.is_file() and stamp.read_text(encoding="utf-8") == key:
        return
    print(f"{versions.name}: resolving …", flush=True)
    changed = resolved(versions)
    print(f"{versions.name}: {', '.join(changed) or 'as .venv'}", flush=True)
    shutil.rmtree(versions.folder, ignore_errors=True)
    versions.folder.mkdir(parents=True)
    if changed:
        pip("--no-deps", "--no-compile", "--target", str(versions.folder), *changed)
    for folder in versions.removed:
        shutil.rmtree(versions.folder / folder)
    for module in filter(importlib.util.find_spec, versions.absent):
        (versions.folder / f"{module}.py").write_text(
            f"raise ModuleNotFoundError('{module} is not in this set', name='{module}')\n"
        )
    stamp.write_text(key, encoding="utf-8")


def renew() -> None:
    """Write into ``matrix.toml`` what is newer than the pinned set."""
    newer = resolved(VersionSet("newest", newest=True))
    text = TABLE.read_text(encoding="utf-8")
    pins = f"pins = {json.dumps(newer)}"
    text = re.sub(r"(\[sets\.newest\][^\n]*\n)pins = [^\n]*", lambda m: m[1] + pins, text)
    TABLE.write_text(text, encoding="utf-8")
    print(f"newest: {', '.join(newer) or 'the pinned set'}")


def read() -> tuple[dict[str, VersionSet], dict[str, list[str]]]:
    """Return the sets and the suites of ``matrix.toml``."""
    table = tomllib.loads(TABLE.read_text(encoding="utf-8"))
    usual = {"suites": table["usual"]}
    sets = {name: VersionSet(name, **usual | row) for name, row in table["sets"].items()}
    return sets, table["suites"]
