"""A cell: a script run with a candidate, how it ended and what was measured of it."""

import os
import sys

import pytest
import tiny
import torch
from cells import CLASSIFIES, place, ran
from runs import same

import ftplug
from ftplug.artifacts.manifest import read_manifest
from ftplug.comparing.candidates import parse
from ftplug.comparing.results import read_results, to_line
from ftplug.training.script import Launch


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished")
    seen = []
    code = CLASSIFIES + "print(trainer.args.report_to)\n"
    result = ran(folder, code, lr=3e-3, seed=4, go_on=lambda *at: seen.append(at) or True)
    return folder, result, seen


def test_a_finished_cell_says_all_there_is(finished):
    _, result, seen = finished
    assert (result.status, result.reason) == ("finished", None)
    assert (result.candidate, result.lr, result.seed) == ("lora r=4", 3e-3, 4)
    assert (result.metric, result.greater_is_better, result.set) == ("accuracy", True, "evaluation")
    assert [epoch["epoch"] for epoch in result.epochs] == [1.0, 2.0]
    accuracies = [epoch["metrics"]["accuracy"] for epoch in result.epochs]
    assert seen == list(zip([1.0, 2.0], accuracies, strict=True))
    assert result.metrics == result.epochs[-1]["metrics"]
    assert set(result.metrics) == {"accuracy", "loss"}
    assert result.chosen_by == result.value == accuracies[-1]
    assert result.methods[0]["settings"]["r"] == 4


def test_sizes_and_times(finished):
    folder, result, _ = finished
    model = ftplug.apply(tiny.bert(), "lora", r=4)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert result.trained_parameters == trained
    assert result.total_parameters == sum(p.numel() for p in tiny.bert().parameters())
    tensors = sum(p.requires_grad for p in model.parameters())
    assert result.optimizer_bytes == 2 * 4 * trained + 4 * tensors  # two moments, and the step
    artifact = place(folder, result.cell) / "artifact"
    assert result.artifact_bytes == sum(p.stat().st_size for p in artifact.iterdir())
    assert result.peak_rss > 50e6
    assert result.train_seconds > 0
    assert 0 < result.train_cpu_seconds < os.cpu_count() * result.train_seconds + 0.1
    assert result.evaluation_seconds > 0
    assert result.start_seconds > 0
    assert result.samples_per_second == pytest.approx(32 / result.train_seconds)
    tokens = 2 * (15 * 7 + 7)  # no row of the first 16 is padded
    assert result.tokens_per_second == pytest.approx(tokens / result.train_seconds, rel=0.01)
    assert len(result.fresh) == 32
    assert result.forgetting is None


def test_what_it_writes_lies_in_its_folder(finished):
    folder, result, _ = finished
    own = place(folder, result.cell)
    assert {path.name for path in folder.iterdir()} == {"train.py", "DIR", "theirs"}
    assert list((folder / "theirs").iterdir()) == []  # the script's own, where it may write
    assert {path.name for path in own.iterdir()} == {"artifact", "output", "outcomes.safetensors"}
    manifest = read_manifest(own / "artifact")
    assert manifest.training["seed"] == 4
    assert manifest.training["hyperparameters"]["learning_rate"] == 3e-3
    assert result.notes == [
        "args.output_dir is a folder of the cell's own",
        "args.eval_strategy is 'epoch', not 'no'",
    ]
    assert result.outcomes == f"cells/{result.cell.id}/outcomes.safetensors"


def test_a_result_is_a_line(finished, tmp_path):
    _, result, _ = finished
    (tmp_path / "results.jsonl").write_text(to_line(result) + "\n")
    assert read_results(tmp_path / "results.jsonl") == [result]


def test_the_process_is_left_as_it_was(finished, tmp_path):
    before = os.getcwd(), sys.excepthook, list(sys.argv), list(sys.path)
    code = "import os\nos.chdir('/')\nsys.argv.append('x')\nraise ValueError('no')"
    assert ran(tmp_path, code).status == "failed"
    assert (os.getcwd(), sys.excepthook, list(sys.argv)) == before[:3]


