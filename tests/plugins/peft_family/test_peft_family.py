"""Every method of peft: what it trains, saves and refuses, and equal to get_peft_model."""

from __future__ import annotations

import copy
import functools
import importlib.metadata
import json
import re
import warnings
from typing import Any

import peft
import peft_generate
import pytest
import tiny
import torch
from ftplug_plugins.peft_bridge import files as peft_files
from ftplug_plugins.peft_bridge import versions
from ftplug_plugins.peft_bridge.targets import choose_targets
from ftplug_plugins.peft_family import adalora
from ftplug_plugins.peft_family import family as peft_family
from peft_twins import fails_in_peft
from runs import StopAt, logits, shake, trainer, weights

import ftplug
from ftplug import MethodError
from ftplug.attaching.attachment import require_attachment
from ftplug.context import Context

SMALL: dict[str, dict[str, Any]] = {
    "adalora": {"init_r": 4, "target_r": 2, "total_step": 20, "tinit": 1, "tfinal": 2},
    "adamss": {"r": 8, "num_subspaces": 2},
    "adaption-prompt": {"adapter_len": 4},
    "c3a": {"block_size": 8},
    "cartridge": {"num_virtual_tokens": 4},
    "fourierft": {"n_frequency": 20},
    "gralora": {"r": 4},
    "hira": {"r": 4},
    "lily": {"r": 4},
    "miss": {"r": 4},
    "multitask-prompt-tuning": {"num_virtual_tokens": 4},
    "oft": {"oft_block_size": 8},
    "p-tuning": {"num_virtual_tokens": 4, "encoder_hidden_size": 16},
    "peanut": {"r": 4},
    "psoft": {"r": 4},
    "pvera": {"r": 8},
    "randlora": {"r": 4},
    "road": {"group_size": 8},
    "shira": {"r": 4},
    "supertuning": {"sparsity": 0.9},
    "trainable-tokens": {"token_indices": [3, 4, 5, 6, 7, 8]},
    "vblora": {"num_vectors": 16, "vector_length": 4},
    "vera": {"r": 8},
    "waveft": {"n_frequency": 20},
}
REFUSED = {"cpt", "shadow", "xlora"}
METHODS = sorted(set(peft_family.types()) - REFUSED)
PROMPTS = {"cartridge", "multitask-prompt-tuning", "p-tuning"}
# peft's own start differs from the base: a random update, or one that is not subtracted.
STARTS_ELSEWHERE = {"c3a", "fourierft", "unilora", "vblora", *PROMPTS}
ROUNDED = {"deft", "frod", "hra", "osf", "psoft", "vera"}  # equal up to rounding
NOT_MERGED = {"adaption-prompt", "lily", "poly", *PROMPTS}
FAMILIES = {"bert": tiny.bert, "llama": tiny.llama, "t5": tiny.t5, "vit": tiny.vit}
UNFIT = {
    *((method, family) for method in ("adaption-prompt",) for family in ("bert", "t5", "vit")),
    *((method, "vit") for method in (*PROMPTS, "trainable-tokens")),
}
FITS = [(m, f) for m in METHODS for f in FAMILIES if (m, f) not in UNFIT]
TASKS = {"bert": "SEQ_CLS", "llama": "CAUSAL_LM"}

STALE = "stale: run python tools/peft_generate.py"

every = pytest.mark.parametrize("method", METHODS)


def home(method: str) -> str:
    return "llama" if method in ("adaption-prompt", "beft") else "bert"


def base_of(method: str) -> Any:
    return FAMILIES[home(method)](dropout=0.1)


def prepared(method: str, base: Any, **settings: Any) -> Any:
    return ftplug.apply(copy.deepcopy(base), method, **SMALL.get(method, {}) | settings)


@functools.cache
def trained(method: str) -> tuple[Any, Any, list[float]]:
    """Return the base, the model after 5 steps with its schedule, and the losses."""
    base = base_of(method)
    model = prepared(method, base)
    return base, model, five_steps(model, require_attachment(model).host)


