"""Every feature of the Trainer beside every kind of method: it works, or is refused beforehand.

A feature is a function that trains a method with it and asserts what the feature promises.
``REFUSED`` says which cells cannot be, with the reason that the user is given before any step.
Uploads in every ``hub_strategy`` are in ``tests/registry``; fp16 needs a GPU.
"""

import functools
import signal
import tempfile
import threading

import pytest
import tiny
import torch
from runs import StopAt, logits, losses, rows, same, trainer, weights
from torch.nn.functional import log_softmax
from torch.nn.utils.rnn import pad_sequence
from transformers import BertForSequenceClassification, EarlyStoppingCallback, TrainerCallback

import ftplug
from ftplug import MethodError

STEPS = 4
METHODS = {
    "full": {},
    "freeze": {"layers": 1},
    "bitfit": {},
    "lora": {"r": 4},
    "bottleneck": {"reduction_factor": 4},
    "reft": {},
    "prefix-tuning": {"num_virtual_tokens": 4},
    "prompt-tuning": {"num_virtual_tokens": 4},
    "lisa": {"layers": 1, "period": 1},
    "gradual-unfreezing": {},
    "adalora": {"total_step": STEPS, "init_r": 6, "target_r": 4},
    "galore": {"rank": 4},
    "layerwise-lr": {},
    "l2-sp": {},
}
taken = []  # the steps that the runs of one test began


class Count(TrainerCallback):
    def on_step_begin(self, args, state, control, **kwargs):
        taken.append(state.global_step)


def bound_to(method, out, *, model=None, callbacks=(), **options):
    """Return a Trainer of four steps with the method attached."""
    options = {"max_steps": STEPS, "save_strategy": "no", "learning_rate": 1e-2} | options
    model = tiny.bert() if model is None else model
    bound = trainer(model, out, callbacks=[Count(), *callbacks], **options)
    return ftplug.attach(bound, method, **METHODS[method])


def run(method, out, **options):
    bound = bound_to(method, out, **options)
    bound.start = weights(bound.model)
    bound.train()
    return bound


def moved(bound):
    live = bound.model.named_parameters()
    return {name for name, value in live if not value.equal(bound.start[name])}


@functools.cache
def plain(method, **options):
    """Return the same run without the feature."""
    with tempfile.TemporaryDirectory() as out:
        return run(method, out, **options)


def assert_moves_as_plain(bound, method):
    assert moved(plain(method)) <= moved(bound)
    assert moved(bound) <= set(bound.ftplug.attached.plan.may_train)


def assert_artifact_reloads(bound, out, base):
    bound.save_model(out / "artifact")
    assert torch.equal(logits(ftplug.load(base, out / "artifact")), logits(bound.model))


# The features


def accumulation(method, out):
    """Two batches of two are one of four, in a model whose loss counts the tokens of both."""
    optim = {} if method == "galore" else {"optim": "sgd"}  # Adam would magnify what is rounded
    halves = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2}
    found = run(method, out, model=tiny.gpt2(), **halves, **optim)
    expected = run(method, out, model=tiny.gpt2(), **optim)
    assert losses(found) == pytest.approx(losses(expected), abs=1e-5)
    if method != "galore":
        other = weights(found.model)
        for name, value in weights(expected.model).items():
            assert torch.allclose(value, other[name], atol=1e-6), name
    assert moved(found) == moved(expected) != set()


def checkpointing(method, out):
    found = run(method, out, activation_checkpointing=True)
    assert same(weights(found.model), weights(plain(method).model))


def reentrant(method, out):
    """Also where nothing before the layers trains, in a model that reads no tokens."""
    options = {
        "activation_checkpointing": True,
        "activation_checkpointing_kwargs": {"use_reentrant": True},
    }
    makes = [tiny.bert] if method.endswith("-tuning") else [tiny.bert, tiny.vit]
    for make in makes:
        found, expected = run(method, out, model=make(), **options), run(method, out, model=make())
        if method == "lora":  # the pass without gradients is peft's forward, not the fused one
            assert losses(found) == pytest.approx(losses(expected), abs=1e-5)
            assert moved(found) == moved(expected) != set()
        else:
            assert same(weights(found.model), weights(expected.model))


