"""The model card of an artifact: valid Hub metadata, and only what the run knows."""

from __future__ import annotations

from typing import Any


def render(manifest: dict[str, Any]) -> str:
    """Return ``README.md`` for a manifest, through huggingface_hub's card classes.

    A fact the run does not know is left out. ``library_name`` is ``ftplug``: with ``peft`` the
    Trainer's own ``create_model_card`` fails on a model that peft did not wrap.
    """
    from huggingface_hub import ModelCardData

    methods = [method["name"] for method in manifest["methods"]]
    base, model = manifest["base"], manifest["model"]
    data = ModelCardData(
        base_model=base["id"],
        library_name="ftplug",
        pipeline_tag=model["task"],
        tags=["ftplug", *(f"ftplug:{name}" for name in methods)],
        ignore_metadata_errors=True,
    )
    title = f"{' + '.join(methods)} on {base['id'] or model['class']}"
    lines = [
        f"---\n{data.to_yaml()}\n---\n",
        f"# {title}\n",
        *_facts(manifest),
        *_snippet(manifest),
    ]
    return "\n".join(lines) + "\n"


def _facts(manifest: dict[str, Any]) -> list[str]:
    trained, total = manifest["parameters"]["trained"], manifest["parameters"]["total"]
    rows = [
        ("Base model", manifest["base"]["id"]),
        ("Base revision", manifest["base"]["revision"]),
        ("Model class", manifest["model"]["class"]),
        ("Trained parameters", f"{trained:,} of {total:,} ({trained / total:.2%})"),
    ]
    for method in manifest["methods"]:
        settings = ", ".join(f"{k}={v}" for k, v in method["settings"].items())
        rows.append((f"Method {method['name']}", settings or "no settings"))
    for name, value in manifest["training"].items():
        text = (
            ", ".join(f"{k}: {v}" for k, v in value.items()) if isinstance(value, dict) else value
        )
        rows.append((name.replace("_", " ").capitalize(), text))
    table = [f"| {name} | {value} |" for name, value in rows if value not in (None, "")]
    return ["| | |", "|---|---|", *table, ""]


def _snippet(manifest: dict[str, Any]) -> list[str]:
    base = manifest["base"]["id"] or "path/to/the/base"
    return [
        "## Use\n",
        "```python",
        "import ftplug",
        "",
        f'model = ftplug.load("{base}", "path/to/this/folder")',
        "```",
    ]
