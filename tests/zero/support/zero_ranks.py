"""Two gloo processes under DeepSpeed's own engine, and what both do in a test.

They are a pair of their own beside the one under DistributedDataParallel, since what DeepSpeed
changes in a process stays. ``both(function, **arguments)`` is as in ``ranks``.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import ranks

import ftplug
from ftplug.structure import shards
from ftplug.testing import ddp
from ftplug.testing.compare import base_model, logits

BUILD_SECONDS = 900  # of the one operation that g++ compiles, once a TORCH_EXTENSIONS_DIR
BUILD = "from deepspeed.comm.torch import build_shm_op; build_shm_op()"


def why_skipped() -> str | None:
    """Return why DeepSpeed cannot run here, or None."""
    if importlib.util.find_spec("deepspeed") is None:
        return "needs deepspeed, which is not installed: make zero"
    if shutil.which("g++") is None:
        return "needs g++, which compiles an operation of DeepSpeed's at its first start"
    return None


def processes() -> ddp.Processes:
    """Return this session's pair, once what both need is compiled: they wait for each other."""
    if failed := _build():
        raise AssertionError(failed)
    return _pair()


@functools.cache
def _pair() -> ddp.Processes:
    return ddp.Processes()


@functools.cache
def _build() -> str:
    """Compile the operation; return what failed, which is not tried again."""
    build = [sys.executable, "-c", BUILD]
    environment = os.environ | {"DS_ACCELERATOR": "cpu"}
    try:
        subprocess.run(
            build, env=environment, check=True, capture_output=True, timeout=BUILD_SECONDS
        )
    except subprocess.CalledProcessError as error:
        return f"DeepSpeed's operation does not compile: {error.stderr.decode()[-2000:]}"
    except subprocess.TimeoutExpired:
        return (
            f"DeepSpeed's operation was not compiled in {BUILD_SECONDS} s; a build that was killed "
            f"leaves a file named lock: delete {os.environ.get('TORCH_EXTENSIONS_DIR', 'it')}"
        )
    return ""


def both(function: Callable[..., Any], **arguments: Any) -> list[Any]:
    return processes().do(ranks.Call(function, arguments), function.__name__)


def refusals(function: Callable[..., Any], **arguments: Any) -> list[str]:
    """Return what each process raised."""
    return [message for message, _ in both(function, **arguments)]


@contextmanager
def on_cpus() -> Iterator[None]:
    """Let accelerate start DeepSpeed on the CPU.

    With ``use_cpu`` it runs DistributedDataParallel without a word, and without it each process
    alone. It asks which processes there are; all else is the real DeepSpeed, over gloo.
    """
    from accelerate.state import PartialState
    from accelerate.utils import DistributedType
    from transformers.integrations.deepspeed import unset_hf_deepspeed_config

    def gloo(self: Any, *args: Any, **kwargs: Any) -> tuple[str, DistributedType]:
        return "gloo", DistributedType.MULTI_CPU

    here = {"DS_ACCELERATOR": "cpu"}
    with (
        mock.patch.object(PartialState, "_prepare_backend", gloo),
        mock.patch.dict(os.environ, here),
    ):
        try:
            yield
        finally:  # else a model that is loaded next would be in parts after a stage 3
            unset_hf_deepspeed_config()


def options(stage: int, zero: dict[str, Any] | None = None, **config: Any) -> dict[str, Any]:
    """Return arguments of a Trainer for a ZeRO stage; ``config`` is more of DeepSpeed's config.

    ``zero`` is more of its ``zero_optimization``. A tiny model's parameters, which stage 3 would
    keep whole, are partitioned as a large one's.
    """
    parts = {"stage3_param_persistence_threshold": 0} if stage == 3 else {}
    sizes = ("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps")
    auto = dict.fromkeys((*sizes, "gradient_clipping"), "auto")
    deepspeed = auto | {"zero_optimization": {"stage": stage} | parts | (zero or {})} | config
    return {"deepspeed": deepspeed, "use_cpu": False, "dataloader_pin_memory": False}


def require_engine(trainer: Any, stage: int) -> None:
    """Raise unless it was DeepSpeed's engine, at this stage and over both, that trained."""
    from deepspeed import DeepSpeedEngine

    engine = trainer.model_wrapped
    assert isinstance(engine, DeepSpeedEngine), f"{type(engine)} trained"
    assert engine.zero_optimization_stage() == stage
    assert engine.dp_world_size == trainer.args.world_size == ddp.RANKS


@contextmanager
def engines_of(stage: int) -> Iterator[None]:
    """Require DeepSpeed's engine of every Trainer that trains within."""
    from transformers import Trainer

    plain = Trainer.train

    def train(self: Any, *args: Any, **kwargs: Any) -> Any:
        done = plain(self, *args, **kwargs)
        require_engine(self, stage)
        return done

    with mock.patch.object(Trainer, "train", train):
        yield


