"""A probe's life in a run: it changes no bit of the training, and is right in every way to save."""

import logging
import random
from dataclasses import fields, replace

import numpy
import pytest
import ranks
import tiny
import torch
from safetensors.torch import load_file
from transformers import TrainingArguments
from typer.testing import CliRunner

import ftplug
from ftplug.artifacts.manifest import MANIFEST, read_manifest
from ftplug.artifacts.saving import annotate
from ftplug.attaching.attachment import require_attachment
from ftplug.attaching.disabling import trunk_of_base
from ftplug.cli import app
from ftplug.effect import taking
from ftplug.effect.answers import ask, ask_as
from ftplug.effect.probe import FILE, Probe
from ftplug.host import resolve
from ftplug.testing.compare import base_model, difference, shake, weights
from ftplug.testing.run import tiny_trainer, without_collecting
from ftplug.training.script import Launch, LaunchedCallback

CHECKPOINTING = next(  # its name until 5.22, and since
    field.name
    for name in ("activation_checkpointing", "gradient_checkpointing")
    for field in fields(TrainingArguments)
    if field.name == name
)
METHODS = {
    "lora": ("lora", {"r": 4, "lora_dropout": 0.1}),
    "full": ("full", {}),
    "prefix-tuning": ("prefix-tuning", {"num_virtual_tokens": 4}),
    "lisa": ("lisa", {"layers": 1, "period": 1}),
    "adalora": ("adalora", {"total_step": 6, "init_r": 6, "target_r": 4}),
    "galore": ("galore", {"rank": 4}),
    "pissa": ("pissa", {"r": 4}),
    "qlora": ("qlora", {"r": 4}),
}


def unbound(model, out, **options):
    defaults = {"eval_strategy": "no", "load_best_model_at_end": False, "learning_rate": 1e-2}
    return tiny_trainer(model, out, **(defaults | options))


def bound(model, out, method, settings=None, *, probe=True, **options):
    trainer = unbound(model, out, **options)
    return ftplug.attach(trainer, *resolve([method], settings or {}), probe=probe)


def trained(trainer, **arguments):
    with without_collecting():
        trainer.train(**arguments)
    return trainer


def saved_probe(folder):
    manifest = read_manifest(folder)
    manifest.verify_files(folder)
    return Probe.read(folder / FILE)


def effect_of(folder):
    return read_manifest(folder).effect


def same(first, second):
    return all(
        one.keys() == other.keys() and all(one[kind].equal(other[kind]) for kind in one)
        for one, other in zip(first, second, strict=True)
    )


def close(first, second, tolerance=1e-5):
    return all(
        one.keys() == other.keys()
        and all(torch.allclose(one[k], other[k], rtol=tolerance, atol=tolerance) for k in one)
        for one, other in zip(first, second, strict=True)
    )


def generators():
    return torch.get_rng_state(), random.getstate(), numpy.random.get_state()[1].tolist()


@pytest.mark.parametrize("family", ["bert", "llama"])
@pytest.mark.parametrize("name", METHODS)
def test_training_is_bit_equal_with_and_without(tmp_path, name, family):
    """Weights, buffers, optimizer and generators; dropout is on, and artifacts are saved midway."""

    def run(probe):
        torch.manual_seed(3), random.seed(3), numpy.random.seed(3)
        method, settings = METHODS[name]
        folder = tmp_path / str(probe)
        model = base_model(family, dropout=0.1)
        trainer = bound(model, folder / "out", method, settings, probe=probe, max_steps=3)
        trained(trainer)
        trainer.save_model(str(folder / "midway"))
        trained(trainer)
        trainer.save_model(str(folder / "end"))
        assert ((folder / "end" / FILE).is_file()) is probe
        states = trainer.optimizer.state_dict()["state"]
        return weights(model), states, generators()

    (first, states, numbers), (second, others, same_numbers) = run(True), run(False)
    assert difference(first, second) is None
    assert numbers[1:] == same_numbers[1:]
    assert numbers[0].equal(same_numbers[0])
    flat = [v for s in states.values() for v in s.values() if isinstance(v, torch.Tensor)]
    also = [v for s in others.values() for v in s.values() if isinstance(v, torch.Tensor)]
    assert len(flat) == len(also)
    assert all(one.equal(other) for one, other in zip(flat, also, strict=True))


