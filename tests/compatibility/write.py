"""The script that wrote ``data``, run once with the code of commit f0380a4 (ftplug 0.1.0).

It is kept to show how the data came about. Later versions read what that one wrote: run again, it
would write what the version at hand writes, and prove nothing.

    PYTHONPATH=tests/support python tests/compatibility/write.py FOLDER

For each case of ``tests/support/pinned_runs.py`` it trains an uninterrupted run and keeps the
checkpoint of its middle, the artifact of its end (without the card and its picture, which nothing
reads) and ``expected.safetensors``: the later losses, the final weights, and logits.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

import torch
from pinned_runs import CASES, SAVED, base, logits, outcome, trainer
from safetensors.torch import save_file

_FOR_READERS = ("README.md", "training_curve.png")


def write(case: str, folder: Path) -> None:
    """Train one case and write its three parts."""
    with tempfile.TemporaryDirectory() as scratch:
        run = trainer(base(case), Path(scratch), CASES[case])
        run.train()
        found = outcome(run)
        if torch.allclose(found["logits"], logits(base(case)), atol=1e-2):
            raise SystemExit(f"{case}: this training changes next to nothing")
        run.save_model(str(folder / "artifact"))
        for name in _FOR_READERS:
            (folder / "artifact" / name).unlink()
        shutil.copytree(Path(scratch, f"checkpoint-{SAVED}"), folder / "checkpoint")
        save_file(found, folder / "expected.safetensors")
        for path in folder.rglob("*"):
            if path.is_file() and scratch.encode() in path.read_bytes():
                raise SystemExit(f"{path} holds a path of this machine")


if __name__ == "__main__":
    torch.set_num_threads(1)
    for each in CASES:
        write(each, Path(sys.argv[1], each))
