"""Artifacts that were loaded and asked again: faults are found, what is honest is left alone."""

import logging
from dataclasses import replace

import pytest
import torch
from noop_faults import FAULTS, loaded
from trained_artifacts import KINDS, made
from transformers import BertForSequenceClassification

import ftplug
from ftplug.artifacts.effects.checking import why_not_asked
from ftplug.effect.pieces import Drawn, Input
from ftplug.effect.probe import FILE, Probe
from ftplug.effect.replaying import replay
from ftplug.testing import tiny
from ftplug.testing.compare import difference, weights

# Of every sort one; tests/soak/faults.py has them all, with six methods, in every dtype.
SOME = (
    "prefix renamed: nothing loaded",
    "adapter not the active one",
    "scale 0.5",
    "merged twice",
    "upper half of the layers lost",
    "layers reversed",
    "another run's tensors",
    "head fresh again",
    "another base of this shape",
    "overflow of a dtype",
)


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """Return two artifacts of one method and base."""
    root = tmp_path_factory.mktemp("lora")
    return tuple(made(KINDS["lora"], root, steps=8, seed=seed) for seed in (0, 1))


@pytest.fixture(scope="module")
def experts(tmp_path_factory):
    root = tmp_path_factory.mktemp("experts")
    return tuple(made(KINDS["lora on experts"], root, steps=4, seed=seed) for seed in (0, 1))


def test_what_was_loaded_answers_as_trained(two):
    found = replay(two[0].loaded(), two[0].probe)
    assert found.verdict == "trained", found.line()
    assert found.figures["logits"].error <= 4e-6
    assert "100% of the effect is here" in found.line()


@pytest.mark.parametrize("fault", SOME)
def test_faults_are_found_in_full_precision(fault, two):
    model = FAULTS[fault](loaded(*two))
    found = replay(model, two[0].probe)
    assert found.verdict in ("no effect", "other"), found.line()
    if fault in SOME[:2]:
        assert found.verdict == "no effect", found.line()
    assert replay(model, two[0].probe, one=True).refused or fault == "head fresh again"


@pytest.mark.parametrize("fault", SOME)
def test_and_never_pass_as_trained_in_half_precision(fault, two):
    model = FAULTS[fault](loaded(*two, torch.bfloat16))
    found = replay(model, two[0].probe)
    assert found.verdict != "trained", found.line()
    assert found.here == "bfloat16"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_no_alarm(dtype, two):
    found = replay(loaded(*two, dtype).model, two[0].probe)
    assert found.verdict in ("trained", "not decidable here"), found.line()
    assert not found.refused