def bf16(method, out):
    found = run(method, out, bf16=True, use_cpu=True)
    assert losses(found) == pytest.approx(losses(plain(method)), abs=0.1)
    assert losses(found) != losses(plain(method))
    assert all(v.dtype != torch.bfloat16 for v in weights(found.model).values())
    assert_moves_as_plain(found, method)
    found.save_model(out / "artifact")
    loaded = ftplug.load(tiny.bert(), out / "artifact")
    again = dict(loaded.named_parameters())
    assert all(value.equal(again[name]) for name, value in found.model.named_parameters())


def fp16(method, out):
    found = run(method, out, fp16=True)
    assert losses(found) == pytest.approx(losses(plain(method)), abs=0.1)


def compiled(method, out):
    """One layer and two steps: tracing takes seconds."""
    small, options = functools.partial(tiny.bert, num_hidden_layers=1), {"max_steps": 2}
    expected = run(method, out, model=small(), **options)
    try:
        found = run(
            method, out, model=small(), torch_compile=True, torch_compile_backend="eager", **options
        )
        assert losses(found) == pytest.approx(losses(expected), abs=1e-5)
        assert moved(found) == moved(expected) != set()
        assert_artifact_reloads(found, out, small())
    finally:
        torch.compiler.reset()


def grouped_by_length(method, out):
    """Two batches are sorted by length at a time."""
    model, seen = tiny.bert(), []
    data = [{n: v[:length] if v.ndim else v for n, v in row.items()}
            for row, length in zip(rows(model), [4, 7] * 16, strict=True)]  # fmt: skip

    def collate(examples):
        seen.append([len(example["input_ids"]) for example in examples])
        return {
            name: pad_sequence([e[name] for e in examples], batch_first=True)
            if examples[0][name].ndim
            else torch.stack([e[name] for e in examples])
            for name in examples[0]
        }

    bound = bound_to(method, out, model=model, train_sampling_strategy="group_by_length")
    bound.train_dataset, bound.data_collator, bound.start = data, collate, weights(model)
    bound.train()
    for first, second in zip(seen[:STEPS:2], seen[1:STEPS:2], strict=True):
        assert min(first) >= max(second)
    assert {4, 7} <= set(seen[0] + seen[1])
    assert_moves_as_plain(bound, method)


class Remember(TrainerCallback):
    def __init__(self):
        self.at = {}

    def on_save(self, args, state, control, **kwargs):
        self.at[state.global_step] = weights(kwargs["model"])


def scored(method, out, scores, **options):
    """Train with an evaluation after each step that gives these scores."""
    evaluation = {"eval_strategy": "steps", "eval_steps": 1, "metric_for_best_model": "score"}
    memory, scores = Remember(), iter(scores)
    callbacks = [memory, *options.pop("callbacks", ())]
    bound = bound_to(method, out, callbacks=callbacks, load_best_model_at_end=True,
                     **evaluation, **options)  # fmt: skip
    bound.compute_metrics = lambda prediction: {"score": next(scores)}
    bound.train()
    checkpoints = {path.name for path in out.glob("checkpoint-*")}
    return bound, memory.at, checkpoints


def early_stopping(method, out):
    """With ``save_total_limit=1``, that leaves the best checkpoint alone."""
    bound, at, checkpoints = scored(
        method, out, [0.1, 0.9, 0.2], save_strategy="steps", save_steps=1, save_total_limit=1,
        callbacks=[EarlyStoppingCallback(early_stopping_patience=1)],
    )  # fmt: skip
    assert bound.state.global_step == 3
    assert same(weights(bound.model), at[2])
    assert checkpoints == {"checkpoint-2"}


