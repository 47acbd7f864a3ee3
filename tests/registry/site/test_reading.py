"""What is found of an artifact: sound, malformed, altered, and what a stranger's card says."""

import json
import os
import random

import pytest
import zoos
from ftplug_registry.site import facts
from ftplug_registry.site.addresses import Addresses
from ftplug_registry.site.artifact import read
from ftplug_registry.site.collecting import collect
from ftplug_registry.site.folders import folders_in
from ftplug_registry.site.found import Found, Listed
from ftplug_registry.site.measures import measures, wilson
from ftplug_registry.site.pages import Site

from ftplug.errors import RegistryError


def found(content=None, card=b"", **more):
    manifest = zoos.manifest() if content is None else content
    listed = {name: Listed(one["size"]) for name, one in zoos.manifest()["files"].items()}
    files = {"ftplug.json": json.dumps(manifest).encode(), "README.md": card}
    return Found("lab/x", **({"files": files, "listed": listed} | more))


def shown(artifact):
    """Render everything that is shown of an artifact."""
    site = Site([artifact], Addresses.of_files([artifact.name]), "Zoo")
    return site.home() + site.page(artifact) + site.comparisons() + site.bases()


def only(root):
    [artifact] = collect([str(root)]).artifacts
    return artifact


def test_a_sound_artifact_has_no_remark(tmp_path):
    artifact = only(zoos.artifact(tmp_path / "mine"))
    assert (artifact.name, artifact.remarks, artifact.consistent) == ("mine", (), True)
    assert facts.base(artifact) == "org/mini-lm"
    assert facts.method(artifact) == "lora"
    assert facts.effect(artifact) == ("KL 0.21", 0.21)
    assert artifact.bytes == 4096


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda f: (f / "ftplug.json").write_text('{"a": '), "not readable as JSON"),
        (lambda f: (f / "ftplug.json").write_text("[]"), "a JSON object is expected"),
        (lambda f: (f / "ftplug.json").write_text('{"schema": 99}'), "upgrade it"),
        (lambda f: (f / "ftplug.json").write_bytes(b"\xff\xfe"), "not readable as JSON"),
        (lambda f: (f / zoos.WEIGHTS).unlink(), "is missing, which the manifest lists"),
        (lambda f: (f / zoos.WEIGHTS).write_bytes(b"x"), "1 bytes, but the manifest says 4,096"),
        (lambda f: (f / "ftplug.json").rename(f / "adapter_config.json"), "plain PEFT adapter"),
    ],
)
def test_what_is_wrong_is_a_remark(tmp_path, change, says):
    folder = zoos.artifact(tmp_path / "lab" / "x")
    change(folder)
    artifact = only(tmp_path)
    assert says in artifact.remarks[0]
    assert str(tmp_path) not in artifact.remarks[0]
    assert not artifact.consistent
    assert says in shown(artifact).replace("&#39;", "'")


def test_another_sha256_than_the_manifests_is_an_alteration():
    listed = {zoos.WEIGHTS: Listed(4096, "cd" * 32)}
    assert "another sha256" in read(found(listed=listed)).remarks[0]
    assert read(found(listed={zoos.WEIGHTS: Listed(4096, "ab" * 32)})).remarks == ()


def test_a_link_out_of_the_folder_is_not_read(tmp_path):
    secret = tmp_path / "secret.md"
    secret.write_text("the secret")
    folder = zoos.artifact(tmp_path / "zoo" / "x")
    (folder / "README.md").unlink()
    os.symlink(secret, folder / "README.md")
    artifact = only(tmp_path / "zoo")
    assert "README.md is a link out of the folder" in artifact.remarks[0]
    assert "the secret" not in shown(artifact)


def test_names_are_those_of_the_folders(tmp_path):
    for name in ("lab/a", "lab/b", "c", ".hidden/d", "_staged/e", "lab/checkpoint-5", "x/y/z"):
        zoos.artifact(tmp_path / name)
    assert [name for name, _ in folders_in(tmp_path)] == ["c", "lab/a", "lab/b"]
    other = zoos.artifact(tmp_path / "_other" / "c").parent
    names = [one.name for one in collect([str(tmp_path), str(other)]).artifacts]
    assert names == ["c", "lab/a", "lab/b", "c (2)"]


@pytest.mark.parametrize("place", ["nowhere/at/all", "../x", "-x", "a b", "", "x\x1b[2J"])
def test_a_place_that_is_none_is_refused_by_name(place, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RegistryError, match="neither a folder that is there nor a namespace"):
        collect([place])


def test_a_folder_without_artifacts_is_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(RegistryError, match="no artifact in it"):
        collect([str(tmp_path)])


