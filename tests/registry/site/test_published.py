"""A site of what is on a Hub: only what is public, by the listing, without a weight."""

import json
import shutil

import hub as hubs
import pytest
import zoos
from ftplug_registry.pulling import source as source_module
from ftplug_registry.pulling.source import Source
from ftplug_registry.site.addresses import Addresses
from ftplug_registry.site.collecting import collect
from ftplug_registry.site.pages import Site
from ftplug_registry.site.writing import write_site

from ftplug.artifacts.card import CARD
from ftplug.errors import RegistryError


@pytest.fixture(scope="module")
def org(server, tmp_path_factory):
    """A public and a private artifact of alice's, and one that is malformed."""
    root = tmp_path_factory.mktemp("published")
    with hubs.client(server, "alice", home=root / "home") as api:
        for name in ("public", "secret", "bad"):
            folder = zoos.artifact(root / name)
            if name == "bad":
                (folder / "ftplug.json").write_text("{")
            repo_id = f"alice/site-{name}"
            api.create_repo(repo_id, private=name == "secret")
            api.upload_folder(repo_id=repo_id, folder_path=folder)
        api.create_tag("alice/site-public", tag="v1")
    return "alice"


def test_a_namespace_with_what_everybody_may_see(org, hub, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(Source, "read", _noting(asked))
    zoo = collect([org], hub=hub)
    names = [one.name for one in zoo.artifacts if one.name.startswith("alice/site-")]
    assert names == ["alice/site-bad", "alice/site-public"]
    assert "alice/site-secret" in zoo.private
    assert set(asked) == {"ftplug.json", "README.md"}
    [public] = [one for one in zoo.artifacts if one.name == "alice/site-public"]
    assert public.consistent
    assert {(one.name, one.kind) for one in public.versions} == {("v1", "tag"), ("main", "branch")}
    [bad] = [one for one in zoo.artifacts if one.name == "alice/site-bad"]
    assert "not readable as JSON" in bad.remarks[0]
    site = write_site(zoo, tmp_path / "site", "Zoo").folder
    assert not [name for name in zoos.contents(site) if "secret" in name]
    assert b"secret" not in b"".join(zoos.contents(site).values())
    page = (site / "artifacts" / "alice--site-public.html").read_text()
    assert "ftplug pull alice/site-public --to adapter" in page
    assert "revision=&#34;v1&#34;" in page


def _noting(asked):
    read = Source.read

    def noted(self, name):
        asked.append(name)
        return read(self, name)

    return noted


def test_what_the_hub_sends_must_be_what_it_lists(org, hub, monkeypatch):
    sent = source_module.content_of
    monkeypatch.setattr(
        source_module,
        "content_of",
        lambda api, repo_id, name, sha: sent(api, repo_id, name, sha) + b" " * (name == CARD),
    )
    [one] = collect(["alice/site-public"], hub=hub).artifacts
    assert one.manifest is None
    assert "README.md is not what the Hub lists: try again" in one.remarks[0]


@pytest.mark.parametrize("cached", [False, True])
def test_a_file_is_read_as_pull_would_have_it(org, hub, cached):
    info = hub.api.model_info("alice/site-public")
    source = Source(hub, info.id, info.sha)
    if cached:
        source.fetch([CARD])
    with hub.stated_errors("site"):
        read = source.read(CARD)
    assert (source.cached(CARD) is not None) == cached
    assert read == (source.fetch([CARD]) / CARD).read_bytes()


def test_private_ones_only_where_that_is_said(org, hub):
    [one] = collect(["alice/site-secret"], hub=hub, private=True).artifacts
    assert one.manifest is not None
    with pytest.raises(RegistryError, match="all of it is private"):
        collect(["alice/site-secret"], hub=hub)


@pytest.mark.parametrize(
    ("place", "says"),
    [("nobody", "no artifact of ftplug in the namespace"), ("alice/none", "no such repository")],
)
def test_a_place_without_anything(org, hub, place, says):
    with pytest.raises(RegistryError, match=says):
        collect([place], hub=hub)


def test_signed_artifacts_say_by_whom(saved, tmp_path, typed, monkeypatch):
    pytest.importorskip("model_signing")
    monkeypatch.setenv("FTPLUG_CONFIG", str(tmp_path / "settings"))
    folder = shutil.copytree(saved / "lora", tmp_path / "zoo" / "signed")
    assert typed("keygen", tmp_path / "key")[0] == 0
    assert typed("sign", folder, "--key", tmp_path / "key")[0] == 0
    [known] = collect([str(folder)]).artifacts
    assert known.signature.state == "unknown"
    key = tmp_path / "key.pub"
    [trusted] = collect([str(folder)], trusted=key).artifacts
    assert trusted.signature.state == "checked"
    assert str(tmp_path) not in trusted.signature.said
    manifest = folder / "ftplug.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text())))
    [altered] = collect([str(folder)], trusted=key).artifacts
    assert altered.signature.state == "broken"
    assert str(tmp_path) not in altered.signature.said
    assert "does not hold" in altered.remarks[0]
    assert "does not hold" in Site([altered], _addresses(altered), "Zoo").page(altered)


def _addresses(artifact):
    return Addresses.of_files([artifact.name])