@pytest.mark.slow
def test_so_it_is_compiled_and_nothing_is_compiled_anew(tmp_path):
    from torch._dynamo.utils import counters

    def run(probe):
        torch._dynamo.reset()
        counters.clear()
        model = base_model("bert", dropout=0.1)
        trainer = bound(
            model, tmp_path / str(probe), "lora", {"r": 4}, probe=probe, max_steps=3,
            torch_compile=True, torch_compile_backend="eager",
        )  # fmt: skip
        trained(trainer)
        trainer.save_model(str(tmp_path / str(probe) / "midway"))
        trained(trainer)
        return weights(model), counters["stats"]["unique_graphs"]

    (first, graphs), (second, expected) = run(True), run(False)
    assert difference(first, second) is None
    assert graphs == expected > 0


def test_a_save_in_a_loop_by_hand_keeps_gradients_and_mode(tmp_path):
    model = ftplug.apply(base_model("bert", dropout=0.1), "lora", r=4).train()
    model(**tiny.inputs(model)).loss.backward()
    before = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    training = [module.training for module in model.modules()]
    hooks = [len(module._forward_pre_hooks) for module in model.modules()]
    ftplug.save(model, tmp_path)
    assert before
    assert all(dict(model.named_parameters())[n].grad.equal(g) for n, g in before.items())
    assert [module.training for module in model.modules()] == training
    assert [len(module._forward_pre_hooks) for module in model.modules()] == hooks


@pytest.mark.parametrize("family", ["bert", "llama", "t5", "bert-token", "roberta"])
@pytest.mark.parametrize("method", ["lora", "full", "bitfit"])
def test_the_three_answers_are_what_they_say(tmp_path, method, family):
    """Base: of a fresh base; trained: of the loaded artifact; head only: the head on that base."""
    base = base_model(family)
    try:
        model = shake(ftplug.apply(base_model(family), method))
    except ftplug.MethodError:
        pytest.skip("it does not fit")
    ftplug.save(model, tmp_path)
    probe = saved_probe(tmp_path)
    loaded = ftplug.load(base_model(family), tmp_path)
    assert same(ask_as(loaded, probe), probe.trained)
    head = require_attachment(model).trained_head
    live, own = dict(model.named_parameters()), dict(base.named_parameters())
    existing = require_attachment(model).plan.existing
    untouched = ask_as(base, probe)
    with torch.no_grad():
        for name in head:
            own[existing[name]].copy_(live[name])
    assert same(ask_as(base, probe), probe.head_only)
    if probe.base:
        kinds = probe.base[0].keys()
        assert same([{k: a[k] for k in kinds} for a in untouched], probe.base)
        assert ("logits" in kinds) is not bool(head)  # of a fresh head they say nothing
    with trunk_of_base(model):
        assert same(ask_as(model, probe), probe.head_only)
    assert same(ask_as(model, probe), probe.trained)


def test_of_full_fine_tuning_the_head_answers_without_the_base_at_hand(tmp_path):
    """A base from a checkpoint: no second copy of it is kept or read, and the answers are equal."""
    base_model("bert").save_pretrained(tmp_path / "base")
    load = type(base_model("bert")).from_pretrained
    model = ftplug.apply(load(tmp_path / "base"), "full")
    attached = require_attachment(model)
    assert attached.taken.head_inputs.names == ("classifier",)
    shake(model)
    ftplug.save(model, tmp_path / "artifact")
    assert attached.original_values.elsewhere
    assert not attached.original_values.kept
    probe = saved_probe(tmp_path / "artifact")
    with trunk_of_base(model):
        assert same(ask_as(model, probe), probe.head_only)
    assert not same(probe.head_only, probe.trained)


def test_where_the_head_alone_trains_its_training_is_the_effect(tmp_path, caplog):
    model = ftplug.apply(base_model("roberta"), "freeze", layers=0)
    attached = require_attachment(model)
    assert set(attached.plan.may_train) == set(attached.trained_head)
    ftplug.save(shake(model), tmp_path)
    assert effect_of(tmp_path)["nil"] is False
    assert "no answer" not in caplog.text