@pytest.mark.parametrize("method", ["full", "lora", "freeze"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_another_kernel_of_attention_in_half_precision_is_no_alarm(method, dtype, tmp_path):
    tiny.bert(num_hidden_layers=4).to(dtype).save_pretrained(tmp_path / "base")

    def new(kernel):
        cls = BertForSequenceClassification
        return cls.from_pretrained(tmp_path / "base", dtype=dtype, attn_implementation=kernel)

    model = ftplug.apply(new("sdpa"), method)
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for value in (p for p in model.parameters() if p.requires_grad):
            value.add_(0.1 * torch.randn(value.shape, generator=draw).to(value))
    ftplug.save(model, tmp_path / "artifact")
    probe = Probe.read(tmp_path / "artifact" / FILE)
    found = replay(ftplug.load(new("eager"), tmp_path / "artifact"), probe)
    assert found.verdict == "trained", found.line()
    assert max(each.error for each in found.figures.values()) > 4e-6  # or nothing was tried
    alike = ftplug.load(new("sdpa"), tmp_path / "artifact")
    assert replay(alike, probe).verdict == "trained"
    if method == "full":
        with torch.no_grad():
            alike.classifier.weight.mul_(0.98)
        assert replay(alike, probe).verdict == "other"  # the same kernel: nothing excuses it


@pytest.mark.parametrize(
    ("fault", "verdict", "inputs"),
    [(None, "trained", 1), ("scale 0.5", "other", 8), (SOME[0], "no effect", 1)],
)
def test_all_inputs_are_asked_before_a_model_is_said_to_be_another(fault, verdict, inputs, two):
    model = FAULTS[fault](loaded(*two)) if fault else two[0].loaded()
    found = replay(model, two[0].probe, one=True)
    assert (found.verdict, found.inputs) == (verdict, inputs), found.line()


def test_a_single_input_on_which_a_router_chose_otherwise_is_no_alarm(two):
    probe = two[0].probe
    effects = logits_change(probe)
    largest = effects.index(max(effects))
    one = probe.trained[largest]
    off = 0.3 * effects[largest] * torch.ones_like(one["logits"])
    trained = [*probe.trained]
    trained[largest] = one | {"logits": one["logits"] + off}
    probe = replace(probe, trained=tuple(trained))
    found = replay(loaded(*two, torch.bfloat16).model, probe, one=True)
    assert (found.verdict, found.inputs) == ("not decidable here", 8), found.line()


def test_what_rounding_explains_where_a_router_chooses_experts(experts, monkeypatch):
    probe, draw = experts[0].probe, torch.Generator().manual_seed(0)
    effect = max(logits_change(probe))
    trained = []
    for one in probe.trained:
        off = 0.2 * effect * torch.randn(one["logits"].shape, generator=draw)
        trained.append(one | {"logits": one["logits"] + off})
    probe, model = replace(probe, trained=tuple(trained)), loaded(*experts, torch.bfloat16).model
    found = replay(model, probe)
    assert found.verdict == "not decidable here", found.line()
    monkeypatch.setattr("ftplug.structure.expert_parameters", lambda model: [])
    assert replay(model, probe).verdict == "other", found.line()


def logits_change(probe):
    """Return how far the method moves the logits of each input, a root mean square."""
    pairs = zip(probe.trained, probe.head_only, strict=True)
    return [rms(trained["logits"] - without["logits"]) for trained, without in pairs]


def rms(values):
    return float(values.double().square().mean().sqrt())


def test_experts_that_were_dropped_are_missed(experts):
    probe = experts[0].probe
    assert replay(loaded(*experts).model, probe).verdict == "trained"
    for fault in ("all experts lost", "one expert lost"):
        found = replay(FAULTS[fault](loaded(*experts)), probe)
        assert found.verdict == "other", found.line()


def test_asking_leaves_no_trace(two):
    model = two[0].loaded()
    before, trains = weights(model), {n: p.requires_grad for n, p in model.named_parameters()}
    state = torch.get_rng_state()
    replay(model.train(), two[0].probe)
    assert difference(before, weights(model)) is None
    assert trains == {n: p.requires_grad for n, p in model.named_parameters()}
    assert torch.equal(state, torch.get_rng_state())
    assert model.training


def test_pixels_that_are_drawn_otherwise_are_not_replayable(two):
    drawn = Drawn(seed=1, shape=(1, 2), sha256="0" * 64)
    probe = two[0].probe
    inputs = tuple(Input(each.stored, {"pixel_values": drawn}) for each in probe.inputs)
    found = replay(two[0].loaded(), replace(probe, inputs=inputs))
    assert (found.verdict, found.refused) == ("not replayable", False)


def with_probe(artifact, folder, change):
    """Copy an artifact with a probe that was changed, listed as if it had always been there."""
    import json
    import shutil

    from ftplug.artifacts.digests import file_entry

    shutil.copytree(artifact.folder, folder)
    change(artifact.probe).write(folder / FILE)
    manifest = json.loads((folder / "ftplug.json").read_text())
    manifest["files"][FILE] = file_entry(folder / FILE)
    (folder / "ftplug.json").write_text(json.dumps(manifest))
    return folder


def stronger(probe):
    """Return the probe of a model of whose effect a quarter is here."""
    more = tuple(
        {kind: off[kind] + 4 * (here - off[kind]) for kind, here in trained.items()}
        for trained, off in zip(probe.trained, probe.head_only, strict=True)
    )
    return replace(probe, trained=more)


def elsewhere(probe):
    """Return a probe whose answers were far others, in all kinds."""
    other = tuple(
        {kind: value.flip(0) + 1 for kind, value in each.items()} for each in probe.trained
    )
    return replace(probe, trained=other)


def in_half(probe):
    """Return the probe of a model that computed in half precision: loading warns, no more."""
    return replace(probe, dtype="bfloat16")


def test_loading_refuses_what_is_certain_and_gives_the_model_back(two, tmp_path, caplog):
    folder = with_probe(two[0], tmp_path / "other", elsewhere)
    base = two[0].new_base()
    before, classes = weights(base), [type(module) for module in base.modules()]
    with pytest.raises(ftplug.ArtifactError, match="effect: other") as raised:
        ftplug.load(base, folder)
    assert "force=True" in str(raised.value)
    assert difference(before, weights(base)) is None
    assert classes == [type(module) for module in base.modules()]
    assert not hasattr(base, "_ftplug")
    ftplug.load(base, two[0].folder)  # it is a base as before
    with caplog.at_level(logging.WARNING, "ftplug"):
        ftplug.load(two[0].new_base(), folder, force=True)
    assert "effect: other" in caplog.text
    caplog.clear()
    ftplug.load(two[0].new_base(), folder, check_effect=False)
    assert "effect" not in caplog.text


def test_what_is_less_certain_is_warned_about_once(two, tmp_path, caplog):
    folder = with_probe(two[0], tmp_path / "half", lambda probe: in_half(elsewhere(probe)))
    with caplog.at_level(logging.WARNING, "ftplug"):
        ftplug.load(two[0].new_base(), folder)
    assert caplog.text.count("effect: ") == 1


def test_an_honest_artifact_loads_without_a_word(two, caplog):
    with caplog.at_level(logging.INFO, "ftplug"):
        ftplug.load(two[0].new_base(), two[0].folder)
    assert caplog.text == ""


def test_so_does_one_without_a_probe(two, tmp_path, caplog):
    import json
    import shutil

    folder = shutil.copytree(two[0].folder, tmp_path / "old")
    (folder / FILE).unlink()
    manifest = json.loads((folder / "ftplug.json").read_text())
    del manifest["files"][FILE], manifest["effect"]
    (folder / "ftplug.json").write_text(json.dumps(manifest))
    with caplog.at_level(logging.INFO, "ftplug"):
        ftplug.load(two[0].new_base(), folder)
    assert caplog.text == ""


def test_a_base_that_is_quantized_is_not_asked(two, caplog):
    base = two[0].new_base()
    base.is_quantized = True
    with caplog.at_level(logging.INFO, "ftplug"):
        ftplug.load(base, two[0].folder)
    assert "was not checked: the base is quantized" in caplog.text


def test_nor_is_one_that_is_offloaded_or_has_no_values(two):
    base = two[0].new_base()
    assert why_not_asked(base) == ""
    base.hf_device_map = {"": "cpu"}
    assert why_not_asked(base) == ""
    base.hf_device_map = {"bert": 0, "classifier": "cpu"}
    assert "offloaded" in why_not_asked(base)
    assert "meta" in why_not_asked(two[0].new_base().to("meta"))


def test_a_run_that_goes_on_from_an_artifact_asks_it_too(two, tmp_path):
    from ftplug.artifacts.loading import continue_from

    folder = with_probe(two[0], tmp_path / "other", elsewhere)
    model = two[0].new_base()
    ftplug.apply(model, two[0].kind.method, **two[0].kind.settings)
    before = weights(model)
    with pytest.raises(ftplug.ArtifactError, match="effect: other"):
        continue_from(model, folder)
    assert difference(before, weights(model)) is None
    continue_from(model, two[0].folder)
    assert replay(model, two[0].probe).verdict == "trained"


@pytest.mark.parametrize("change", [elsewhere, stronger])
def test_a_merged_model_that_answers_otherwise_is_not_left_there(change, two, tmp_path):
    from ftplug.artifacts.merged_model import merged

    done = merged(two[0].folder, tmp_path / "merged", base=two[0].base)
    assert done.effect.startswith("effect: trained")
    folder = with_probe(
        two[0], tmp_path / "artifact", lambda p: replace(change(p), dtype="float16")
    )
    with pytest.raises(ftplug.ArtifactError, match="does not answer as trained"):
        merged(folder, tmp_path / "refused", base=two[0].base)
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"merged", "artifact"}


def renamed(probe):
    """Return a probe with answers that the model has none of, as that of a language model has."""
    sets = {
        name: tuple({"log_probs": each["hidden"][:1]} for each in getattr(probe, name))
        for name in ("trained", "head_only")
    }
    ids = tuple(torch.tensor([3]) for _ in probe.inputs)
    return replace(probe, **sets, base=None, token_ids=ids)


def fewer(probe):
    """Return the probe of a model whose answers are smaller."""
    sets = {
        name: tuple({kind: v[:1] for kind, v in each.items()} for each in getattr(probe, name))
        for name in ("trained", "head_only")
    }
    return replace(probe, **sets, base=None)


@pytest.mark.parametrize("change", [renamed, fewer])
def test_the_probe_of_another_kind_of_model_is_one_line_also_for_a_merge(change, two, tmp_path):
    from ftplug.artifacts.merged_model import merged

    found = replay(two[0].loaded(), change(two[0].probe))
    assert found.verdict == "not replayable"
    assert "asked of another kind of model" in found.reason
    folder = with_probe(two[0], tmp_path / "artifact", change)
    done = merged(folder, tmp_path / "merged", base=two[0].base)
    assert "not compared with the trained ones" in done.effect


def test_tokens_beyond_a_vocabulary_are_not_replayable(tmp_path):
    artifact = made(KINDS["ia3"], tmp_path, steps=2)
    beyond = tuple(ids + 10**6 for ids in artifact.probe.token_ids)
    found = replay(artifact.loaded(), replace(artifact.probe, token_ids=beyond))
    assert found.verdict == "not replayable"
    assert "this model has" in found.reason


def test_plain_peft_gives_the_trained_answers_from_its_files(two):
    import peft

    from ftplug.effect.answers import ask_as
    from ftplug.effect.replaying import compared

    for artifact in two:
        plain = peft.PeftModel.from_pretrained(artifact.new_base(), artifact.folder).eval()
        inner, probe = plain.get_base_model(), artifact.probe
        found = compared(ask_as(inner, probe), None, probe, inner)
        assert found.verdict == "trained", found.line()
        with plain.disable_adapter():
            found = compared(ask_as(inner, probe), None, probe, inner)
        assert found.verdict in ("no effect", "other"), found.line()