def five_steps(model: Any, host: Any = None, after: Any = None, **batch: Any) -> list[float]:
    model.train()
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-2)
    torch.manual_seed(0)
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    found = []
    for step in range(1, 6):
        loss = model(**tiny.inputs(inner, seed=step), **batch).loss
        loss.backward()
        if host:
            host.call("on_gradients", model=model, step=step - 1)
        optimizer.step()
        if host:
            optimizer.zero_grad()
            host.call("on_step", model=model, optimizer=optimizer, step=step, total_steps=20)
        elif after:
            after(step)
        optimizer.zero_grad()
        found.append(loss.item())
    model.eval()
    return found


def test_the_generated_files_match_the_peft_they_were_made_with():
    made_with = json.loads(peft_generate.DATA.read_text("utf-8"))["peft"]
    if made_with != peft.__version__:
        pytest.skip(f"types.json was made with peft {made_with}; {peft.__version__} is installed")
    assert peft_generate.DATA.read_text("utf-8") == peft_generate.data_text(), STALE
    pyproject = peft_generate.PYPROJECT.read_text("utf-8")
    assert peft_generate.with_entry_points(pyproject) == pyproject, STALE
    assert {kind.value for kind in peft.PeftType} == set(versions.recorded())


def test_the_first_versions_are_recorded_of_every_type():
    """Of any installed peft, so that the oldest and the newest both confirm the record."""
    assert peft_generate.SINCE.read_text("utf-8") == peft_generate.since_text(), STALE
    listed = {entry["type"] for entry in peft_family.types().values()}
    assert listed | peft_generate.OWN_FILE == set(versions.recorded())
    assert set(peft_family.types()) == set(peft_family.ABOUT)


def test_a_first_version_is_the_earliest_that_was_seen():
    newest = peft_generate.since({}, {"A": ["r", "new"], "B": ["r"]}, "0.21.2", whole=True)
    assert newest == {"A": {"0.21": ["new", "r"]}, "B": {"0.21": ["r"]}}
    older = peft_generate.since(newest, {"A": ["r", "gone"], "C": ["r"]}, "0.9.1", whole=False)
    assert older == {"A": {"0.9": ["r"], "0.21": ["new"]}, "B": {"0.21": ["r"]}}
    again = peft_generate.since(older, {"A": ["r", "new"]}, "0.20.0", whole=False)
    assert again["A"] == {"0.9": ["r"], "0.20": ["new"]}
    later = peft_generate.since(again, {"A": ["r", "newer"], "D": ["x"]}, "0.22.0", whole=True)
    assert later == {
        "A": {"0.9": ["r"], "0.20": ["new"], "0.22": ["newer"]},
        "D": {"0.22": ["x"]},
    }


def test_the_page_counts_the_types_of_every_version():
    page = (peft_generate.ROOT / "docs/methods.md").read_text("utf-8")
    first = [min(v.split(".") for v in rows) for rows in versions.recorded().values()]
    for version in ("0.18", "0.19", "0.20", "0.21"):
        row = re.search(rf"^\| {re.escape(version)} \| (\d+)", page, re.M)
        assert int(row[1]) == sum(since <= version.split(".") for since in first), version


def test_every_listed_type_is_a_method_of_its_own_name():
    names = {peft_generate.method_name(kind) for kind in versions.recorded()}
    assert len(names) == 45
    assert names <= {p.name for p in importlib.metadata.entry_points(group="ftplug.methods")}
    for name in peft_family.types():
        cls = ftplug.methods()[name]
        assert cls.paper.startswith("https://") or name in ("adamss", "trainable-tokens")
        assert all(row.help.endswith(".") and len(row.help) > 4 for row in cls.describe()), name


@every
def test_it_trains_what_peft_trains_and_nothing_else(method):
    base, model, _ = trained(method)
    fresh = prepared(method, base)
    names = {n for n, p in fresh.named_parameters(remove_duplicate=False) if p.requires_grad}
    before, after = weights(fresh), weights(model)
    memory = {n for n in before if ".adalora_state." in n}
    moved = {n for n in before if not torch.equal(before[n], after[n])} - memory
    assert moved <= names
    # glora's D scales a bias that is zero in a tiny model
    assert {n for n in names - moved if ".glora_D." not in n} == set()
    if home(method) == "bert":
        assert "classifier.weight" in moved


