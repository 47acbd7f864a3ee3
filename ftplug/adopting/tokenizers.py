"""The tokenizer that lies beside an adapter."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from ftplug.adopting import folders
from ftplug.artifacts.json_values import read_object
from ftplug.context import logger
from ftplug.errors import one_line
from ftplug.quiet import quiet


def tokenizer_in(folder: Path, alone: Path) -> Any:
    """Return the tokenizer that lies beside the adapter; one that cannot be read stays behind."""
    names = [name for name in folders.TOKENIZER if (folder / name).is_file()]
    if "tokenizer_config.json" not in names:
        return None
    from transformers import AutoTokenizer

    alone.mkdir()
    for name in names:
        os.link(folder / name, alone / name)
    try:
        _name_no_places(alone / "tokenizer_config.json")
        with quiet():
            tokenizer = AutoTokenizer.from_pretrained(alone, trust_remote_code=False)
    except Exception as error:  # a stranger's tokenizer may raise anything
        logger.warning("its tokenizer cannot be read and is left out: %s", one_line(error)[:200])
        return None
    tokenizer.name_or_path = ""
    return tokenizer


def _name_no_places(config: Path) -> None:
    """Take out where files lay on its author's machine, and code: some versions would open them."""
    content = read_object(config)
    kept = {k: v for k, v in content.items() if k != "auto_map" and not k.endswith("_file")}
    config.unlink()  # a link to what stays as it was
    config.write_text(json.dumps(kept), encoding="utf-8")
