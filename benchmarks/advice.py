"""Take ftplug's advice, one piece at a time: does the run get cheaper by what was said?

TRL's sft.py on a small Llama with sentences of very different lengths, and the demo on frozen lower
layers. For each piece of advice the script trains without and with it, in turn: A / B is how many
times the CPU seconds of train(), in one thread, were without.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import random
import re
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import pairs
import report
import torch
from report import Found
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, Trainer

from ftplug.advising.advice import Advice
from ftplug.advising.launch import Advising
from ftplug.demo import run_demo
from ftplug.host import from_texts
from ftplug.quiet import quiet
from ftplug.training.script import Launch

PAIRS = 5
ROWS = 320
WORDS = [f"w{number}" for number in range(2000)]
LORA = {"r": "8"}
SETTING = re.compile(r'(\w+)="?(\w+)"?')


def inputs(folder: Path) -> None:
    """Write a Llama of 6 million random parameters, its tokenizer, and texts of 4 to 120 words."""
    special = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    words = [*special.values(), *WORDS]
    known = {word: number for number, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordLevel(known, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(folder / "model")
    config = LlamaConfig(
        vocab_size=len(words), hidden_size=256, intermediate_size=1024, num_hidden_layers=4,
        num_attention_heads=8, num_key_value_heads=4, pad_token_id=0, eos_token_id=1,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder / "model")
    draw = random.Random(0)
    (folder / "texts").mkdir()
    with (folder / "texts/train.jsonl").open("w", encoding="utf-8") as lines:
        for _ in range(ROWS):
            text = " ".join(draw.choices(WORDS, k=round(4 * 30 ** draw.random())))
            lines.write(json.dumps({"text": text}) + "\n")


@contextmanager
def timed_training() -> Iterator[list[float]]:
    """Give the CPU seconds of each train() within the block."""
    train, taken = Trainer.train, list[float]()

    def timed(self: Trainer, *args: Any, **kwargs: Any) -> Any:
        start = time.process_time()
        try:
            return train(self, *args, **kwargs)
        finally:
            taken.append(time.process_time() - start)

    with mock.patch.object(Trainer, "train", timed):
        yield taken


@dataclass(frozen=True)
class Case:
    """A run: what is advised on it, and how long it trains with one piece of that advice."""

    title: str
    advise: Callable[[], Sequence[Advice]]
    seconds: Callable[[Advice | None], float]


def sft(folder: Path) -> Case:
    """Return TRL's script, with settings that people use and need not."""
    spec = importlib.util.find_spec("trl")
    assert spec
    assert spec.origin
    given = {
        "model_name_or_path": folder / "model", "dataset_name": folder / "texts",
        "output_dir": folder / "out", "num_train_epochs": 1, "per_device_train_batch_size": 8,
        "bf16": False, "report_to": "none", "use_cpu": True, "disable_tqdm": True,
        "save_strategy": "no", "optim": "adamw_torch", "attn_implementation": "eager",
    }  # fmt: skip

    def command(advice: Advice | None) -> list[str]:
        found = SETTING.match(advice.setting) if advice else None
        chosen = given | ({found[1]: found[2]} if found else {})
        script = str(Path(spec.origin or "").parent / "scripts/sft.py")
        return [script, *(str(x) for name, value in chosen.items() for x in (f"--{name}", value))]

    def seconds(advice: Advice | None) -> float:
        with timed_training() as taken:
            Launch(from_texts(["lora"], LORA)).run(command(advice))
        return taken[0]

    def advise() -> Sequence[Advice]:
        launch = Advising(from_texts(["lora"], LORA))
        launch.advise(command(None))
        return launch.found[0].advice

    return Case("TRL's sft.py", advise, seconds)


def demo(folder: Path) -> Case:
    """Return the demo with its two top layers trained."""

    def seconds(advice: Advice | None) -> float:
        names = advice.setting.replace("--method", "").split() if advice else ["freeze"]
        chosen = {"freeze.layers": "2"} if advice else {"layers": "2"}
        with timed_training() as taken:
            run_demo(names, chosen, out=folder / "demo", progress=False, report=False)
        return taken[0]

    def advise() -> Sequence[Advice]:
        launch = Advising([])
        own = ["--method", "freeze", "--set", "layers=2"]
        launch.advise(["ftplug", "demo", *own], module=True)
        return launch.found[0].advice

    return Case("the demo, `freeze`", advise, seconds)


def measure(found: Found, count: int) -> None:
    """Take each piece of advice in turn, and say of the others why they were left."""
    with tempfile.TemporaryDirectory() as name, quiet():
        folder = Path(name)
        inputs(folder)
        for case in (sft(folder), demo(folder)):
            for advice in case.advise():
                if not advice.is_worth_it:
                    found.figure(
                        f"{case.title}: `{advice.setting}`, better left", advice.gain, "times"
                    )
                    continue
                found.figure(f"{case.title}: `{advice.setting}`, said", advice.gain, "times")
                sides = [(case.seconds(None), case.seconds(advice)) for _ in range(count + 1)]
                before, after = zip(*sides[1:], strict=True)
                compared = pairs.compare(before, after)
                found.ratio(f"{case.title}", f"`{advice.setting}`", compared, "s")


def main() -> None:
    """Run it as a benchmark."""
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    report.main(__doc__, measure, PAIRS)


if __name__ == "__main__":
    main()
