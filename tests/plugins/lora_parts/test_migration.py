"""Settings of lora that became methods: typed, recorded in artifacts and in checkpoints."""

import json
import re

import pytest
import tiny
import torch
from ftplug_plugins.lora_parts.migration import variants
from runs import StopAt, logits, same, shake, trainer, weights

import ftplug
from ftplug import cli
from ftplug.artifacts.checkpoint import STATE
from ftplug.artifacts.manifest import MANIFEST
from ftplug.attaching.attachment import require_attachment
from ftplug.host import migrated

# What ftplug 0.1 recorded of lora with its defaults.
OLD = {
    "r": 8, "lora_alpha": 16, "target_modules": [], "exclude_modules": [], "lora_dropout": 0.0,
    "bias": "none", "use_rslora": False, "use_dora": False, "init_lora_weights": True,
    "rank_pattern": {}, "alpha_pattern": {}, "layers_to_transform": None, "layers_pattern": None,
    "target_parameters": [], "lora_bias": False, "alora_invocation_tokens": [],
    "use_bdlora": None, "ensure_weight_tying": False, "fused": True,
}  # fmt: skip

# The old settings of lora; the method and its settings that mean the same.
MOVED = {
    "pissa": ({"init_lora_weights": "pissa"}, "pissa", {}),
    "fast pissa": ({"init_lora_weights": "pissa_niter_4"}, "pissa", {"niter": 4}),
    "rough pissa": ({"init_lora_weights": "pissa_niter_0"}, "pissa", {"niter": 0}),
    "olora": ({"init_lora_weights": "olora"}, "olora", {}),
    "alora": (
        {"alora_invocation_tokens": [5]},
        "alora",
        {"alora_invocation_tokens": [5]},
    ),
}
each = pytest.mark.parametrize(("old", "name", "new"), MOVED.values(), ids=MOVED)


@pytest.fixture
def said(caplog):
    """Return the lines on what is deprecated that were logged so far."""
    return lambda: [line for line in caplog.messages if "deprecated" in line]


@each
def test_typed_in_python_it_works_with_one_line(old, name, new, said):
    model = ftplug.apply(tiny.llama(), "lora", r=4, **old)
    [line] = said()
    before, _, write = line.partition(" is deprecated, and refused by the next version: ")
    assert re.fullmatch(r"lora: \w.*", before)
    assert re.fullmatch(rf"write {name}\(r=4.*\)", write)
    twin = ftplug.apply(tiny.llama(), name, r=4, **new)
    assert len(said()) == 1
    assert same(weights(model), weights(twin))
    assert require_attachment(model).host.names == name


def test_attached_beside_another_method_it_works_with_one_line(tmp_path, said):
    bound = trainer(tiny.bert(), tmp_path, save_strategy="no", max_steps=1)
    ftplug.attach(bound, "lora", "lora-plus", **{"lora.init_lora_weights": "olora", "lora.r": 4})
    assert bound.ftplug.attached.host.names == "olora + lora-plus"
    assert said() == [
        "lora: init_lora_weights=olora is deprecated, and refused by the next version: "
        "write olora(r=4)"
    ]


@pytest.mark.parametrize(
    ("typed", "name", "new"),
    [
        (["r=4", "init_lora_weights=pissa"], "pissa", {"r": 4}),
        (["init_lora_weights=pissa_niter_2"], "pissa", {"niter": 2}),
        (["init_lora_weights=olora", "use_rslora=true"], "olora", {"use_rslora": True}),
        (["alora_invocation_tokens=5,6"], "alora", {"alora_invocation_tokens": [5, 6]}),
        (["alora_invocation_tokens=[5]"], "alora", {"alora_invocation_tokens": [5]}),
        (["alora_invocation_tokens=[]", "r=4"], "lora", {"r": 4}),
        (["alora_invocation_tokens="], "lora", {}),
    ],
    ids=str,
)
def test_typed_on_a_command_line_it_works_with_one_line(typed, name, new, said):
    [method] = cli.configured(["lora"], typed)
    assert method.name == name
    assert method.settings().items() >= new.items()
    assert len(said()) == 1


def test_what_did_not_move_is_said_nothing_of(said):
    for typed in (["init_lora_weights=true"], ["init_lora_weights=gaussian", "r=4"], []):
        [method] = cli.configured(["lora"], typed)
        assert method.name == "lora"
    assert said() == []


