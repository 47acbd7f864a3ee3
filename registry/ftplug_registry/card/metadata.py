"""The metadata of a card: what the Hub reads at the top of ``README.md``, and accepts there."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from ftplug.artifacts.author import is_repo_id
from ftplug_registry.card.markdown import is_number, line

if TYPE_CHECKING:
    from huggingface_hub import EvalResult, ModelCardData

# The Hub's pipeline tags that a transformers model may have; text2text-generation is no more.
_TAGS = """
any-to-any audio-classification audio-text-to-text automatic-speech-recognition depth-estimation
document-question-answering feature-extraction fill-mask image-classification
image-feature-extraction image-segmentation image-text-to-text image-to-image image-to-text
keypoint-detection mask-generation multiple-choice object-detection question-answering
sentence-similarity summarization table-question-answering tabular-classification
tabular-regression text-classification text-generation text-ranking text-to-audio text-to-image
text-to-speech text-to-video time-series-forecasting token-classification translation
video-classification video-text-to-text visual-document-retrieval visual-question-answering
zero-shot-classification zero-shot-image-classification zero-shot-object-detection
"""
PIPELINE_TAGS = frozenset(_TAGS.split())
BASE_TAG = "ftplug-base:"
UNNAMED = "unnamed data"
_WEIGHTS = ("model.safetensors", "model.safetensors.index.json")


def metadata(manifest: Mapping[str, Any], name: str) -> ModelCardData:
    """Return the metadata of a manifest for a model of this name.

    ``library_name`` is ``ftplug``: with ``peft`` the Trainer's own ``create_model_card`` fails on
    a model that peft did not wrap.
    """
    from huggingface_hub import ModelCardData

    author, base = manifest["author"], base_id(manifest)
    results = list(_results(manifest))
    metrics = dict.fromkeys(r.metric_type for r in results if r.metric_type != "loss")
    methods = [f"ftplug:{method['name']}" for method in manifest["methods"]]
    license, license_name = _license(author.get("license") or manifest["base"].get("license"))
    return ModelCardData(
        language=_languages(author) or None,
        license=license,
        license_name=license_name,
        base_model=base,
        base_model_relation=_relation(manifest) if base else None,
        library_name="ftplug",
        pipeline_tag=pipeline_tag(manifest),
        datasets=datasets(manifest) or None,
        metrics=list(metrics) or None,
        tags=[
            line(tag) for tag in ("ftplug", *methods, *base_tags(manifest), *author.get("tags", []))
        ],
        model_name=line(name) if results else None,
        eval_results=results or None,
    )


def stands_alone(manifest: Mapping[str, Any]) -> bool:
    """Whether ``from_pretrained`` reads the artifact without its base."""
    return any(name in manifest["files"] for name in _WEIGHTS)


def base_id(manifest: Mapping[str, Any]) -> str | None:
    """Return the base's Hub id, from the run or else from the author."""
    known = manifest["base"].get("id") or manifest["author"].get("finetuned_from")
    return known if is_hub_id(known) else None


def pipeline_tag(manifest: Mapping[str, Any]) -> str | None:
    """Return the author's pipeline tag or the model class's, if the Hub has it."""
    tags = [*manifest["author"].get("tasks", []), manifest["model"].get("task")]
    return next((tag for tag in tags if tag in PIPELINE_TAGS), None)


def datasets(manifest: Mapping[str, Any]) -> list[str]:
    """Return the Hub ids of the data: those of the author, and those with a known commit."""
    data = section(manifest["training"], "data")
    known = [data.get(f"{part}dataset") for part in ("", "eval_") if data.get(f"{part}revision")]
    ids = dict.fromkeys([*manifest["author"].get("datasets", []), *known])
    return [name for name in ids if is_hub_id(name)]


