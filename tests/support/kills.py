"""Runs in processes that die: forked from one that has imported everything, killed, resumed.

multiprocessing's fork server is a process without threads; its children start in milliseconds.
"""

from __future__ import annotations

import errno
import gc
import io
import logging
import multiprocessing
import os
import signal
import socket
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import runs
import tiny
import torch
import transformers
from safetensors.torch import load_file
from transformers import TrainerCallback
from transformers.trainer_utils import get_last_checkpoint

import ftplug
import ftplug.cli
import ftplug.training.binding
from ftplug.artifacts.checkpoint import check_complete
from ftplug.files import swapping
from ftplug.files.folder_lock import claimed

KILLED = -signal.SIGKILL
SUPPORT = Path(__file__).parent
STEPS, EVERY = 12, 4  # steps of a run, and of those between two checkpoints
METHODS: dict[str, dict[str, Any]] = {
    "lora": {"r": 4},
    "lisa": {"layers": 1, "period": 2},
    "gradual-unfreezing": {},
    "galore": {"rank": 4, "update_proj_gap": 5},
    "prompt-tuning": {"num_virtual_tokens": 4},
}
TIMEOUT = 20  # seconds that one of two processes waits for the other: ddp_timeout
# What changes a folder, as Python's audit events name it; reading opens are left out.
CHANGES = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.chmod", "os.link", "open"}
# What a run imports late.
WARM = [
    "ftplug.training.script",
    "ftplug_plugins.gradual_unfreezing",
    "ftplug_plugins.lisa",
    "ftplug_plugins.lora",
    "ftplug_registry.card.rendering",
    "ftplug_registry.commands",
    "matplotlib.backends.backend_agg",
    "matplotlib.figure",
    "mpl_toolkits.mplot3d",
    "peft",
    "pydantic.dataclasses",
    "transformers.models.bert.modeling_bert",
]


class Spawner:
    """Runs functions of modules in fresh children of a warm process, and returns how they end."""

    def __init__(self) -> None:
        # The server itself gets no sys.path from its parent (Python 3.11).
        path = os.pathsep.join([str(SUPPORT), *filter(None, sys.path)])
        before = os.environ.get("PYTHONPATH")
        os.environ["PYTHONPATH"] = path
        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload(["kills", *WARM])
        self.run(os.getpid)
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before

    def start(self, function: Callable[..., Any], *arguments: Any) -> Any:
        process = self.context.Process(target=function, args=arguments)
        process.start()
        return process

    def run(self, function: Callable[..., Any], *arguments: Any) -> int:
        """Return the exit code; -9 for a child that was killed."""
        process = self.start(function, *arguments)
        process.join()
        return int(process.exitcode)


def quiet() -> None:
    """Make a child quiet and quick."""
    gc.freeze()  # what the server imported: accelerate collects garbage before each run
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", "'pin_memory' argument")
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    sys.stdout = io.StringIO()  # the Trainer prints its losses
    logging.getLogger("ftplug").setLevel(logging.ERROR)


class Interrupt:
    """Does something before the n-th change of a folder's content (never for 0); counts them."""

    def __init__(self, folder: Path, number: int, action: str = "SIGKILL") -> None:
        self.folder, self.number, self.action = str(folder), number, action
        self.armed = False
        self.trail: list[str] = []
        sys.addaudithook(self)

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.armed or event not in CHANGES:
            return
        path = str(arguments[0])
        writes = event != "open" or (arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR)
        inside = path.startswith(self.folder) or not os.path.isabs(path)  # rmtree names no folder
        if writes and inside:
            self.trail.append(f"{event} {path.removeprefix(self.folder)}")
            if len(self.trail) == self.number:
                self.armed = False
                interrupt(self.action)


def interrupt(action: str) -> None:
    """Send this process a signal, or fail as a system call does."""
    if action.startswith("SIG"):
        os.kill(os.getpid(), getattr(signal, action))
    else:
        number = getattr(errno, action)
        raise OSError(number, os.strerror(number))