def partitioned_model(when: str, folder: Path, arguments: dict[str, Any]) -> Any:
    """Return the base in ``folder`` in parts: by ``zero.Init`` "before" there are any arguments.

    Or "after" they were made, which lets transformers partition what it loads.
    """
    import deepspeed
    from transformers import BertForSequenceClassification, TrainingArguments

    if when == "before":
        model = BertForSequenceClassification.from_pretrained(folder)
        config = arguments["deepspeed"] | {"train_micro_batch_size_per_gpu": 4}
        sizes = ("train_batch_size", "gradient_accumulation_steps", "gradient_clipping")
        config = {name: value for name, value in config.items() if name not in sizes}
        deepspeed.zero.Init(module=model, config_dict_or_path=config)
    else:
        made = TrainingArguments(str(folder / "unused"), **arguments)
        model = BertForSequenceClassification.from_pretrained(folder)
        del made
    assert all(p.shape == (0,) for p in model.parameters()), "it is whole"
    return model


def trained(
    methods: dict[str, Any],
    out: Path,
    stage: int,
    resume: bool = False,
    config: dict[str, Any] | None = None,
    built: tuple[str, Path] | None = None,
    **arguments: Any,
) -> Any:
    """Return a Trainer that trained under DeepSpeed; the caller is within ``on_cpus``.

    ``built`` is what :func:`partitioned_model` takes; else the model is whole at first.
    """
    arguments = options(stage, **(config or {})) | arguments
    if built is not None:
        arguments["model"] = partitioned_model(*built, arguments)
    made = ranks.trained(methods, out, resume=resume, **arguments)
    require_engine(made, stage)
    return made


# What is called in both.


def weights(methods: dict[str, Any], out: Path, stage: int, **arguments: Any) -> Any:
    """Train under DeepSpeed; return all tensors that the model ends with."""
    with on_cpus():
        return ranks.whole(trained(methods, out, stage, **arguments).model)


def ended(methods: dict[str, Any], out: Path, family: str, stage: int, **arguments: Any) -> Any:
    """Do as ``ranks.ended`` under DeepSpeed."""
    with on_cpus(), engines_of(stage):
        return ranks.ended(methods, out, family, **options(stage), **arguments)


def resumed(methods: dict[str, Any], out: Path, stage: int, **arguments: Any) -> Any:
    """Resume from the checkpoint halfway; return all tensors that the model ends with."""
    return weights(methods, out, stage, resume=True, **arguments)


def resumed_elsewhere(methods: dict[str, Any], out: Path, stage: int) -> Any:
    """Resume on a base of other values."""
    model = base_model("bert", dropout=0.1)
    model.bert.embeddings.word_embeddings.weight.data.add_(1)
    return resumed(methods, out, stage, model=model)


def best(methods: dict[str, Any], out: Path, stage: int, **arguments: Any) -> Any:
    """Train with the first checkpoint scored best; return all tensors of the best model."""
    scored = {"eval_strategy": "steps", "eval_steps": ranks.CHECKPOINT}
    return weights(methods, out, stage, load_best_model_at_end=True, **scored, **arguments)


def everything(
    methods: dict[str, Any], out: Path, artifact: Path | None = None, **arguments: Any
) -> Any:
    """Train under ZeRO-3, save in three ways and ask the model again; all that is compared."""
    with on_cpus():
        made = trained(methods, out, 3, **arguments)
        model = made.model
        found = {"fingerprint": str(made.ftplug.attached.base.fingerprint)}
        found["parts"] = all(shards.is_partitioned(p) for p in model.parameters())
        found["local"] = sum(shards.own_part(p).numel() for p in model.parameters())
        found["weights"], found["logits"] = ranks.whole(model), logits(model)
        with ftplug.disabled(model):
            found["base"] = logits(model)
        found["again"], found["after"] = logits(model), ranks.whole(model)
        if artifact is not None:
            made.save_model(str(artifact))
            ftplug.save(model, artifact.with_name("by-hand"))
            model.save_pretrained(
                artifact.with_name("pretrained"), is_main_process=ranks.rank() == 0
            )
        try:
            ftplug.merge(model)
        except ftplug.MethodError as error:
            found["merge"] = str(error)
    return found


def attached_to_an_engine() -> Any:
    """Put a method on a model that DeepSpeed's engine has partitioned."""
    import deepspeed

    with on_cpus():
        model = base_model("bert")
        config = {"train_micro_batch_size_per_gpu": 4, "zero_optimization": {"stage": 3}}
        deepspeed.initialize(model=model, config=config)
        ftplug.apply(model, "lora")