def test_an_effect_that_is_none_is_said_at_save_and_on_the_card(tmp_path, caplog):
    trainer = bound(base_model("bert"), tmp_path / "out", "lora", {"r": 4}, learning_rate=0.0)
    trained(trainer)
    trainer.save_model(str(tmp_path / "a"))
    said = [record for record in caplog.records if "no answer" in record.message]
    assert len(said) == 1
    assert said[0].levelno == logging.WARNING
    assert "lora changes no answer" in said[0].getMessage()
    assert "\n" not in said[0].getMessage()
    assert effect_of(tmp_path / "a")["nil"] is True
    assert "had no effect" in (tmp_path / "a" / "README.md").read_text()
    caplog.clear()
    trained_one = trained(bound(base_model("bert"), tmp_path / "out", "lora", {"r": 4}))
    trained_one.save_model(str(tmp_path / "b"))
    assert "no answer" not in caplog.text
    assert "had no effect" not in (tmp_path / "b" / "README.md").read_text()
    assert "| Effect | mean KL" in (tmp_path / "b" / "README.md").read_text()


def test_nothing_trained_yet_is_said_so(tmp_path, caplog):
    trainer = bound(base_model("bert"), tmp_path / "out", "lora", {"r": 4})
    trainer.save_model(str(tmp_path / "a"))
    assert "nothing has trained yet" in caplog.text


# In the place of a probe: a note, and never a lost model.


def test_switched_off(tmp_path):
    model = shake(ftplug.apply(base_model("bert"), "lora", r=4, probe=False))
    ftplug.save(model, tmp_path / "a")
    assert effect_of(tmp_path / "a") == {"probe": None, "note": "switched off (probe=False)"}
    model = shake(ftplug.apply(base_model("bert"), "lora", r=4))
    ftplug.save(model, tmp_path / "b", probe=False)
    assert effect_of(tmp_path / "b") == {"probe": None, "note": "switched off (probe=False)"}
    assert not (tmp_path / "b" / FILE).exists()
    ftplug.save(model, tmp_path / "b")
    assert (tmp_path / "b" / FILE).is_file()
    ftplug.save(model, tmp_path / "b", probe=False)
    assert not (tmp_path / "b" / FILE).exists()  # the earlier one would be another model's


@pytest.mark.parametrize(("option", "expected"), [([], True), (["--no-probe"], False)])
def test_the_command_line_switches_it_off(monkeypatch, option, expected):
    seen = []
    monkeypatch.setattr(Launch, "run", lambda self, *args, **kwargs: seen.append(self))
    done = CliRunner().invoke(app, ["run", "--method", "lora", *option, "--", "train.py"])
    assert done.exit_code == 0
    [launch] = seen
    assert LaunchedCallback(launch).run.probe is expected
    assert launch._for_children()["options"]["probe"] is expected


def test_a_model_that_takes_too_long(tmp_path, monkeypatch):
    monkeypatch.setattr(taking, "PATIENCE", 0.0)
    asked = []
    monkeypatch.setattr(taking, "ask", lambda *a, **k: asked.append(a) or ask(*a, **k))
    model = shake(ftplug.apply(base_model("bert"), "lora", r=4))
    ftplug.save(model, tmp_path)
    assert [len(inputs) for _, inputs in asked] == [1]  # it did not run on
    assert "one input took" in effect_of(tmp_path)["note"]


def test_an_offloaded_model(tmp_path):
    model = base_model("bert")
    model.hf_device_map = {"bert": 0, "classifier": "cpu"}
    ftplug.save(shake(ftplug.apply(model, "lora", r=4)), tmp_path)
    assert "offloaded" in effect_of(tmp_path)["note"]


@pytest.mark.parametrize("when", ["attach", "save", "write"])
def test_an_exception_costs_no_trained_model(tmp_path, monkeypatch, caplog, when):
    def fail(*args, **kwargs):
        raise ZeroDivisionError("of somebody's\nmodel")

    if when == "attach":
        monkeypatch.setattr(taking, "ask", fail)
    model = shake(ftplug.apply(base_model("bert"), "lora", r=4))
    if when == "save":
        monkeypatch.setattr(taking, "ask", fail)
    if when == "write":
        monkeypatch.setattr(Probe, "write", fail)
    before = weights(model)
    ftplug.save(model, tmp_path)
    assert effect_of(tmp_path)["probe"] is None
    assert "of somebody's model" in effect_of(tmp_path)["note"]
    assert len([r for r in caplog.records if "has no probe" in r.message]) == 1
    assert difference(before, weights(ftplug.load(base_model("bert"), tmp_path))) is None


