"""Structure-aware fuzzing of artifacts: a case is a number, and the number alone decides it.

``World(root)`` makes sound artifacts of several methods and their base once, in a warm process.
``run(world, number)`` spoils a copy of one of them and takes it through one door (load, load by
folder, verify, merge, push, pull, the command line) in a process forked for it. Beside what is
malformed there is what is forged: weights under right hashes that do not do what the probe says,
and an artifact that is no longer what was signed.
"""

import contextlib
import copy
import gc
import io
import json
import logging
import os
import random
import resource
import select
import shutil
import signal
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fuzz_mutations
import fuzz_proof
import hub as hubs
import malformed
import torch
from runs import shake

import ftplug
from ftplug.artifacts.merged_model import merge_artifact
from ftplug.errors import FtplugError
from ftplug.testing import tiny

SECONDS, MEGABYTES = 20, 1024  # beyond which a case hangs, or takes too much
METHODS: dict[str, dict[str, Any]] = {
    "lora": {"r": 4},
    "full": {},
    "freeze": {"layers": 1},
    "bottleneck": {"reduction_factor": 8},
    "prompt-tuning": {"num_virtual_tokens": 4},
    "ia3": {},
}
PLAIN = "plain peft"  # an adapter that ftplug did not make
SIGNED = "signed lora"
ARTIFACTS = [*METHODS, PLAIN]
COMMANDS = ["verify", "verify", "show", "merge", "push"]
DOORS = [
    "load",
    "load",
    "load",
    "folder",
    "folder",
    "verify",
    "files",
    "merge",
    "push",
    "pull",
    "cli",
    "trusted",
]
BAD = ["traceback", "hang", "memory", "changed", "other weights", "written", "forged"]


class World:
    """The base, one sound artifact a method and what it answers, a Hub in a process of its own."""

    def __init__(self, root: Path) -> None:
        torch.set_num_threads(1)
        self.root, self.base = root, root / "base"
        model = tiny.bert()
        model.save_pretrained(self.base)
        self.config = model.config
        self.model = type(model).from_pretrained(self.base).eval()
        self.answers: dict[str, torch.Tensor] = {}
        for method, settings in METHODS.items():
            made = ftplug.apply(type(model).from_pretrained(self.base), method, **settings)
            ftplug.save(shake(made), root / "sound" / method)
            self.answers[method] = answers(made)
        self._save_plain(root / "sound" / PLAIN)
        self.key = self._sign(shutil.copytree(root / "sound" / "lora", root / "sound" / SIGNED))
        self.answers[SIGNED] = self.answers["lora"]
        self.hub = _hub_process(root / "hub")
        for door in OPEN:  # what is imported late is there for all; and a sound one passes
            box = root / "warm" / f"sound-{door}"
            if door == "trusted":
                continue
            OPEN[door](self, shutil.copytree(root / "sound" / "lora", box / "artifact"), box)
            self.model = type(model).from_pretrained(self.base).eval()
        _trusted(self, root / "sound" / SIGNED)
        gc.collect()
        gc.freeze()

    def _save_plain(self, folder: Path) -> None:
        from peft import LoraConfig, get_peft_model

        model = type(self.model).from_pretrained(self.base)
        config = LoraConfig(r=4, task_type="SEQ_CLS", target_modules=["query", "value"])
        made = get_peft_model(model, config)
        shake(made.base_model.model)
        made.save_pretrained(folder)
        self.answers[PLAIN] = answers(made)

    def _sign(self, folder: Path) -> Path:
        """Sign an artifact; return the public key."""
        from ftplug_registry.signing.keys import generate
        from ftplug_registry.signing.making import Signer, sign

        os.environ["FTPLUG_CONFIG"] = str(self.root / "settings")
        key = self.root / "keys" / "alice"
        generate(key, None)
        sign(folder, Signer.of(key))
        self.signed = fuzz_proof.covered(folder)
        return key.with_name("alice.pub")

    def close(self) -> None:
        """End the Hub's process."""
        os.kill(self.hub.pid, signal.SIGKILL)
        os.waitpid(self.hub.pid, 0)


