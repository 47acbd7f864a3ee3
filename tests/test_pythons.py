"""The interpreters that pyproject.toml names, as far as they are on this machine."""

import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
NAMED = [
    line.rpartition(" ")[2] for line in PROJECT["classifiers"] if "Python :: 3." in line
]  # fmt: skip


@pytest.mark.parametrize("version", NAMED)
def test_the_sources_compile_without_a_warning(version, tmp_path):
    python = shutil.which(f"python{version}")
    command = [python, "-X", f"pycache_prefix={tmp_path}", "-W", "error", "-m", "compileall", "-q"]
    if python is None or subprocess.run([python, "-V"], capture_output=True).returncode:
        pytest.skip(f"no Python {version} here")
    done = subprocess.run(
        [*command, "ftplug", "plugins", "registry"], cwd=ROOT, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_all_from_the_lowest_on_are_named():
    lowest = PROJECT["requires-python"].removeprefix(">=3.")
    assert [f"3.{minor}" for minor in range(int(lowest), int(lowest) + len(NAMED))] == NAMED