def section(facts: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """Return one part of the facts by name; a caller may have said anything in its place."""
    part = facts.get(name)
    return part if isinstance(part, Mapping) else {}


def metric_name(key: str) -> tuple[str, str]:
    """Return a metric's name and the split it was measured on: ``eval_f1`` is f1, validation."""
    split, _, name = key.partition("_")
    splits = {"eval": "validation", "test": "test", "train": "train"}
    return (name, splits[split]) if split in splits and name else (key, "validation")


def is_hub_id(name: Any) -> bool:
    """Whether a repository on the Hub could have this id."""
    return is_repo_id(name) and name == line(name)


def base_tags(manifest: Mapping[str, Any]) -> list[str]:
    """Return the tags by which a base is found that no Hub id is known of.

    The fingerprint of its weights, its architecture as transformers calls it, the model's class.
    """
    base, model = manifest["base"], manifest["model"]
    if base.get("id"):
        return []
    known = (weights(manifest), model.get("config", {}).get("model_type"), model.get("class"))
    return [f"{BASE_TAG}{line(name)}" for name in known if name]


def weights(manifest: Mapping[str, Any]) -> str | None:
    """Return the digest that a base's weights are shown and found by."""
    digests = manifest["base"].get("fingerprint")
    return digests["bf16"] if digests else None


def _relation(manifest: Mapping[str, Any]) -> str:
    return "finetune" if stands_alone(manifest) else "adapter"


def _languages(author: Mapping[str, Any]) -> list[str]:
    code = re.compile(r"[a-z]{2,3}(-[A-Za-z0-9]+)*|code|multilingual")
    return [language for language in author.get("language", []) if code.fullmatch(language)]


def _license(name: str | None) -> tuple[str | None, str | None]:
    """Return the licence's Hub identifier, or ``other`` and a name for what is none."""
    known = line(name or "").lower()
    if re.fullmatch(r"([a-z0-9][a-z0-9.+-]*)?", known):
        return known or None, None
    return "other", re.sub(r"[^a-z0-9.]+", "-", known).strip("-.") or None


def _results(manifest: Mapping[str, Any]) -> Iterator[EvalResult]:
    """Yield the metrics as the Hub's model-index has them, which needs a name for their data."""
    training, author = manifest["training"], manifest["author"]
    data = section(training, "data")
    of_eval = "eval_" if "eval_dataset" in data else ""
    known = _first(data.get(f"{of_eval}dataset"), author.get("datasets"))
    facts = {
        "name": _first(author.get("dataset_names"), known),
        "type": known,
        "config": data.get(f"{of_eval}config") or _first(author.get("dataset_args")),
        "revision": data.get(f"{of_eval}revision"),
    }
    for key, value in section(training, "metrics").items():
        metric, split = metric_name(key)
        measured_on = "eval" if split == "validation" else split
        split = data.get(f"{measured_on}_split", split)
        yield from _result(manifest, metric, value, {**facts, "split": split})
    elsewhere = training.get("metrics_on_other_data")
    for one in elsewhere if isinstance(elsewhere, list) else ():
        data = section(one, "data") if isinstance(one, Mapping) else {}
        name = data.get("dataset")
        size = f", {data['rows']} rows" if "rows" in data else ""
        facts = {**data, "name": name or f"{UNNAMED}{size}", "type": name}
        for metric, value in section(one, "metrics").items() if data else ():
            yield from _result(manifest, metric, value, facts)


def _result(
    manifest: Mapping[str, Any], metric: str, value: Any, data: Mapping[str, Any]
) -> Iterator[EvalResult]:
    from huggingface_hub import EvalResult

    if is_number(value):
        yield EvalResult(
            task_type=line(pipeline_tag(manifest) or manifest["model"].get("task") or "other"),
            dataset_type=line(data["type"] or data["name"] or UNNAMED),
            dataset_name=line(data["name"] or UNNAMED),
            dataset_config=_text(data.get("config")),
            dataset_split=_text(data.get("split")),
            dataset_revision=_text(data.get("revision")),
            metric_type=line(metric),
            metric_value=value,
        )


def _first(*candidates: str | list[str] | None) -> str | None:
    first = next((candidate for candidate in candidates if candidate), None)
    return first[0] if isinstance(first, list) else first


def _text(value: Any) -> str | None:
    return None if value is None else line(value)
