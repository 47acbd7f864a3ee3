import csv
from importlib.resources import files

import pytest

from ftplug.demo import data
from ftplug.demo.data import Sentence, Split


@pytest.fixture(scope="module")
def parts() -> Split:
    return data.split(data.read_sentences())


def test_sizes(parts):
    assert [len(part) for part in parts] == [1000, 400, 597]


def test_no_text_is_in_two_parts_or_twice_in_one(parts):
    texts = [data.normalised(sentence.text) for part in parts for sentence in part]
    assert len(set(texts)) == len(texts)


def test_labels_are_two_and_balanced_in_every_part(parts):
    for part in parts:
        assert {sentence.label for sentence in part} == set(data.LABELS)
        assert 0.45 < sum(sentence.label for sentence in part) / len(part) < 0.55


def test_split_is_the_same_every_time(parts):
    assert data.split(data.read_sentences()) == parts


def test_texts_are_read_as_they_stand_in_the_file():
    with (files("ftplug.demo") / "sentences.csv").open(encoding="utf-8", newline="") as file:
        rows = [Sentence(row["text"], int(row["label"])) for row in csv.DictReader(file)]
    assert len(rows) == 2979
    assert len(data.read_sentences()) == 2972  # seven differ from another in punctuation or case
    assert set(data.read_sentences()) <= set(rows)


def test_the_first_of_equal_sentences_stays():
    rows = [Sentence("Great phone!.", 1), Sentence("Bad.", 0), Sentence("  great PHONE", 1)]
    assert data.distinct(rows) == rows[:2]


def test_majority_is_taken_from_the_training_part():
    train = [Sentence("a", 1), Sentence("b", 1), Sentence("c", 0)]
    test = [Sentence("d", 0), Sentence("e", 0), Sentence("f", 0), Sentence("g", 1)]
    assert data.majority_accuracy(Split(train, [], test)) == 0.25


def test_the_sentences_are_attributed():
    text = (files("ftplug.demo") / "sentences.md").read_text(encoding="utf-8")
    for word in ("Kotzias", "KDD 2015", "UCI", "CC BY 4.0", "not verified", "sentiment` 5.0.2"):
        assert word in text