def recorded_as(path, old):
    """Let a manifest say what ftplug 0.1 said."""
    content = json.loads(path.read_text())
    [entry] = content["methods"]
    known = {n: v for n, v in entry["settings"].items() if n != "niter"}
    entry.update(name="lora", settings=known | OLD | {"r": 4} | old)
    path.write_text(json.dumps(content | {"schema": 1}))


@each
def test_an_old_artifact_loads_without_a_word(old, name, new, tmp_path, said):
    model = shake(ftplug.apply(tiny.llama(), name, r=4, **new))
    folder = ftplug.save(model, tmp_path / "artifact")
    recorded_as(folder / MANIFEST, old)
    loaded = ftplug.load(tiny.llama(), folder)
    assert torch.equal(logits(loaded), logits(model))
    assert require_attachment(loaded).host.names == name
    assert said() == []


def test_an_old_artifact_of_plain_lora_loads_without_a_word(tmp_path, said):
    model = shake(ftplug.apply(tiny.bert(), "lora", r=4))
    folder = ftplug.save(model, tmp_path / "artifact")
    recorded_as(folder / MANIFEST, {})
    assert torch.equal(logits(ftplug.load(tiny.bert(), folder)), logits(model))
    assert said() == []


@each
def test_an_old_checkpoint_resumes_without_a_word(old, name, new, tmp_path, said):
    def bound(*callbacks):
        made = trainer(tiny.llama(dropout=0.1), tmp_path / "run", callbacks=list(callbacks),
                       max_steps=6, save_strategy="no")  # fmt: skip
        return ftplug.attach(made, name, r=4, **new)

    straight = bound()
    straight.train()
    bound(StopAt(3)).train()
    recorded_as(tmp_path / "run" / "checkpoint-3" / STATE, old)
    (tmp_path / "run" / "checkpoint-3" / "ftplug_files.json").unlink()  # it seals the description
    resumed = bound()
    resumed.train(resume_from_checkpoint=True)
    assert same(weights(resumed.model), weights(straight.model))
    assert said() == []


def test_a_typed_old_setting_resumes_what_it_wrote(tmp_path):
    def bound(*callbacks, **settings):
        made = trainer(tiny.bert(dropout=0.1), tmp_path / "run", callbacks=list(callbacks),
                       max_steps=6, save_strategy="no")  # fmt: skip
        return ftplug.attach(made, "lora", r=4, **settings)

    bound(StopAt(3), init_lora_weights="pissa").train()
    resumed = bound(init_lora_weights="pissa")
    resumed.train(resume_from_checkpoint=True)
    assert resumed.state.global_step == 6
    with pytest.raises(ftplug.MethodError, match="use the same method and settings to resume"):
        bound(init_lora_weights="olora").train(resume_from_checkpoint=True)


def test_what_it_does_not_know_is_handed_on():
    later = {"cache": True, "cache_dtype": None, "other": [1]}
    [(name, settings)] = variants(OLD | later | {"init_lora_weights": "pissa_niter_3"})
    assert name == "pissa"
    assert settings == {
        n: v for n, v in OLD.items() if n not in ("init_lora_weights", "alora_invocation_tokens")
    } | later | {"niter": 3}  # fmt: skip
    [(name, settings)] = variants(OLD | later)
    assert (name, settings["init_lora_weights"], settings["other"]) == ("lora", True, [1])
    assert "alora_invocation_tokens" not in settings
    assert variants(settings) is None
    assert variants({"init_lora_weights": ["pissa"], "r": None}) is None
    [(name, _)] = migrated([("lora", {"alora_invocation_tokens": (5,)})])
    assert name == "alora"


def test_a_start_from_the_base_ran_without_invocation_tokens():
    """Of both, ftplug 0.1 ran the start alone: so what is recorded means that."""
    [(name, settings)] = migrated(
        [("lora", {"init_lora_weights": "pissa", "alora_invocation_tokens": [5]})]
    )
    assert (name, settings) == ("pissa", {})


def test_qlora_has_no_variants_and_says_so():
    for setting in ("init_lora_weights=pissa", "alora_invocation_tokens=5"):
        name = setting.partition("=")[0]
        with pytest.raises(ftplug.MethodError, match=f"qlora: no setting named '{name}'"):
            cli.configured(["qlora"], [setting])
