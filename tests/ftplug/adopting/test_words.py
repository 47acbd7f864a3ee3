"""What is kept of an author's card."""

import signal

import pytest

from ftplug.adopting.words import author_of, cleaned

TEMPLATE = """
# Model Card for Model ID

<!-- Provide a quick summary. -->

## Model Details

- **Developed by:** [More Information Needed]
- **Language(s) (NLP):** [More Information Needed]

### Model Sources [optional]

- **Repository:** [More Information Needed]

## Uses

### Direct Use

Sorts hotel reviews.

```python
# not a heading
```

## Environmental Impact

Carbon emissions can be estimated.

- **Hours used:** [More Information Needed]

## Citation [optional]

[More Information Needed]

## Framework versions
"""


def test_of_a_template_what_was_filled_in_is_kept():
    kept = cleaned(TEMPLATE)
    assert kept.startswith("### Model Card for Model ID")
    assert "#### Uses\n\n##### Direct Use\n\nSorts hotel reviews." in kept
    assert "\n# not a heading" in kept
    for gone in ("Needed", "Developed", "Sources", "Details", "Citation", "Framework", "<!--"):
        assert gone not in kept


def test_of_an_untouched_template_nothing_is():
    assert cleaned("# A\n\n## B\n[More Information Needed]\n") is None
    assert cleaned("") is None


def test_what_drives_a_terminal_goes():
    assert cleaned("red \x1b[31mtext\x07 \u202edlrow") == "red [31mtext dlrow"


@pytest.mark.parametrize(
    "text",
    ["---\nlicense: [1, 2\n---\ntext", "---\n- a\n---\ntext", "---\nlanguage: {a: 1}\n---\ntext",
     "---\nlicense: 5\ntags: 7\ndatasets: [../../x, 3]\n---\ntext", "no metadata: text"],
)  # fmt: skip
def test_metadata_of_any_kind_cost_nothing(text, tmp_path):
    (tmp_path / "README.md").write_text(text)
    said = author_of(tmp_path / "README.md")
    assert set(said) <= {"notes"}


def test_metadata_are_kept_but_for_those_of_libraries(tmp_path):
    (tmp_path / "README.md").write_text(
        "---\nlicense: apache-2.0\nlanguage: [en, de]\nlibrary_name: peft\nbase_model: a/b\n"
        "tags: ['base_model:adapter:a/b', lora, Hotels, unsloth]\ndatasets: a/data\n---\nHello."
    )
    assert author_of(tmp_path / "README.md") == {
        "license": "apache-2.0",
        "language": ["en", "de"],
        "tags": ["Hotels"],
        "datasets": ["a/data"],
        "notes": "Hello.",
    }


@pytest.mark.skipif(not hasattr(signal, "SIGALRM"), reason="nothing else stops it")
@pytest.mark.parametrize(
    "text",
    [
        "---\na: 1\n" + "\n" * 10**6,
        "---\na: 1" + "\r\n" * 500_000,
        "<!--" * 250_000,
        "[More Information Needed](" * 40_000,
        "[optional]" + " " * 90_000 + "a!a",
        "---\na: " + "[" * 10_000 + "\n---\ntext",
        "---\n" + "".join(f"k{n}: v\n" for n in range(60_000)) + "---\ntext",
    ],
    ids=["breaks", "returns", "comments", "open", "spaces", "brackets", "metadata"],
)
def test_no_card_takes_long(text, tmp_path):
    """Each of these took from ten seconds to hours."""
    (tmp_path / "README.md").write_bytes(text.encode())
    signal.setitimer(signal.ITIMER_PROF, 5)  # of CPU time; it takes a tenth of a second
    before = signal.signal(signal.SIGPROF, signal.default_int_handler)
    try:
        said = author_of(tmp_path / "README.md")
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)
    assert set(said) <= {"notes"}


def test_of_long_metadata_nothing_gets_into_the_words(tmp_path):
    (tmp_path / "README.md").write_text("---\n" + "k: v\n" * 60_000 + "---\nHello.")
    assert author_of(tmp_path / "README.md") == {"notes": "Hello."}


def test_what_was_left_open_ends_with_the_words():
    """A comment, or a block of code, would hide what the card says below."""
    assert cleaned("a <!-- b --> c <!-- d") == "a  c  d"
    assert cleaned("```\ncode").endswith("code\n```")
    assert cleaned("```\ncode\n```\ntext").endswith("```\ntext")
