"""Repositories that ftplug did not make: plain PEFT adapters, read as peft reads them."""

from __future__ import annotations

import dataclasses
import os
import re
import warnings
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from ftplug.artifacts.json_values import read_object
from ftplug.artifacts.loading import undone
from ftplug.artifacts.strangers.counts import check_counts, longest_side
from ftplug.artifacts.strangers.patterns import check_patterns
from ftplug.artifacts.tensors import check_finite
from ftplug.attaching.changing import changes_model
from ftplug.context import logger
from ftplug.errors import ArtifactError, RegistryError, one_line
from ftplug.structure import weightless_copy

if TYPE_CHECKING:
    from torch import nn

PLAIN = "adapter_config.json"
WEIGHTS, PICKLE = "adapter_model.safetensors", "adapter_model.bin"
_BESIDE = (
    "README.md",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
)
# Read into the encoder of virtual tokens, of which peft's report of unexpected keys knows nothing.
_OF_PROMPTS = {"prompt_embeddings", "prefix_task_cols", "prefix_task_rows"}
# With bias="all" peft saves the biases of whole modules twice; once, and once as it has them.
_TWICE = re.compile(r"\.(modules_to_save|original_module)\.")
_TEXTS = ("base_model_name_or_path", "revision", "task_type", "peft_type", "peft_version")
# peft's task types, and the class from which each one's base is built when only its id is given.
_AUTO = {
    "SEQ_CLS": "AutoModelForSequenceClassification",
    "TOKEN_CLS": "AutoModelForTokenClassification",
    "QUESTION_ANS": "AutoModelForQuestionAnswering",
    "CAUSAL_LM": "AutoModelForCausalLM",
    "SEQ_2_SEQ_LM": "AutoModelForSeq2SeqLM",
    "FEATURE_EXTRACTION": "AutoModel",
}


def plain_files(where: object, has: Callable[[str], bool], *, allow_pickle: bool) -> list[str]:
    """Return the files of a plain PEFT repository; pickled weights only where they are accepted."""
    if has(WEIGHTS):
        weights = WEIGHTS
    elif not has(PICKLE):
        raise RegistryError(f"{where} has a {PLAIN}, but neither {WEIGHTS} nor {PICKLE}")
    elif not allow_pickle:
        raise RegistryError(
            f"{where} holds its weights as a pickle ({PICKLE}): ask for another format, or accept "
            "it with --allow-pickle (allow_pickle=True), read through torch.load(weights_only=True)"
        )
    else:
        weights = PICKLE
    return [PLAIN, weights, *(name for name in _BESIDE if has(name))]


def is_plain(directory: Path) -> bool:
    """Whether a folder is an adapter as peft saves it."""
    return os.path.isfile(directory / PLAIN)


@changes_model  # also because what is caught of warnings is the process's, not the thread's
def load_plain(
    base: nn.Module | str | os.PathLike[str],
    directory: Path,
    *,
    allow_pickle: bool = False,
    force: bool = False,
    announce: bool = True,
) -> nn.Module:
    """Return ``PeftModel.from_pretrained`` of a folder without a manifest, and say so.

    What peft refuses, also at the last moment, leaves the model as it was: it is tried on a
    weightless copy first. Tensors that are missing, or that the adapter has no place for, are
    refused, where peft warns of the ones and passes over the others; ``force`` loads them so.

    Nothing pins the base: where the adapter names another one than ``base``, that is warned about,
    unless ``announce`` is off.
    """
    from torch import nn

    config = _config(directory)
    names = plain_files(
        directory, lambda name: (directory / name).is_file(), allow_pickle=allow_pickle
    )
    _refuse_unknown(config, directory / PLAIN)
    check_counts(config, longest_side(directory / names[1]), directory / PLAIN)
    model = base if isinstance(base, nn.Module) else _base(base, config, directory)
    check_patterns(config, model, directory)
    if announce:
        _announce(config, model, directory)
    with undone(model, directory):
        _load(weightless_copy(model), directory, rehearsing=True)
        own = {id(parameter) for parameter in model.parameters()}
        loaded = _load(model, directory, strict=not force)
        added = {name: p for name, p in loaded.named_parameters() if id(p) not in own}
        if not force:
            check_finite(loaded, added, directory)
    return loaded.eval()


def _announce(config: Mapping[str, Any], model: nn.Module, directory: Path) -> None:
    named = config.get("base_model_name_or_path")
    given = str(
        getattr(getattr(model, "config", None), "_name_or_path", "") or type(model).__name__
    )
    logger.warning(
        "%s has no ftplug.json: loaded as peft does, nothing of it or its base (%s) was verified",
        directory,
        ascii(named if named == given else f"{named or 'not named'}; given {given}"),
    )