def answers(model: Any) -> torch.Tensor:
    """Return the logits for a fixed batch."""
    model.eval()
    with torch.no_grad():
        logits: torch.Tensor = model(**tiny.inputs(model)).logits
    return logits


def run(world: World, number: int) -> tuple[str, str, str]:
    """Run a case; returns outcome, door, and what was done to which artifact."""
    [result] = run_all(world, [number])
    return result


def run_all(world: World, numbers: Sequence[int]) -> Iterator[tuple[str, str, str]]:
    """Run cases one after another; a process that one of them ends is followed by a new one."""
    left = list(numbers)
    while left:
        shutil.rmtree(world.root / "cases" / str(left[0]), ignore_errors=True)  # half begun
        reading, writing = os.pipe()
        if (pid := os.fork()) == 0:
            try:
                _in_child(world, left, writing)
            finally:
                os._exit(1)
        os.close(writing)
        with _ended(pid), open(reading, "rb", buffering=0) as results:
            while left:
                ready, _, _ = select.select([results], [], [], SECONDS)
                line = results.readline() if ready else b""
                shutil.rmtree(world.root / "cases" / str(left[0]), ignore_errors=True)
                number = left.pop(0)
                if not line:
                    yield ("memory" if ready else "hang", *plan(number))
                    break
                outcome, door, what = json.loads(line)
                yield outcome, door, what
                if outcome in BAD:  # what it has left behind is not the next one's
                    break


@contextlib.contextmanager
def _ended(pid: int) -> Iterator[None]:
    """End a forked process with the block, however that ends."""
    try:
        yield
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def _in_child(world: World, numbers: Sequence[int], writing: int) -> None:
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 1)
    os.dup2(nothing, 2)
    sound = world.model
    warnings.simplefilter("always")  # else an earlier case would have had the only warning
    for number in numbers:
        world.model = copy.deepcopy(sound)
        try:
            result = _case(world, number)
        except BaseException:
            result = ("traceback", "?", traceback.format_exc()[-1500:])
        os.write(writing, json.dumps([part[:1500] for part in result]).encode() + b"\n")
    signal.pause()


def plan(number: int) -> tuple[str, str]:
    """Return door and artifact of a case."""
    draw = random.Random(f"plan {number}")
    door, artifact = draw.choice(DOORS), draw.choice(ARTIFACTS)
    return door, SIGNED if door == "trusted" else artifact


def _case(world: World, number: int) -> tuple[str, str, str]:
    door, method = plan(number)
    box = world.root / "cases" / str(number)
    folder = box / "artifact"
    shutil.copytree(world.root / "sound" / method, folder)
    draw = random.Random(f"case {number}")
    mutations = fuzz_mutations.MUTATIONS + malformed.MUTATIONS + fuzz_proof.MUTATIONS
    if method == PLAIN:
        mutations = fuzz_mutations.PLAIN
    chosen = draw.choice(mutations)
    done, extra = [chosen], [m for m in [draw.choice(mutations)] if draw.random() < 0.3]
    what = f"{method}: {chosen.__name__}: {_spoil(chosen, folder, draw)}"
    for more in extra:  # on top, where the first has left something to spoil
        if not all(path.is_file() or path.is_dir() for path in folder.rglob("*")):
            break  # whoever opens a pipe or a device would wait for ever
        with contextlib.suppress(Exception):
            what += f"; {more.__name__}: {_spoil(more, folder, draw)}"
            done.append(more)
    model = world.model
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    structure, memory = str(model), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    files = _files(folder), _files(world.base)
    loaded = said = None
    with _warned() as told:
        try:
            loaded = OPEN[door](world, folder, box)
        except FtplugError as error:
            said = str(error)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory
    if grown > MEGABYTES * 1024:
        return "memory", door, f"{what}: {grown // 1024} MB"
    if (_files(folder), _files(world.base)) != files:
        return "written", door, f"{what}: {said}"
    if said is not None:
        if "\n" in said or len(said) > 600:
            return "traceback", door, f"{what}: not one line: {said[:200]!r}"
        if door == "load" and not _is(model, before, structure):
            return "changed", door, f"{what}: {said}"
        return "refused", door, f"{what}: {said}"
    if _is_forged(world, door, method, folder, done, loaded) and not told:
        return "forged", door, what
    same = method != PLAIN and all(mutation in fuzz_mutations.SAME for mutation in done)
    other = same and isinstance(loaded, torch.nn.Module)
    if other and not torch.equal(answers(loaded), world.answers[method]):
        return "other weights", door, what
    if isinstance(loaded, torch.nn.Module) and (other := _other_tensor(loaded, folder, box)):
        return "other weights", door, f"{what}: {other}"
    if chosen is malformed.altered_file and len(done) == 1 and loaded != "show":  # reads one file
        return "other weights", door, what
    return "accepted", door, what


