"""Pictures and texts of a report: names that lie on nothing, fronts, numbers, the terminal."""

import io
import re
from itertools import pairwise

import comparisons
import pytest
from rich.console import Console

from ftplug.comparing.report import texts, tradeoffs
from ftplug.comparing.report.facts import letter, rows
from ftplug.comparing.report.placing import Box, placed, spread
from ftplug.comparing.report.table import terminal_table
from ftplug.comparing.summary import Judged


@pytest.mark.parametrize("heights", [[], [1.0], [0, 0, 0], [3, 1, 2.5, 1.2], [5, 4.9, 0, 0.1, 9]])
def test_heights_are_moved_apart_and_keep_their_order(heights):
    apart = spread(heights, 1.0)
    order = sorted(range(len(heights)), key=lambda at: heights[at])
    gaps = [apart[b] - apart[a] for a, b in pairwise(order)]
    assert all(gap >= 1 - 1e-9 for gap in gaps)
    if heights:
        assert sum(apart) == pytest.approx(sum(heights))
    assert spread(apart, 1.0) == pytest.approx(apart)


def test_heights_stay_within_their_ends_while_there_is_room():
    apart = spread([0.0, 0.1, 0.2, 9.9], 1.0, 0.0, 10.0)
    assert apart == pytest.approx([0.0, 1.0, 2.0, 9.9])
    assert spread([9.8, 9.9], 1.0, 0.0, 10.0) == pytest.approx([9.0, 10.0])


def test_a_name_goes_where_nothing_is():
    taken = [Box.around(0, 0, 10, 10)]
    for _ in range(12):
        placed((0, 0), (9, 11), taken)
    pairs = [(a, b) for at, a in enumerate(taken) for b in taken[at + 1 :]]
    assert sum(a.overlap(b) > 0 for a, b in pairs) < len(pairs) / 4
    assert taken[0].overlap(taken[1]) == 0


def test_the_front_is_what_none_beats_in_both():
    points = [("A", 1.0, 0.5), ("B", 2.0, 0.4), ("C", 3.0, 0.9), ("D", 3.0, 0.8), ("E", 0.5, 0.1)]
    for greater in (True, False):
        sign = 1 if greater else -1
        beaten = {
            a[0]
            for a in points
            for b in points
            if b[1] <= a[1] and sign * b[2] >= sign * a[2] and b[1:] != a[1:]
        }
        assert set(tradeoffs.front(points, greater)) == {p[0] for p in points} - beaten


def test_letters():
    assert [letter(at) for at in (0, 25, 26, 27, 702)] == ["A", "Z", "AA", "AB", "AAA"]


@pytest.mark.parametrize(
    ("shown", "text"),
    [
        (texts.number(0.81234), "0.8123"), (texts.number(-1e-5), "\u22121.00e\u221205"),
        (texts.number(float("nan")), "\u2013"), (texts.number(123.456), "123.46"),
        (texts.signed(0.5), "+0.5000"), (texts.signed(0.0), "0.0000"),
        (texts.p_value(1e-9), "< 0.001"), (texts.p_value(0.05), "0.050"),
        (texts.rate(3e-4), "3e-4"), (texts.rate(2.5e-5), "2.5e-5"), (texts.rate(0.05), "0.05"),
        (texts.rate(None), "script's"), (texts.seconds(61), "61.0 s"),
        (texts.seconds(3725), "62 min 5 s"), (texts.seconds(7380), "2 h 3 min"),
        (texts.size(0), "0 B"), (texts.size(1536), "1.5 KiB"), (texts.size(2**43), "8192 GiB"),
        (texts.size(10**400), "\u2013"), (texts.number(10**400), "\u2013"),
        (texts.seconds(10**400), "\u2013"), (texts.p_value(float("inf")), "\u2013"),
    ],
)  # fmt: skip
def test_numbers_as_people_read_them(shown, text):
    assert shown == text


def test_rates_are_typed_as_they_are_read():
    for lr in (1e-5, 3e-4, 1.25e-3, 0.01, 0.5, 1.0):
        assert float(texts.rate(lr)) == lr


def test_a_row_is_of_the_finished_cells_at_the_chosen_rate():
    results = comparisons.results()
    found = {row.judged.candidate: row for row in rows(comparisons.summary(), results)}
    for candidate, row in found.items():
        cells = [r for r in results if (r.candidate, r.lr) == (candidate, row.judged.lr)]
        cells = [r for r in cells if r.status == "finished"]
        assert row.cells == len(cells) > 0
        assert row.seconds == pytest.approx(sum(r.train_seconds for r in cells) / len(cells))
        assert row.memory == max(r.peak_rss for r in cells)
        assert [epoch for epoch, _ in row.curve] == [1, 2, 3, 4]


def printed(summary, results, width=80):
    console = Console(width=width, file=io.StringIO(), force_terminal=True, color_system="standard")
    console.print(terminal_table(summary, results))
    return re.sub(r"\x1b\[[\d;]*m", "", console.file.getvalue())


def test_the_terminals_table_fits_80_columns_and_has_verdicts_in_words():
    text = printed(comparisons.summary(), comparisons.results())
    assert max(map(len, text.splitlines())) <= 80
    for word in ("better", "equivalent", "not decided", "worse", "baseline", "+0.0071, +0.0296"):
        assert word in text
    assert "40.9 s" in text
    assert "Best: lora r=8" in text


def test_the_terminal_is_shown_text_whatever_a_script_says():
    judged = [
        Judged(text, None, "failed", reason=text)
        for text in ("[red]no markup[/red]", "\x1b[2J\x07bell", "y" * 10_000)
    ]
    text = printed(comparisons.summary(candidates=judged, best=None), [])
    assert "[red]no" in text
    assert "\x1b" not in text
    assert "\x07" not in text
    assert text.count("\n") < 30
