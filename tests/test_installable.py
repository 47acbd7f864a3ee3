"""``pip install ftplug X`` resolves: pyproject.toml against what was recorded of others.

``python tools/record_installs.py`` renews the record, ``tests/support/installs.json``.
"""

import copy
import json
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
RECORD = json.loads((ROOT / "tests/support/installs.json").read_text(encoding="utf-8"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
NINE = {
    "trl", "sentence-transformers", "setfit", "gliner", "unsloth", "ms-swift", "llamafactory",
    "axolotl", "axolotl-0.19",
}  # fmt: skip


def unmet(entry, dependencies):
    """Return the requirements that the recorded versions do not meet, each with its owner."""
    environment = {
        "python_version": entry["python"], "python_full_version": f"{entry['python']}.9",
        "sys_platform": "linux", "platform_system": "Linux", "platform_machine": "x86_64",
        "os_name": "posix", "implementation_name": "cpython",
        "platform_python_implementation": "CPython",
    }  # fmt: skip
    lines = [(owner, line) for owner, asked in entry["asks"].items() for line in asked]
    missed, asked = [], {}
    for _, line in lines:
        asked.setdefault(canonicalize_name(Requirement(line).name), set()).update(
            Requirement(line).extras
        )
    for owner, line in [*lines, *(("ftplug", line) for line in dependencies)]:
        requirement = Requirement(line)
        extras = {"", *asked.get(owner.partition("==")[0], ())}
        markers = [{**environment, "extra": extra} for extra in extras]
        if requirement.marker and not any(map(requirement.marker.evaluate, markers)):
            continue
        found = entry["versions"].get(canonicalize_name(requirement.name))
        if found is None or not requirement.specifier.contains(found, prereleases=True):
            missed.append(f"{owner} asks for {line}, recorded is {found}")
    return missed


def test_all_that_people_fine_tune_with_are_recorded():
    assert set(RECORD) == NINE


@pytest.mark.parametrize("name", RECORD)
def test_it_installs_beside_ftplug(name):
    entry = RECORD[name]
    assert SpecifierSet(PROJECT["requires-python"]).contains(entry["python"])
    assert name.startswith(entry["release"].partition("==")[0])
    assert unmet(entry, PROJECT["dependencies"]) == [], (
        "no versions are known that suit both: widen the bound, or renew the record with "
        f"python tools/record_installs.py {name}"
    )


@pytest.mark.parametrize("name", RECORD)
def test_a_narrower_bound_would_be_seen(name):
    narrow = [*PROJECT["dependencies"], "transformers>=5.24,<5.25", "peft<0.18"]
    assert any("ftplug asks for peft<0.18" in line for line in unmet(RECORD[name], narrow))


def test_a_missing_package_would_be_seen():
    entry = copy.deepcopy(RECORD["gliner"])
    del entry["versions"]["transformers"]
    assert [line for line in unmet(entry, ()) if line.startswith("gliner")]
