"""Artifacts of every class of transformers that builds small: what is saved is what comes back.

python tools/round_trip.py                 two settings of all classes; hours on one core
python tools/round_trip.py --only Bert     those whose name holds a text
python tools/round_trip.py --part 3/8      each eighth class, from the third on

A method is put on a model, its values are moved, and it is saved. Loaded onto another copy of the
base, alone and sharing that base's memory, it answers bit for bit as it did; the shared base
answers as before; and detached, the model has its base's values and answers again.
"""

from __future__ import annotations

import argparse
import copy
import logging
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import sweep
import torch
import transformers
import trial
from torch import Tensor, nn

import ftplug
from ftplug.artifacts.manifest import read_manifest
from ftplug.errors import FtplugError

SETTINGS: dict[str, dict[str, Any]] = {
    "lora": {},
    "lora all-linear": {"target_modules": ("all-linear",)},
    "bitfit": {},
    "bottleneck": {},
    "freeze": {"layers": 1},
    "full": {},
}
SECONDS = 120  # of one round trip


def faults(model: nn.Module, batch: dict[str, Any], setting: str) -> list[str]:
    """Return what is not as it was after a round trip; a refusal by name is none.

    A model that answers otherwise each time it is asked is compared by its values alone.
    """
    base = copy.deepcopy(model).eval()
    before = _answers(base, batch)
    fixed = _equal(before, _answers(base, batch))
    values = _values(base)
    trained = copy.deepcopy(base)
    try:
        ftplug.apply(trained, *trial.methods(setting), **SETTINGS[setting])
    except FtplugError:
        return []
    _move(trained)
    moved = _answers(trained, batch)
    found: list[str] = []

    def compare(what: str, model: nn.Module, expected: Sequence[Tensor]) -> None:
        if fixed and not _equal(_answers(model, batch), expected):
            found.append(f"{what} answers otherwise")

    with tempfile.TemporaryDirectory() as folder:
        try:
            artifact = ftplug.save(trained, folder)
        except FtplugError:
            if _is_saved_by_transformers(base):
                raise
            return []
        effect: Mapping[str, Any] = read_manifest(artifact).effect or {}
        if fixed and effect.get("nil") and not _equal(before, moved):
            found.append("the probe sees no effect, and there is one")
        compare("loaded, it", ftplug.load(copy.deepcopy(base), artifact), moved)
        if shared := _unless_refused(lambda: ftplug.load(base, artifact, share_base=True)):
            compare("on a shared base it", shared, moved)
            compare("the base that it shares", base, before)
    if (bare := _unless_refused(lambda: ftplug.detach(trained))) is not None:
        compare("detached, it", bare, before)
        if not _same(values, _values(bare)):
            found.append("detached, it has other values")
    return found


def _is_saved_by_transformers(base: Any) -> bool:
    """Whether the base can be saved at all: some configs are invalid once they are small."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            base.save_pretrained(folder)
        except Exception:
            return False
    return True


def _unless_refused(act: Callable[[], nn.Module]) -> nn.Module | None:
    try:
        return act()
    except FtplugError:
        return None


def _answers(model: nn.Module, batch: dict[str, Any]) -> list[Tensor]:
    torch.manual_seed(0)
    with torch.no_grad():
        return list(trial.floats(dict(model.eval()(**batch))))


def _values(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def _move(model: nn.Module) -> None:
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                noise = torch.randn(parameter.shape, generator=generator)
                parameter.add_(0.05 * noise.to(parameter.dtype))


def _equal(one: Sequence[Tensor], other: Sequence[Tensor]) -> bool:
    """Whether all are bit-equal; what is NaN in both counts as equal."""
    return len(one) == len(other) and all(map(_alike, one, other))


def _same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(_alike(one[name], other[name]) for name in one)


def _alike(one: Tensor, other: Tensor) -> bool:
    if one.shape != other.shape:
        return False
    both_nan = one.isnan() & other.isnan()
    return bool(((one == other) | both_nan).all())


def tried(name: str, task: str, settings: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
    """Yield each setting and its faults; an error that is no refusal is one."""
    model, batch = trial.fitting(name, task)
    for setting in settings:
        try:
            with trial.limited(SECONDS):
                yield setting, faults(model, batch, setting)
        except Exception as error:
            yield setting, [trial.said(error)]


def main() -> None:
    """Print the faults of each class; fails where there is one."""
    import small_model

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default="", metavar="TEXT")
    parser.add_argument("--part", default="1/1", metavar="I/N")
    options = parser.parse_args()
    first, of = map(int, options.part.split("/"))
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    logging.getLogger("ftplug").setLevel(logging.ERROR)
    failed = False
    chosen = [pair for pair in sweep.shuffled(small_model.classes()) if options.only in pair[0]]
    for index, (name, task) in list(enumerate(chosen))[first - 1 :: of]:
        try:
            for setting, found in tried(name, task, settings_of(index)):
                failed = failed or bool(found)
                print(f"{name} {setting}: {'; '.join(found) or 'as it was'}", flush=True)
        except Exception as error:
            print(f"{name}: not built: {trial.said(error)[:200]}", flush=True)
    raise SystemExit(failed)


def settings_of(index: int) -> list[str]:
    """Return two settings for a class, others for its neighbours."""
    names = [*SETTINGS] * 2
    return names[(at := index % len(SETTINGS)) : at + 2]


if __name__ == "__main__":
    main()
