"""Record that ``pip install ftplug X`` resolves, for the packages that people fine-tune with.

    python tools/record_installs.py            all of them, a minute or two; needs the network
    python tools/record_installs.py gliner     some of them

uv finds versions that fit together, beside the pinned torch; pip reads what each of them asks for.
``tests/support/installs.json`` keeps the packages that ftplug brings as well, and every requirement
that names one of these: no other can clash with ftplug. ``tests/test_installable.py`` holds
pyproject.toml against it.
"""

from __future__ import annotations

import argparse
import datetime
import json
import subprocess
import sys
import tempfile
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
RECORD = ROOT / "tests/support/installs.json"
# The newest release of each; axolotl's needs Python 3.12, the one before it has older pins.
PACKAGES = {
    "trl": ("trl", "3.11"),
    "sentence-transformers": ("sentence-transformers", "3.11"),
    "setfit": ("setfit", "3.11"),
    "gliner": ("gliner", "3.11"),
    "unsloth": ("unsloth", "3.11"),
    "ms-swift": ("ms-swift", "3.11"),
    "llamafactory": ("llamafactory", "3.11"),
    "axolotl": ("axolotl", "3.12"),
    "axolotl-0.19": ("axolotl==0.19.0", "3.11"),
}


def run(command: list[str], **options: Any) -> str:
    """Run a command and return what it prints, or stop with what it says."""
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, **options)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}:\n{done.stderr}")
    return str(done.stdout)


def newest(package: str, python: str) -> str:
    """Return the newest release of a package as a pin: alone, so that nothing holds it back."""
    if "==" in package:
        return package
    command = ["uv", "pip", "compile", "--quiet", "--no-deps", "--no-header", "--no-annotate"]
    return run([*command, "--python-version", python, "-"], input=package).strip()


def resolved(packages: Iterable[str], python: str) -> list[str]:
    """Return pins of everything that these packages need, beside the pinned torch."""
    torch = next(
        line for line in (ROOT / "constraints.txt").read_text().splitlines() if "torch==" in line
    )
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as constraints:
        constraints.write(torch)
        constraints.flush()
        command = ["uv", "pip", "compile", "--quiet", "--no-header", "--no-annotate"]
        asked = ["--python-version", python, "--constraint", constraints.name, "-"]
        found = run([*command, *asked], input="\n".join(packages))
    return [line for line in found.splitlines() if "==" in line]


def metadata(pins: Iterable[str], python: str) -> list[Mapping[str, Any]]:
    """Return the metadata of these releases, as the registry has it."""
    interpreter = sys.executable
    if python != f"{sys.version_info.major}.{sys.version_info.minor}":
        interpreter = run(["uv", "python", "find", python]).strip()
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        asked = ["--dry-run", "--ignore-installed", "--no-deps", "--report", str(report)]
        run([interpreter, "-m", "pip", "install", "--quiet", *asked, *pins])
        found = json.loads(report.read_text(encoding="utf-8"))["install"]
    return [entry["metadata"] for entry in found]


def entry(package: str, python: str) -> dict[str, Any]:
    """Return what the record keeps of one package."""
    own = {_name(pin) for pin in resolved([f"ftplug @ {ROOT.as_uri()}"], python)} - {"ftplug"}
    pin = newest(package, python)
    pins = resolved([f"ftplug @ {ROOT.as_uri()}", pin], python)
    releases = [m for m in metadata(pins, python) if canonicalize_name(m["name"]) != "ftplug"]
    lines = [Requirement(line) for r in releases for line in r.get("requires_dist", ())]
    asks = {}
    for release in releases:
        name = canonicalize_name(release["name"])
        extras = {
            extra for line in lines if canonicalize_name(line.name) == name for extra in line.extras
        }
        asked = [
            line for line in release.get("requires_dist", ()) if _concerns(line, own, {"", *extras})
        ]
        if asked:
            asks[f"{name}=={release['version']}"] = sorted(asked)
    versions = {canonicalize_name(r["name"]): r["version"] for r in releases}
    return {
        "release": pin,
        "python": python,
        "date": datetime.date.today().isoformat(),
        "versions": {name: version for name, version in sorted(versions.items()) if name in own},
        "asks": dict(sorted(asks.items())),
    }


def _concerns(line: str, packages: Collection[str], extras: Collection[str]) -> bool:
    """Whether a requirement names one of these packages, and holds with one of these extras."""
    marker = Requirement(line).marker
    holds = marker is None or any(marker.evaluate({"extra": extra}) for extra in extras)
    return holds and _name(line) in packages


def _name(requirement: str) -> str:
    return str(canonicalize_name(Requirement(requirement).name))


def main() -> None:
    """Renew the record of the packages that were asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("packages", nargs="*", metavar="PACKAGE", help=", ".join(PACKAGES))
    options = parser.parse_args()
    if unknown := set(options.packages) - set(PACKAGES):
        parser.error(f"no package {sorted(unknown)[0]!r} here: {', '.join(PACKAGES)}")
    record = json.loads(RECORD.read_text(encoding="utf-8")) if RECORD.is_file() else {}
    for name in options.packages or PACKAGES:
        print(f"{name}: resolving …", flush=True)
        found = record[name] = entry(*PACKAGES[name])
        shown = ("transformers", "peft", "huggingface-hub", "accelerate")
        print(f"{found['release']}:", *(f"{n} {found['versions'][n]}" for n in shown), flush=True)
        kept = {name: record[name] for name in PACKAGES if name in record}
        RECORD.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
