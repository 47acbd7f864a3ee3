"""Several calls of one Trainer: evaluations on other data, train() twice, data that come late."""

import json

import pytest
import tiny
from runs import rows, trainer

import ftplug
from ftplug.artifacts.manifest import MANIFEST
from ftplug.training.record import OTHER


def accuracy(prediction):
    return {"accuracy": float((prediction.predictions.argmax(-1) == prediction.label_ids).mean())}


def evaluating(tmp_path, **options):
    """Return a Trainer that evaluates 8 rows of its own, and 12 rows of another set."""
    options = {"max_steps": 4, "save_strategy": "no", "use_cpu": True} | options
    bound = trainer(tiny.bert(), tmp_path / "run", **options)
    bound.compute_metrics = accuracy
    return ftplug.attach(bound, "bitfit"), rows(tiny.bert(), 12)


def saved(bound, folder):
    bound.save_model(folder)
    return json.loads((folder / MANIFEST).read_text())["training"]


def test_a_test_set_is_kept_apart_from_the_validation_set(tmp_path):
    bound, test = evaluating(tmp_path, eval_strategy="steps", eval_steps=4)
    bound.train()
    own = bound.evaluate()
    other = bound.evaluate(test)
    facts = saved(bound, tmp_path / "a")
    assert facts["metrics"]["eval_loss"] == pytest.approx(own["eval_loss"], rel=1e-5)
    assert facts["data"]["eval_rows"] == 8
    [apart] = facts[OTHER]
    assert apart["data"] == {"rows": 12}
    assert apart["metrics"]["loss"] == pytest.approx(other["eval_loss"], rel=1e-5)
    assert set(apart["metrics"]) == {"loss", "accuracy"}
    assert len(facts["history"]["eval"]) == 2  # while it trained, and afterwards
    card = (tmp_path / "a/README.md").read_text()
    assert "| Metric | This model | Measured on |" in card
    assert card.count("| 12 rows |") == 2
    assert "accuracy (validation)" in card


@pytest.mark.parametrize(
    "call",
    [
        lambda bound, test: bound.evaluate(eval_dataset=test),
        lambda bound, test: bound.evaluate(test, metric_key_prefix="test"),
        lambda bound, test: bound.evaluate(test, None, "eval"),
    ],
    ids=["keyword", "prefix", "positional"],
)
def test_however_it_is_evaluated_only_the_last_of_a_set_counts(call, tmp_path):
    bound, test = evaluating(tmp_path)
    call(bound, test)  # before training
    bound.train()
    call(bound, test)
    call(bound, test)
    facts = saved(bound, tmp_path / "a")
    assert "metrics" not in facts
    assert "baselines" not in facts
    assert [one["data"] for one in facts[OTHER]] == [{"rows": 12}]


def test_the_trainers_own_set_and_its_parts_are_no_other_data(tmp_path):
    bound, _ = evaluating(tmp_path)
    bound.train()
    bound.evaluate(bound.eval_dataset)
    assert OTHER not in saved(bound, tmp_path / "a")
    bound.eval_dataset = {"one": bound.eval_dataset, "two": bound.eval_dataset[:4]}
    bound.evaluate()
    facts = saved(bound, tmp_path / "b")
    assert OTHER not in facts
    assert {"eval_one_loss", "eval_two_loss"} <= set(facts["metrics"])


def test_a_set_of_datasets_is_named_with_its_fingerprint(tmp_path):
    from datasets import Dataset

    bound, test = evaluating(tmp_path)
    bound.train()
    table = Dataset.from_list([{n: v.tolist() for n, v in row.items()} for row in test])
    bound.evaluate(table.with_format("torch"))
    [apart] = saved(bound, tmp_path / "a")[OTHER]
    assert apart["data"]["rows"] == 12
    assert apart["data"]["fingerprint"]


def test_train_twice_counts_both(tmp_path):
    bound, _ = evaluating(tmp_path, logging_steps=2)
    bound.train()
    first = bound.ftplug.measured.seconds
    bound.train()
    facts = saved(bound, tmp_path / "a")
    assert facts["steps"] == 8
    assert facts["epochs"] == 1.0
    assert [point["step"] for point in facts["history"]["train"]] == [2, 4, 6, 8]
    assert bound.ftplug.measured.seconds > first
    bound.train()
    assert saved(bound, tmp_path / "a")["steps"] == 12


def test_a_resumed_run_is_not_counted_twice(tmp_path):
    bound, _ = evaluating(tmp_path, save_strategy="steps", save_steps=2, logging_steps=2)
    bound.train()
    bound.train(resume_from_checkpoint=str(tmp_path / "run/checkpoint-2"))
    facts = saved(bound, tmp_path / "a")
    assert facts["steps"] == 4
    assert [point["step"] for point in facts["history"]["train"]] == [2, 4]


def test_a_new_model_begins_anew(tmp_path):
    bound, _ = evaluating(tmp_path)
    bound.model_init = lambda: tiny.bert()
    bound.train()
    bound.train()
    assert saved(bound, tmp_path / "a")["steps"] == 4


LATE = {
    "a loader of its own": """
class Own(Trainer):
    def get_train_dataloader(self):
        return torch.utils.data.DataLoader(runs.rows(self.model), batch_size=4)

made = Own(model, args)
""",
    "data set later": """
made = Trainer(model, args)
made.train_dataset = runs.rows(model)
""",
}


@pytest.mark.parametrize("way", LATE)
def test_a_trainer_whose_data_come_late_trains_with_the_method(way, tmp_path):
    from ftplug_plugins.lora import Lora

    from ftplug.training.script import Launch

    path = tmp_path / "late.py"
    path.write_text(
        "import runs, tiny, torch\nfrom transformers import Trainer, "
        "TrainingArguments\nmodel = tiny.bert()\n"
        f"args = TrainingArguments({str(tmp_path / 'out')!r}, max_steps=4, use_cpu=True, "
        "report_to=[], save_strategy='no', disable_tqdm=True, learning_rate=1e-2)\n"
        f"{LATE[way]}made.train()\nmade.save_model()\n"
    )
    report = tmp_path / "report.json"
    Launch([Lora(r=4)], report=report).run([str(path)])
    [run] = json.loads(report.read_text())["runs"]
    assert run["methods"][0]["name"] == "lora"
    assert run["tensors"]["moved"] == run["tensors"]["may_train"]
    assert (tmp_path / "out" / MANIFEST).is_file()


def test_a_trainer_that_only_evaluates_is_left_alone(tmp_path):
    from ftplug_plugins.lora import Lora

    from ftplug.training.script import Launch

    path = tmp_path / "only.py"
    path.write_text(
        "import runs, tiny\nfrom transformers import Trainer, TrainingArguments\n"
        f"args = TrainingArguments({str(tmp_path / 'out')!r}, use_cpu=True, report_to=[])\n"
        "model = tiny.bert()\nmade = Trainer(model, args, eval_dataset=runs.rows(model))\n"
        "made.evaluate()\nassert type(made) is Trainer\n"
        "assert not any('lora' in name for name, _ in model.named_parameters())\n"
    )
    Launch([Lora(r=4)]).run([str(path)])
