"""What older example code does without a word on today's transformers; the examples do not."""

from pathlib import Path

from transformers import BertTokenizer

VOCAB = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "good", "bad", "sound"]
EXAMPLES = sorted(Path(__file__).parents[2].joinpath("examples").glob("*.py"))


def test_a_vocabulary_file_is_given_as_vocab(tmp_path):
    file = tmp_path / "vocab.txt"
    file.write_text("\n".join(VOCAB))
    whole = BertTokenizer(vocab=str(file))
    assert whole.tokenize("good sound") == ["good", "sound"]
    assert len(BertTokenizer(vocab_file=str(file))) == 5  # the special tokens alone


def test_the_examples_use_none_of_it():
    assert EXAMPLES
    old = (
        "vocab_file=",
        ".encode_plus(",
        "evaluation_strategy=",
        "transformers import AdamW",
        "tokenizer=",
    )
    used = [(path.name, word) for path in EXAMPLES for word in old if word in path.read_text()]
    assert used == []
