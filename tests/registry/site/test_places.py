"""Several places at once, and whatever is wrong with one of them or with the folder to write."""

import errno
import json
import os
from pathlib import Path
from types import SimpleNamespace

import pytest
import zoos
from ftplug_registry.hub import Hub
from ftplug_registry.site import cards, collecting, published
from ftplug_registry.site.addresses import Addresses
from ftplug_registry.site.artifact import read
from ftplug_registry.site.collecting import Zoo, collect
from ftplug_registry.site.found import Found
from ftplug_registry.site.loading import snippets
from ftplug_registry.site.pages import Site
from ftplug_registry.site.writing import MARKER, write_site

from ftplug.errors import FtplugError, RegistryError


def test_each_place_is_read_as_if_it_were_alone(tmp_path):
    places = [str(zoos.zoo(tmp_path / name, 2)) for name in ("one", "two", "three")]
    artifacts = collect(places).artifacts
    assert [one.remarks for one in artifacts] == [()] * 6
    assert len({one.name for one in artifacts}) == 6


def test_what_two_places_hold_is_there_once(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    zoos.zoo(tmp_path / "zoo", 2)
    places = ["zoo", "./zoo", "zoo/lab", str(tmp_path / "zoo")]
    names = [one.name for one in collect(places).artifacts]
    assert names == ["lab/adapter-001", "team/adapter-000"]


def test_a_folder_that_cannot_be_read_is_a_row(tmp_path, monkeypatch):
    zoos.zoo(tmp_path / "zoo", 2)
    shut = tmp_path / "zoo" / "shut"
    shut.mkdir()
    for module, name in ((Path, "iterdir"), (os, "scandir")):
        monkeypatch.setattr(module, name, _refusing(getattr(module, name), shut))
    artifacts = {one.name: one for one in collect([str(tmp_path / "zoo")]).artifacts}
    assert artifacts["shut"].remarks == ("cannot be read: Permission denied",)
    assert [one.remarks for name, one in artifacts.items() if name != "shut"] == [(), ()]


def _refusing(function, shut):
    def refuse(path, *arguments):
        if Path(path) == shut:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return function(path, *arguments)

    return refuse


def test_what_is_private_gated_or_unknown_is_left_out(monkeypatch):
    said = {"public": (False, False), "private": (True, False), "gated": (False, "manual"),
            "unsaid": (None, None)}  # fmt: skip
    infos = [
        SimpleNamespace(id=f"org/{name}", private=private, gated=gated)
        for name, (private, gated) in said.items()
    ]
    monkeypatch.setattr(collecting, "repositories", lambda hub, place: infos)
    monkeypatch.setattr(
        collecting, "found_on", lambda hub, shown, checking: (Found(one.id) for one in shown)
    )
    zoo = collect(["org", "org"])
    assert [one.name for one in zoo.artifacts] == ["org/public"]
    assert zoo.private == ("org/private", "org/gated", "org/unsaid")
    assert len(collect(["org"], private=True).artifacts) == 4
    del infos[0]
    with pytest.raises(RegistryError, match=r"private or gated \(org/private, org/gated"):
        collect(["org"])


def test_a_number_behind_a_name_is_not_typed_to_load_it():
    facts = json.dumps(zoos.manifest()).encode()
    found = Found("org/x", {"ftplug.json": facts}, {}, sha="0" * 40)
    one, two = collecting._with_own_names([read(found), read(found)])
    assert (one.name, two.name) == ("org/x", "org/x (2)")
    assert list(snippets(one)) == list(snippets(two))


def test_a_password_of_the_hub_is_not_published():
    hub = Hub("https://me:secret@hub.example/path")
    assert published._url(hub, "org/x") == "https://hub.example/path/org/x"
    assert published._without_password(hub.api_endpoint) == "https://hub.example/path"
    assert published._url(Hub("http://me:secret@localhost:8765"), "org/x") is None


def test_keys_that_are_not_there_are_said_also_where_nothing_is_signed(tmp_path):
    zoo = str(zoos.zoo(tmp_path / "zoo", 1))
    with pytest.raises(RegistryError, match="cannot be read"):
        collect([zoo], trusted=tmp_path / "none")
    (tmp_path / "empty").write_text("")
    with pytest.raises(RegistryError, match="names nobody"):
        collect([zoo], trusted=tmp_path / "empty")


def test_names_too_long_for_a_file_system_are_one_line(tmp_path):
    with pytest.raises(RegistryError, match="neither a folder that is there nor a namespace"):
        collect(["./" + "x" * 5000])
    with pytest.raises(FtplugError, match=r"cannot write .*choose another folder"):
        write_site(Zoo(()), tmp_path / ("x" * 300), "Zoo")


def test_an_artifact_of_any_size_is_shown(tmp_path):
    facts = zoos.manifest(training={"metrics": {"eval_accuracy": 10**400}, "seconds": 10**400})
    facts["files"][zoos.WEIGHTS]["size"] = 10**400
    found = read(Found("lab/x", {"ftplug.json": json.dumps(facts).encode()}, {}))
    assert found.manifest is not None
    site = Site([found, found], Addresses.of_files([found.name]), "Zoo")
    assert "lab/x" in site.home()
    assert "lab/x" in site.page(found)


@pytest.mark.parametrize(
    "name", ["README.md", "artifacts/x/y.html", "artifacts/notes.txt", "a.html"]
)
def test_a_marker_that_somebody_else_made_removes_nothing(tmp_path, name):
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_text("mine")
    names = ["index.html", name, MARKER]
    (tmp_path / MARKER).write_text(json.dumps({"generator": "ftplug site", "files": names}))
    with pytest.raises(RegistryError, match="was not written by ftplug site"):
        write_site(Zoo(()), tmp_path, "Zoo")
    assert (tmp_path / name).read_text() == "mine"
    assert not (tmp_path / "index.html").exists()


def test_links_in_the_folder_are_neither_replaced_nor_followed(tmp_path):
    zoo = collect([str(zoos.zoo(tmp_path / "zoo", 1))])
    site = write_site(Zoo(()), tmp_path / "site", "Zoo").folder
    (site / "artifacts").mkdir(exist_ok=True)
    link = site / "artifacts" / "team--adapter-000.html"
    link.symlink_to("/nowhere")
    with pytest.raises(RegistryError, match=r"adapter-000.html is there, and not of the site"):
        write_site(zoo, site, "Zoo")
    assert link.is_symlink()
    link.unlink()
    (site / "artifacts").rmdir()
    (tmp_path / "else").mkdir()
    (site / "artifacts").symlink_to(tmp_path / "else")
    with pytest.raises(RegistryError, match="artifacts is a link to another folder"):
        write_site(zoo, site, "Zoo")
    assert list((tmp_path / "else").iterdir()) == []


def test_who_comes_second_is_told_to_run_it_again(tmp_path, monkeypatch):
    rename = Path.rename

    def after_another(self, target):
        Path(target).mkdir()
        (Path(target) / "x").touch()
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", after_another)
    with pytest.raises(FtplugError, match="another process made it meanwhile: run the same"):
        write_site(Zoo(()), tmp_path / "site", "Zoo")


def test_headings_of_a_card_leave_no_level_out():
    text = "### a\n\n###### b\n\n# c\n\n#### d\n\n## e\n"
    levels = [line[2] for line in cards.as_html(text).splitlines() if line.startswith("<h")]
    assert levels == ["3", "4", "3", "4", "4"]


def test_a_card_of_comments_takes_no_time(monkeypatch):
    taken = []

    class Counting(str):
        def __getitem__(self, key):
            part = Counting(super().__getitem__(key))
            taken.append(len(part))
            return part

    kept = cards._without_comments(Counting("a<!-- b -->" * 2000))
    assert kept == "a" * 2000
    assert sum(taken) < 50_000  # and not a copy of the rest for each
