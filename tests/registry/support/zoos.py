"""Made-up zoos: folders of artifacts with manifests and cards, no model behind them."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

METHODS = {
    "lora": {"r": 8, "lora_alpha": 16, "target_modules": ["query", "value"]},
    "bitfit": {},
    "ia3": {"target_modules": ["query"]},
    "bottleneck": {"reduction_factor": 16},
}
BASES = ("org/mini-lm", "org/bert-base", "org/distil")
SHA = "0123456789abcdef0123456789abcdef01234567"
WEIGHTS = "ftplug.safetensors"


def manifest(
    *,
    method: str = "lora",
    base: str | None = BASES[0],
    accuracy: float = 0.9,
    size: int = 4096,
    training: dict[str, Any] | None = None,
    **more: Any,
) -> dict[str, Any]:
    """Return what ``ftplug.json`` holds; the one weight file has ``size`` bytes."""
    steps = range(10, 210, 10)
    facts = {
        "data": {"dataset": "org/reviews", "revision": SHA, "eval_split": "test"},
        "metrics": {"eval_accuracy": accuracy, "eval_loss": 1 - accuracy},
        "evaluation": {"rows": 872, "metrics": {"eval_accuracy": "accuracy"}},
        "hyperparameters": {"learning_rate": 3e-4, "num_train_epochs": 2},
        "seed": 0,
        "seconds": 61.5,
        "hardware": "x86_64 CPU, 2 cores",
        "history": {
            "train": [{"step": step, "loss": 2 / step + 0.1} for step in steps],
            "eval": [
                {"step": step, "eval_loss": 3 / step + 0.2, "eval_accuracy": accuracy - 1 / step}
                for step in steps
            ],
        },
    }
    content = {
        "methods": [
            {"name": method, "settings": METHODS.get(method, {}), "distribution": "ftplug",
             "version": "0.1.0", "files": [WEIGHTS]}
        ],
        "train_head": True,
        "base": {"id": base, "revision": SHA if base else None, "fingerprint": None, "fresh": []},
        "model": {"class": "BertForSequenceClassification", "task": "text-classification",
                  "labels": {"0": "bad", "1": "good"}, "config": {"model_type": "bert"}},
        "parameters": {"trained": 74_498, "total": 22_700_000},
        "versions": {"ftplug": "0.1.0", "torch": "2.9"},
        "files": {WEIGHTS: {"size": size, "sha256": "ab" * 32}},
        "training": facts | (training or {}),
        "author": {},
        "card": None,
        "effect": {"probe": "ftplug_probe.safetensors", "kl": 0.21, "changed": 0.12,
                   "dtype": "float32", "nil": False},
        "schema": 2,
    }  # fmt: skip
    return content | more


def card(title: str, front: str = "", body: str = "") -> str:
    return f"---\ntags:\n- ftplug\n{front}---\n# {title}\n\nWhat it is for.\n\n{body}"


def artifact(folder: Path, content: dict[str, Any] | None = None, text: str | None = None) -> Path:
    """Write an artifact: manifest, card, and a weight file of the size that the manifest says."""
    content = manifest() if content is None else content
    folder.mkdir(parents=True)
    (folder / "ftplug.json").write_text(json.dumps(content))
    (folder / "README.md").write_text(card(folder.name) if text is None else text)
    for name, entry in content["files"].items():
        with (folder / name).open("wb") as file:
            file.truncate(entry["size"])
    return folder


def zoo(root: Path, count: int) -> Path:
    """Write ``count`` artifacts in two organisations, of all kinds of methods, bases and sizes."""
    draw = random.Random(0)
    for at in range(count):
        content = manifest(
            method=list(METHODS)[at % len(METHODS)],
            base=BASES[at % len(BASES)],
            accuracy=draw.uniform(0.6, 0.95),
            size=draw.randrange(2_000, 400_000),
        )
        body = "| a | b |\n|---|--:|\n| 1 | 2 |\n\n" + "A paragraph of *words*.\n\n" * 20
        text = card(f"Adapter {at}", body=body)
        artifact(root / ("lab" if at % 2 else "team") / f"adapter-{at:03}", content, text)
    return root


def contents(folder: Path) -> dict[str, bytes]:
    """Return every file of a folder by name."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


COMPARISON = {
    "answer": "Best: lora r=8 at learning rate 3e-4 (accuracy 0.8613), better than full.",
    "metric": "accuracy",
    "baseline": "full",
    "delta": 0.01,
    "measured_on": "Measured on the test set.",
    "set": "test",
    "candidates": [
        {"candidate": "full", "verdict": "baseline", "lr": 1e-4, "mean": 0.843, "seeds": 3},
        {"candidate": "lora r=8", "verdict": "better", "lr": 3e-4, "mean": 0.861,
         "difference": 0.018, "interval": [0.007, 0.029], "p": 0.003, "seeds": 3},
    ],
    "notes": ["Nothing to note."],
}  # fmt: skip
HOSTILE_CARD = """---
ftplug_deprecated:
  why: "<script>document.title='gone'</script>\\e[2J see </td> elsewhere"
  use: "javascript:alert(1)"
---
# <script>document.title='owned'</script>

\x1b[2J\x1b[31mred\x07 <img src="https://evil.example/x.png" onerror="document.title='owned'">
![pixel](https://evil.example/y.png) [click](javascript:alert(1)) [file](file:///etc/passwd)
[data](data:text/html;base64,PHNjcmlwdD4=) [there](https://good.example/a?b=1&c=2) <b>bold</b>
<https://auto.example/> gnp.\u202eexe

<!-- a comment that nobody sees <script>x</script> -->

| a | b |
|---|--:|
| <svg onload=alert(1)> | 2 |

```html
<script>still text</script>
```
"""
