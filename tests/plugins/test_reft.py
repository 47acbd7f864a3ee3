"""LoReFT against the published formula, at the right tokens, and alive under weight decay."""

import copy

import pytest
import tiny
import torch
from ftplug_plugins.reft import Reft, orthonormal
from halves import straight_and_resumed
from runs import CHECKPOINTING, logits, losses, same, shake, trainer, weights

import ftplug
from ftplug import MethodError

RANK = 4


def published(h, layer):
    """Return h + Rᵀ(Wh + b - Rh), equation 2 of the paper, R from a QR decomposition of V."""
    q, r = torch.linalg.qr(layer.reft.rotation.detach().T)
    rotation = (q * r.diagonal().sign()).T
    w, b = layer.reft.learned_source.weight.detach(), layer.reft.learned_source.bias.detach()
    return torch.stack([x + rotation.T @ (w @ x + b - rotation @ x) for x in h])


def reference(base, model, layers, tokens):
    """Return the logits of the base with the formula applied at ``tokens[row]`` by hooks."""

    def hook(index):
        def edit(module, args, output):
            h = (output[0] if isinstance(output, tuple) else output).clone()
            for row, chosen in enumerate(tokens):
                if chosen:
                    h[row, chosen] = published(h[row, chosen], layers(model)[index])
            return (h, *output[1:]) if isinstance(output, tuple) else h

        return edit

    twin = copy.deepcopy(base)
    twin.load_state_dict({n: v for n, v in model.state_dict().items() if ".reft." not in n})
    for index, layer in enumerate(layers(twin)):
        if hasattr(layers(model)[index], "reft"):
            layer.register_forward_hook(hook(index))
    return twin


FAMILIES = {
    "bert": (tiny.bert, lambda m: m.bert.encoder.layer),
    "roberta": (tiny.roberta, lambda m: m.roberta.encoder.layer),
    "distilbert": (tiny.distilbert, lambda m: m.distilbert.transformer.layer),
    "gpt2": (tiny.gpt2, lambda m: m.transformer.h),
    "llama": (tiny.llama, lambda m: m.model.layers),
    "qwen2": (tiny.qwen2, lambda m: m.model.layers),
    "t5": (tiny.t5, lambda m: m.encoder.block),
    "vit": (tiny.vit, lambda m: getattr(m.vit, "layers", None) or m.vit.encoder.layer),
}


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("family", FAMILIES)
def test_equals_the_published_formula(family, attention):
    make, layers = FAMILIES[family]
    if attention == "sdpa" and not make()._supports_sdpa:
        pytest.skip(f"this transformers has no sdpa for {family}")
    base = make(attn_implementation=attention)
    model = ftplug.apply(copy.deepcopy(base), "reft", low_rank_dimension=RANK)
    assert torch.equal(logits(model), logits(base))  # the start, exactly
    shake(model)
    twin = reference(base, model, layers, [[0, 1, 2]] * 3)
    assert torch.allclose(logits(model), logits(twin), atol=1e-5)
    assert not torch.allclose(logits(model), logits(base), atol=1e-3)


PADDED = torch.tensor([[1, 1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 0, 0], [1, 1, 0, 0, 0, 0, 0]])


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize(
    ("positions", "left", "tokens"),
    [
        ("f3", False, [[0, 1, 2], [0, 1, 2], [0, 1]]),
        ("l2", False, [[5, 6], [3, 4], [0, 1]]),
        ("f1+l2", False, [[0, 5, 6], [0, 3, 4], [0, 1]]),
        ("f2+l6", False, [[0, 1, 2, 3, 4, 5, 6], [0, 1, 2, 3, 4], [0, 1]]),
        ("f1+l1", True, [[0, 6], [2, 6], [5, 6]]),
        ("f9", True, [list(range(7)), [2, 3, 4, 5, 6], [5, 6]]),
    ],
)
@pytest.mark.parametrize("make", [tiny.bert, lambda **k: tiny.llama("SequenceClassification", **k)])
def test_tokens_are_counted_without_padding(make, positions, left, tokens, attention):
    mask = PADDED.flip(1) if left else PADDED
    base = make(attn_implementation=attention)
    batch = tiny.inputs(base) | {"attention_mask": mask}
    batch["input_ids"] = batch["input_ids"].clamp(min=3).where(mask.bool(), 0)
    model = ftplug.apply(copy.deepcopy(base), "reft", positions=positions)
    shake(model)

    def layers(m):
        return m.bert.encoder.layer if hasattr(m, "bert") else m.model.layers

    assert torch.allclose(
        logits(model, batch), logits(reference(base, model, layers, tokens), batch), atol=1e-5
    )


