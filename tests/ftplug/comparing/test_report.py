"""The report of a comparison: one page that asks for nothing, says all, and runs nothing."""

import base64
import dataclasses
import hashlib
import io
import re
import shlex

import comparisons
import pytest
from browser.pages import Page, contrast, inside
from rich.console import Console

from ftplug.comparing.comparison import Comparison
from ftplug.comparing.report import colors, write_report
from ftplug.comparing.report.again import command_again
from ftplug.comparing.report.answer import answer
from ftplug.comparing.report.table import notes, terminal_table
from ftplug.comparing.report.texts import UNKNOWN, rate_of
from ftplug.comparing.results import Result, read_results
from ftplug.comparing.summary import Judged, Summary

TOKEN = "hf_" + "CanaryTokenThatMustNeverShow" + "1234567"
HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src="http://evil.example/x" onerror=alert(1)>',
    "</style><style>*{display:none}</style>",
    "\x1b[2J\x1b[31mred\x07\x00",
    "a\u202egnp.exe\ud800",
    "$x_{$ \\frac{",
    "{{ 7 * 7 }}{% raw %}",
    f"token {TOKEN}",
    "long " * 2000,
    "x" * 10_000,
    "\U0001d4b3 漢字 _leading",
    "",
]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A comparison's folder beside its script, and its report's text."""
    directory = tmp_path_factory.mktemp("project") / "cmp"
    given = comparisons.written(directory)
    path = write_report(directory, *given)
    assert path == directory / "report.html"
    return directory, path.read_text(encoding="utf-8")


def hostile(directory):
    candidates = [text for text in HOSTILE if text]
    judged = [
        Judged(text, 1e-4, "better", 0.1, (0.01, 0.2), p=0.01, mean=0.5, seeds=[0], reason=text,
               notes=[text])
        for text in candidates
    ]  # fmt: skip
    results = [
        Result(text, 1e-4, 0, status, reason=text, metric="<b>acc", metrics={"<b>acc": 0.5},
               train_seconds=1.0 + at, artifact_bytes=2**at, peak_rss=3 * 2**20 + at,
               epochs=[{"epoch": 1, "metrics": {"<b>acc": 0.4}}], notes=[text])
        for at, text in enumerate(candidates)
        for status in ("finished", "failed")
    ]  # fmt: skip
    summary = Summary("<b>acc", True, "test", candidates[0], 0.01, judged, candidates[1])
    summary.notes = candidates
    comparison = comparisons.comparison(
        directory, candidates=tuple(candidates), baseline=candidates[0], command=tuple(candidates),
        dataset_name=candidates[1],
    )  # fmt: skip
    return comparison, results, summary


def test_what_is_asked_first_is_answered_first(made):
    _, text = made
    [heading] = inside(text, "h1")
    assert Page(heading).text == (
        "Best: lora r=8 at learning rate 3e-4 (accuracy 0.8613), better than full: +0.0183, "
        "95 % interval +0.0071 to +0.0296, adjusted p = 0.003, 3 seeds."
    )


@pytest.mark.parametrize(
    ("best", "changes", "says"),
    [
        (None, {}, "No answer: no candidate finished."),
        ("full", {"verdict": "baseline"}, "Best on the evaluation set: full, the baseline"),
        ("full", {"verdict": "baseline"}, "1 equivalent, 1 worse, 1 not decided"),
        ("lora r=8", {"verdict": "equivalent"}, "is as good as full within ±0.01"),
        ("lora r=8", {"verdict": "worse"}, "worse than full"),
        ("lora r=8", {"verdict": "not_decided", "more_seeds": 4}, "about 4 more seeds would"),
        ("lora r=8", {"verdict": "not_decided", "reason": "one seed"}, "is open"),
        (
            "lora r=8",
            {"verdict": "not_decided", "difference": None, "reason": "no per-example outcome"},
            "is open: no per-example outcome",
        ),
    ],
)
def test_the_answer_says_how_sure_it_is(best, changes, says):
    summary = comparisons.summary(best=best)
    for judged in summary.candidates:
        if judged.candidate == best:
            vars(judged).update(changes)
    assert says in answer(summary)


@pytest.mark.parametrize(
    ("measured", "says"),
    [
        ("test", "comes first on the evaluation set (accuracy 0.9020 on the test set)"),
        ("evaluation", "comes first (accuracy 0.9020)"),
    ],
)
def test_the_answer_says_by_which_set_the_first_one_is_chosen(measured, says):
    rows = [
        Judged("full", 1e-4, "baseline", mean=0.9),
        Judged("ia3", 1e-2, "not_decided", 0.002, mean=0.902, seeds=[0, 1, 2]),
    ]
    summary = Summary("accuracy", True, measured, "full", 0.01, rows, best="ia3")
    assert f"Not decided: ia3 at learning rate 0.01 {says}, but whether" in answer(summary)
    baseline = answer(dataclasses.replace(summary, best="full"))
    chosen = " on the evaluation set" * (measured == "test")
    where = " on the test set" * (measured == "test")
    assert f"Best{chosen}: full, the baseline at learning rate 1e-4 (accuracy 0.9000{where}):" in (
        baseline
    )


def test_the_answer_counts_the_seeds_that_were_compared():
    rows = [
        Judged("full", 1e-4, "baseline", mean=0.9, seeds=[1]),
        Judged("ia3", 1e-2, "not_decided", 0.02, mean=0.92, seeds=[0, 1], paired_seeds=1),
    ]
    said = answer(Summary("accuracy", True, "test", "full", 0.01, rows, best="ia3"))
    assert ", 1 seed" in said
    assert "2 seeds" not in said


def test_each_fact_of_a_candidate_is_in_the_page(made):
    _, text = made
    [row] = [row for row in inside(text, "tr") if "lora+bitfit" in row and "equivalent" in row]
    for fact in ("0.8451", "+0.0021", "\u22120.0075 to +0.0117", "0.710", "3e-4", ">3<"):
        assert fact in row
    said = Page(text).text
    for fact in ("87.0 MiB", "294,912", "1.4 GiB", "at the edge of the grid", "torch 2."):
        assert fact in said
    assert "about 4 more seeds would decide" in said


def test_every_cell_has_its_row_its_reason_and_its_log(made):
    directory, text = made
    [details] = inside(text, "details")
    rows = inside(details, "tr")[1:]
    results = read_results(directory / "results.jsonl")
    assert len(rows) == len(results) == 45
    logs = [a["href"] for a in Page(details).all("a")]
    assert sorted(logs) == sorted(f"cells/{r.cell.id}/log.txt" for r in results)
    assert all((directory / log).is_file() for log in logs)
    for result in results:
        if result.reason:
            assert result.reason.replace("'", "&#39;") in details
    for word in ("finished", "pruned", "diverged", "failed", "out of memory"):
        assert f">{word}<" in details


def test_the_page_is_well_formed_and_can_be_read_aloud(made):
    _, text = made
    page = Page(text)
    assert page.errors == []
    assert text.startswith("<!doctype html>")
    ids = [a["id"] for _, a in page.elements if "id" in a]
    assert len(ids) == len(set(ids))
    named = {n for _, a in page.elements for n in a.get("aria-labelledby", "").split()}
    assert named <= set(ids)
    assert [len(page.all(tag)) for tag in ("main", "header", "footer", "h1")] == [1, 1, 1, 1]
    assert page.all("html") == [{"lang": "en"}]
    assert len(page.all("section")) == len(page.all("h2")) == 9
    tables = inside(text, "table")
    assert len(tables) == 7
    for table in tables:
        inner = Page(table)
        assert len(inner.all("caption")) == 1
        assert {a.get("scope") for a in inner.all("th")} == {"col", "row"}
        widths = {
            len(Page(row).all("th")) + len(Page(row).all("td")) for row in inside(table, "tr")
        }
        assert len(widths) == 1
    pictures = inside(text, "svg")
    assert len(pictures) == 5
    for picture in pictures:
        inner = Page(picture)
        assert inner.elements[0][1]["role"] == "img"
        assert [tag for tag, _ in inner.elements[1:3]] == ["title", "desc"]


def check_harmless(text):
    page = Page(text)
    assert page.errors == []
    assert {"script", "img", "iframe", "object", "form"} & {t for t, _ in page.elements} == set()
    for _, attributes in page.elements:
        assert not [name for name in attributes if name.startswith("on") or name == "style"]
        for name in ("src", "href", "xlink:href", "action"):
            assert re.match(r"(#|cells/|data:,$)", attributes.get(name, "#"))
        assert not re.search(r"//|url\((?!#)", " ".join(attributes.values()))
    for style in inside(text, "style"):
        assert not re.search(r"//|url\(|@import", style)
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f\u202a-\u202e]", text)


def test_nothing_runs_and_nothing_is_fetched(made):
    check_harmless(made[1])


def test_the_policy_lets_this_style_pass_and_nothing_else(made):
    page = Page(made[1])
    [policy] = [a["content"] for a in page.all("meta") if "http-equiv" in a]
    [style] = re.findall(r"<style>(.*?)</style>", made[1], re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert policy == (
        f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:; base-uri 'none'; "
        "form-action 'none'"
    )


def test_what_scripts_say_stays_text(tmp_path):
    directory = tmp_path / "cmp"
    directory.mkdir()
    text = write_report(directory, *hostile(tmp_path)).read_text(encoding="utf-8")
    check_harmless(text)
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    assert "{{ 7 * 7 }}" in text
    assert "CanaryToken" not in text
    assert "x" * 2001 not in text
    assert len(text) < 400_000


def test_the_same_comparison_gives_the_same_bytes(made):
    directory, _ = made
    names = ["report.html", "difference.png", "epochs.png", "tradeoff.png"]
    before = [(directory / name).read_bytes() for name in names]
    given = comparisons.comparison(directory.parent), comparisons.results(), comparisons.summary()
    import matplotlib

    with matplotlib.rc_context({"font.size": 30, "axes.facecolor": "red", "svg.fonttype": "path"}):
        write_report(directory, *given)
    assert [(directory / name).read_bytes() for name in names] == before
    assert all(picture[:4] == b"\x89PNG" and len(picture) < 60_000 for picture in before[1:])


def test_a_comparison_of_which_nothing_has_ended(tmp_path):
    summary = comparisons.summary(best=None, complete=False, metric=None, set=None)
    summary.candidates = [Judged(c, None, "failed") for c in comparisons.CANDIDATES]
    (tmp_path / "difference.png").write_bytes(b"of an earlier report")
    text = write_report(tmp_path, comparisons.comparison(tmp_path), [], summary).read_text()
    check_harmless(text)
    assert "Not complete" in text
    assert "<svg" not in text
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.html"]


def command_of(text):
    [command] = re.findall(r"<pre.*?><code>(.*?)</code></pre>", text, re.DOTALL)
    return shlex.split(Page(f"<p>{command}</p>").text.replace("\\ ", ""))


def test_the_command_makes_it_again(made):
    assert command_of(made[1]) == [
        *("ftplug", "compare"),
        *(word for candidate in comparisons.CANDIDATES for word in ("--try", candidate)),
        *("--lr", "1e-4,3e-4,1e-3", "--seeds", "3", "--baseline", "full", "--delta", "0.01"),
        *("--metric", "accuracy", "--out", "cmp"),
        *("--", "train.py", "--epochs", "4", "--output_dir", "out"),
    ]
    assert "<code>..</code> (relative to this file)" in made[1]


def test_the_command_has_all_digits_of_a_rate(tmp_path):
    """Rounded, it would be refused in the same folder as another comparison."""
    comparison = comparisons.comparison(tmp_path, rates=(1e-3, 1.23456e-4))
    assert "--lr 1e-3,0.000123456 " in command_again(comparison, tmp_path)


def test_no_secret_and_no_long_path_is_shown(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("SERVICE_PASSWORD", "correct horse battery")
    command = (
        f"{tmp_path}/project/train.py", "--data", f"{tmp_path}/data/a.csv", "--hub_token", "abc",
        f"--login={TOKEN}", "--api-key=k", "--say", "correct horse battery", "--fp16",
    )  # fmt: skip
    comparison = comparisons.comparison(
        tmp_path / "project", command=command, seed_arg="--s {seed}"
    )
    results = comparisons.results()
    results[0].status, results[0].reason = (
        "failed",
        f"no file {tmp_path}/project/x.csv in {tmp_path}",
    )
    directory = tmp_path / "elsewhere"
    directory.mkdir()
    text = write_report(directory, comparison, results, comparisons.summary()).read_text()
    typed = command_of(text)
    assert typed[typed.index("--seed-arg") + 1] == "--s {seed}"
    assert typed[typed.index("--") + 1 :] == [
        *("train.py", "--data", "~/data/a.csv", "--hub_token", "…"),
        *("--login=[a Hugging Face token]", "--api-key=…"),
        *("--say", "[the value of SERVICE_PASSWORD]", "--fp16"),
    ]
    assert "no file x.csv in ~" in text
    assert "<code>~/project</code>" in text
    assert str(tmp_path) not in text


def test_a_home_folder_is_found_by_the_shell():
    from ftplug.comparing.report.again import _quoted

    assert _quoted("~/a b/c") == "~/'a b/c'"
    assert _quoted("~x") == "'~x'"


@pytest.mark.parametrize("scheme", [colors.LIGHT, colors.DARK])
def test_what_carries_something_can_be_told_from_its_ground(scheme):
    for name in scheme.keys() - {"surface", "page", "grid", "band"}:
        for ground in ("surface", "page", "band") if name in ("ink", "muted") else ("surface",):
            assert contrast(scheme[name], scheme[ground]) >= 4.5, (name, ground)
    assert contrast(scheme["link"], scheme["page"]) >= 4.5
    assert contrast("#000000", "#ffffff") == 21


def test_a_picture_is_recoloured_by_its_light_colours(made):
    assert len(set(colors.LIGHT.values())) == len(colors.LIGHT) == len(colors.DARK)
    for picture in inside(made[1], "svg"):
        named = set(re.findall(r'class="([^"]*)"', picture))
        assert {c for one in named for c in one.split()} <= {
            f"{kind}-{name}" for kind in "fs" for name in colors.LIGHT
        }
        left = set(re.findall(r"#[0-9a-f]{6}", picture))
        assert left <= {"#000000"}  # of what is not drawn


def test_a_loss_says_that_less_is_better(tmp_path):
    summary = comparisons.summary(metric="loss", greater_is_better=False, set="evaluation")
    given = comparisons.comparison(tmp_path), comparisons.results(), summary
    text = write_report(tmp_path, *given).read_text()
    assert "Of loss less is better" in text
    assert "less is better</text>" in text


def test_forgetting_is_shown_where_it_was_measured(tmp_path, made):
    assert "orgetting" not in made[1]
    given = comparisons.comparison(tmp_path), comparisons.results(forgetting=0.0123)
    text = write_report(tmp_path, *given, comparisons.summary()).read_text()
    assert ">Forgetting</th>" in text
    assert "0.0123" in text


def test_comparison_and_summary_come_back_as_they_were_written(made):
    directory, _ = made
    assert Comparison.read(directory) == comparisons.comparison(directory.parent)
    assert Summary.read(directory) == comparisons.summary()


def test_a_terminal_shows_the_notes_too():
    rows = [Judged("full", 1e-4, "baseline", notes=["its rate is the \x1b[1mhighest"])]
    summary = Summary("accuracy", True, "test", "full", 0.01, rows, notes=["of the same set"])
    assert notes(summary) == [
        "note: of accuracy more is taken as better: --less-is-better if not",
        "note: of the same set",
        "note: full: its rate is the �[1mhighest",
    ]


def test_a_terminal_says_why_a_verdict_is_none():
    rows = [
        Judged("full", 1e-4, "baseline"),
        Judged("ia3", None, "not_decided", reason="no per-example outcome: it samples"),
        Judged("lora", 1e-3, "failed", reason="failed: ValueError: \x1b[1m"),
        Judged("reft", None, "not_decided", reason="none of its cells has ended"),
    ]
    summary = Summary("loss", False, "test", "full", 0.01, rows)
    assert notes(summary) == [
        "note: of loss less is taken as better: --more-is-better if not",
        "note: ia3: not decided: no per-example outcome: it samples",
        "note: lora: failed: failed: ValueError: �[1m",
        "note: reft: not decided: none of its cells has ended",
    ]


def test_of_a_candidate_that_never_ran_there_is_no_rate():
    assert rate_of(Judged("reft", None, "not_decided")) == UNKNOWN
    assert rate_of(Judged("reft", None, "failed")) == "script's"
    assert rate_of(Judged("reft", None, "not_decided", seeds=[0])) == "script's"
    assert rate_of(Judged("reft", 1e-3, "not_decided")) == "1e-3"


@pytest.mark.parametrize("name", ["f1[/macro]", "[/b]", "[b]f1[red]", "f1[macro]"])
def test_the_name_of_a_metric_is_no_markup(name):
    summary = dataclasses.replace(comparisons.summary(), metric=name)
    console = Console(file=io.StringIO(), width=200)
    console.print(terminal_table(summary, comparisons.results()))
    assert name in console.file.getvalue()
