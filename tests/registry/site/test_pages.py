"""The pages: what they say, that they run and fetch nothing of strangers, where links lead."""

import posixpath
import re
import time

import pytest
import zoos
from browser.pages import Page
from ftplug_registry.site import cards
from ftplug_registry.site.addresses import file_names
from ftplug_registry.site.collecting import collect
from ftplug_registry.site.pages import POLICY
from ftplug_registry.site.pictures import Axis, Line, lines
from ftplug_registry.site.writing import write_site

HTML = re.compile(r"\.html$")


def html(site):
    return {n: b.decode() for n, b in zoos.contents(site).items() if HTML.search(n)}


def test_every_page_is_well_formed_and_named(site):
    for name, text in html(site).items():
        page = Page(text)
        assert page.errors == [], name
        assert text.startswith("<!doctype html>")
        assert page.all("html") == [{"lang": "en"}]
        assert len(page.all("h1")) == 1
        ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
        assert len(ids) == len(set(ids)), name
        for _, attributes in page.elements:
            for reference in ("aria-labelledby", "aria-describedby", "for"):
                assert set(attributes.get(reference, "").split()) <= set(ids), (name, attributes)


def test_nothing_on_a_page_is_inline_or_elsewhere(site):
    """The policy lets files of the site through; whatever it would refuse is not there."""
    for name, text in html(site).items():
        page = Page(text)
        [policy] = [m for m in page.all("meta") if m.get("http-equiv")]
        assert policy["content"] == POLICY
        for tag, attributes in page.elements:
            assert not {a for a in attributes if a == "style" or a.startswith("on")}, (name, tag)
            assert tag not in ("img", "iframe", "object", "embed", "style", "base", "form"), name
        for script in page.all("script"):
            assert script == {"src": "site.js", "defer": None}
        for link in page.all("link"):
            assert link["href"] == "data:," or link["href"].endswith("site.css")


def test_links_lead_to_pages_that_are_there(site):
    there = zoos.contents(site).keys()
    for name, text in html(site).items():
        for link in Page(text).all("a") + Page(text).all("link"):
            href = link["href"]
            if href.startswith(("#", "data:")):
                continue
            if href.startswith("https://"):
                assert "noreferrer" in link["rel"]
                continue
            assert posixpath.normpath(posixpath.join(posixpath.dirname(name), href)) in there


def test_the_list_has_a_row_an_artifact(site):
    text = (site / "index.html").read_text()
    rows = re.findall(r'<tr role="row"><th role="rowheader".*?</tr>', text, re.DOTALL)
    assert len(rows) == 9
    [row] = [row for row in rows if "team/best" in row]
    said = Page(row.replace('<tr role="row">', "").replace("</tr>", "")).text
    for fact in ("org/mini-lm", "lora", "text-classification", "accuracy 0.9000", "4.0 KiB"):
        assert fact in said
    for fact in ("no", "KL 0.21"):
        assert fact in said
    [bad] = [row for row in rows if "lab/bad" in row]
    assert "not readable as JSON" in bad
    heads = Page(text).all("th")[:9]
    assert all(head["scope"] == "col" for head in heads)


def test_a_page_says_what_is_known(site):
    page = Page((site / "artifacts" / "team--best.html").read_text())
    for fact in (
        "accuracy 0.9000 0.8783 to 0.9182 org/reviews, split test, 872 rows",
        "learning_rate 0.0003", "Hardware x86_64 CPU, 2 cores", "74,498 of 22,700,000 parameters",
        'ftplug.load("org/mini-lm", "path/to/the/artifact")', "ftplug verify", "The manifest is",
        "Nobody has signed it.", "lora_alpha 16", "ab" * 32, "Best: lora r=8", "+0.0070 to +0.0290",
        "training loss: 0.3 at step 10, 0.11 at step 200",
    ):  # fmt: skip
        assert fact in page.text, fact
    assert len([a for a in page.all("svg") if a["role"] == "img"]) == 3
    comparisons = Page((site / "comparisons.html").read_text()).text
    assert "team/best Best: lora r=8" in comparisons
    bases = Page((site / "bases.html").read_text()).text
    assert "org/mini-lm: accuracy on org/reviews, split test" in bases


