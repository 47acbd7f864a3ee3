"""Where a site is written: complete or not at all, and over nothing but a site."""

import json
from concurrent.futures import ThreadPoolExecutor

import pytest
import zoos
from ftplug_registry.site import writing
from ftplug_registry.site.collecting import collect
from ftplug_registry.site.writing import MARKER, write_site

from ftplug.errors import FtplugError, RegistryError


def test_an_older_site_is_replaced_and_what_lies_beside_it_stays(zoo, tmp_path):
    to = tmp_path / "site"
    write_site(collect([str(zoo)]), to, "Zoo")
    (to / "CNAME").write_text("zoo.example")
    fewer = zoos.zoo(tmp_path / "fewer", 2)
    write_site(collect([str(fewer)]), to, "Zoo")
    assert not (to / "artifacts" / "team--best.html").exists()
    assert (to / "CNAME").read_text() == "zoo.example"
    fresh = write_site(collect([str(fewer)]), tmp_path / "fresh", "Zoo").folder
    assert zoos.contents(fresh) == {n: b for n, b in zoos.contents(to).items() if n != "CNAME"}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("thesis.tex", "years of work"),
        (MARKER, "{}"),
        (MARKER, '{"generator": "ftplug site", "files": ["../../thesis.tex"]}'),
        (MARKER, '{"generator": "ftplug site", "files": 7}'),
        (MARKER, "["),
    ],
)
def test_a_folder_of_anything_else_is_refused(zoo, tmp_path, name, text):
    (tmp_path / "to").mkdir()
    (tmp_path / "to" / name).write_text(text)
    with pytest.raises(RegistryError, match=r"another folder|an empty folder"):
        write_site(collect([str(zoo)]), tmp_path / "to", "Zoo")
    assert zoos.contents(tmp_path / "to") == {name: text.encode()}


def test_a_file_of_somebody_else_in_an_older_site_is_not_written_over(zoo, tmp_path):
    first = write_site(collect([str(zoos.zoo(tmp_path / "two", 2))]), tmp_path / "to", "Zoo").folder
    (first / "artifacts" / "team--best.html").write_text("mine")
    before = zoos.contents(first)
    with pytest.raises(RegistryError, match=r"team--best\.html is there, and not of the site"):
        write_site(collect([str(zoo)]), first, "Zoo")
    assert zoos.contents(first) == before


def test_what_fails_half_way_leaves_nothing(zoo, tmp_path, monkeypatch):
    made = collect([str(zoo)])
    first = write_site(made, tmp_path / "to", "Zoo").folder
    before = zoos.contents(first)

    def fails(stage):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("ftplug.files.staged.flush", fails)
    for to in (first, tmp_path / "new"):
        with pytest.raises(FtplugError, match="No space left on device"):
            write_site(made, to, "Another title")
    assert zoos.contents(first) == before
    assert not (tmp_path / "new").exists()


def test_two_at_a_time_leave_one_of_their_sites(zoo, tmp_path):
    made = collect([str(zoo)])
    alone = zoos.contents(write_site(made, tmp_path / "alone", "First").folder)
    to = write_site(made, tmp_path / "to", "Zoo").folder
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda title: write_site(made, to, title), ["Second", "First"] * 4))
    other = zoos.contents(write_site(made, tmp_path / "other", "Second").folder)
    assert zoos.contents(to) in (alone, other)


def test_a_file_in_the_folders_place(zoo, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RegistryError, match="is a file"):
        write_site(collect([str(zoo)]), tmp_path / "file", "Zoo")


def test_the_command(zoo, tmp_path, typed):
    code, out, err = typed("site", "--from", zoo, "--to", tmp_path / "s", "--title", "<b>Ours</b>")
    assert code == 0
    assert "9 artifacts, 15 files" in out
    assert err.splitlines() == [
        "lab/bad: ftplug.json: not readable as JSON: Expecting value: line 1 column 13 (char 12)"
    ]
    assert "<h1>&lt;b&gt;Ours&lt;/b&gt;</h1>" in (tmp_path / "s" / "index.html").read_text()
    code, out, _ = typed("site", "--from", f"{zoo / 'lab'},{zoo / 'team'}", "--to", tmp_path / "t",
                         "--json")  # fmt: skip
    said = json.loads(out)
    assert (code, said["artifacts"], said["private"]) == (0, 9, [])
    for wrong in (["--from", "no/such/place"], ["--from", tmp_path]):
        code, out, err = typed("site", *wrong, "--to", tmp_path / "u")
        assert (code, out, err.count("\n")) == (1, "", 1)
    assert not (tmp_path / "u").exists()
    assert writing.MARKER in zoos.contents(tmp_path / "s")
