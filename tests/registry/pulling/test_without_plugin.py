"""An artifact of a method that is not installed: fetched, checked and shown without its code."""

import json
import subprocess
import sys

import hub as hubs
import pytest
from ftplug_registry import pull, show, verify

import ftplug
from ftplug import ArtifactError, PluginError, cli

CLAIM = "names the package 'ftplug-my-lora 2.1', which is its publisher's claim"


def edited(folder, **changes):
    """Change what the manifest says of its method, or of itself."""
    path = folder / "ftplug.json"
    manifest = json.loads(path.read_text())
    manifest["schema"] = changes.pop("schema", manifest["schema"])
    manifest["methods"][0] |= changes
    path.write_text(json.dumps(manifest))
    return folder


@pytest.fixture
def foreign(artifact):
    return edited(artifact, name="my-lora", distribution="ftplug-my-lora", version="2.1")


@pytest.fixture
def published(client, foreign, repo_id):
    client.create_repo(repo_id)
    client.upload_folder(repo_id=repo_id, folder_path=foreign)
    return repo_id


def printed(capsys, monkeypatch, *arguments):
    monkeypatch.setattr("sys.argv", ["ftplug", *map(str, arguments)])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    out, err = capsys.readouterr()
    return stopped.value.code or 0, out, err


def test_its_files_are_verified_and_the_package_is_called_a_claim(foreign, capsys, monkeypatch):
    done = verify(foreign, files_only=True)
    assert len(done.files) == len(json.loads((foreign / "ftplug.json").read_text())["files"])
    assert CLAIM in done.missing[0]
    code, out, err = printed(capsys, monkeypatch, "verify", foreign, "--files-only")
    assert (code, err) == (0, "")
    assert "sha256 as in the manifest" in out
    assert CLAIM in out
    assert "pip" not in out
    assert verify(edited(foreign, name="lora"), files_only=True).missing == ()


def test_it_is_pulled_into_a_folder_and_not_loaded(
    hub, published, base, foreign, capsys, monkeypatch, tmp_path
):
    code, out, err = printed(capsys, monkeypatch, "pull", published, "--to", tmp_path / "copy")
    assert code == 0
    assert not [line for line in err.split("\r") if line.strip() and "Fetching" not in line]
    assert CLAIM in out
    assert "pip" not in out
    listed = json.loads((foreign / "ftplug.json").read_text())["files"]
    assert set(listed) <= {path.name for path in (tmp_path / "copy").iterdir()}
    assert verify(published, files_only=True, hub=hub).sha == pull(published, hub=hub).name
    assert show(published, hub=hub)["installed"] is False
    code, out, _ = printed(capsys, monkeypatch, "show", published)
    assert (code, CLAIM in out) == (0, True)
    with pytest.raises(PluginError, match="'my-lora', which is not installed here"):
        ftplug.load(base, published)
    with pytest.raises(PluginError, match="'my-lora', which is not installed here"):
        verify(published, base=base, hub=hub)


def test_an_altered_file_comes_before_the_missing_plugin(client, hub, published, foreign, tmp_path):
    weights = foreign / "adapter_model.safetensors"
    size = weights.stat().st_size
    weights.write_bytes(b"x" * size)
    for files_only in (True, False):
        with pytest.raises(ArtifactError, match="sha256 differs"):
            verify(foreign, files_only=files_only)
    client.upload_file(path_or_fileobj=b"x" * size, path_in_repo=weights.name, repo_id=published)
    with pytest.raises(ArtifactError, match="sha256 differs"):
        pull(published, to=tmp_path / "copy", hub=hub)
    assert not (tmp_path / "copy").exists()


@pytest.mark.slow
@pytest.mark.parametrize("schema", [1, 2])
def test_no_plugin_is_imported(schema, server, client, artifact, tmp_path):
    """A plugin that is installed, and leaves a mark when it is imported."""
    site, mark = tmp_path / "site", tmp_path / "imported"
    (site / "ftplug_spy-1.0.dist-info").mkdir(parents=True)
    (site / "ftplug_spy-1.0.dist-info/METADATA").write_text("Name: ftplug-spy\nVersion: 1.0\n")
    (site / "ftplug_spy-1.0.dist-info/entry_points.txt").write_text(
        "[ftplug.methods]\nspy = ftplug_spy:Spy\n"
    )
    (site / "ftplug_spy.py").write_text(f"open({str(mark)!r}, 'w').close()\n")
    edited(artifact, name="spy", schema=schema)
    client.create_repo(f"alice/spied-{schema}")
    client.upload_folder(repo_id=f"alice/spied-{schema}", folder_path=artifact)
    env = hubs.environment(server, "alice", home=tmp_path / "home") | {"PYTHONPATH": str(site)}

    def run(*arguments):
        command = [sys.executable, "-m", "ftplug", *map(str, arguments)]
        return subprocess.run(command, env=env, capture_output=True, text=True)

    for arguments in (
        ("verify", artifact, "--files-only"),
        ("verify", f"alice/spied-{schema}", "--files-only"),
        ("pull", f"alice/spied-{schema}", "--to", tmp_path / "copy"),
        ("search", "--method", "spy"),
    ):
        done = run(*arguments)
        assert done.returncode == 0, done.stderr
        assert not mark.exists(), arguments
    assert "cannot be used here" in run("verify", artifact).stderr
    assert mark.exists()
