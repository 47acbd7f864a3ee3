"""What it takes until training begins: commands, imports, attaching, the base's fingerprint.

``ftplug --help`` in turn with ``trl --help``, where trl is installed; the rest as the best of some
runs, since other programs only ever add to it. The large models have no weights (7 billion
parameters on the meta device) or random ones (500 MB).
"""

from __future__ import annotations

import gc
import importlib.util
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pairs

BIN = Path(sys.executable).parent
COMMANDS = (["ftplug", "--help"], ["ftplug", "methods"])
IMPORT = "import time; t = time.perf_counter(); import ftplug; print(time.perf_counter() - t)"


def run(command: Sequence[str]) -> str:
    """Run an installed command and return what it prints."""
    program = [str(BIN / command[0]), *command[1:]]
    return subprocess.run(program, capture_output=True, text=True, check=True).stdout


def best(action: Callable[[], object], times: int = 5) -> float:
    """Return the shortest of some calls, in seconds."""
    return min(pairs.timed(action) for _ in range(times))


def commands() -> None:
    """Print the commands' times, and how ``ftplug --help`` compares with ``trl --help``."""
    for command in COMMANDS:
        print(f"{' '.join(command)}: {best(partial(run, command)):.3f} s")
    imported = min(float(run(["python", "-c", IMPORT])) for _ in range(5))
    print(f"import ftplug: {1000 * imported:.0f} ms")
    if importlib.util.find_spec("trl") is None:
        print("trl is not installed: nothing to compare --help with")
        return
    found = pairs.interleave(lambda: run(["ftplug", "--help"]), lambda: run(["trl", "--help"]), 15)
    print(f"ftplug --help / trl --help: {found}")


def attaching() -> None:
    """Print how long methods take to attach to a model of 7 billion parameters without weights."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    import ftplug

    for method in ("lora", "bottleneck", "bitfit"):
        taken = []
        for _ in range(4):
            with torch.device("meta"):
                model = LlamaForCausalLM(LlamaConfig(attention_bias=method == "bitfit"))
            gc.collect()
            taken.append(pairs.timed(partial(ftplug.apply, model, method)))
        size = sum(parameter.numel() for parameter in model.parameters()) / 1e9
        print(f"{method} onto {size:.1f} billion parameters: {min(taken):.2f} s")


def fingerprints() -> None:
    """Print how long the fingerprint of 500 MB takes, and what memory it adds."""
    from transformers import BertConfig, BertModel

    from ftplug.fingerprint import fingerprint

    model = BertModel(BertConfig(num_hidden_layers=14))
    tensors: Any = dict(model.named_parameters())
    size = sum(tensor.nbytes for tensor in tensors.values()) / 1e6
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    fingerprint(tensors)
    seconds = time.perf_counter() - start
    added = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    print(f"fingerprint of {size:.0f} MB: {seconds:.2f} s, {added:.0f} MiB more memory")


if __name__ == "__main__":
    commands()
    attaching()
    fingerprints()
