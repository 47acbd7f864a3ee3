"""``ftplug run --seed``: one number decides fresh tensors, order and dropout."""

import json
import random
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import script
import tiny
import torch
from ftplug_plugins.freeze import Freeze
from ftplug_plugins.full import Full
from ftplug_plugins.lora import Lora

import ftplug
from ftplug.training.script import Launch

PATHS = [str(Path(module.__file__).parent) for module in (tiny, script)]
SCRIPT = """
import sys
sys.path[:0] = {paths!r}
import random
import numpy, torch, tiny
from transformers import Trainer, TrainingArguments, set_seed
from runs import rows

{begin}
drawn = [random.random(), float(numpy.random.rand()), float(torch.rand(()))]
asked = []

class Recorded(list):
    def __getitem__(self, index):
        asked.append(index)
        return super().__getitem__(index)

model = tiny.bert(dropout=0.1)
args = TrainingArguments(
    {out!r}, per_device_train_batch_size=4, num_train_epochs=2, save_strategy="no",
    learning_rate=1e-2, report_to=[], disable_tqdm=True, use_cpu=True, {more}
)
trainer = Trainer(model, args, train_dataset=Recorded(rows(model, 16)))
seen = list(asked)
asked.clear()
trainer.train()
found = dict(drawn=drawn, asked=asked, argv=sys.argv[1:], seed=(args.seed, args.data_seed))
found["weights"] = {{n: p.detach().clone() for n, p in trainer.model.named_parameters()}}
torch.save(found, {out!r} + "/found.pt")
"""


def found(folder, methods, begin="", more="", **options):
    """Run the script in this process; return what it drew, asked for and trained."""
    folder.mkdir()
    path = folder / "train.py"
    path.write_text(SCRIPT.format(paths=PATHS, out=str(folder), begin=begin, more=more))
    Launch(methods, **options).run([str(path), "--own"])
    return torch.load(folder / "found.pt")


def equal(first, second):
    return first.keys() == second.keys() and all(first[n].equal(second[n]) for n in first)


@pytest.mark.parametrize(
    ("begin", "more"), [("", ""), ("set_seed(42)", "seed=3, data_seed=7")], ids=["plain", "own"]
)
def test_a_seed_decides_the_weights_to_the_last_bit(tmp_path, begin, more):
    first = found(tmp_path / "a", [Lora(r=4)], begin, more, seed=1)
    torch.rand(5), random.random(), np.random.rand()  # what went before does not count
    again = found(tmp_path / "b", [Lora(r=4)], begin, more, seed=1)
    other = found(tmp_path / "c", [Lora(r=4)], begin, more, seed=2)
    assert equal(first["weights"], again["weights"])
    assert first["asked"] == again["asked"] != other["asked"]
    assert sorted(first["asked"]) == sorted(other["asked"])
    assert first["seed"] == (1, 1)
    assert (first["drawn"] == other["drawn"]) == bool(begin)  # the script's own seed rules there


def test_another_seed_draws_other_fresh_tensors(tmp_path):
    frozen = {"more": "max_steps=1, lr_scheduler_type='constant'", "lr": 1e-12}
    runs = [found(tmp_path / str(n), [Lora(r=4)], "set_seed(42)", seed=n, **frozen) for n in (1, 2)]
    names = [name for name in runs[0]["weights"] if "lora_A" in name]
    assert names
    assert not any(
        torch.allclose(*(run["weights"][name] for run in runs), atol=1e-6) for name in names
    )


@pytest.mark.parametrize(
    "more", ["", "train_sampling_strategy='group_by_length'"], ids=["random", "by length"]
)
def test_the_order_is_the_same_for_all_methods(tmp_path, more):
    asked = [
        found(tmp_path / str(at), [method], "set_seed(7)", more, seed=3)["asked"]
        for at, method in enumerate([Lora(r=4, lora_dropout=0.5), Freeze(layers=1), Full()])
    ]
    assert asked[0] == asked[1] == asked[2]
    epochs = asked[0][-32:-16], asked[0][-16:]
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(16))
    assert epochs[0] != epochs[1]


def test_a_script_that_seeds_itself_is_told(tmp_path):
    ran = found(tmp_path / "a", [Lora(r=4)], seed=5, seed_arg="--seed {seed} --name 'a b'")
    assert ran["argv"] == ["--own", "--seed", "5", "--name", "a b"]
    with pytest.raises(ftplug.FtplugError, match="--seed-arg '--name \"a': No closing quotation"):
        found(tmp_path / "b", [Lora(r=4)], seed=5, seed_arg='--name "a')


def test_without_it_nothing_is_seeded_or_changed(tmp_path):
    assert found(tmp_path / "a", [Lora(r=4)])["seed"] == (42, None)


PARENT = """
import subprocess, sys
subprocess.run([sys.executable, {path!r}], check=True)
"""


@pytest.mark.slow
def test_processes_that_a_script_starts_are_seeded(tmp_path):
    ran = found(tmp_path / "a", [Lora(r=4)], "set_seed(42)", seed=9)
    inner = tmp_path / "inner"
    inner.mkdir()
    path = inner / "train.py"
    path.write_text(SCRIPT.format(paths=PATHS, out=str(inner), begin="set_seed(42)", more=""))
    parent = tmp_path / "parent.py"
    parent.write_text(PARENT.format(path=str(path)))
    report = tmp_path / "report.json"
    Launch([Lora(r=4)], seed=9, report=report).run([str(parent)])
    child = torch.load(inner / "found.pt")
    assert child["seed"] == (9, 9)
    assert child["asked"] == ran["asked"]
    assert equal(child["weights"], ran["weights"])
    assert json.loads(report.read_text())["runs"][0]["training"]["seed"] == 9


def test_the_command_line_has_both(tmp_path):
    path = tmp_path / "train.py"
    path.write_text(textwrap.dedent("import sys\nsys.exit(' '.join(sys.argv[1:]))"))
    command = [sys.executable, "-m", "ftplug", "run", "--method", "lora"]
    told = [*command, "--seed", "4", "--seed-arg", "--seed={seed}", "--", str(path), "--a", "1"]
    assert subprocess.run(told, capture_output=True, text=True).stderr.endswith("--a 1 --seed=4\n")
    alone = subprocess.run(
        [*command, "--seed-arg", "--seed={seed}", "--", str(path)], capture_output=True, text=True
    )
    assert (alone.returncode, alone.stderr) == (
        1,
        "ftplug: run: --seed-arg says where the seed goes: name it with --seed\n",
    )


RESUMES = SCRIPT.replace('save_strategy="no"', 'save_strategy="steps", save_steps=6').replace(
    "trainer.train()", "trainer.train(resume_from_checkpoint={resume!r})"
)


@pytest.mark.slow
def test_a_resumed_run_goes_on_in_the_order_of_its_seed(tmp_path):
    out, weights = tmp_path / "out", []
    out.mkdir()
    for resume in (None, str(out / "checkpoint-6")):  # in the middle of the second epoch
        by_length = "train_sampling_strategy='group_by_length'"
        told = {"paths": PATHS, "out": str(out), "begin": "", "more": by_length, "resume": resume}
        (out / "train.py").write_text(RESUMES.format(**told))
        Launch([Lora(r=4, lora_dropout=0.5)], seed=3).run([str(out / "train.py")])
        weights.append(torch.load(out / "found.pt")["weights"])
    assert equal(*weights)
