"""The standing tables leave out no method without a reason, and are what was kept."""

import json

import ftplug_plugins
import pytest
import standings
from cells import comparison

from ftplug import discovery
from ftplug.comparing.candidates import parse
from ftplug.comparing.report import texts
from ftplug.comparing.results import Result, to_line
from ftplug.comparing.summary import Judged, Summary


def test_every_built_in_method_stands_there_or_has_a_reason():
    named = {method.name for text in standings.on_sentences() for method in parse(text).methods}
    built_in = {
        name
        for name, cls in discovery.methods().items()
        if cls.__module__.partition(".")[0] == ftplug_plugins.__name__
    }
    reasons = {name: standings.left_out(name, cls) for name, cls in discovery.methods().items()}
    assert {name for name in built_in if not reasons[name]} == named
    assert standings.LEFT_OUT.keys() <= built_in
    assert standings.on_sentences()[0] == standings.BASELINE


def test_eight_are_compared_on_chats():
    assert len({parse(text).text for text in standings.ON_CHATS}) == 8
    assert standings.BASELINE in standings.ON_CHATS


def test_what_is_kept_is_what_the_page_shows(tmp_path, monkeypatch):
    rows = [
        Judged("full", 1e-4, "baseline", mean=0.875, seeds=[0]),
        Judged("ia3", 1e-2, "worse", -0.05, (-0.07, -0.03), p=0.001, mean=0.825, seeds=[0]),
    ]
    comparison(tmp_path).write(tmp_path)
    Summary("accuracy", True, "test", "full", 0.01, rows, best="full").write(tmp_path)
    cells = [Result(r.candidate, r.lr, 0, "finished", peak_rss=2**20) for r in reversed(rows)]
    (tmp_path / "results.jsonl").write_text("".join(f"{to_line(cell)}\n" for cell in cells))
    monkeypatch.setattr(standings, "HERE", tmp_path)
    standings.keep("demo", tmp_path, 1)
    page = standings.render(standings.TEMPLATE.read_text(encoding="utf-8"))
    lines = [line for line in page.splitlines() if line.startswith("| `")]
    assert [line.split(" | ")[0] for line in lines] == ["| `full`", "| `ia3`"]  # best first
    difference = f"{texts.signed(-0.05)} ({texts.interval((-0.07, -0.03))})"
    assert f" | worse | 0.8250 | {difference} | 0.01 | " in lines[1]
    assert "forgetting, nats" not in page
    assert "## Sentences of reviews" in page
    assert "## Short chats" not in page  # nobody has measured them
    assert json.loads((tmp_path / "demo.json").read_text())["cells"] == 2


@pytest.mark.parametrize("part", ["demo", "chat"])
def test_the_page_is_made_of_what_is_kept(part):
    if not standings.PAGE.is_file():
        assert not (standings.HERE / f"{part}.json").exists()  # nobody has made them yet
        return
    template = standings.TEMPLATE.read_text(encoding="utf-8")
    assert standings.PAGE.read_text(encoding="utf-8") == standings.render(template)


@pytest.mark.parametrize(("given", "parts"), [([], ["demo", "chat"]), (["chat"], ["chat"])])
def test_both_are_compared_unless_one_is_named(given, parts, tmp_path, monkeypatch):
    compared = []
    monkeypatch.setattr(standings, "compare", lambda part, *_: compared.append(part))
    monkeypatch.setattr(standings, "PAGE", tmp_path / "page.md")
    standings.main(given)
    assert compared == parts
    standings.main(["--render"])
    assert compared == parts
    assert (tmp_path / "page.md").is_file()