@every
def test_the_start_is_the_base(method):
    base = base_of(method)
    start, expected = logits(prepared(method, base)), logits(base)
    if method in STARTS_ELSEWHERE:
        assert not torch.equal(start, expected)
    elif method in ROUNDED:
        assert torch.allclose(start, expected, atol=2e-6)
    else:
        assert torch.equal(start, expected)


@every
def test_disabled_is_the_base_and_a_deepcopy_is_independent(method):
    base, model, _ = trained(method)
    before = logits(model)
    assert not torch.equal(before, logits(base))
    with ftplug.disabled(model):
        assert torch.equal(logits(model), logits(base))
    assert torch.equal(logits(model), before)
    twin = copy.deepcopy(model)
    assert torch.equal(logits(twin), before)
    shake(twin)
    assert not torch.allclose(logits(twin), before)
    assert torch.equal(logits(model), before)


def twin_of(method: str, base: Any) -> tuple[Any, Any]:
    """Return peft's model on a copy of the base, and what to call after every step."""
    cls = ftplug.methods()[method]
    configured = cls.configure(SMALL.get(method, {}))
    model = copy.deepcopy(base)
    context = Context(seed=42, task=None, model_class="")
    if method in PROMPTS:
        config = configured.prompt_config()
        if method == "multitask-prompt-tuning":
            config.num_transformer_submodules = 1
    elif method == "adaption-prompt":
        config = configured.prompt_config()
        config.adapter_layers = tiny.LAYERS
    else:
        config = configured.config(model, context)
        choose_targets(config, model)
    config.task_type = TASKS[home(method)]
    torch.manual_seed(42)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wrapped = peft.get_peft_model(model, config)
    if method == "trainable-tokens":  # peft would leave the head at its random start
        wrapped.base_model.model.classifier.requires_grad_(True)
    after = wrapped.base_model.update_and_allocate if method == "adalora" else None
    return wrapped, after


@every
def test_five_steps_equal_get_peft_model(method, request):
    fails_in_peft(request, method == "cartridge")
    base, _, losses = trained(method)
    theirs, after = twin_of(method, base)
    tasks = {}
    if method in ("poly", "multitask-prompt-tuning"):
        tasks = {"task_ids": torch.zeros(3, dtype=torch.long)}
    expected = five_steps(theirs, after=after, **tasks)
    assert losses == pytest.approx(expected, abs=1e-6)
    assert losses[0] != pytest.approx(losses[-1], abs=1e-5)


@every
def test_peft_reads_the_files_and_a_load_gives_equal_logits(method, tmp_path, request):
    fails_in_peft(request, method == "cartridge")
    base, model, _ = trained(method)
    ftplug.save(model, tmp_path / "a")
    again = ftplug.load(copy.deepcopy(base), tmp_path / "a")
    assert torch.equal(logits(again), logits(model))
    ftplug.save(again, tmp_path / "b")
    for file in (tmp_path / "a").glob("*.safetensors"):
        if method != "p-tuning" or file.name == "ftplug.safetensors":
            assert (tmp_path / "b" / file.name).read_bytes() == file.read_bytes()
    batch = tiny.inputs(base)
    del batch["labels"]  # peft's AdaLoRA cannot compute a loss from a loaded adapter
    if method in ("poly", "multitask-prompt-tuning"):
        batch["task_ids"] = torch.zeros(3, dtype=torch.long)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        plain = peft.PeftModel.from_pretrained(copy.deepcopy(base), tmp_path / "a").eval()
    found = logits(plain, batch)[:, -logits(model).shape[1] :]
    assert torch.allclose(found, logits(model), atol=1e-6)


@pytest.mark.parametrize(("method", "family"), [x for x in FITS if x[1] != home(x[0])])
def test_every_family_trains_saves_and_loads(method, family, tmp_path):
    base = FAMILIES[family]()
    model = shake(prepared(method, base))
    model(**tiny.inputs(base)).loss.backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
    ftplug.save(model, tmp_path / "a")
    again = ftplug.load(copy.deepcopy(base), tmp_path / "a")
    assert torch.equal(logits(again), logits(model))


