"""Other people's scripts under ``ftplug run``: every script, every method, and what is measured.

A cell is one script with one method. It runs in this process through the launcher, on tiny models
and rows that lie in folders. ``scripts_table.py`` writes the results down, ``tests/scripts`` holds
them against a new run.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import shlex
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import datasets
import folders
import tiny
import torch
import transformers
from runs import logits, same, weights

import ftplug
from ftplug.attaching.attachment import unwrap_model
from ftplug.discovery import entry
from ftplug.training.script import Launch, LaunchedCallback

HERE = Path(__file__).parents[1] / "scripts"
METHODS: Mapping[str, dict[str, Any]] = {
    "lora": {"r": 4},
    "bottleneck": {"reduction_factor": 4},
    "prompt-tuning": {"num_virtual_tokens": 4},
    "gradual-unfreezing": {},
    "full": {},
}


def answers(model: Any) -> torch.Tensor:
    """Return what a model says about fixed inputs, with dropout off."""
    training = model.training
    if hasattr(model, "encode"):
        found: torch.Tensor = model.eval().encode(["the good", "bad"], convert_to_tensor=True)
    else:
        batch = tiny.inputs(model)
        batch["input_ids"] = batch["input_ids"] % len(folders.WORDS)
        del batch["labels"]
        if model.config.is_encoder_decoder:
            batch["decoder_input_ids"] = batch["input_ids"]
            batch["use_cache"] = False  # as during training, to the last bit
        found = logits(model, batch)
    model.train(training)
    return found


@dataclass(frozen=True)
class Script:
    """A script and how it is started; ``base`` loads what it trains, ``answers`` asks it."""

    title: str
    target: str  # a file, or a module with -m
    model: str  # the folder's name
    data: str
    base: Callable[[Path], Any]
    spelling: tuple[str, str, str] = ("--model", "--data", "--out")
    resume: str | None = "--resume"
    first: tuple[str, ...] = ()
    more: tuple[str, ...] = ()
    module: bool = False
    artifact: str = "."  # where in the output folder the last artifact is
    answers: Callable[[Any], torch.Tensor] = answers

    def command(self, root: Path, out: Path, checkpoint: Path | None = None) -> list[str]:
        values = (root / self.model, root / self.data, out)
        given = [x for pair in zip(self.spelling, values, strict=True) for x in _spelled(*pair)]
        resume = _spelled(str(self.resume), checkpoint) if checkpoint else []
        return [self.target, *self.first, *given, *self.more, *resume]


def _spelled(name: str, value: Path) -> list[str]:
    return [f"{name}{value}"] if name.endswith("=") else [name, str(value)]


def trl_script(name: str) -> str:
    """Return the path of a script as TRL installs it."""
    spec = importlib.util.find_spec("trl")
    assert spec is not None
    assert spec.origin is not None
    return str(Path(spec.origin).parent / "scripts" / f"{name}.py")


def auto(name: str, **options: Any) -> Callable[[Path], Any]:
    def load(folder: Path) -> Any:
        with torch.random.fork_rng():
            torch.manual_seed(42)  # a fresh head is drawn as the script draws it
            return getattr(transformers, name).from_pretrained(folder, **options)

    return load


def _sentence_transformer(folder: Path) -> Any:
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(folder), device="cpu")


def _trl(name: str, data: str, base: Callable[[Path], Any]) -> Script:
    return Script(
        f"TRL's `trl/scripts/{name}.py`",
        trl_script(name),
        "llama",
        data,
        base,
        ("--model_name_or_path", "--dataset_name", "--output_dir"),
        "--resume_from_checkpoint",
        (
            *shlex.split("--max_steps 4 --save_steps 2 --per_device_train_batch_size 4"),
            *shlex.split("--learning_rate 1e-2 --bf16 false"),
            *shlex.split("--report_to none --use_cpu --disable_tqdm true"),
        ),
    )


_CAUSAL = auto("AutoModelForCausalLM")
_CLASSIFIER = auto("AutoModelForSequenceClassification")

SCRIPTS: Mapping[str, Script] = {
    "trl-sft": _trl("sft", "texts", _CAUSAL),
    "trl-dpo": _trl("dpo", "pairs", _CAUSAL),
    "trl-kto": _trl("kto", "marked", _CAUSAL),
    "trl-reward": _trl("reward", "pairs", auto("AutoModelForSequenceClassification", num_labels=1)),
    "align": Script(
        "SFT, then DPO on the same model (TRL)", "align.py", "llama", "pairs/train.jsonl", _CAUSAL
    ),
    "embed": Script(
        "sentence-transformers on pairs",
        "embed.py",
        "encoder",
        "pairs/train.jsonl",
        _sentence_transformer,
    ),
    "translate": Script(
        "`Seq2SeqTrainer`, `predict_with_generate`",
        "translate.py",
        "t5",
        "pairs/train.jsonl",
        auto("AutoModelForSeq2SeqLM"),
    ),
    "classify": Script(
        "`-m` package, `HfArgumentParser`, best model",
        "classify",
        "encoder",
        "labelled/train.jsonl",
        _CLASSIFIER,
        ("--model", "--data", "--output_dir"),
        "--resume_from_checkpoint",
        (
            *shlex.split("--do_train --do_eval --max_steps 4 --save_steps 2 --eval_strategy steps"),
            *shlex.split(
                "--eval_steps 2 --load_best_model_at_end --metric_for_best_model accuracy"
            ),
            *shlex.split("--per_device_train_batch_size 4 --gradient_accumulation_steps 2"),
            *shlex.split("--learning_rate 1e-2 --report_to none --use_cpu --disable_tqdm true"),
        ),
        module=True,
    ),
    "weighted-loss": Script(
        "own `compute_loss`, `auto_find_batch_size`",
        "weighted_loss.py",
        "encoder",
        "labelled/train.jsonl",
        _CLASSIFIER,
    ),
    "own-optimizer": Script(
        "`optimizers=(…, …)`", "own_optimizer.py", "encoder", "labelled/train.jsonl", _CLASSIFIER
    ),
    "search": Script(
        "`model_init`, `hyperparameter_search` (optuna)",
        "search.py",
        "encoder",
        "labelled/train.jsonl",
        _CLASSIFIER,
        resume=None,
    ),
}

CELLS = [(script, method) for script in SCRIPTS for method in METHODS]


@dataclass
class Run:
    """One run of a script under the launcher: its report, and the model its last train() left."""

    report: dict[str, Any]
    weights: dict[str, torch.Tensor]
    answers: torch.Tensor


def run(
    script: Script,
    method: str,
    root: Path,
    out: Path,
    checkpoint: Path | None = None,
    **options: Any,
) -> Run:
    """Run a script as ``ftplug run --method METHOD -- SCRIPT …`` does, in this process."""
    configured = entry(method).load().configure(METHODS[method])
    report = out / "report.json"
    launch = Launch([configured], report=report, **options)
    with _last_model(script) as last, _datasets_below(root), contextlib.chdir(HERE):
        launch.run(script.command(root, out, checkpoint), module=script.module)
    return Run(json.loads(report.read_text()), last["weights"], last["answers"])


def measure(script: Script, method: str, root: Path, out: Path) -> dict[str, Any]:
    """Return what a cell shows: tensors that moved, whether it reloads, whether it resumes."""
    try:
        first = run(script, method, root, out)
    except ftplug.MethodError as error:
        return {"refused": str(error)}
    tensors = first.report["runs"][-1]["tensors"]
    again = ftplug.load(script.base(root / script.model), out / script.artifact)
    resumes = None
    if script.resume:
        second = run(script, method, root, out / "resumed", out / "checkpoint-2")
        resumes = same(first.weights, second.weights)
    return {
        "moved": tensors["moved"],
        "may_train": tensors["may_train"],
        "reloads": same(weights(again), first.weights)
        and torch.equal(script.answers(again), first.answers),
        "resumes": resumes,
    }


@contextlib.contextmanager
def _last_model(script: Script) -> Iterator[dict[str, Any]]:
    """Keep what the last ``train()`` left: a script drops its Trainer."""
    last: dict[str, Any] = {}
    own = LaunchedCallback.on_train_end

    def on_train_end(self: Any, *args: Any, **kwargs: Any) -> None:
        own(self, *args, **kwargs)
        model = unwrap_model(kwargs["model"])
        last.update(weights=weights(model), answers=script.answers(model))

    with mock.patch.object(LaunchedCallback, "on_train_end", on_train_end):
        yield last


@contextlib.contextmanager
def _datasets_below(root: Path) -> Iterator[None]:
    """Let ``datasets`` keep its cache beside the rows."""
    before = datasets.config.HF_DATASETS_CACHE
    datasets.config.HF_DATASETS_CACHE = root / "cache"
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        datasets.config.HF_DATASETS_CACHE = before
        datasets.enable_progress_bars()
