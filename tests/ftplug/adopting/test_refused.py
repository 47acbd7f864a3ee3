"""What ``ftplug adopt`` refuses of an adapter of peft, of a base and of a place: a line each."""

import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from ftplug import ArtifactError, FtplugError
from ftplug.adopting.adopt import adopt
from ftplug.artifacts import saving

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


class Runs:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (self.path.touch, ())


def test_a_head_that_nobody_has_values_for_is_refused(elsewhere, tmp_path):
    folder = elsewhere.saved("llama", "LORA", r=2, task_type=None)
    with pytest.raises(ArtifactError, match=r"neither base nor adapter has values for score"):
        adopt(folder, str(elsewhere.root / "llama"), to=tmp_path / "to",
              task="text-classification")  # fmt: skip
    assert not (tmp_path / "to").exists()


def test_a_pickle_that_would_run_something_runs_nothing(elsewhere, tmp_path):
    folder = elsewhere.saved("bert", "LORA", r=4)
    (folder / WEIGHTS).unlink()
    torch.save({"x": Runs(tmp_path / "ran")}, folder / "adapter_model.bin")
    with pytest.raises(ArtifactError, match=r"adapter_model\.bin: not readable"):
        adopt(folder, str(elsewhere.root / "bert"), to=tmp_path / "to", allow_pickle=True)
    assert not (tmp_path / "ran").exists()


def test_another_architecture_is_refused(elsewhere, lora, tmp_path):
    with pytest.raises(ArtifactError, match="peft cannot load it"):
        adopt(lora, str(elsewhere.root / "llama"), to=tmp_path / "to", task="text-generation")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"r": 10**9}, "'r' is 1,000,000,000, far more than its tensors hold"),
        ({"rank_pattern": {"query": 10**30}}, "'query' is more than"),
        ({"r": 8}, "peft cannot load it"),
        ({"peft_type": "NEW"}, "has no type 'NEW'"),
        ({"peft_type": 5}, "'peft_type' is text, not 5"),
        ({"newer_setting": 3}, "does not know newer_setting"),
        ({"megatron_config": {"x": 1}}, "megatron_core"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights=pissa: peft changes the base's"),
        ({"trainable_token_indices": [1]}, ""),
        ({"target_modules": "(a+)+$" * 40}, ""),
        ({"target_modules": ["nothing"]}, "peft cannot load it"),
        ({"lora_alpha": 3.5}, "lora_alpha"),
        ({"peft_type": None, "lora_parameters": {}}, "rank=None: a whole number is expected"),
        ({"peft_type": None}, "in none of the layouts that are known"),
    ],
    ids=str,
)
def test_a_config_that_cannot_be_is_one_line(changes, said, elsewhere, lora, tmp_path):
    folder = elsewhere.edited(lora, tmp_path / "in", **changes)
    with pytest.raises(FtplugError) as refused:
        adopt(folder, str(elsewhere.root / "bert"), to=tmp_path / "to")
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)
    assert "ftplug-adopt-" not in str(refused.value)  # the private copy
    assert not (tmp_path / "to").exists()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"[1, 2]", "a JSON object is expected"),
        (b"{", "not readable as JSON"),
        (b"[" * 100_000, "not readable as JSON"),
        (b"\xff", "not readable as JSON"),
    ],
)
def test_a_config_that_is_none_is_one_line(content, said, elsewhere, lora, tmp_path):
    shutil.copytree(lora, tmp_path / "in")
    (tmp_path / "in" / CONFIG).write_bytes(content)
    with pytest.raises(ArtifactError, match=said):
        adopt(tmp_path / "in", str(elsewhere.root / "bert"), to=tmp_path / "to")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: {n: v * torch.nan for n, v in t.items()}, "NaN or infinite"),
        (lambda t: {n: v[..., :1].clone() for n, v in t.items()}, "do not fit one base"),
        (lambda t: dict(list(t.items())[1:]), "peft cannot load it"),
        (lambda t: {n: v for n, v in t.items() if "classifier" not in n}, "there is no tensor"),
        (lambda t: {n: v[:0] if "classifier" in n else v for n, v in t.items()}, "fit one base"),
        (lambda t: {n: v * 1j for n, v in t.items()}, "complex64: one of real numbers"),
        (lambda t: t | {"base_model.model.stray": torch.ones(2)}, "belongs to nothing"),
    ],
    ids=["NaN", "shapes", "missing", "no head", "no labels", "complex", "stray"],
)
def test_tensors_that_cannot_be_are_one_line(change, said, elsewhere, lora, tmp_path):
    shutil.copytree(lora, tmp_path / "in")
    save_file(change(load_file(lora / WEIGHTS)), tmp_path / "in" / WEIGHTS)
    with pytest.raises(ArtifactError, match=said) as refused:
        adopt(tmp_path / "in", str(elsewhere.root / "bert"), to=tmp_path / "to")
    assert "force" not in str(refused.value)  # which adopting has not
    assert not (tmp_path / "to").exists()