def test_arguments_name_the_cell_and_the_seed(tmp_path):
    code = "print(sys.argv[1:])\nsys.exit(' '.join(sys.argv[1:]))"
    command = ("train.py", "--out={cell}/x", "{seed}", '{"a": 1}')
    result = ran(tmp_path, code, seed=7, command=command, seed_arg="--seed {seed}")
    own = place(tmp_path, result.cell)
    assert result.reason == f'--out={own}/x 7 {{"a": 1}} --seed 7'


# How it ends.


def test_pruned_ends_the_script_at_once(tmp_path):
    code = CLASSIFIES + "open('went_on', 'w')\n"
    result = ran(tmp_path, code, go_on=lambda epoch, value: epoch < 1)
    assert (result.status, result.reason) == ("pruned", "stopped after epoch 1")
    assert len(result.epochs) == 1
    assert result.chosen_by == result.epochs[0]["metrics"]["accuracy"]
    assert result.metrics == {}
    assert not (tmp_path / "went_on").exists()


def test_less_is_turned_for_who_prunes(tmp_path):
    seen = []
    code = CLASSIFIES.replace(", compute_metrics=accuracy", "")
    result = ran(tmp_path, code, go_on=lambda epoch, value: seen.append(value) or True)
    assert (result.metric, result.greater_is_better) == ("loss", False)
    assert seen == [-epoch["metrics"]["loss"] for epoch in result.epochs]


def trains(change):
    """Return the script with a line in front of its training."""
    return CLASSIFIES.replace("trainer.train()", f"{change}\ntrainer.train()")


@pytest.mark.parametrize(
    ("code", "status", "reason"),
    [
        ("raise ValueError('a\\nb' + 'c' * 400)", "failed", "ValueError: a bccc"),
        ("sys.exit(3)", "failed", "the script exited with code 3"),
        ("sys.exit('told\\nso')", "failed", "told so"),
        ("pass", "failed", "MethodError: train.py built no transformers Trainer"),
        (CLASSIFIES.replace("trainer.train()", ""), "failed", "the script built a Trainer, but"),
        (CLASSIFIES.replace("data[16:]", "None"), "failed", "the script evaluates nothing"),
        (
            trains("trainer.compute_metrics = lambda p: {'accuracy': float('nan')}"),
            "diverged",
            "accuracy is nan after epoch 1",
        ),
        (
            trains("trainer.compute_loss = lambda model, inputs, **k: model(**inputs).loss * 1e39"),
            "diverged",
            "the loss is inf in step 1",
        ),
        (trains("raise MemoryError"), "out_of_memory", "MemoryError"),
        (trains("raise torch.OutOfMemoryError('CUDA')"), "out_of_memory", "OutOfMemoryError: CUDA"),
        (trains("torch.empty(2**60)"), "out_of_memory", "RuntimeError: [enforce fail at alloc"),
    ],
    ids=str,
)
def test_how_a_cell_ends(tmp_path, code, status, reason):
    result = ran(tmp_path, code)
    assert result.status == status
    assert result.reason.startswith(reason)
    assert len(result.reason) <= 300
    assert "\n" not in result.reason


def test_sys_exit_of_0_is_a_good_end(tmp_path):
    result = ran(tmp_path, CLASSIFIES + "sys.exit(0)")
    assert result.status == "finished"


@pytest.mark.parametrize(
    ("candidate", "reason"),
    [
        ("no-such", "PluginError: "),
        ("lora r=0", "MethodError: "),
        ("lora target_modules=nothing", "MethodError: lora: "),
    ],
)
def test_a_candidate_that_is_refused_has_failed(tmp_path, candidate, reason):
    result = ran(tmp_path, CLASSIFIES, candidate)
    assert result.status == "failed"
    assert result.reason.startswith(reason)