def test_answers_that_are_no_numbers(tmp_path):
    model = ftplug.apply(base_model("bert"), "lora", r=4)
    with torch.no_grad():
        dict(model.named_parameters())["classifier.bias"].fill_(float("nan"))
    ftplug.save(model, tmp_path)
    assert "NaN" in effect_of(tmp_path)["note"]


# Other ways into a run, and out of it.


def test_a_resumed_run_knows_the_same_base(tmp_path):
    first = trained(bound(base_model("bert", dropout=0.1), tmp_path / "out", "lora", {"r": 4}))
    first.save_model(str(tmp_path / "a"))
    again = bound(base_model("bert", dropout=0.1), tmp_path / "out", "lora", {"r": 4})
    trained(again, resume_from_checkpoint=str(tmp_path / "out" / "checkpoint-3"))
    again.save_model(str(tmp_path / "b"))
    assert (tmp_path / "a" / FILE).read_bytes() == (tmp_path / "b" / FILE).read_bytes()


def test_the_best_models_answers_are_saved(tmp_path):
    options = {"eval_strategy": "steps", "load_best_model_at_end": True}
    trainer = trained(bound(base_model("bert"), tmp_path / "out", "lora", {"r": 4}, **options))
    trainer.save_model(str(tmp_path / "a"))
    probe = saved_probe(tmp_path / "a")
    assert same(ask_as(ftplug.load(base_model("bert"), tmp_path / "a"), probe), probe.trained)


def test_a_model_of_model_init_is_asked_anew(tmp_path):
    trainer = bound(base_model("bert"), tmp_path / "out", "lora", {"r": 4})
    trainer.model_init = lambda: base_model("bert")
    trained(trained(trainer))
    trainer.save_model(str(tmp_path / "a"))
    probe = saved_probe(tmp_path / "a")
    hidden = [{"hidden": a["hidden"]} for a in ask_as(base_model("bert"), probe)]
    assert same(probe.base, hidden)


@pytest.mark.parametrize("method", ["lora", "full"])
def test_a_run_that_continues_an_artifact_compares_with_the_base(tmp_path, method):
    """By ``start_from``, by a Trainer of a loaded model, and by saving that again."""
    model = shake(ftplug.apply(base_model("llama"), method))
    ftplug.save(model, tmp_path / "first")
    expected = saved_probe(tmp_path / "first")
    callback = ftplug.FTPlugCallback(method, start_from=tmp_path / "first")
    callback.bind(on := unbound(base_model("llama"), tmp_path / "out"))
    on.add_callback(callback)
    trained(on).save_model(str(tmp_path / "on"))
    loaded = ftplug.load(base_model("llama"), tmp_path / "first")
    ftplug.save(loaded, tmp_path / "again")
    assert saved_probe(tmp_path / "again").base is not None
    assert same(saved_probe(tmp_path / "again").base, expected.base)
    assert same(saved_probe(tmp_path / "again").trained, expected.trained)
    later = bound(loaded, tmp_path / "later-out", method)
    trained(later).save_model(str(tmp_path / "later"))
    for folder in ("on", "later"):
        probe = saved_probe(tmp_path / folder)
        assert same(probe.base, ask_as(base_model("llama"), probe))
        assert not same(probe.trained, probe.base)


@pytest.mark.parametrize("options", [{"bf16": True}, {CHECKPOINTING: True}])
def test_how_the_trainer_computes_is_no_part_of_the_answers(tmp_path, options):
    """Under autocast they are those of the loaded artifact all the same, in its own type."""
    trainer = trained(bound(base_model("bert"), tmp_path / "out", "lora", {"r": 4}, **options))
    trainer.save_model(str(tmp_path / "a"))
    assert "_original_forward" in vars(trainer.model) or "bf16" not in options
    probe = saved_probe(tmp_path / "a")
    assert probe.dtype == "float32"
    assert same(ask_as(ftplug.load(base_model("bert"), tmp_path / "a"), probe), probe.trained)


