"""Without the libraries, and without any plugin: what is still checked, and what is said."""

import json
import subprocess
import sys

import pytest
import signers
from ftplug_registry import push, verify
from ftplug_registry.pulling.fetching import snapshot
from ftplug_registry.signing.checking import Demand
from ftplug_registry.signing.making import Signer

INSTALL = "pip install 'ftplug[sign]'"


@pytest.fixture
def without(monkeypatch):
    """The extra is not installed."""

    def forget():
        for name in ("model_signing", "OpenSSL", "cryptography"):
            for module in [m for m in sys.modules if m == name or m.startswith(f"{name}.")]:
                monkeypatch.delitem(sys.modules, module)
            monkeypatch.setitem(sys.modules, name, None)

    return forget


@pytest.mark.parametrize(
    "command",
    [
        ["keygen", "{tmp}/new"],
        ["sign", "{folder}", "--key", "{tmp}/alice", "--replace"],
        ["sign", "{folder}", "--keyless", "--replace"],
        ["push", "{folder}", "org/name", "--sign", "{tmp}/alice"],
        ["verify", "{folder}", "--files-only", "--require-signature"],
        ["verify", "{folder}", "--files-only", "--trusted", "{tmp}/alice.pub"],
        ["trust", "org/name", "{tmp}/alice.pub"],
    ],
    ids=" ".join,
)
def test_each_command_says_what_to_install(command, signed, tmp_path, typed, without):
    without()
    code, _, said = typed(*(part.format(folder=signed, tmp=tmp_path) for part in command))
    assert (code, len(said.splitlines())) == (1, 1)
    assert INSTALL in said
    assert not (tmp_path / "new").exists()


def test_what_nobody_asked_to_be_signed_is_said_to_be_unchecked(typed, signed, without):
    without()
    code, out, _ = typed("verify", signed, "--files-only")
    assert code == 0
    assert f"signature: not checked: signatures need model-signing: {INSTALL}" in out
    (signed / "ftplug.json").write_text((signed / "ftplug.json").read_text() + "\n")
    code, _, said = typed("verify", signed, "--files-only")  # digests need no library
    assert (code, "is not what was signed" in said) == (1, True)


def test_a_pinned_repository_is_not_taken_unchecked(artifact, hub, repo_id, alice, without):
    from ftplug.errors import RegistryError

    push(artifact, repo_id, hub=hub, sign=Signer.of(alice[0]))
    assert snapshot(repo_id, hub=hub).signed.known == "first use"
    without()
    with pytest.raises(RegistryError, match="pip install"):
        snapshot(repo_id, hub=hub)
    with pytest.raises(RegistryError, match="pip install"):
        snapshot(repo_id, hub=hub, demand=Demand(required=True))


PLUGIN = """
import sys
raise SystemExit("a plugin was imported")
"""


@pytest.fixture
def broken(tmp_path, monkeypatch):
    """An environment in which every method of the signed artifact ends the process at import."""
    site = tmp_path / "site"
    info = site / "ftplug_broken-1.0.dist-info"
    info.mkdir(parents=True)
    (site / "ftplug_broken.py").write_text(PLUGIN)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: ftplug-broken\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[ftplug.methods]\nbroken = ftplug_broken:Broken\n")

    def rename(folder):
        text = json.loads((folder / "ftplug.json").read_text())
        text["methods"][0]["name"] = "broken"
        (folder / "ftplug.json").write_text(json.dumps(text))

    def run(*arguments):
        code = (
            "import sys; sys.path.insert(0, sys.argv.pop(1)); from ftplug.cli import main; main()"
        )
        done = subprocess.run(
            [sys.executable, "-c", code, str(site), *map(str, arguments)],
            capture_output=True,
            text=True,
            check=False,
        )
        return done.returncode, done.stdout, done.stderr

    return rename, run


def test_hashes_signature_and_probe_need_no_plugin(artifact, alice, broken):
    rename, run = broken
    rename(artifact)
    signers.signed(artifact, alice[0])
    code, out, said = run("verify", artifact, "--files-only", "--trusted", f"{alice[0]}.pub")
    assert code == 0, said
    assert "sha256 as in the manifest" in out
    assert "signature: by alice" in out
    code, out, said = run("verify", artifact, "--files-only", "--json")
    has_probe = (artifact / "ftplug_probe.safetensors").is_file()
    assert json.loads(out)["probe"] == has_probe
    code, out, said = run("verify", artifact)  # the base needs the method
    assert code == 1
    assert "a plugin was imported" in said


def test_a_method_that_is_named_imports_no_other(broken):
    _, run = broken
    code, out, said = run("methods", "bitfit", "--json")
    assert (code, said) == (0, "")
    assert json.loads(out)["name"] == "bitfit"
    assert run("methods", "broken")[0] == 1


def test_verifying_files_imports_no_method_at_all(signed):
    code = (
        "import sys; from ftplug_registry import verify; "
        f"verify({str(signed)!r}, files_only=True); "
        "print([m for m in sys.modules if m.startswith(('ftplug_plugins', 'torch', 'peft'))])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "ftplug_plugins" not in done.stdout


def test_signing_is_not_imported_before_it_is_needed():
    code = (
        "import sys; sys.argv = ['ftplug', 'sign', '--help']; from ftplug.cli import app\n"
        "try:\n app()\nexcept SystemExit: pass\n"
        "print([m for m in sys.modules if m in ('model_signing', 'cryptography', 'torch')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_verify_says_no_signature(artifact):
    assert verify(artifact, files_only=True).signature is None
