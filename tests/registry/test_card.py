"""The card: valid Hub metadata, the run's facts, and nothing it does not know."""

import tiny
from huggingface_hub import ModelCard
from runs import trainer

import ftplug


def test_the_card_of_a_run(tmp_path):
    base = tiny.bert()
    base.config._name_or_path = "org/tiny-bert"
    base.config._commit_hash = "a" * 40
    bound = trainer(base, tmp_path / "out", eval_strategy="epoch", save_strategy="no")
    ftplug.attach(bound, "lora", r=4).train()
    bound.save_model(tmp_path / "a")
    card = ModelCard.load(tmp_path / "a" / "README.md")
    assert card.data.base_model == "org/tiny-bert"
    assert card.data.library_name == "ftplug"
    assert card.data.pipeline_tag == "text-classification"
    assert card.data.tags == ["ftplug", "ftplug:lora"]
    for fact in ("| Trained parameters | 1,090 of", "r=4, lora_alpha=16", f"| {'a' * 40} |",
                 "eval_loss: 0.", "learning_rate: 0.001", "train_rows: 32"):  # fmt: skip
        assert fact in card.content
    assert 'ftplug.load("org/tiny-bert", "path/to/this/folder")' in card.content


def test_what_is_not_known_is_left_out(tmp_path):
    ftplug.save(ftplug.apply(tiny.bert(), "freeze"), tmp_path)
    card = ModelCard.load(tmp_path / "README.md")
    assert card.data.base_model is None
    for absent in ("More Information Needed", "None", "Seconds", "Metrics"):
        assert absent not in card.content
    assert "# freeze on BertForSequenceClassification" in card.content