def test_what_a_card_says_of_deprecation(tmp_path):
    front = 'ftplug_deprecated:\n  why: "worse \\e[2J <b>"\n  use: org/new\n'
    artifact = read(found(card=zoos.card("x", front).encode()))
    assert (artifact.notice.why, artifact.notice.use) == ("worse <b>", "org/new")
    assert (
        shown(artifact).count("eprecated") == shown(artifact).count("worse &lt;b&gt;") == 2
    )  # list and page
    long = zoos.card("x", f"ftplug_deprecated: {{why: {'y' * 5000}}}\n")
    assert len(read(found(card=long.encode())).notice.why) <= 300


def test_a_withdrawn_version_is_shown_as_such_and_others_are_not():
    for commit, shown_as in (("a" * 40, "withdrawn"), ("b" * 40, None)):
        front = f"ftplug_withdrawn: [{{tag: v1, commit: {commit}, why: wrong data}}]\n"
        artifact = read(found(card=zoos.card("x", front).encode(), sha="a" * 40))
        assert (artifact.notice and artifact.notice.kind) == shown_as
        assert ("Withdrawn</strong>: wrong data" in shown(artifact)) == bool(shown_as)


@pytest.mark.parametrize(
    "front",
    [
        "",
        "ftplug_deprecated:\n",
        "a: &a [x]\nftplug_deprecated: *a\n",
        "ftplug_deprecated: [}\n",
        "ftplug_deprecated: false\n",
        f"a: {'[' * 5000}\n",
    ],
)
def test_a_card_that_says_nothing_readable_deprecates_nothing(front):
    assert read(found(card=zoos.card("x", front).encode())).notice is None


def test_wilsons_interval_is_scipys():
    stats = pytest.importorskip("scipy.stats")
    for count, rows in ((0, 10), (7, 10), (10, 10), (785, 872), (1, 10**6)):
        theirs = stats.binomtest(count, rows).proportion_ci(0.95, method="wilson")
        assert wilson(count / rows, rows) == pytest.approx((theirs.low, theirs.high), abs=1e-12)


def test_metrics_stand_with_their_data_and_interval():
    elsewhere = [
        {"data": {"dataset": "org/other", "split": "test", "rows": 100}, "metrics": {"accuracy": 1}}
    ]
    content = zoos.manifest(training={"metrics_on_other_data": elsewhere})
    first, second, last = measures(read(found(content)).facts)
    assert (first.name, first.value, first.measured_on) == (
        "accuracy", 1.0, "org/other, split test, 100 rows",
    )  # fmt: skip
    assert (second.measured_on, second.interval) == (
        "org/reviews, split test, 872 rows",
        wilson(0.9, 872),
    )
    assert (last.name, last.interval) == ("loss", None)


def test_a_number_of_many_digits_is_told_by_its_size():
    content = zoos.manifest(training={"seed": 10**400, "seconds": 10**400})
    said = dict(facts.provenance(read(found(content))))
    assert said["Seed"] == "about 2^1329"
    assert "Training time" not in said


ODD = [None, True, -1, 0.5, 1e308, float("nan"), float("inf"), 10**400, "", "x" * 10_000, [], {}]
ODD += [
    "<script>alert(1)</script>",
    "\x1b[2J\x00\ud800\u202e",
    "{{ 7 * 7 }}",
    [[]],
    {"a": {"b": []}},
]
ODD += [[None], {"": None}, {"dataset": {}}, [{"step": "x", "loss": None}], "'\"><img src=x>"]


def places(value, path=()):
    yield path
    items = value.items() if isinstance(value, dict) else ()
    for key, inner in items:
        yield from places(inner, (*path, key))


def test_no_manifest_crashes_a_page():
    """Every value of a manifest replaced by odd ones: a remark or a page, and nothing runs."""
    draw = random.Random(0)
    whole = zoos.manifest(training={"comparison": zoos.COMPARISON, "also": [{"name": "x"}]})
    sound = 0
    for path in [p for p in places(whole) if p]:
        for odd in draw.sample(ODD, 6):
            content = json.loads(json.dumps(whole))
            inner = content
            for key in path[:-1]:
                inner = inner[key]
            inner[path[-1]] = odd
            artifact = read(found(content))
            text = shown(artifact)
            sound += artifact.manifest is not None
            assert "<script>alert" not in text
            assert "<img" not in text
            assert "\x1b" not in text
            text.encode("utf-8")
            assert artifact.manifest is not None or artifact.remarks
    assert sound > 100  # it is not the manifest's own check that refuses all