def save_best(method, out):
    bound, at, checkpoints = scored(method, out, [0.5, 0.4, 0.6, 0.3], save_strategy="best")
    assert same(weights(bound.model), at[3])
    assert checkpoints == {"checkpoint-1", "checkpoint-3"}


def save_total_limit(method, out):
    run(method, out, save_strategy="steps", save_steps=1, save_total_limit=2)
    assert {path.name for path in out.glob("checkpoint-*")} == {"checkpoint-3", "checkpoint-4"}


def label_smoothing(method, out):
    bound = bound_to(method, out, label_smoothing_factor=0.2)
    bound.start = weights(bound.model)
    batch = tiny.inputs(bound.model)
    logs = log_softmax(logits(bound.model, batch), dim=-1)
    hard = -logs.gather(1, batch["labels"][:, None]).mean()
    with torch.no_grad():
        smoothed = bound.compute_loss(bound.model, dict(batch))
    assert float(smoothed) == pytest.approx(float(0.8 * hard - 0.2 * logs.mean()), abs=1e-6)
    bound.train()
    assert_moves_as_plain(bound, method)


def resume(method, out):
    """By its path, and by True; dropout shows whether the random state came back."""
    options = {"save_strategy": "steps", "save_steps": 2}
    straight = run(method, out / "a", model=tiny.bert(dropout=0.1), **options)
    run(method, out / "b", model=tiny.bert(dropout=0.1), callbacks=[StopAt(2)], **options)
    for place, by in (("c", str(out / "a" / "checkpoint-2")), ("b", True)):
        again = bound_to(method, out / place, model=tiny.bert(dropout=0.1), **options)
        taken.clear()
        again.train(resume_from_checkpoint=by)
        assert taken == [2, 3]
        assert same(weights(again.model), weights(straight.model))


