"""Other people's scripts under ``ftplug run``: every script, every method, and what is measured.

A cell is one script with one method. It runs in this process through the launcher, on tiny models
and rows that lie in folders. ``scripts_table.py`` writes the results down, ``tests/scripts`` holds
them against a new run.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import random
import shlex
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import folders
import tiny
import torch
import transformers.trainer
from runs import logits, same, weights
from transformers import TrainerCallback

import ftplug
from ftplug.attaching.attachment import unwrap_model
from ftplug.discovery import entry
from ftplug.training.script import Launch

HERE = Path(__file__).parents[1] / "scripts"
METHODS: Mapping[str, dict[str, Any]] = {
    "lora": {"r": 4},
    "bottleneck": {"reduction_factor": 4},
    "prompt-tuning": {"num_virtual_tokens": 4},
    "gradual-unfreezing": {},
    "full": {},
}


@dataclass(frozen=True)
class Script:
    """A script and how it is started; ``base`` loads what it trains."""

    title: str
    target: str  # a file, or a module with -m
    model: str  # the folder's name
    data: str
    base: Callable[[Path], Any]
    spelling: tuple[str, str, str] = ("--model", "--data", "--out")
    resume: str | None = "--resume"
    more: tuple[str, ...] = ()
    module: bool = False

    def command(self, root: Path, out: Path, checkpoint: Path | None = None) -> list[str]:
        values = (root / self.model, root / self.data, out)
        given = [str(x) for pair in zip(self.spelling, values, strict=True) for x in pair]
        resume = [str(self.resume), str(checkpoint)] if checkpoint else []
        return [self.target, *given, *self.more, *resume]


def trl_script(name: str) -> str:
    """Return the path of a script as TRL installs it."""
    spec = importlib.util.find_spec("trl")
    assert spec is not None
    assert spec.origin is not None
    return str(Path(spec.origin).parent / "scripts" / f"{name}.py")


def _auto(name: str, **options: Any) -> Callable[[Path], Any]:
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


_CAUSAL = _auto("AutoModelForCausalLM")
_CLASSIFIER = _auto("AutoModelForSequenceClassification")

SCRIPTS: Mapping[str, Script] = {
    "trl-sft": _trl("sft", "texts", _CAUSAL),
    "trl-dpo": _trl("dpo", "pairs", _CAUSAL),
    "trl-kto": _trl("kto", "marked", _CAUSAL),
    "trl-reward": _trl(
        "reward", "pairs", _auto("AutoModelForSequenceClassification", num_labels=1)
    ),
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
        _auto("AutoModelForSeq2SeqLM"),
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


def write_inputs(root: Path) -> Path:
    """Write the models and the rows that the scripts are given."""
    folders.encoder(root / "encoder")
    folders.language_model(root / "llama")
    folders.translator(root / "t5")
    draw = random.Random(0)

    def text(words: int = 5) -> str:
        return " ".join(draw.choices(folders.WORDS[4:], k=words))

    pairs = [
        {"prompt": text(), "chosen": f" {text()}", "rejected": f" {text()}"} for _ in range(16)
    ]
    tables = {
        "texts": [{"text": text(8)} for _ in range(16)],
        "pairs": pairs,
        "marked": [
            {"prompt": text(), "completion": f" {text()}", "label": n % 2 == 0} for n in range(16)
        ],
        "labelled": [{"text": text(8), "label": n % 2} for n in range(16)],
    }
    for name, rows in tables.items():
        (root / name).mkdir()
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (root / name / "train.jsonl").write_text(lines)
    return root


@dataclass
class Run:
    """One run of a script under the launcher: its report, and the model its last train() left."""

    report: dict[str, Any]
    weights: dict[str, torch.Tensor]
    answers: torch.Tensor


def run(
    name: str, method: str, root: Path, out: Path, checkpoint: Path | None = None, **options: Any
) -> Run:
    """Run a script as ``ftplug run --method METHOD -- SCRIPT …`` does, in this process."""
    script = SCRIPTS[name]
    configured = entry(method).load().configure(METHODS[method])
    report = out / "report.json"
    launch = Launch([configured], report=report, **options)
    with _last_model() as last, _datasets_below(root), contextlib.chdir(HERE):
        launch.run(script.command(root, out, checkpoint), module=script.module)
    return Run(json.loads(report.read_text()), last["weights"], last["answers"])


def measure(name: str, method: str, root: Path, out: Path) -> dict[str, Any]:
    """Return what a cell shows: tensors that moved, whether it reloads, whether it resumes."""
    script = SCRIPTS[name]
    try:
        first = run(name, method, root, out)
    except ftplug.MethodError as error:
        return {"refused": str(error)}
    tensors = first.report["runs"][-1]["tensors"]
    again = ftplug.load(script.base(root / script.model), out)
    resumes = None
    if script.resume:
        second = run(name, method, root, out / "resumed", out / "checkpoint-2")
        resumes = same(first.weights, second.weights)
    return {
        "moved": tensors["moved"],
        "may_train": tensors["may_train"],
        "reloads": same(weights(again), first.weights)
        and torch.equal(answers(again), first.answers),
        "resumes": resumes,
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
        found = logits(model, batch)
    model.train(training)
    return found


@contextlib.contextmanager
def _last_model() -> Iterator[dict[str, Any]]:
    """Keep what the last ``train()`` left: a script drops its Trainer."""
    last: dict[str, Any] = {}

    class Remember(TrainerCallback):
        def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            model = unwrap_model(kwargs["model"])
            last.update(weights=weights(model), answers=answers(model))

    defaults: list[Any] = transformers.trainer.DEFAULT_CALLBACKS
    defaults.append(Remember)
    try:
        yield last
    finally:
        defaults.remove(Remember)


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
