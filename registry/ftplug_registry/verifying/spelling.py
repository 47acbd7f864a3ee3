"""The ids of tokens that a server names by their text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path


def spelled_tokens(directory: Path, ids: Sequence[int]) -> Mapping[str, int]:
    """Return ids by the texts that servers give tokens, by the artifact's own tokenizer.

    A text that several of the ids have is left out. Empty where the artifact has no tokenizer.
    """
    if not (directory / "tokenizer_config.json").is_file():
        return {}
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(
            directory, local_files_only=True, trust_remote_code=False
        )
        pieces = tokenizer.convert_ids_to_tokens(list(ids))
        texts = {
            number: {str(tokenizer.decode([number])), _plain(str(piece))}
            for number, piece in zip(ids, pieces, strict=True)
        }
    except Exception:  # whatever a tokenizer's files may say
        return {}
    common = Counter(text for spelled in texts.values() for text in spelled)
    return {
        text: number
        for number, spelled in texts.items()
        for text in spelled
        if text and common[text] == 1
    }


def _plain(piece: str) -> str:
    """Return a piece with the space that SentencePiece and byte-level BPE write as a letter."""
    return piece.replace("\u2581", " ").replace("\u0120", " ")
