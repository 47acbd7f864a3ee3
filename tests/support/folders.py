"""Folders as ``from_pretrained`` reads them, with tokenizers of their own; rows for scripts."""

import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tiny
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "the", "and", "is", "was", "good", "bad", "not", "i"]


def encoder(folder: Path) -> Path:
    """Save a tiny BERT encoder (no head) and a word-level tokenizer."""
    template = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    _save_tokenizer(
        folder,
        WORDS,
        template,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
    )
    tiny.bert("Model", dropout=0.1).save_pretrained(folder)
    return folder


def language_model(folder: Path) -> Path:
    """Save a tiny Llama and a word-level tokenizer."""
    words = ["<pad>", "<s>", "</s>", "[UNK]", *WORDS[4:]]
    special = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "[UNK]"}
    _save_tokenizer(folder, words, None, **special)
    tiny.llama().save_pretrained(folder)
    return folder


def translator(folder: Path) -> Path:
    """Save a tiny T5 and a word-level tokenizer."""
    words = ["<pad>", "</s>", "[UNK]", *WORDS[4:]]
    template = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    special = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "[UNK]"}
    _save_tokenizer(folder, words, template, **special)
    tiny.t5().save_pretrained(folder)
    return folder


def script_inputs(root: Path) -> Path:
    """Write the models and the rows that the scripts are given."""
    encoder(root / "encoder")
    language_model(root / "llama")
    translator(root / "t5")
    draw = random.Random(0)

    def text(words: int = 5) -> str:
        return " ".join(draw.choices(WORDS[4:], k=words))

    pairs = [
        {"prompt": text(), "chosen": f" {text()}", "rejected": f" {text()}"} for _ in range(16)
    ]
    tables = {
        "texts": [{"text": text(8)} for _ in range(16)],
        "pairs": pairs,
        "marked": [
            {"prompt": text(), "completion": f" {text()}", "label": n % 2 == 0} for n in range(16)
        ],
        "labelled": [{"text": text(8), "label": n % 2} for n in range(16)],
    }
    for name, rows in tables.items():
        (root / name).mkdir()
        write_lines(root / name / "train.jsonl", rows)
    return root


def write_lines(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows as lines of JSON."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def _save_tokenizer(folder: Path, words: list[str], template: object, **special: str) -> None:
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    if template is not None:
        tokenizer.post_processor = template
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, model_max_length=64, **special
    ).save_pretrained(folder)