@contextlib.contextmanager
def _warned() -> Iterator[list[str]]:
    """Collect warnings of another effect: of a small difference a load warns and goes on."""
    told: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: told.append(record.getMessage())  # type: ignore[method-assign]
    handler.addFilter(lambda record: "effect: other" in record.getMessage())
    logging.getLogger("ftplug").addHandler(handler)
    try:
        yield told
    finally:
        logging.getLogger("ftplug").removeHandler(handler)


def _is_forged(
    world: World, door: str, method: str, folder: Path, done: Sequence[Any], loaded: Any
) -> bool:
    """Whether something was taken for what it is not: no longer what was signed, or of no effect.

    Two mutations may be as good as none (the probe is gone, too): one alone must be seen.
    """
    if door == "trusted":
        return fuzz_proof.covered(folder) != world.signed
    asked = isinstance(loaded, torch.nn.Module) or door == "merge" or loaded == "merge"
    return asked and method != PLAIN and len(done) == 1 and done[0] in fuzz_proof.FORGED


def _files(folder: Path) -> dict[str, tuple[int, int, int]]:
    """Return what lies in a folder, by name: size, time of its last change, inode."""
    found = ((path, path.lstat()) for path in folder.rglob("*"))
    return {str(p): (s.st_size, s.st_mtime_ns, s.st_ino) for p, s in found}


def _other_tensor(loaded: Any, folder: Path, box: Path) -> str | None:
    """Return the name of a tensor that is not as the artifact has it, once it is saved again."""
    from safetensors.torch import load_file

    if "_ftplug" not in vars(loaded):  # peft's own wrapper: what it saves is peft's
        loaded.save_pretrained(box / "again")
    else:
        ftplug.save(loaded, box / "again")
    for path in folder.glob("*.safetensors"):
        if path.name == malformed.PROBE:
            continue
        again = box / "again" / path.name
        if not again.exists():  # it belongs to nothing, or this base's are written otherwise
            continue
        now = load_file(again)
        for name, tensor in load_file(path).items():
            if name not in now or not torch.equal(tensor.to(now[name].dtype), now[name]):
                return f"{path.name}: {name}"
    return None


def _spoil(mutation: Callable[[Path, random.Random], str], folder: Path, draw: Any) -> str:
    try:
        return mutation(folder, draw)
    except (StopIteration, KeyError, IndexError, FileNotFoundError):  # it has nothing of that kind
        return malformed.wrong_type(folder, draw)


def _is(model: Any, before: dict[str, torch.Tensor], structure: str) -> bool:
    now = model.state_dict()
    same = now.keys() == before.keys() and all(torch.equal(now[n], t) for n, t in before.items())
    return same and str(model) == structure and "_ftplug" not in vars(model)


def _verify(folder: Path, **options: Any) -> None:
    from ftplug_registry import verify

    verify(folder, **options)


def _trusted(world: World, folder: Path) -> None:
    _verify(folder, files_only=True, trusted=world.key, require_signature=True)