@pytest.mark.parametrize(("method", "family"), sorted(UNFIT))
def test_what_does_not_fit_is_one_line_and_leaves_the_model(method, family):
    model = FAMILIES[family]()
    before = weights(model)
    with pytest.raises(MethodError, match=method) as caught:
        prepared(method, model)
    assert "\n" not in str(caught.value)
    assert before.keys() == weights(model).keys()


@pytest.mark.parametrize("method", sorted(REFUSED))
def test_a_refusal_names_the_reason_and_the_way_out(method):
    with pytest.raises(MethodError, match=rf"{method}: .*: (use|train)"):
        ftplug.apply(tiny.llama(), method)


@every
def test_merged_equals_the_forward_or_says_why_not(method):
    base, model, _ = trained(method)
    model, expected = copy.deepcopy(model), logits(model)
    if method in NOT_MERGED or (method == "beft" and home(method) == "llama"):
        with pytest.raises(MethodError, match=f"{method}: (peft cannot merge|what it adds)"):
            ftplug.merge(model)
        assert torch.equal(logits(model), expected)
        return
    plain = ftplug.merge(model)
    assert torch.allclose(logits(plain), expected, atol=1e-5)
    assert weights(plain).keys() == weights(base).keys()
    ftplug.apply(plain, "lora")  # nothing of the method is left


STATEFUL = {
    "adalora": {"init_r": 4, "target_r": 2, "tinit": 2, "tfinal": 4, "deltaT": 3, "bias": "all"},
    "adamss": SMALL["adamss"],
    "frod": {},
    "osf": {},
    "p-tuning": {"num_virtual_tokens": 4, "encoder_reparameterization_type": "LSTM"},
    "prefix-tuning": {"num_virtual_tokens": 4, "prefix_projection": True},
    "pvera": {"r": 8},
    "shira": {"r": 4},
}


def run(method: str, out: Any, *callbacks: Any, settings: Any = None, resume: bool = False) -> Any:
    bound = trainer(tiny.bert(dropout=0.1), out, callbacks=list(callbacks), max_steps=12,
                    save_strategy="no")  # fmt: skip
    ftplug.attach(bound, method, **STATEFUL[method] | (settings or {}))
    bound.train(resume_from_checkpoint=resume)
    return bound


@pytest.mark.parametrize("method", STATEFUL)
def test_a_resumed_run_equals_an_uninterrupted_one(method, tmp_path):
    straight = run(method, tmp_path / "straight")
    run(method, tmp_path / "halves", StopAt(5))
    resumed = run(method, tmp_path / "halves", resume=True)
    first, second = weights(straight.model), weights(resumed.model)
    assert first.keys() == second.keys()
    assert [n for n, value in first.items() if not torch.equal(value, second[n])] == []


@pytest.mark.parametrize("step", [2, 9])
def test_adalora_reaches_its_budget_and_resumes_anywhere(step, tmp_path):
    layers = 6 * tiny.LAYERS  # peft adapts all but the pooler: query, key, value, three dense
    straight = run("adalora", tmp_path / "straight")
    adapted = [n for n, _ in straight.model.named_parameters() if ".lora_E." in n]
    assert adalora.ranks(weights(straight.model)) == 2 * len(adapted) <= 2 * layers
    run("adalora", tmp_path / "halves", StopAt(step))
    resumed = run("adalora", tmp_path / "halves", resume=True)
    for name, value in weights(straight.model).items():
        assert torch.equal(value, weights(resumed.model)[name]), name
    straight.save_model(tmp_path / "artifact")
    again = ftplug.load(tiny.bert(dropout=0.1), tmp_path / "artifact")
    assert torch.equal(logits(again), logits(straight.model))
    assert adalora.ranks(weights(again)) == 2 * len(adapted)
    assert not (tmp_path / "artifact" / "ftplug.safetensors").exists()


def test_adalora_refuses_a_schedule_without_room():
    with pytest.raises(MethodError, match="set total_step="):
        ftplug.apply(tiny.bert(), "adalora")
    with pytest.raises(MethodError, match="leave none of 20 steps"):
        ftplug.apply(tiny.bert(), "adalora", total_step=20, tinit=15, tfinal=5)
    with pytest.raises(MethodError, match="target_r=8 must be below init_r=8"):
        ftplug.apply(tiny.bert(), "adalora", total_step=20, init_r=8)


