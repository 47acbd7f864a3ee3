"""``ftplug verify --effect``: exit code, line and JSON, of what answers as trained and the rest."""

import json

from ftplug_registry import push

from ftplug.artifacts.digests import file_entry
from ftplug.effect.probe import FILE, Probe


def relisted(artifact, *, without=False):
    """List the probe as it is now, or no probe, as if it had been so at the save."""
    path = artifact / "ftplug.json"
    manifest = json.loads(path.read_text())
    del manifest["files"][FILE]
    if not without:
        manifest["files"][FILE] = file_entry(artifact / FILE)
    path.write_text(json.dumps(manifest))


def answering_otherwise(artifact):
    """Let the probe say that the trained model answered as the base did, and vice versa."""
    probe = Probe.read(artifact / FILE)
    Probe(
        probe.inputs,
        probe.head_only,
        probe.trained,
        probe.base,
        probe.token_ids,
        dtype=probe.dtype,
        classes=probe.classes,
    ).write(artifact / FILE)
    relisted(artifact)


def test_an_artifact_that_answers_as_trained(typed, hub, artifact, base, repo_id):
    code, out, err = typed("verify", artifact, "--base", base, "--effect")
    assert (code, err) == (0, "")
    assert "effect: trained: 100% of the effect is here" in out
    push(artifact, repo_id, hub=hub)
    code, out, _ = typed("verify", repo_id, "--base", base, "--effect", "--json")
    found = json.loads(out)["effect"]
    assert (code, found["verdict"], found["inputs"]) == (0, "trained", 8)
    assert found["figures"]["logits"]["error"] <= 4e-6
    assert "effect" not in json.loads(typed("verify", artifact, "--files-only", "--json")[1])


def test_one_that_does_not(typed, artifact, base):
    answering_otherwise(artifact)
    code, out, err = typed("verify", artifact, "--base", base, "--effect")
    assert (code, err.count("\n")) == (1, 1)
    assert "effect: other" in err
    assert "answers" in err
    assert "sha256 as in the manifest" in out
    code, out, err = typed("verify", artifact, "--base", base, "--effect", "--json")
    assert (code, err.count("\n")) == (1, 1)
    assert json.loads(out)["effect"]["verdict"] == "other"


def test_one_without_a_probe(typed, artifact, base):
    relisted(artifact, without=True)
    (artifact / FILE).unlink()
    code, _, err = typed("verify", artifact, "--base", base, "--effect")
    assert (code, err.count("\n"), "no probe" in err, "answers" in err) == (1, 1, True, True)
    assert typed("verify", artifact, "--base", base)[0] == 0


def test_files_alone_have_no_effect(typed, artifact):
    code, _, err = typed("verify", artifact, "--files-only", "--effect")
    assert (code, "leave out --files-only" in " ".join(err.replace("│", " ").split())) == (2, True)