class Terminated(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == 2:
            signal.raise_signal(signal.SIGTERM)


class AtOnce(threading.Timer):
    def start(self):
        self.function()


def just_in_time(method, out):
    """SIGTERM makes a checkpoint at once, with no others asked for; the run goes on from it."""
    straight = run(method, out / "a", model=tiny.bert(dropout=0.1))
    options = {"enable_jit_checkpoint": True}
    handler = signal.getsignal(signal.SIGTERM)
    ended = bound_to(
        method, out / "b", model=tiny.bert(dropout=0.1), callbacks=[Terminated()], **options
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("transformers.trainer_jit_checkpoint.threading.Timer", AtOnce)
        ended.train()
    assert ended.state.global_step < STEPS
    assert signal.getsignal(signal.SIGTERM) is handler
    [checkpoint] = (out / "b").iterdir()
    assert checkpoint.name == "checkpoint-2"
    assert not (checkpoint / "checkpoint-is-incomplete.txt").exists()
    again = bound_to(method, out / "b", model=tiny.bert(dropout=0.1))
    again.train(resume_from_checkpoint=True)
    assert same(weights(again.model), weights(straight.model))


def resized_embeddings(method, out):
    """New rows are in no checkpoint: they train where embeddings do, and are saved everywhere."""
    tiny.bert().save_pretrained(out / "base")

    def base(seed):
        model = BertForSequenceClassification.from_pretrained(out / "base")
        torch.manual_seed(seed)
        model.resize_token_embeddings(tiny.VOCAB + 6, mean_resizing=False)
        return model

    found = run(method, out / "run", model=base(1))
    assert_moves_as_plain(found, method)
    found.save_model(out / "artifact")
    loaded = ftplug.load(base(2), out / "artifact")
    batch = {"input_ids": torch.arange(tiny.VOCAB, tiny.VOCAB + 6)[None]}
    assert torch.equal(logits(loaded, batch), logits(found.model, batch))


class Board(TrainerCallback):
    """Stands where TensorBoard's callback and Trackio's stand."""

    def __init__(self):
        self.logs, self.arguments = [], None

    def on_train_begin(self, args, state, control, **kwargs):
        self.arguments = args.to_sanitized_dict()

    def on_log(self, args, state, control, logs=None, **kwargs):
        self.logs.append(dict(logs))


@functools.cache
def reported_without_ftplug(out):
    board = Board()
    trainer(tiny.bert(), out, callbacks=[board], max_steps=STEPS, save_strategy="no",
            learning_rate=1e-2).train()  # fmt: skip
    return board


def reporting(method, out):
    board = Board()
    run(method, out, callbacks=[board])
    expected = reported_without_ftplug(out.parent / "reported")
    assert [sorted(logs) for logs in board.logs] == [sorted(logs) for logs in expected.logs]
    assert board.logs[0]["loss"] > 0
    assert board.logs[0]["grad_norm"] > 0
    own = {"output_dir", "logging_dir", "hub_model_id", "run_name"}
    for name in expected.arguments.keys() - own:
        assert board.arguments[name] == expected.arguments[name], name


def neftune(method, out):
    found = run(method, out, neftune_noise_alpha=5.0)
    assert losses(found) != pytest.approx(losses(plain(method)), abs=1e-5)
    assert not found.model.get_input_embeddings()._forward_hooks
    assert_moves_as_plain(found, method)
    assert_artifact_reloads(found, out, tiny.bert())


def optim(name, method, out):
    found = run(method, out, optim=name)
    cls = type(trainer(tiny.bert(), out, optim=name).create_optimizer())
    assert issubclass(cls, type(found.optimizer.optimizer)) or method == "galore"  # its own AdamW
    held = {id(p) for group in found.optimizer.param_groups for p in group["params"]}
    live = dict(found.model.named_parameters())
    assert held == {id(live[name]) for name in found.ftplug.attached.plan.may_train}
    assert moved(found)


FEATURES = {
    "gradient accumulation": accumulation,
    "activation checkpointing": checkpointing,
    "activation checkpointing, reentrant": reentrant,
    "bf16": bf16,
    "fp16": fp16,
    "torch.compile": compiled,
    "group by length": grouped_by_length,
    "early stopping": early_stopping,
    "save best": save_best,
    "save_total_limit": save_total_limit,
    "label smoothing": label_smoothing,
    "resume": resume,
    "checkpoint on SIGTERM": just_in_time,
    "resized embeddings": resized_embeddings,
    "reporting": reporting,
    "NEFTune": neftune,
    "optim=adamw_torch": functools.partial(optim, "adamw_torch"),
    "optim=sgd": functools.partial(optim, "sgd"),
    "optim=adafactor": functools.partial(optim, "adafactor"),
}
_NO_CACHE = "activation checkpointing drops the cache that holds the prefix"
_ITS_OWN = "galore: is an optimizer itself, so that optim=.* would have no effect"
# Tracing takes seconds: of the methods that change no forward, one stands for all.
SAME_GRAPH = {"freeze", "bitfit", "gradual-unfreezing", "galore", "layerwise-lr", "l2-sp"}
CELLS = [
    pytest.param(feature, method, marks=[pytest.mark.gpu] * (feature == "fp16"))
    for feature in FEATURES
    for method in METHODS
    if not (feature == "torch.compile" and method in SAME_GRAPH)
]
REFUSED = {
    ("activation checkpointing", "prefix-tuning"): _NO_CACHE,
    ("activation checkpointing, reentrant", "prefix-tuning"): _NO_CACHE,
    ("optim=sgd", "galore"): _ITS_OWN,
    ("optim=adafactor", "galore"): _ITS_OWN,
}


@pytest.mark.parametrize(("feature", "method"), CELLS)
def test_a_feature_beside_a_method(tmp_path, feature, method):
    taken.clear()
    reason = REFUSED.get((feature, method))
    if reason is None:
        FEATURES[feature](method, tmp_path)
        return
    with pytest.raises(MethodError, match=reason):
        FEATURES[feature](method, tmp_path)
    assert taken == []  # before the first step
