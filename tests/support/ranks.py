"""What both of two processes do in a test, over the conformance kit's warm pair.

``both(function, **arguments)`` calls a function of this module in each and returns the two answers.
A refusal is an answer too: the pair lives on.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import tiny
import torch

import ftplug
from ftplug.artifacts import checkpoint
from ftplug.attaching import sharding
from ftplug.host import resolve
from ftplug.structure import named_tensors, shards
from ftplug.testing import ddp
from ftplug.testing.compare import base_model, logits
from ftplug.testing.run import tiny_trainer, without_collecting
from ftplug.training import checkpoint_folder as staging
from ftplug.training.restarting import going_on

STEPS, CHECKPOINT = 4, 2
MOE = "qwen3-moe"
EXPERTS = {
    "lora on all experts": {"lora": {"r": 4, "target_parameters": ("all-experts",)}},
    "lora on all that is linear": {"lora": {"r": 4, "target_modules": "all-linear"}},
    "lora-plus": {"lora": {"r": 4, "target_parameters": ("all-experts",)}, "lora-plus": {}},
    "freeze": {"freeze": {"layers": 1}},
    "full": {"full": {}},
}
KEEPS_LAST = {"eval_strategy": "no", "load_best_model_at_end": False}


@dataclass(frozen=True)
class Call:
    function: Callable[..., Any]
    arguments: dict[str, Any]

    def do(self) -> Any:
        try:
            return self.function(**self.arguments)
        except ftplug.FtplugError as error:
            return f"{type(error).__name__}: {error}", None  # no string alone: that is a crash


def both(function: Callable[..., Any], **arguments: Any) -> list[Any]:
    return ddp.processes().do(Call(function, arguments), function.__name__)


def refusals(function: Callable[..., Any], **arguments: Any) -> list[str]:
    """Return what each process raised."""
    return [message for message, _ in both(function, **arguments)]


@contextmanager
def as_if_on_gpus() -> Iterator[None]:
    """Let accelerate shard on the CPU, where it takes DistributedDataParallel for FSDP otherwise.

    It asks what kind of processes there are; all else is the real FSDP2, over gloo.
    """
    from accelerate.state import PartialState
    from accelerate.utils import DistributedType

    plain = PartialState.__init__

    def pretend(self: Any, *args: Any, **kwargs: Any) -> None:
        plain(self, *args, **kwargs)
        self.distributed_type = DistributedType.MULTI_GPU

    with mock.patch.object(PartialState, "__init__", pretend), mock.patch.dict(os.environ):
        yield


def sharded_options(**config: Any) -> dict[str, Any]:
    return {"fsdp": True, "fsdp_config": {"transformer_layer_cls_to_wrap": ["BertLayer"], **config}}


def rank() -> int:
    return torch.distributed.get_rank()


def bound(methods: dict[str, Any], out: Path, model: Any = None, **options: Any) -> Any:
    """Return a bound Trainer of ``STEPS`` steps with a checkpoint halfway; ``{name: settings}``."""
    defaults = {
        "max_steps": STEPS,
        "save_steps": CHECKPOINT,
        "learning_rate": 1e-2,
        **KEEPS_LAST,
    }
    model = model or base_model("bert", dropout=0.1)
    made = tiny_trainer(model, out, **(defaults | options))
    return ftplug.attach(made, *[resolve([n], s)[0] for n, s in methods.items()])


def trained(methods: dict[str, Any], out: Path, resume: bool = False, **options: Any) -> Any:
    made = bound(methods, out, **options)
    with without_collecting():
        made.train(resume_from_checkpoint=str(out / f"checkpoint-{CHECKPOINT}") if resume else None)
    return made


def whole(model: Any) -> dict[str, torch.Tensor]:
    """Return copies of all parameters and buffers, gathered where they are sharded."""
    sharding.reshard(model)
    live = named_tensors(model)
    return {name: shards.whole(tensor).detach().clone() for name, tensor in live.items()}


# What is called in both.


def ended(
    methods: dict[str, Any], out: Path, family: str, steps: int = 16, **options: Any
) -> tuple[Any, list[str]]:
    """Train; return all tensors, and which of them a run resumed halfway ends with otherwise."""

    def run(checkpoint: str | None) -> Any:
        model = base_model(family, dropout=0.1)
        schedule = {"max_steps": steps, "save_steps": steps // 2}
        made = bound(methods, out, model, **schedule, **options)
        with without_collecting():
            made.train(resume_from_checkpoint=checkpoint)
        return whole(made.model)

    weights = run(None)
    again = run(str(out / f"checkpoint-{steps // 2}"))
    return weights, [name for name, value in weights.items() if not value.equal(again[name])]


def sharded_ended(methods: dict[str, Any], out: Path, family: str, layer: str) -> Any:
    with as_if_on_gpus():
        return ended(methods, out, family, **sharded_options(transformer_layer_cls_to_wrap=[layer]))


def ddp_weights(methods: dict[str, Any], out: Path, **options: Any) -> Any:
    return whole(trained(methods, out, **options).model)


def sharded_run(methods: dict[str, Any], out: Path, artifact: Path, **config: Any) -> Any:
    """Train sharded, resume, save and ask the model again; all that is to be compared."""
    with as_if_on_gpus():
        options = sharded_options(**config)
        made = trained(methods, out, **options)
        model = made.model
        found = {"sharded": sharding.is_sharded(model), "weights": whole(model)}
        found["units"] = sum(type(m).__name__ == "FSDPBertLayer" for m in model.modules())
        found["local"] = sum(p.numel() for p in sharding.local_parameters(model).values())
        found["logits"] = logits(model)
        with ftplug.disabled(model):
            found["base"] = logits(model)
        found["again"] = logits(model)
        made.save_model(str(artifact))
        ftplug.save(model, artifact.with_name("by-hand"))
        model.save_pretrained(artifact.with_name("pretrained"), is_main_process=rank() == 0)
        try:
            ftplug.merge(model)
        except ftplug.MethodError as error:
            found["merge"] = str(error)
        found["resumed"] = whole(trained(methods, out, resume=True, **options).model)
    return found


def sharded_best(methods: dict[str, Any], out: Path, **options: Any) -> Any:
    """Train sharded with the first checkpoint scored best; the best model, and that checkpoint."""
    best = {"eval_strategy": "steps", "eval_steps": CHECKPOINT, "load_best_model_at_end": True}
    with as_if_on_gpus():
        made = trained(methods, out, **sharded_options(), **best, **options)
        weights = whole(made.model)
        made.train(resume_from_checkpoint=str(out / f"checkpoint-{CHECKPOINT}"))
        return weights, whole(made.model)


def sharded_refusal(methods: dict[str, Any], out: Path, **config: Any) -> Any:
    """Return what is said before the first step, and the step at which it was said."""
    with as_if_on_gpus():
        made = None
        try:
            made = bound(methods, out, **sharded_options(**config))
            made.train()
        except ftplug.MethodError as error:
            return f"MethodError: {error}", made and made.state.global_step
    return "nothing", None


def attached_to_a_sharded_model(method: str) -> Any:
    from torch.distributed.fsdp import fully_shard

    model = tiny.bert()
    fully_shard(model)
    ftplug.apply(model, method)


def attached_to_a_divided_model(folder: Path, method: str) -> Any:
    """Load as tensor parallelism does, each process its part of every layer."""
    from transformers import AutoModelForCausalLM
    from transformers.distributed import DistributedConfig

    divided = DistributedConfig(tp_size=2)
    model = AutoModelForCausalLM.from_pretrained(folder, distributed_config=divided)
    assert any(sharding.is_shard(parameter) for parameter in model.parameters())
    ftplug.apply(model, method)


def each_in_its_own_folder(methods: dict[str, Any], out: Path, **options: Any) -> None:
    """Train, save and write the card as if the processes shared no disk."""
    made = trained(methods, out / str(rank()), **options)
    made.save_model(str(out / str(rank()) / "artifact"))
    made.create_model_card()


def refused(methods: dict[str, Any], out: Path, **options: Any) -> None:
    bound(methods, out, **options)


def where_the_first_fills_the_disk(out: Path, what: str) -> None:
    """Let the first process fail in the middle of a checkpoint."""
    places = {
        "folder": (staging, "open_stage"),
        "weights": (checkpoint, "write_tensors"),
        "optimizer": (torch, "save"),
        "name": (staging, "replace_directory"),
    }
    full = mock.patch.object(*places[what], side_effect=OSError(28, "No space left on device"))
    with full if rank() == 0 else nullcontext():
        trained({"lora": {"r": 4}}, out)


def resumed_where_one_lacks_the_checkpoint(out: Path) -> None:
    """Resume from a folder that the second process does not see."""
    trained({"lora": {"r": 4}}, out)
    made = bound({"lora": {"r": 4}}, out)
    seen = out / f"checkpoint-{CHECKPOINT}"
    with (
        mock.patch.object(staging, "STATE", "x"),
        mock.patch.object(checkpoint, "STATE", "elsewhere" if rank() == 1 else checkpoint.STATE),
    ):
        made.train(resume_from_checkpoint=str(seen))


def sharded_weights(methods: dict[str, Any], out: Path, **options: Any) -> Any:
    with as_if_on_gpus():
        return whole(trained(methods, out, **sharded_options(), **options).model)


def sharded_report(out: Path) -> Any:
    """Return what ``ftplug run --report`` writes of a sharded run."""
    from ftplug.training.script import Launch, LaunchedCallback

    with as_if_on_gpus():
        launch = Launch(resolve(["lora"], {"r": 4}))
        callback = LaunchedCallback(launch)
        options = sharded_options() | {"max_steps": 2, "save_strategy": "no"}
        made = tiny_trainer(base_model("bert"), out, learning_rate=1e-2, **KEEPS_LAST, **options)
        ftplug.training.binding.bind(made, callback)
        made.add_callback(callback)
        made.train()
        return json.loads(json.dumps(callback.summary(), default=str))


def launched(methods: dict[str, Any], script: Path, out: Path) -> None:
    """Run a script as ``ftplug run`` does in each process."""
    from ftplug.training.script import Launch

    launch = Launch([resolve([name], settings)[0] for name, settings in methods.items()])
    with suppress(SystemExit):
        launch.run([str(script), "--out", str(out)])


def last_whole(folder: Path) -> Any:
    """Return the name of the checkpoint that a process with a disk of its own goes on from."""
    bound({"lora": {"r": 4}}, folder / str(rank()))  # accelerate then knows of both
    found = going_on.last_whole_of_all(folder / str(rank()))
    return [found and found.name]


def sharded_probes(method: str, out: Path) -> None:
    """Save a sharded model in every way that all processes take part in, and by one of them."""
    with as_if_on_gpus():
        made = trained({method: {}}, out / "fsdp", model=base_model("bert"), **sharded_options())
        made.save_model(str(out / "save_model"))
        ftplug.save(made.model, out / "save")
        made.model.save_pretrained(out / "pretrained", is_main_process=rank() == 0)
        state_dict = whole(made.model)
        if rank() == 0:
            ftplug.save(made.model, out / "one-rank", state_dict=state_dict)