def test_all_tokens_and_chosen_layers():
    base = tiny.bert()
    batch = {k: v for k, v in tiny.inputs(base).items() if k != "attention_mask"}
    model = ftplug.apply(copy.deepcopy(base), "reft", positions="all", layers=[1])
    names = {n for n, p in model.named_parameters() if p.requires_grad and "classifier" not in n}
    assert names == {
        f"bert.encoder.layer.1.reft.{n}"
        for n in ("rotation", "learned_source.weight", "learned_source.bias")
    }
    shake(model)
    twin = reference(base, model, lambda m: m.bert.encoder.layer, [list(range(7))] * 3)
    assert torch.allclose(logits(model, batch), logits(twin, batch), atol=1e-5)


@pytest.mark.parametrize("positions", ["f3", "all"])
@pytest.mark.parametrize("make", [tiny.gpt2, tiny.llama])
def test_generation_with_a_cache_equals_generation_without(make, positions):
    model = shake(ftplug.apply(make(), "reft", positions=positions), 0.3)
    mask = torch.tensor([[1, 1, 1, 1, 1], [0, 0, 0, 1, 1]])  # its third token is generated
    ids = torch.tensor([[5, 9, 11, 20, 33], [0, 0, 0, 7, 8]])
    options = {"attention_mask": mask, "max_new_tokens": 6, "do_sample": False, "eos_token_id": 63}
    options |= {"output_logits": True, "return_dict_in_generate": True, "pad_token_id": 0}
    cached = torch.stack(model.generate(ids, **options).logits)
    plain = torch.stack(model.generate(ids, use_cache=False, **options).logits)
    assert torch.allclose(cached, plain, atol=1e-4)
    with ftplug.disabled(model):
        assert not torch.allclose(torch.stack(model.generate(ids, **options).logits), plain)


def test_rows_stay_orthonormal_and_scale_does_not_matter():
    v = torch.randn(5, 32, generator=torch.Generator().manual_seed(0))
    r = orthonormal(v)
    assert torch.allclose(r @ r.T, torch.eye(5), atol=1e-5)
    assert torch.allclose(orthonormal(1e-3 * v), r, atol=1e-5)
    assert torch.equal(orthonormal(r), orthonormal(r))


def test_weight_decay_does_not_turn_it_off(tmp_path):
    # As FACTS and the docstring have it: under the Householder parametrization R becomes zero.
    edits = {}
    for decay in (0.0, 0.1):
        model = tiny.bert()
        bound = trainer(model, tmp_path, save_strategy="no", weight_decay=decay)
        ftplug.attach(bound, "reft", train_head=False).train()
        trained = logits(model)
        with ftplug.disabled(model):
            edits[decay] = trained - logits(model)
        rotation = orthonormal(model.bert.encoder.layer[0].reft.rotation)
        assert torch.allclose(rotation @ rotation.T, torch.eye(RANK), atol=1e-5)
        assert losses(bound)[-1] != losses(bound)[0]
    assert edits[0.0].abs().max() > 1e-3
    assert torch.allclose(edits[0.1], edits[0.0], rtol=0.1, atol=1e-4)
    assert not torch.equal(edits[0.1], edits[0.0])  # decay was there


def test_the_householder_parametrization_would_be_turned_off():
    from torch.nn.utils.parametrizations import orthogonal

    linear = orthogonal(torch.nn.Linear(32, 4, bias=False))
    optimizer = torch.optim.AdamW(linear.parameters(), lr=1e-3, weight_decay=0.1)
    linear(torch.randn(2, 32)).sum().backward()
    optimizer.step()
    assert linear.weight.abs().max() == 0