def test_torn_tensors_are_one_line(elsewhere, lora, tmp_path):
    shutil.copytree(lora, tmp_path / "in")
    whole = (lora / WEIGHTS).read_bytes()
    (tmp_path / "in" / WEIGHTS).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ArtifactError, match="not readable as safetensors"):
        adopt(tmp_path / "in", str(elsewhere.root / "bert"), to=tmp_path / "to")


def test_a_base_that_is_none_is_one_line(lora, tmp_path):
    with pytest.raises(ArtifactError, match="cannot load the base"):
        adopt(lora, str(tmp_path), to=tmp_path / "to")


def test_an_empty_revision_of_the_base_is_not_main(lora, tmp_path):
    with pytest.raises(ArtifactError, match="org/bert: the revision is empty"):
        adopt(lora, "org/bert", to=tmp_path / "to", base_revision="")


def test_a_base_with_an_adapter_of_its_own_is_refused(elsewhere, lora, tmp_path):
    """transformers would load what that adapter says, and put it on."""
    shutil.copytree(elsewhere.root / "bert", tmp_path / "base")
    shutil.copytree(lora, tmp_path / "base", dirs_exist_ok=True)
    with pytest.raises(ArtifactError, match="base: holds an adapter of its own"):
        adopt(lora, str(tmp_path / "base"), to=tmp_path / "to")


def test_a_task_that_there_is_not_is_refused(elsewhere, lora, tmp_path):
    with pytest.raises(ArtifactError, match="--task 'text-clasification': one of text-class"):
        adopt(lora, str(elsewhere.root / "bert"), to=tmp_path / "to", task="text-clasification")


def test_what_is_there_already_stays(elsewhere, lora, tmp_path):
    (tmp_path / "to").mkdir()
    (tmp_path / "to" / "mine").touch()
    with pytest.raises(ArtifactError, match="exists already"):
        adopt(lora, str(elsewhere.root / "bert"), to=tmp_path / "to")
    assert [p.name for p in (tmp_path / "to").iterdir()] == ["mine"]


def test_of_two_that_adopt_to_one_place_the_second_is_refused(
    elsewhere, lora, tmp_path, monkeypatch
):
    make = saving.make_manifest

    def meanwhile(*given, **named):
        (tmp_path / "to").mkdir()
        (tmp_path / "to" / "other").touch()
        return make(*given, **named)

    monkeypatch.setattr(saving, "make_manifest", meanwhile)
    with pytest.raises(ArtifactError, match="another process made it meanwhile"):
        adopt(lora, str(elsewhere.root / "bert"), to=tmp_path / "to")
    assert [p.name for p in tmp_path.rglob("*")] == ["to", "other"]


def test_other_answers_than_pefts_are_refused(elsewhere, lora, tmp_path, monkeypatch):
    """Whatever makes them differ: here a method that computes something else."""
    import ftplug_plugins.layouts.plain_peft as layout

    right = layout.method_for
    monkeypatch.setattr(
        layout,
        "method_for",
        lambda *given: (right(*given)[0], right(*given)[1] | {"lora_alpha": 9}),
    )
    with pytest.raises(ArtifactError, match=r"does not answer as peft's does: logits differs by"):
        adopt(lora, str(elsewhere.root / "bert"), to=tmp_path / "to")
    assert not (tmp_path / "to").exists()


@pytest.mark.parametrize("chosen", [True, False], ids=["inputs", "no inputs"])
def test_what_peft_answers_and_ours_does_not_is_refused(
    chosen, elsewhere, lora, tmp_path, monkeypatch
):
    """Whether ours fails at inputs that were chosen before, or none could be chosen for it."""
    from ftplug.adopting import adopt as module
    from ftplug.effect.taking import Outcome

    right = module._take_values

    def fails(*given):
        raise ValueError("it fails")

    def broken(model, attached, *rest):
        right(model, attached, *rest)
        attached.taken.missing = None if chosen else Outcome(note="it takes none of them")
        query = model.get_submodule("bert.encoder.layer.0.attention.self.query")
        query.lora_A["default"].register_forward_pre_hook(fails)  # not called switched off

    monkeypatch.setattr(module, "_take_values", broken)
    with pytest.raises(ArtifactError, match=r"method cannot answer \(it fails\)"):
        adopt(lora, str(elsewhere.root / "bert"), to=tmp_path / "to")
    assert not (tmp_path / "to").exists()
