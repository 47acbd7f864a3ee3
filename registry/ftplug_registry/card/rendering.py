"""The model card of an artifact: what the run and its author know, and nothing else."""

from __future__ import annotations

import inspect
import json
import shlex
from collections.abc import Iterator, Mapping
from functools import cache, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftplug import discovery
from ftplug.artifacts.card import CARD, COMPARED, CURVE
from ftplug.errors import PluginError
from ftplug_registry.card import compared, rows
from ftplug_registry.card.markdown import code, fenced, line, link, plain, table
from ftplug_registry.card.metadata import base_id, is_hub_id, metadata, section
from ftplug_registry.card.snippets import snippets

if TYPE_CHECKING:
    from ftplug.comparing.report.published import Published

TEMPLATE = Path(__file__).with_name("card.md.jinja")


def render(manifest: dict[str, Any], *, repo_id: str | None = None) -> dict[str, bytes]:
    """Return a card's files for a manifest: ``README.md`` and its pictures.

    They are the curve of a run with a history, and what it was compared with.
    ``repo_id`` is the repository that it describes; without one it speaks of the folder it is in.
    A fact that is not known is left out.
    """
    training, place = manifest["training"], repo_id or "path/to/this/folder"
    curve, beside = _curve(training), compared.compared(training)
    picture = compared.drawn(beside) if beside else None
    name = manifest["author"].get("model_name") or (repo_id or "").rpartition("/")[2]
    name = name or _name(manifest)
    text = _template().render(
        metadata=metadata(manifest, name).to_yaml(),
        title=plain(name),
        summary=_summary(manifest),
        adopted=_adopted(training),
        without_effect=bool((manifest.get("effect") or {}).get("nil")),
        facts=table(("", ""), rows.facts(manifest)),
        results=rows.results(training),
        results_elsewhere=rows.results_elsewhere(training),
        has_curve=curve is not None,
        curve=CURVE,
        compared=_compared(beside, picture),
        snippets=list(snippets(manifest, place)),
        verify=f"ftplug verify {shlex.quote(line(place))}",
        training=table(("", ""), pairs) if (pairs := list(rows.training(manifest))) else "",
        notes=manifest["author"].get("notes", "").strip(),
        citations=list(_citations(manifest)),
        version=plain(manifest["versions"].get("ftplug", "")),
    )
    files = {CARD: text.encode("utf-8", "replace")}
    pictures = {CURVE: curve, COMPARED: picture}
    return files | {name: content for name, content in pictures.items() if content}


@cache
def _template() -> Any:
    import jinja2

    environment = jinja2.Environment(
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=jinja2.StrictUndefined,
    )
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8"))


def _name(manifest: Mapping[str, Any]) -> str:
    methods = " + ".join(method["name"] for method in manifest["methods"])
    return f"{methods} on {base_id(manifest) or manifest['model'].get('class')}"


def _summary(manifest: Mapping[str, Any]) -> str:
    """Return one sentence: what was trained, how, on what, and how much of it."""
    base, model = base_id(manifest), manifest["model"]
    subject = link(code(base), f"{rows.HUB}/{base}") if base else code(model.get("class"))
    methods = " and ".join(code(method["name"]) for method in manifest["methods"])
    data, task = rows.data_name(manifest), plain(model.get("task") or "").replace("-", " ")
    on, purpose = f" on {data}" if data else "", f" for {task}" if task else ""
    trained = rows.share(manifest["parameters"])
    return f"{subject} fine-tuned with {methods}{on}{purpose}: {trained} were trained."


def _adopted(training: Mapping[str, Any]) -> str:
    """Return what is said of an adapter that another library trained, or nothing."""
    known = section(training, "adopted")
    if not known:
        return ""
    more = ""
    if is_hub_id(repository := known.get("repository")):
        more = f" It is from {link(code(repository), f'{rows.HUB}/{repository}')}."
    if named := known.get("named_base"):
        more += f" It names {code(named)} as its base."
    was = plain(known.get("was") or "an adapter of another library")
    return f"**Adopted, trained elsewhere:** it was {was}.{more}"


def _curve(training: Mapping[str, Any]) -> bytes | None:
    history = section(training, "history")
    if not history:
        return None
    majority = section(section(training, "baselines"), "majority class")
    return _drawn(json.dumps([history, majority]))


@lru_cache(maxsize=4)
def _drawn(content: str) -> bytes | None:
    """Draw a history and the commonest answer's metrics: pushing draws again what saving drew."""
    from ftplug_registry.card.curve import training_curve  # matplotlib: only when there is a curve

    history, majority = json.loads(content)
    return training_curve(history, majority)


def _compared(published: Published | None, picture: bytes | None) -> dict[str, Any] | None:
    """Return what the card says of a comparison, as markdown."""
    if published is None:
        return None
    return {
        "answer": plain(published.answer),
        "table": compared.verdicts(published),
        "picture": COMPARED if picture else None,
        "remarks": compared.remarks(published),
    }


def _citations(manifest: Mapping[str, Any]) -> Iterator[str]:
    for method in manifest["methods"]:
        try:
            citation = discovery.entry(method["name"]).load().citation
        except PluginError:
            continue  # made elsewhere, with a plugin that is not installed here
        if citation:
            yield fenced(inspect.cleandoc(citation), "bibtex")
