"""What a run notes of its script and its evaluation: enough to ask again, nothing private."""

import hashlib
from types import SimpleNamespace

import folders
import pytest
from datasets import Dataset, DatasetInfo

from ftplug.training.facts.evaluation import ACCURACY, evaluation_facts
from ftplug.training.facts.launched import script_facts

SECRET = "hf_" + "a1B2" * 9


def test_a_script_is_named_with_its_sha256(tmp_path):
    script = tmp_path / "private" / "train.py"
    script.parent.mkdir()
    script.write_text("print(1)\n")
    facts = script_facts([str(script), "--epochs", "3"], module=False)
    assert facts == {
        "name": "train.py",
        "sha256": hashlib.sha256(b"print(1)\n").hexdigest(),
        "arguments": ["--epochs", "3"],
    }
    assert script_facts(["pkg.train", "a"], module=True) == {
        "name": "pkg.train",
        "arguments": ["a"],
    }


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        (["--lr", "1e-3", "--scale", ".5", "--neg", "-1"], None),
        (["--model", "org/name", "--task=mnli"], None),
        (["--out", "/home/alice/out"], ["--out", "[path]"]),
        (["--out=../runs/x"], ["--out=[path]"]),
        (["~/data.csv", "data/of/mine.csv", r"C:\Users\alice", "./x"], ["[path]"] * 4),
        (["--token", SECRET], ["--token", "[hidden]"]),
        (["--api-key=abc"], ["--api-key=[hidden]"]),
        (["--x", f"say {SECRET}"], ["--x", "say [a Hugging Face token]"]),
        (["a" * 500], ["a" * 80]),
    ],
)
def test_arguments_are_kept_without_paths_and_secrets(given, kept):
    assert script_facts(["m", *given], module=True)["arguments"] == (kept or given)


def test_what_lies_there_is_a_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "org").mkdir()
    (tmp_path / "org" / "name").write_text("")
    assert script_facts(["m", "org/name"], module=True)["arguments"] == ["[path]"]


def test_many_arguments_are_counted():
    facts = script_facts(["m", *map(str, range(100))], module=True)
    assert (len(facts["arguments"]), facts["arguments_left_out"]) == (60, 40)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folders.encoder(tmp_path_factory.mktemp("base")))


ADDRESS = f"hf://datasets/org/reviews@{'a' * 40}/data/test.parquet"


def rows(**columns):
    info = DatasetInfo(dataset_name="reviews", config_name="default")
    info.download_checksums = {ADDRESS: {}}
    made = Dataset.from_dict(columns, info=info, split="validation")
    assert made.info.dataset_name
    return made


def trainer(tokenizer, made, **cut):
    columns = [name for name in ("premise", "text") if name in made.column_names]
    encoded = made.map(lambda row: tokenizer(*(row[name] for name in columns), **cut))
    return SimpleNamespace(eval_dataset=encoded, processing_class=tokenizer)


TEXTS = ["good bad " * n for n in range(1, 9)]


@pytest.mark.parametrize("most", [None, 6])
def test_columns_and_cut_are_found_by_trying(tokenizer, most):
    made = rows(idle=["x"] * 8, text=TEXTS, label=[0, 1] * 4)
    cut = {"truncation": True, "max_length": most} if most else {}
    facts = evaluation_facts(trainer(tokenizer, made, **cut), {"eval_accuracy": 0.5, "eval_f1": 1})
    assert facts == {
        "rows": 8,
        "metrics": {"eval_accuracy": ACCURACY},
        "data": {
            "source": "datasets", "dataset": "org/reviews", "config": "default",
            "revision": "a" * 40, "split": "validation",
        },
        "preprocessing": {"text": ["text"], "label": "label", "max_length": most},
    }  # fmt: skip


@pytest.mark.parametrize("padding", [False, "max_length"])
@pytest.mark.parametrize("longest", [1, 8])
def test_a_cut_is_found_that_only_late_rows_show(tokenizer, padding, longest):
    texts = ["good"] * 100 + ["good bad " * longest] * 3
    made = rows(text=texts, label=[0] * 103)
    cut = {"truncation": True, "max_length": 6, "padding": padding}
    facts = evaluation_facts(trainer(tokenizer, made, **cut), {"eval_accuracy": 0.5})
    # Rows of one width may be cut there: to cut what is shorter changes nothing.
    said = 6 if padding or longest == 8 else None
    assert facts["preprocessing"] == {"text": ["text"], "label": "label", "max_length": said}


def test_pairs_are_found_in_their_order(tokenizer):
    made = rows(text=["bad"] * 8, premise=TEXTS, label=[0, 1] * 4)
    facts = evaluation_facts(trainer(tokenizer, made), {"eval_accuracy": 0.5})
    assert facts["preprocessing"]["text"] == ["premise", "text"]


def test_rows_that_were_made_otherwise_have_no_preprocessing(tokenizer):
    made = rows(text=TEXTS, label=[0, 1] * 4)
    given = trainer(tokenizer, made)
    given.eval_dataset = given.eval_dataset.map(lambda row: {"text": row["text"] + "bad"})
    assert "preprocessing" not in evaluation_facts(given, {"eval_accuracy": 0.5})


def test_nothing_is_said_of_other_evaluations(tokenizer):
    made = rows(text=TEXTS, label=[0, 1] * 4)
    assert evaluation_facts(trainer(tokenizer, made), {"eval_loss": 0.5}) == {}
    given = SimpleNamespace(eval_dataset=[{"labels": 1}], processing_class=tokenizer)
    assert evaluation_facts(given, {"eval_accuracy": 0.5}) == {}
