"""Merging of cards, text by text: what stays, what is renewed, what is a conflict."""

import random

import pytest
from ftplug_registry.card.blocks import blocks, placed
from ftplug_registry.card.conflict import CannotMergeError
from ftplug_registry.card.front_matter import merged_front, parsed, split
from ftplug_registry.card.merging import explains, merged_card


def card(steps, *, results="", snippet="load(1)", tags="- ftplug\n"):
    section = (
        f"## Results\n\n| Metric | This model |\n| --- | --- |\n{results}\n\n" if results else ""
    )
    return (
        f"---\ntags:\n{tags}base_model: org/b\n---\n\n# x\n\nA model of {steps} steps.\n\n"
        f"|  |  |\n| --- | --- |\n| Steps | {steps} |\n\n{section}## Use\n\nWith it:\n\n"
        f"```python\n{snippet}\n\n# a comment\n```\n\nMade with it.\n"
    )


OLD, NEW = card(1, results="| f1 | 0.1 |"), card(2, results="| f1 | 0.2 |", snippet="load(2)")


@pytest.mark.parametrize("seed", range(200))
def test_blocks_are_the_text_again(seed):
    draw = random.Random(seed)
    pieces = [
        "a",
        "| a |",
        "# h",
        "## h",
        "```",
        "````",
        "~~~",
        "\n",
        "\n\n",
        " ",
        "---",
        "<!--",
        "\t|",
    ]
    text = "".join(draw.choice(pieces) + draw.choice(["", "\n"]) for _ in range(40))
    found = blocks(text)
    assert "".join(block.text + block.after for block in found) == text
    assert set("".join(block.after for block in found)) <= set(" \n\t")


def test_a_block_of_code_is_one_with_what_looks_like_markdown_in_it():
    kinds = [block.kind for block in blocks("````\n# h\n```\n| a |\n````\n# h\n| a |\nb\n")]
    assert kinds == ["fence", "heading", "table", "paragraph"]


def test_places_count_within_a_section():
    text = "# t\n\na\n\nb\n\n## R\n\n| a |\n\n## R\n\n| b |\n"
    assert [(place.section, place.number) for place in placed(text)] == [
        ("", 0), ("", 0), ("", 1), ("R", 0), ("R", 0), ("R (2)", 0), ("R (2)", 0),
    ]  # fmt: skip


EDITS = {
    "prose before": lambda t: t.replace("# x\n", "Mind.\n\n# x\n"),
    "another title": lambda t: t.replace("# x\n", "# My model\n"),
    "prose beside a table": lambda t: t.replace("| Steps | 1 |\n", "| Steps | 1 |\nMind.\n"),
    "a section of one's own": lambda t: t.replace("## Use", "## Mind\n\n| a |\n| --- |\n\n## Use"),
    "another snippet": lambda t: t.replace("load(1)", "load(1, mind=True)"),
    "no snippet": lambda t: t.replace("With it:\n\n", ""),
    "a comment": lambda t: t.replace("base_model", "# Mind\nbase_model"),
    "at the end": lambda t: f"{t}Mind",
    "no line end": lambda t: t.rstrip("\n"),
}


@pytest.mark.parametrize("what", EDITS)
def test_what_an_author_does_stays(what):
    edited = EDITS[what](OLD)
    merged = merged_card([OLD], NEW, edited)
    assert merged_card([OLD], OLD, edited) == edited
    assert merged.count("| Steps | 2 |") == merged.count("| f1 | 0.2 |") == 1
    assert "0.1" not in merged
    assert merged.count("ind") == edited.count("ind")
    assert ("# x\n" in merged) == ("# x\n" in edited)
    assert ("With it:" in merged) == ("With it:" in edited)
    assert merged_card([NEW], NEW, merged) == merged  # once more changes nothing


def test_sections_in_another_order_are_renewed_where_they_are():
    head, results, use = OLD.replace("## ", "\0## ").split("\0")
    merged = merged_card([OLD], NEW, head + use + "\n" + results)
    assert merged.index("load(2)") < merged.index("| f1 | 0.2 |")