def test_half_precision_is_noted(tmp_path):
    model = shake(ftplug.apply(base_model("bert").bfloat16(), "lora", r=4))
    ftplug.save(model, tmp_path)
    assert effect_of(tmp_path)["dtype"] == saved_probe(tmp_path).dtype == "bfloat16"


def test_a_checkpoint_asks_nothing(tmp_path, monkeypatch):
    trainer = bound(base_model("bert"), tmp_path, "lora", {"r": 4})
    monkeypatch.setattr(taking, "ask", lambda *a, **k: pytest.fail("it asked"))
    trained(trainer)
    assert not list(tmp_path.rglob(FILE))


def test_an_artifact_of_before_loads(tmp_path):
    """Without the key, the file, and the card's line."""
    ftplug.save(shake(ftplug.apply(base_model("bert"), "lora", r=4)), tmp_path)
    manifest = read_manifest(tmp_path)
    files = {name: entry for name, entry in manifest.files.items() if name != FILE}
    replace(manifest, effect=None, files=files).write(tmp_path / MANIFEST)
    (tmp_path / FILE).unlink()
    assert "effect" not in (tmp_path / MANIFEST).read_text()
    ftplug.load(base_model("bert"), tmp_path)
    annotate(tmp_path, notes="kept")
    assert "Effect" not in (tmp_path / "README.md").read_text()


def test_an_experts_tensors_that_no_token_reaches_are_listed(tmp_path):
    """And a parameter that its module's owner reads past it is not."""

    class Model(type(base_model("bert"))):
        def __init__(self, config):
            super().__init__(config)
            self.idle = torch.nn.Linear(4, 4)
            self.direct = torch.nn.Linear(config.num_labels, config.num_labels, bias=False)

        def forward(self, input_ids=None, attention_mask=None, labels=None):
            output = super().forward(input_ids, attention_mask, labels=labels)
            output.logits = output.logits @ self.direct.weight
            return output

    def build():
        torch.manual_seed(0)
        return Model(base_model("bert").config).eval()

    ftplug.save(shake(ftplug.apply(build(), "full")), tmp_path)
    assert set(effect_of(tmp_path)["unseen"]) == {"idle.weight", "idle.bias"}


def test_where_no_input_reaches_what_trained_nothing_is_said_of_an_effect(tmp_path, caplog):
    """As with a tower whose layout of images the model's own processor alone makes."""

    class Model(type(base_model("bert"))):
        def __init__(self, config):
            super().__init__(config)
            self.tower = torch.nn.Linear(4, 4)

        def forward(self, input_ids=None, attention_mask=None, labels=None, images=None):
            output = super().forward(input_ids, attention_mask, labels=labels)
            if images is not None:
                output.logits = output.logits + self.tower(images).sum()
            return output

    model = Model(base_model("bert").config).eval()
    ftplug.apply(model, "lora", r=2, target_modules=("tower",), train_head=False)
    ftplug.save(shake(model), tmp_path)
    effect = effect_of(tmp_path)
    assert effect["probe"] is None
    assert effect["note"].startswith("no input that it has for Model reaches tower.lora_A")
    assert "has no probe: no input" in caplog.text
    assert "changes no answer" not in caplog.text
    assert not (tmp_path / FILE).exists()


@pytest.mark.ddp
@pytest.mark.parametrize("method", ["lora", "full"])
def test_processes_that_share_the_model_ask_it_together(tmp_path, method):
    """As one process does; by each way to save, and by one of them alone there is a note."""
    ranks.both(ranks.sharded_probes, method=method, out=tmp_path)
    one = trained(bound(base_model("bert"), tmp_path / "one", method))
    one.save_model(str(tmp_path / "alone"))
    alone = saved_probe(tmp_path / "alone")
    for folder in ("save_model", "save", "pretrained"):
        probe = saved_probe(tmp_path / folder)
        loaded = ftplug.load(base_model("bert"), tmp_path / folder)
        assert close(ask_as(loaded, probe), probe.trained), folder
        assert close(probe.base, alone.base), folder
        with trunk_of_base(loaded):
            assert close(ask_as(loaded, probe), probe.head_only), folder
    assert "one process alone" in effect_of(tmp_path / "one-rank")["note"]
    assert load_file(tmp_path / "save" / FILE).keys() == load_file(tmp_path / "alone" / FILE).keys()