def test_everything_moves_and_nothing_else(tmp_path):
    model = tiny.bert()
    before = weights(model)
    bound = trainer(model, tmp_path, save_strategy="no")
    ftplug.attach(bound, "reft")
    start = weights(model)
    bound.train()
    after = weights(model)
    moved = {n for n in after if not after[n].equal(start[n])}
    assert moved == {n for n in after if ".reft." in n or n.startswith("classifier.")}
    assert same({n: before[n] for n in before if n not in moved},
                {n: after[n] for n in before if n not in moved})  # fmt: skip


def test_resumed_equals_uninterrupted(tmp_path):
    straight, resumed = straight_and_resumed(
        lambda: tiny.bert(dropout=0.1), tmp_path, Reft(positions="f2+l2"), weight_decay=0.1
    )
    assert same(weights(straight.model), weights(resumed.model))


def test_activation_checkpointing_gives_equal_losses(tmp_path):
    found = []
    for checkpointing in (False, True):
        options = {CHECKPOINTING: checkpointing, "save_strategy": "no", "max_steps": 5}
        bound = trainer(tiny.bert(), tmp_path, **options)
        ftplug.attach(bound, "reft", positions="f1+l2").train()
        found.append(losses(bound))
    assert found[0] == pytest.approx(found[1], abs=1e-6)


def test_saved_loaded_copied_disabled(tmp_path):
    base = tiny.t5()
    model = shake(ftplug.apply(copy.deepcopy(base), "reft", positions="f2+l2"))
    ftplug.save(model, tmp_path / "artifact")
    loaded = ftplug.load(copy.deepcopy(base), tmp_path / "artifact")
    assert torch.equal(logits(loaded), logits(model))
    with ftplug.disabled(model):
        assert torch.equal(logits(model), logits(base))
    twin, before = copy.deepcopy(model), logits(model)
    shake(twin)
    assert torch.equal(logits(model), before)
    assert not torch.allclose(logits(twin), before)
    with pytest.raises(MethodError, match="reft: what it adds cannot be folded"):
        ftplug.merge(model)


def test_a_half_precision_base_and_autocast():
    model = ftplug.apply(tiny.llama().to(torch.bfloat16), "reft")
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}
    shake(model)(**tiny.inputs(model)).loss.backward()
    model = shake(ftplug.apply(tiny.bert(), "reft"))
    with torch.autocast("cpu", torch.bfloat16):
        model(**tiny.inputs(model)).loss.backward()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_model_that_is_cast_afterwards_answers(dtype):
    model, exact = (
        shake(ftplug.apply(tiny.bert(), "reft")),
        shake(ftplug.apply(tiny.bert(), "reft")),
    )
    with ftplug.disabled(model):
        base = logits(model)
    answers = logits(model.to(dtype)).float()
    assert (answers - logits(exact)).norm() < 0.1 * (logits(exact) - base).norm()


@pytest.mark.parametrize("positions", ["", "f0", "3", "l2+f1", "f1+", "+l1", "f1l1", "f-1", "ALL"])
def test_positions_that_mean_nothing_are_refused(positions):
    with pytest.raises(MethodError, match=r"reft: positions=.*: write f3"):
        ftplug.apply(tiny.bert(), "reft", positions=positions)


@pytest.mark.parametrize(
    ("make", "settings", "message"),
    [
        (tiny.bert, {"layers": [2]}, "no layer 2 in bert.encoder.layer: it has 2, counted from 0"),
        (tiny.bert, {"low_rank_dimension": 33}, "low_rank_dimension=33 exceeds .* 32"),
        (tiny.bert, {"layers": [-1]}, "greater than or equal to 0"),
        (tiny.llama, {"positions": "f1+l1"}, "the end of a prompt"),
        (tiny.gpt2, {"positions": "l1"}, "use the first tokens"),
    ],
)
def test_settings_that_do_not_fit_are_refused(make, settings, message):
    model = make()
    with pytest.raises(MethodError, match=message):
        ftplug.apply(model, "reft", **settings)
    assert not [n for n, _ in model.named_parameters() if "reft" in n]


@pytest.mark.parametrize("methods", [("reft", "prefix-tuning"), ("prefix-tuning", "reft")])
def test_beside_a_prefix_it_is_refused(methods):
    with pytest.raises(MethodError, match="leave one of the two out"):
        ftplug.apply(tiny.bert(), *methods)
