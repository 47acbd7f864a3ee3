"""What ftplug is built of and built into: pinned, audited, licensed, and nothing untracked."""

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from audit import judged
from dependencies import CONSTRAINTS, PAGE, installed, licence, pinned, version_of

ROOT = Path(__file__).parents[1]
RENEW = "python tools/dependencies.py renews it"


def test_all_that_the_tests_run_with_is_pinned():
    pins = pinned(CONSTRAINTS.read_text(encoding="utf-8").splitlines())
    found = {name: version_of(distribution) for name, distribution in installed().items()}
    assert {"torch", "tokenizers", "pygit2", "pytest", "idna"} <= found.keys()
    assert {name: pins.get(name) for name in found} == found, RENEW


def test_the_page_has_the_licence_of_each():
    rows = PAGE.read_text(encoding="utf-8").splitlines()
    for name, distribution in installed().items():
        said = [row for row in rows if row.startswith(f"| {name} | {version_of(distribution)} |")]
        assert len(said) == 1, f"{name}: {RENEW}"
        assert licence(distribution).split()[0] in said[0]
    assert not any("not stated" in row for row in rows)
    [pygit2] = [row for row in rows if row.startswith("| pygit2 |")]
    assert "GPLv2 with linking exception" in pygit2
    assert "`ftplug[serve]`" in pygit2


VULNERABLE = {"id": "PYSEC-1", "fix_versions": ["2.0"]}


def entry(name, **facts):
    return {"name": name, "version": "1.0", "vulns": []} | facts


@pytest.mark.parametrize(
    ("report", "reason", "code", "said"),
    [
        ({"dependencies": [entry("a"), entry("b")]}, "", 0, "audited: 2 packages"),
        (
            {"dependencies": [entry("a", vulns=[VULNERABLE])]},
            "", 1, "a 1.0: PYSEC-1, mended in 2.0",
        ),
        (
            {"dependencies": [entry("a", vulns=[VULNERABLE | {"fix_versions": []}])]},
            "", 1, "a 1.0: PYSEC-1, mended in no version yet",
        ),
        (
            {"dependencies": [entry("a"), {"name": "b", "skip_reason": "not found"}]},
            "", 1, "not audited, unknown to the service: b",
        ),
        (
            {"dependencies": [{"name": "b", "skip_reason": "not found"}]},
            "", 0, "audit skipped: the service answers for none of the 1 packages",
        ),
        (None, "requests.exceptions.ProxyError: no way", 0, "audit skipped: requests.exceptions"),
        (None, "ERROR: no such option", 1, "audit failed: ERROR: no such option"),
    ],
)  # fmt: skip
def test_an_audit_calls_nothing_sound_that_was_not_asked_for(report, reason, code, said):
    result = judged(report, reason)
    assert result[0] == code
    assert said in result[1]


def test_what_is_not_tracked_is_in_neither_wheel_nor_sdist(tmp_path):
    clone, out = tmp_path / "clone", tmp_path / "dist"
    subprocess.run(["git", "clone", "--quiet", ROOT, clone], check=True)
    for name in ("ftplug/scratch.py", "tests/notes.txt", "plugins/ftplug_plugins/mine.py"):
        (clone / name).write_text("SECRET = 1\n")
    (clone / ".venv").symlink_to(Path(sys.prefix))
    made = ["make", "-o", ".venv/installed", "dist", f"DIST={out}"]
    subprocess.run(made, cwd=clone, check=True, capture_output=True)
    listed = ["git", "-C", clone, "ls-files"]
    tracked = set(subprocess.run(listed, check=True, capture_output=True, text=True).stdout.split())
    with tarfile.open(next(out.glob("*.tar.gz"))) as sdist:
        packed = {name.partition("/")[2] for name in sdist.getnames()}
    assert packed - tracked == {"PKG-INFO"}
    assert {"ftplug/cli.py", "tests/conftest.py", "constraints.txt", "README.md"} <= packed
    with zipfile.ZipFile(next(out.glob("*.whl"))) as wheel:
        modules = {name for name in wheel.namelist() if ".dist-info/" not in name}
    homes = ("", "plugins/", "registry/")
    assert all(any(home + name in tracked for home in homes) for name in modules)