def test_a_strangers_card_is_shown_and_harmless(site):
    text = (site / "artifacts" / "lab--evil.html").read_text()
    page = Page(text)
    assert "<script>document.title='owned'</script>" in page.text  # as text
    assert [s["src"] for s in page.all("script")] == []
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert "a comment that nobody sees" not in text
    links = {a["href"] for a in page.all("a") if not a["href"].startswith(("..", "#"))}
    assert links == {
        "https://good.example/a?b=1&c=2", "https://auto.example/", "https://huggingface.co/org/mini-lm",
    }  # fmt: skip
    assert "[picture: pixel]" in page.text
    assert "Deprecated : <script>document.title='gone'</script> see" in page.text


@pytest.mark.parametrize(
    "text",
    [
        "[" * 48_000,
        "*_" * 24_000,
        "![a](" * 9_000,
        "<!--" * 12_000,
        "[a](b" * 9_000,
        "> " * 24_000,
        "|a" * 10_000 + "\n" + "|-" * 10_000,
        "`" * 47_000 + "a",
        "#" * 48_000,
        "- " * 24_000,
    ],
)
def test_no_card_takes_long(text):
    start = time.process_time()
    assert "<script" not in cards.as_html(text)
    assert time.process_time() - start < 5


def test_a_long_card_is_cut():
    assert "too long to be shown" in cards.as_html("word " * 20_000)


def test_tables_of_a_card_align_by_class_and_lose_empty_heads():
    made = cards.as_html("||\n|---|\n| a |\n\n| x | y |\n|---|--:|\n| 1 | 2 |\n")
    assert made.count("<thead>") == 1
    assert '<td class="n">2</td>' in made
    assert "style" not in made


def test_the_same_zoo_gives_the_same_bytes(zoo, site, tmp_path):
    again = write_site(collect([str(zoo)]), tmp_path / "again", "A zoo").folder
    assert zoos.contents(again) == zoos.contents(site)


def test_file_names_are_safe_on_any_file_system():
    names = ["org/name", "Org/Name", "ORG/name", "org--name", "../../etc/passwd", "a/b/c", ""]
    names += ["x" * 500, ".", "ä", "con", "a b", "a/../b", "\ud800", "a\\b", "lab/x", "lab/x (2)"]
    made = file_names(names)
    assert made["lab/x"] == "artifacts/lab--x.html"
    assert len({path.casefold() for path in made.values()}) == len(names)
    for path in made.values():
        assert re.fullmatch(r"artifacts/[A-Za-z0-9][\w.-]*\.html", path, re.ASCII), path
        assert len(path) < 140


@pytest.mark.parametrize("values", [[0, 0], [1e14, 1e14], [-1e14, 1e14], [1e-12, 2e-12], [3]])
def test_an_axis_has_a_few_ticks_within(values):
    axis = Axis.around(values, 0, 100)
    ticks = axis.ticks()
    assert 1 <= len(ticks) <= 6
    assert all(axis.low <= tick <= axis.high for tick in ticks)
    assert 0 <= float(axis.at(values[0])) <= 100


def test_a_curve_of_many_steps_is_short():
    drawn = lines("k", "t", "s", [Line("loss", [(x, 1 / (x + 1)) for x in range(100_000)])], "step")
    assert len(drawn) < 8000


def test_two_hundred_artifacts(tmp_path):
    root = zoos.zoo(tmp_path / "zoo", 200)
    start = time.process_time()
    written = write_site(collect([str(root)]), tmp_path / "site", "Zoo")
    assert time.process_time() - start < 10
    assert (written.folder / "index.html").stat().st_size <= 300_000
    assert written.files == 206