def test_a_prompt_encoder_trains_on_from_its_artifact(tmp_path):
    base, model, _ = trained("p-tuning")
    ftplug.save(model, tmp_path)
    again = ftplug.load(copy.deepcopy(base), tmp_path)
    first, second = five_steps(copy.deepcopy(model)), five_steps(again)
    assert first == second


@pytest.mark.parametrize(
    ("method", "setting"), [("poly", "n_tasks"), ("multitask-prompt-tuning", "num_tasks")]
)
def test_several_tasks_are_told_apart_by_the_batch(method, setting):
    base = tiny.bert()
    model = shake(prepared(method, base, **{setting: 2}))
    batch = tiny.inputs(base)
    zeros, ones = (torch.full((3,), task) for task in (0, 1))
    first, second = (
        logits(model, batch | {"task_ids": zeros}),
        logits(model, batch | {"task_ids": ones}),
    )
    assert not torch.allclose(first, second)
    mixed = logits(model, batch | {"task_ids": torch.tensor([0, 1, 0])})
    assert torch.allclose(mixed[0], first[0], atol=1e-6)
    assert torch.allclose(mixed[1], second[1], atol=1e-6)
    with pytest.raises(MethodError, match="the batch lacks task_ids"):
        logits(model, batch)


def test_a_copy_of_osf_still_projects_its_gradients():
    base = base_of("osf")
    model = prepared("osf", base)
    twin = copy.deepcopy(model)
    assert five_steps(model) == five_steps(twin)


def test_it_composes_with_other_kinds_of_methods(tmp_path):
    base = tiny.bert()
    model = shake(ftplug.apply(copy.deepcopy(base), "ia3", "bottleneck"))
    ftplug.save(model, tmp_path)
    again = ftplug.load(copy.deepcopy(base), tmp_path)
    assert torch.equal(logits(again), logits(model))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"target_modules": ["nothing_here"]}, "nothing_here"),
        ({"bias": "some"}, "bias"),
        ({"r": -1}, "positive"),
    ],
)
def test_pefts_own_refusals_are_one_line(settings, message):
    with pytest.raises(MethodError, match=rf"loha: .*{message}|vera: .*{message}") as caught:
        ftplug.apply(tiny.bert(), "vera" if "bias" in settings else "loha", **settings)
    assert "\n" not in str(caught.value)


def test_all_linear_leaves_the_head_alone():
    for method in ("vera", "lokr"):
        model = prepared(method, tiny.bert(), target_modules="all-linear")
        adapted = [name for name, _ in peft_files.tuner_layers(model)]
        assert len(adapted) == 6 * tiny.LAYERS + 1
        assert not any("classifier" in name for name in adapted)


def test_a_half_precision_base_trains_float32(tmp_path):
    for method in ("ia3", "vera", "vblora", "osf", "p-tuning"):
        model = prepared(method, tiny.bert().to(torch.bfloat16))
        own = {p.dtype for n, p in model.named_parameters() if p.requires_grad and "class" not in n}
        assert own <= {torch.float32} or method == "osf", method
        model(**tiny.inputs(model)).loss.backward()


TRANSPOSED = sorted(
    name for name in peft_family.types()
    if any(s.name == "fan_in_fan_out" for s in peft_family.build(name).describe())
)  # fmt: skip


@pytest.mark.filterwarnings("ignore")  # peft's note on Conv1D
@pytest.mark.parametrize("name", TRANSPOSED)
def test_an_artifact_on_layers_that_lie_transposed_is_loaded(name, tmp_path):
    """Peft writes into its config how GPT-2's weights lie, whatever the setting says."""
    try:
        model = shake(ftplug.apply(tiny.gpt2(), name, **SMALL.get(name, {})))
    except MethodError as refused:
        pytest.skip(str(refused))
    ftplug.save(model, tmp_path)
    assert torch.equal(logits(ftplug.load(tiny.gpt2(), tmp_path)), logits(model))
