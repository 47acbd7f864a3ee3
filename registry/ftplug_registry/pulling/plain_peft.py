"""Repositories that ftplug did not make: plain PEFT adapters, read as peft reads them."""

from __future__ import annotations

import dataclasses
import json
import os
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftplug.context import logger
from ftplug.errors import ArtifactError, RegistryError, one_line

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
    return (directory / PLAIN).is_file()


def load_plain(
    base: nn.Module | str | os.PathLike[str], directory: Path, *, allow_pickle: bool = False
) -> nn.Module:
    """Return ``PeftModel.from_pretrained`` of a folder without a manifest, and say so.

    Nothing pins the base: where the adapter names another one than ``base``, that is warned about.
    """
    import peft
    from torch import nn

    config = _config(directory)
    plain_files(directory, lambda name: (directory / name).is_file(), allow_pickle=allow_pickle)
    _refuse_unknown(config, directory / PLAIN)
    model = base if isinstance(base, nn.Module) else _base(base, config, directory)
    named = config.get("base_model_name_or_path")
    given = str(
        getattr(getattr(model, "config", None), "_name_or_path", "") or type(model).__name__
    )
    logger.warning(
        "%s has no ftplug.json: loaded as peft does, nothing of it or its base (%s) was verified",
        directory,
        ascii(named if named == given else f"{named or 'not named'}; given {given}"),
    )
    trained = {name: p.requires_grad for name, p in model.named_parameters()}
    try:
        with warnings.catch_warnings():  # what peft does not know asks for nothing: see above
            warnings.filterwarnings("ignore", "Unexpected keyword arguments")
            loaded: nn.Module = peft.PeftModel.from_pretrained(model, str(directory))
    except Exception as error:  # a stranger's config and tensors may raise anything
        _take_out(model, trained)
        raise ArtifactError(f"{directory}: peft cannot load it: {one_line(error)}") from error
    return loaded.eval()


def _take_out(model: nn.Module, trained: dict[str, bool]) -> None:
    """Take out what peft had put into a model before it failed."""
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils import ModulesToSaveWrapper

    for name, module in list(model.named_modules()):
        parent, _, child = name.rpartition(".")
        if isinstance(module, BaseTunerLayer):
            setattr(model.get_submodule(parent), child, module.get_base_layer())
        elif isinstance(module, ModulesToSaveWrapper):
            setattr(model.get_submodule(parent), child, module.original_module)
    if hasattr(model, "peft_config"):
        del model.peft_config
    for name, parameter in model.named_parameters():
        parameter.requires_grad = trained.get(name, parameter.requires_grad)


def _config(directory: Path) -> dict[str, Any]:
    path = directory / PLAIN
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError, RecursionError) as error:
        raise ArtifactError(f"{path}: not readable as JSON: {one_line(error)}") from error
    if not isinstance(content, dict):
        raise ArtifactError(f"{path}: not a config: a JSON object is expected")
    if content.get("megatron_config"):
        # peft imports the module that such a config names: a config must not choose what runs.
        raise ArtifactError(f"{path}: asks peft to import a module (megatron_core): refused")
    return content


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