def test_what_comes_and_goes_with_a_run():
    plain = card(3)
    assert merged_card([plain], NEW, plain + "\nMind.\n") == NEW + "\nMind.\n"
    assert merged_card([OLD], plain, OLD + "\nMind.\n") == plain + "\nMind.\n"
    under = OLD.replace("## Use", "Of my own data.\n\n## Use")
    kept = merged_card([OLD], plain, under)
    assert "## Results\n\nOf my own data.\n" in kept
    assert "f1" not in kept


REFUSED = {
    "table of facts is not": lambda t: t.replace("| Steps | 1 |", "| Steps | 7 |"),
    "table of results is not": lambda t: t.replace(
        "| f1 | 0.1 |\n", "| f1 | 0.1 |\n| em | 0.3 |\n"
    ),
    "table of results is there twice": lambda t: (
        f"{t}\n| Metric | This model |\n|---|---|\n| f1 | 0.1 |\n"
    ),
    "nothing in it is": lambda t: "Mine.\n",
    "are no YAML": lambda t: t.replace("base_model:", "base_model: ["),
    "no YAML mapping": lambda t: "---\n- 1\n---\n" + split(t)[1],
    "no YAML \\(": lambda t: "---\n" + "[" * 100_000 + "\n---\n" + split(t)[1],
    "another base_model": lambda t: t.replace("org/b", "org/mine"),
}


@pytest.mark.parametrize("why", REFUSED)
def test_a_conflict_says_which(why):
    new = NEW.replace("org/b", "org/c")
    with pytest.raises(CannotMergeError, match=why):
        merged_card([OLD], new, REFUSED[why](OLD))


def test_the_card_of_which_most_is_left_counts():
    edited = f"{NEW}\nMind.\n"
    assert merged_card([OLD, NEW], OLD, edited) == f"{OLD}\nMind.\n"
    assert explains(NEW, edited)
    assert not explains(OLD, edited)
    with pytest.raises(CannotMergeError):
        merged_card([], NEW, edited)


METADATA = {
    "unchanged": ({"a": 1}, "a: 1\n", "a:   1 # mine\n", "a:   1 # mine\n"),
    "renewed": ({"a": 1}, "a: 2\n", "b: 3 # mine\na: 1\n", "b: 3 # mine\na: 2\n"),
    "gone": ({"a": 1, "b": 1}, "a: 1\n", "a: 1\nb: 1\n", "a: 1\n"),
    "gone, but changed by hand": ({"b": 1}, "a: 1\n", "b: 2\n", "b: 2\na: 1\n"),
    "taken out": ({"a": 1}, "a: 1\n", "", "a: 1\n"),
    "words": ({"t": ["x", "y"]}, "t: [y, z]\n", "t:\n- x\n- mine\n- y\n", "t:\n- mine\n- y\n- z\n"),
    "quoted, with its comment": (
        {"a b": 1},
        "'a b': 2\n",
        "# c\n'a b': 1\n'd': 1\n",
        "a b: 2\n'd': 1\n",
    ),
    "in one line": ({"a": 1}, "a: 2\n", "{a: 1, b: [1]}\n", "a: 2\nb:\n- 1\n"),
    "an anchor": ({"a": [1]}, "a: [2]\n", "a: &x [1]\nb: *x\n", "a:\n- 2\nb:\n- 1\n"),
    "no text as a key": ({}, "a: 2\n", "1: x\nnull: y\n", "1: x\nnull: y\na: 2\n"),
}


@pytest.mark.parametrize("what", METADATA)
def test_metadata(what):
    written, new, edited, expected = METADATA[what]
    assert merged_front(written, new, edited) == expected


def test_metadata_are_what_the_hub_takes_for_them():
    assert split("---\na: 1\n---\nb") == ("a: 1\n", "b")
    assert split("\n---\n---\n# b") == ("", "# b")
    assert split("# b\n\n---\na: 1\n---\n") == ("", "# b\n\n---\na: 1\n---\n")
    assert parsed("") == {}