def _load(
    model: nn.Module, directory: Path, *, rehearsing: bool = False, strict: bool = False
) -> nn.Module:
    import peft
    import torch

    try:
        with warnings.catch_warnings(), torch.device("meta") if rehearsing else nullcontext():
            warnings.filterwarnings(
                "ignore", "Unexpected keyword arguments"
            )  # they ask for nothing
            if rehearsing:
                warnings.simplefilter("ignore")
            # peft asks transformers 5 for it by its older name.
            warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated")
            # Of AdaLoRA, whose pattern says which ranks are left.
            warnings.filterwarnings("ignore", "The following rank_pattern keys .*lora_E")
            if strict:
                warnings.filterwarnings("error", "Found missing adapter keys")
            loaded: Any = peft.PeftModel.from_pretrained(model, str(directory))
            # again: only this says which tensors it had no place for
            # (peft prunes AdaLoRA's ranks as it loads, and cannot do so twice)
            strict = strict and not _is_pruned(loaded)
            again = loaded.load_adapter(str(directory), "default") if strict else None
            keys = again.unexpected_keys if again else ()
            unknown = [k for k in keys if k not in _OF_PROMPTS and not _TWICE.search(k)]
    except Exception as error:  # a stranger's config and tensors may raise anything
        if rehearsing and ("meta" in str(error).lower() or isinstance(error, NotImplementedError)):
            return model  # it computes with weights: left to the real model
        reason = one_line(error) or type(error).__name__
        if isinstance(error, KeyError):  # of peft, which looks its own modules up in the file
            reason = f"there is no tensor {reason}"
        raise ArtifactError(f"{directory}: peft cannot load it: {reason}") from error
    if unknown:
        raise ArtifactError(f"{directory}: tensor {unknown[0]!a} belongs to nothing in this model "
                            f"({len(unknown)} in all); force=True loads the others")  # fmt: skip
    return cast("nn.Module", loaded)


def _is_pruned(loaded: Any) -> bool:
    config = loaded.peft_config["default"]
    return getattr(config.peft_type, "value", None) == "ADALORA" and bool(config.rank_pattern)


def _config(directory: Path) -> dict[str, Any]:
    path = directory / PLAIN
    content = read_object(path)
    if content.get("megatron_config"):
        # peft imports the module that such a config names: a config must not choose what runs.
        raise ArtifactError(f"{path}: asks peft to import a module (megatron_core): refused")
    for name in _TEXTS:
        if not isinstance(content.get(name) or "", str):  # peft meets it when it saves again
            raise ArtifactError(f"{path}: {name!r} is text, not {_short(content[name])}")
    return content


def _short(value: Any) -> str:
    text = ascii(value)
    return text if len(text) <= 60 else f"{text[:60]}..."


def _refuse_unknown(config: Mapping[str, Any], path: Path) -> None:
    """Refuse a type that the installed peft lacks, and what it would ignore with a warning.

    A setting that is empty, zero or false asks for nothing, so that a file of a newer or older peft
    loads where it uses nothing that this one does not have.
    """
    import peft
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING as CONFIGS

    writer = f"written by peft {config.get('peft_version') or '(unknown)'}"
    here = f"the installed peft {peft.__version__}"
    kind = config.get("peft_type")
    cls: Any = next((c for key, c in CONFIGS.items() if getattr(key, "value", key) == kind), None)
    if cls is None:
        raise ArtifactError(f"{path}: {here} has no type {kind!a}: {writer}")
    known = {field.name for field in dataclasses.fields(cls)}
    if unknown := sorted(name for name, value in config.items() if value and name not in known):
        named = one_line(", ".join(unknown))
        raise ArtifactError(f"{path}: {here} does not know {named}: {writer}")


def _base(base: str | os.PathLike[str], config: dict[str, Any], directory: Path) -> nn.Module:
    import transformers

    name = _AUTO.get(str(config.get("task_type")))
    if name is None:
        raise ArtifactError(
            f"{directory}: its task type {config.get('task_type')!r} tells no model class: build "
            "the model yourself and pass it instead of an id"
        )
    try:
        model: nn.Module = getattr(transformers, name).from_pretrained(
            base, revision=config.get("revision") or "main", trust_remote_code=False
        )
    except Exception as error:  # whatever a wrong id or folder raises
        raise ArtifactError(f"cannot load the base {str(base)!r}: {one_line(error)}") from error
    return model