def test_an_interrupt_passes(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        ran(tmp_path, "raise KeyboardInterrupt")


def test_several_processes_are_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ftplug.FtplugError, match="one process"):
        ran(tmp_path, CLASSIFIES)


def test_a_script_that_resumes_is_refused(tmp_path):
    code = CLASSIFIES.replace("arguments()", "arguments(save_strategy='epoch')")
    code += "trainer.train(resume_from_checkpoint=True)"
    result = ran(tmp_path, code)
    assert result.reason.startswith("the script resumed a checkpoint of step 8")


def test_the_last_training_counts(tmp_path):
    again = CLASSIFIES + CLASSIFIES.replace("tiny.bert()", "tiny.roberta()")
    result = ran(tmp_path, again)
    assert result.status == "finished"
    assert "the script trains 2 times: the last counts" in result.notes
    manifest = read_manifest(place(tmp_path, result.cell) / "artifact")
    assert manifest.model["class"] == "RobertaForSequenceClassification"
    assert len(result.epochs) == 2


def test_nothing_leaves_a_cell(tmp_path, monkeypatch):
    pytest.importorskip("tensorboard")
    code = CLASSIFIES.replace("arguments()", "arguments(push_to_hub=True, report_to='tensorboard')")
    result = ran(tmp_path, code)
    assert result.status == "finished"
    assert "args.push_to_hub is off" in result.notes
    assert "args.report_to is 'none'" in result.notes


def test_fresh_tensors_tell_seeds_apart(tmp_path):
    fresh = {
        (seed, begin): ran(tmp_path, begin + CLASSIFIES, seed=seed, go_on=lambda *_: False).fresh
        for seed in (1, 2)
        for begin in ("", "torch.manual_seed(0)\n")
    }
    assert fresh[1, ""] == fresh[1, "torch.manual_seed(0)\n"]  # the tiny head has a seed of its own
    assert fresh[1, ""] != fresh[2, ""]  # but not what lora adds


SAVES = CLASSIFIES.replace("arguments()", "arguments(eval_strategy='epoch')").replace(
    "tiny.bert()", "tiny.bert(dropout=0.2)"
) + "torch.save(trainer.model.state_dict(), 'weights.pt')\n"  # fmt: skip


def test_what_is_trained_is_what_run_trains(tmp_path, monkeypatch):
    """Measuring draws nothing and changes nothing."""
    result = ran(tmp_path, SAVES, seed=3)
    assert result.status == "finished"
    measured = torch.load(tmp_path / "weights.pt")
    monkeypatch.chdir(tmp_path)
    Launch(parse("lora r=4").methods, seed=3).run(["train.py"])
    assert same(measured, torch.load(tmp_path / "weights.pt"))


def test_numbers_that_are_none_do_not_reach_the_line(tmp_path):
    nan = "trainer.compute_metrics = lambda p: {'accuracy': float('nan')}"
    result = ran(tmp_path, trains(nan))
    assert "NaN" not in to_line(result)
    assert set(result.epochs[0]["metrics"]) == {"loss"}


def test_a_script_may_merge_what_it_trained(tmp_path):
    code = CLASSIFIES + "import ftplug\nftplug.merge(model)\ntrainer.model = None\n"
    result = ran(tmp_path, code)
    assert (result.status, result.reason) == ("finished", None)
    assert result.value == result.epochs[-1]["metrics"]["accuracy"]
    assert result.trained_parameters


@pytest.mark.parametrize(
    ("candidate", "epochs", "could"),
    [
        ("freeze layers=1", 2, True),
        ("freeze layers=1", 1, False),  # no example comes up again
        ("freeze+trunk-cache freeze.layers=1", 2, False),  # it has one
        ("lora r=4", 2, False),  # it changes the lowest layer
    ],
)
def test_where_a_trunk_cache_would_help(candidate, epochs, could, tmp_path):
    code = CLASSIFIES.replace("arguments()", f"arguments(num_train_epochs={epochs})")
    result = ran(tmp_path, code, candidate)
    assert (result.status, result.could_cache) == ("finished", could)