class Refused(FtplugError):
    """What the command line printed."""

    def __str__(self) -> str:
        return str(self.args[0])


def _cli(world: World, folder: Path, box: Path) -> str:
    """Call the command line as its script does: a stated failure is 1 and one line on stderr."""
    from ftplug import cli

    stderr = io.StringIO()
    command = random.Random(f"command {box.name}").choice(COMMANDS)
    further = {
        "verify": ["--base", str(world.base)],
        "show": [],
        "merge": ["--base", str(world.base), "--to", str(box / "merged")],
        "push": ["local/x", "--dry-run"],
    }
    with (
        _arguments(command, str(folder), *further[command]),
        contextlib.redirect_stderr(stderr),
        contextlib.redirect_stdout(io.StringIO()),
    ):
        try:
            cli.main()
        except SystemExit as ended:
            lines = stderr.getvalue().strip().splitlines()
            if ended.code:
                raise Refused("\n".join(lines).removeprefix("ftplug: ")) from None
    return command


@contextlib.contextmanager
def _arguments(*given: str) -> Any:
    import sys

    before, sys.argv = sys.argv, ["ftplug", *given]
    try:
        yield
    finally:
        sys.argv = before


def _push(world: World, folder: Path, box: Path) -> None:
    from ftplug_registry import push

    with _client(world, box) as (_, hub):
        push(folder, f"local/{folder.parent.name}", hub=hub)


def _pull(world: World, folder: Path, box: Path) -> Any:
    """Publish by other means than ours, as an attacker would; pulled and loaded by ours."""
    from ftplug_registry import pull
    from huggingface_hub import CommitOperationAdd

    with _client(world, box) as (api, hub):
        repo_id = f"local/{folder.parent.name}"
        api.create_repo(repo_id)
        files = [path for path in folder.rglob("*") if path.is_file()]
        with contextlib.suppress(ValueError):  # a name that no Hub takes
            added = [
                CommitOperationAdd(path.relative_to(folder).as_posix(), path.read_bytes())
                for path in files
            ]
            api.create_commit(repo_id, added, commit_message="x")
        return ftplug.load(world.model, pull(repo_id, to=box / "pulled", hub=hub))


@contextlib.contextmanager
def _client(world: World, box: Path) -> Any:
    from ftplug_registry import Hub

    with hubs.client(world.hub, "local", home=box / "home") as api:
        yield api, Hub(world.hub.endpoint, world.hub.token("local"))


OPEN: dict[str, Callable[[World, Path, Path], Any]] = {
    "load": lambda world, folder, box: ftplug.load(world.model, folder),
    "folder": lambda world, folder, box: ftplug.load(world.base, folder),
    "verify": lambda world, folder, box: _verify(folder, base=world.base),
    "files": lambda world, folder, box: _verify(folder, files_only=True),
    "merge": lambda world, folder, box: merge_artifact(folder, box / "merged", base=world.base),
    "push": _push,
    "pull": _pull,
    "cli": _cli,
    "trusted": lambda world, folder, box: _trusted(world, folder),
}


def _hub_process(root: Path) -> Any:
    """Serve an embedded Hub from a process of its own: the forked ones have no threads of it."""
    from ftplug_registry.server.embedded import EmbeddedHub

    reading, writing = os.pipe()
    if (pid := os.fork()) == 0:
        try:
            with EmbeddedHub(root) as server:
                path, token = str(server.token_path("local")), server.token("local")
                os.write(writing, json.dumps([server.endpoint, token, path]).encode())
                while os.getppid() != 1:
                    time.sleep(1)
        finally:
            os._exit(0)
    endpoint, token, path = json.loads(os.read(reading, 65_536))
    return Served(pid, endpoint, token, path)


@dataclass(frozen=True)
class Served:
    """What a client must know of the Hub in another process."""

    pid: int
    endpoint: str
    secret: str
    path: str

    def token(self, account: str) -> str:
        """Return the account's token."""
        return self.secret

    def token_path(self, account: str) -> str:
        """Return the file that it lies in."""
        return self.path