def bound(out: Path, method: str, best: bool = False, **options: Any) -> Any:
    """Return a bound Trainer whose run depends on every random state that a checkpoint holds.

    ``best``: it evaluates before each save, and its second checkpoint is the best one.
    """
    torch.set_num_threads(1)
    defaults: dict[str, Any] = {"max_steps": STEPS, "save_steps": EVERY}
    if best:
        defaults |= {"eval_strategy": "steps", "eval_steps": options.get("save_steps", EVERY)}
        defaults |= {"load_best_model_at_end": True, "metric_for_best_model": "accuracy"}
    trainer = runs.trainer(tiny.bert(dropout=0.1), out, **(defaults | options))
    second = 2 * trainer.args.save_steps
    trainer.compute_metrics = lambda _: {
        "accuracy": 1 / (1 + abs(trainer.state.global_step - second))
    }
    return ftplug.attach(trainer, method, **METHODS[method])


def last(out: Path) -> str | None:
    """Return what a user's script resumes from."""
    found: str | None = get_last_checkpoint(out) if out.is_dir() else None
    return found


def train(out: Path, method: str, options: dict[str, Any], when: dict[str, Any]) -> None:
    """Train as a user's script does: on from the last checkpoint, where there is one.

    ``when`` it is interrupted: see :func:`arm`. With ``artifact`` in the options it saves one. With
    ``rank`` and ``port`` it is one of two processes.
    """
    quiet()
    artifact, ready = options.pop("artifact", False), options.pop("ready", None)
    rank = options.pop("rank", 0)
    timeout = options.pop("timeout", TIMEOUT)
    if port := options.pop("port", None):
        options |= be_one_of_two(rank, port) | {"ddp_timeout": timeout}
    trainer = bound(out, method, **options)
    if ready:
        ready.set()
    if when:
        arm(trainer, out, **when)
    try:
        trainer.train(resume_from_checkpoint=True if last(out) else None)
        if artifact:
            trainer.save_model(beside(out, "-artifact"))
    except ftplug.FtplugError as error:
        beside(out, error_name(rank)).write_text(str(error))
        raise SystemExit(1) from error
    result(trainer, out, end_name(rank))


