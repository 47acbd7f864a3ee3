"""Code that loads an artifact: with ftplug, and without it where peft or transformers can."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from ftplug_registry.card.markdown import code, fenced
from ftplug_registry.card.metadata import base_id, stands_alone

_FEW_LABELS = 12  # that a snippet spells out

# What to call a pipeline and how to ask it, by task.
_EXAMPLES = {
    "text-classification": ("classify", '"An example sentence."'),
    "token-classification": ("tag", '"Ada Lovelace lived in London."'),
    "fill-mask": ("fill", 'f"An example {fill.tokenizer.mask_token}."'),
    "text-generation": ("generate", '"Once upon a time", max_new_tokens=40'),
    "feature-extraction": ("embed", '"An example sentence."'),
}


class Snippet(NamedTuple):
    """A line of explanation and a code block, both as markdown."""

    intro: str
    code: str


def snippets(manifest: Mapping[str, Any], place: str) -> Iterator[Snippet]:
    """Yield the ways to load an artifact from ``place``: a repository, or a folder."""
    name = str(manifest["model"].get("class"))
    if not _is_of_transformers(name):
        call = f"import ftplug\n\nmodel = ftplug.load(model, {_string(place)})"
        yield Snippet(f"Build the {code(name)} with its base's weights, then:", _python(call))
        return
    yield Snippet(
        "With ftplug, which checks base and files first:", _python(_ftplug(manifest, place))
    )
    if stands_alone(manifest):
        yield Snippet("With plain transformers:", _python(_transformers(manifest, place)))
    elif _is_complete_for_peft(manifest):
        yield Snippet("With plain peft:", _python(_peft(manifest, place)))


def _ftplug(manifest: Mapping[str, Any], place: str) -> str:
    load = f"model = ftplug.load({_base(manifest)}, {_string(place)})"
    return _then_ask("import ftplug", load, manifest, place)


def _transformers(manifest: Mapping[str, Any], place: str) -> str:
    name = manifest["model"]["class"]
    load = f"model = {name}.from_pretrained({_string(place)})"
    return _then_ask(f"from transformers import {name}", load, manifest, place)


def _peft(manifest: Mapping[str, Any], place: str) -> str:
    name = manifest["model"]["class"]
    arguments = [_base(manifest)]
    if base_id(manifest) and (revision := manifest["base"].get("revision")):
        arguments.append(f"revision={_string(revision)}")
    arguments += _labels(manifest)
    joined = ", ".join(arguments)
    if len(joined) > 60:
        joined = "".join(f"\n    {argument}," for argument in arguments) + "\n"
    return (
        "from peft import PeftModel\n"
        f"from transformers import {name}\n\n"
        f"base = {name}.from_pretrained({joined})\n"
        f"model = PeftModel.from_pretrained(base, {_string(place)})"
    )


def _then_ask(imported: str, load: str, manifest: Mapping[str, Any], place: str) -> str:
    """Return code that loads and, where the tokenizer comes along, asks the model something."""
    example = _EXAMPLES.get(str(manifest["model"].get("task")))
    if example is None or "tokenizer_config.json" not in manifest["files"]:
        return f"{imported}\n\n{load}"
    name, question = example
    task = _string(manifest["model"]["task"])
    more = ", pipeline" if "transformers" in imported else "\nfrom transformers import pipeline"
    return (
        f"{imported}{more}\n\n{load}\n"
        f"{name} = pipeline({task}, model=model, tokenizer={_string(place)})\n"
        f"print({name}({question}))"
    )


def _labels(manifest: Mapping[str, Any]) -> list[str]:
    """Return the argument that gives the base a head for the artifact's labels."""
    labels = manifest["model"].get("labels") or {}
    if not labels:
        return []
    default = all(label == f"LABEL_{index}" for index, label in labels.items())
    if default or len(labels) > _FEW_LABELS or not all(map(str.isdecimal, labels)):
        return [f"num_labels={len(labels)}"]
    spelled = ", ".join(f"{int(i)}: {_string(str(label))}" for i, label in labels.items())
    return [f"id2label={{{spelled}}}"]


def _is_complete_for_peft(manifest: Mapping[str, Any]) -> bool:
    """Whether peft's files hold all of it; resized embeddings it cannot put on a plain base."""
    files, fresh = manifest["files"], manifest["base"].get("fresh", [])
    resized = any("embed" in name or "wte" in name or "shared" in name for name in fresh)
    return "adapter_config.json" in files and "ftplug.safetensors" not in files and not resized


def _is_of_transformers(name: str) -> bool:
    import transformers

    listed: list[str] = transformers.__all__  # type: ignore[attr-defined]
    return name in listed  # looks it up without importing the architecture


def _base(manifest: Mapping[str, Any]) -> str:
    return _string(base_id(manifest) or "path/to/the/base")


def _string(text: str) -> str:
    """Return a Python literal; JSON's escapes are Python's."""
    return json.dumps(text, ensure_ascii=False)


def _python(text: str) -> str:
    return fenced(text, "python")