def be_one_of_two(rank: int, port: int) -> dict[str, Any]:
    """Say in the environment what torchrun says; return what a user adds to the arguments."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
    os.environ |= {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    return {"use_cpu": True, "ddp_backend": "gloo"}


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return int(server.getsockname()[1])


def error_name(rank: int = 0) -> str:
    return f"{rank or ''}.error"


def end_name(rank: int = 0) -> str:
    return f"-end{rank or ''}.pt"


def arm(trainer: Any, out: Path, save: int, change: int, action: str = "SIGKILL") -> None:
    """Interrupt the ``save``-th checkpoint of this process before its ``change``-th step."""
    interruption, own = Interrupt(out, change, action), trainer._save_checkpoint
    number = iter(range(1, 1000))

    def save_checkpoint(*arguments: Any) -> None:
        interruption.armed = armed = next(number) == save
        own(*arguments)
        interruption.armed = False
        if armed:
            beside(out, ".trail").write_text("\n".join(interruption.trail))

    trainer._save_checkpoint = save_checkpoint


def beside(out: Path, ending: str) -> Path:
    return out.with_name(f"{out.name}{ending}")


def result(trainer: Any, out: Path, name: str = "-end.pt") -> None:
    """Write what a run ends with beside its folder: everything that must be bit-identical."""
    state = {
        "weights": runs.weights(trainer.model),
        "optimizer": trainer.optimizer.state_dict(),
        "scheduler": trainer.lr_scheduler.state_dict(),
        "losses": runs.losses(trainer),
        "best": trainer.state.best_global_step,
    }
    torch.save(state, beside(out, name))


def end_of(out: Path) -> dict[str, Any]:
    """Return what :func:`result` wrote."""
    return dict(torch.load(beside(out, "-end.pt"), weights_only=False))


def differences(out: Path, reference: Path, ranks: int = 1) -> list[str]:
    """Return what of a run's end differs from another's, in words; nothing for equal bits."""
    found = []
    for name in map(end_name, range(ranks)):
        if not beside(out, name).is_file():
            return [f"no {name}"]
        ours, theirs = (
            torch.load(beside(end, name), weights_only=False) for end in (out, reference)
        )
        found += [f"{key} in {name}" for key in theirs if not equal(ours[key], theirs[key])]
    for path in sorted(beside(reference, "-artifact").glob("*.safetensors")):
        ours, theirs = beside(out, "-artifact") / path.name, path
        if not ours.is_file() or not runs.same(load_file(ours), load_file(theirs)):
            found.append(path.name)
    return found


def equal(first: Any, second: Any) -> bool:
    """Whether two nests of containers hold the same bits."""
    if isinstance(first, torch.Tensor):
        return isinstance(second, torch.Tensor) and torch.equal(first, second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(equal(v, second[k]) for k, v in first.items())
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(map(equal, first, second))
    if type(first) is type(second) and hasattr(first, "__dict__"):  # DeepSpeed's loss scaler
        return equal(vars(first), vars(second))
    return bool(first == second)


def incomplete(out: Path) -> str:
    """Return what is wrong with the checkpoint that is resumed; nothing where there is none."""
    if (found := last(out)) is None:
        return ""
    try:
        check_complete(Path(found))
    except ftplug.ArtifactError as error:
        return str(error)
    return ""


def names(out: Path) -> list[str]:
    return sorted(path.name for path in out.iterdir())


def carrier(method: str, scale: float) -> Any:
    """Return a tiny model with a method and values that ``scale`` decides."""
    return runs.shake(ftplug.apply(tiny.bert(), method, **METHODS.get(method, {})), scale)


def save_artifact(target: Path, method: str, scale: float, change: int, action: str) -> None:
    """Save an artifact, and be interrupted before a change of the folder that it lies in."""
    quiet()
    model = carrier(method, scale)
    interruption = Interrupt(target.parent, change, action)
    interruption.armed = True
    try:
        ftplug.save(model, target)
    except ftplug.ArtifactError as error:
        raise SystemExit(1) from error
    interruption.armed = False
    beside(target, ".trail").write_text("\n".join(interruption.trail))


def adopt(adapter: Path, base: Path, target: Path, change: int = 0) -> None:
    """Adopt an adapter, and be killed before a change of the folder that the target lies in."""
    from ftplug.adopting import adopt as adopting

    quiet()
    interruption = Interrupt(target.parent, change)
    interruption.armed = True
    try:
        adopting.adopt(adapter, base=str(base), to=target)
    except ftplug.ArtifactError as error:
        beside(target, f".refused-{os.getpid()}").write_text(str(error))
        raise SystemExit(1) from error
    interruption.armed = False
    beside(target, ".trail").write_text("\n".join(interruption.trail))


def replace(stage: Path, target: Path, change: int, exchanges: bool) -> None:
    """Put a folder in another's place, and be killed in between."""
    if not exchanges:
        swapping.exchange = lambda *names: False
    interruption = Interrupt(target.parent, change)
    interruption.armed = True
    swapping.replace_directory(stage, target)


def train_until(out: Path, pipe: Any) -> None:
    """Train, and wait after the first checkpoint: this run is killed."""

    class Wait(TrainerCallback):
        def on_save(self, *arguments: Any, **kwargs: Any) -> None:
            pipe.send("saved")
            pipe.poll(None)

    quiet()
    trainer = bound(out, "lora", max_steps=6, save_steps=2)
    trainer.add_callback(Wait())
    trainer.train()


def claim_and_fork(folder: Path, pipe: Any) -> None:
    """Claim a folder, and have a worker that lives on until the pipe is closed."""
    with claimed(folder):
        worker = os.fork()
        if not worker:
            pipe.send("claimed")
        pipe.poll(None)
        if not worker:
            os._exit(0)


def command(*arguments: str) -> None:
    """Be ``ftplug ARGUMENTS``, and end as the interpreter does."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs ignore it
    sys.argv = ["ftplug", *arguments]
    try:
        ftplug.cli.main()
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
