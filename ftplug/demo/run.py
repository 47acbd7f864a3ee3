"""The demo from end to end: base, method, training, held-out score, published, loaded back."""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftplug.demo import data, minilm
from ftplug.demo.report import DemoResult, print_report
from ftplug.demo.training import Recipe, best_epoch, epochs_of, make_trainer, train
from ftplug.errors import FtplugError
from ftplug.host import from_texts
from ftplug.quiet import quiet

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import Trainer

    from ftplug.demo.minilm import BaseLoader
    from ftplug.demo.predict import HeldOut
    from ftplug.method import Method

SENTENCES = (
    "Great sound, and the battery lasts for days.",
    "It broke within a week and nobody answered my mails.",
    "A wonderful film that I will gladly watch again.",
    "We waited an hour, and then the soup was cold.",
)


def run_demo(
    method: str | Sequence[str],
    settings: Mapping[str, str] | None = None,
    *,
    out: Path | None = None,
    epochs: int = 3,
    seed: int = 0,
    learning_rate: float | None = None,
    batch_size: int = 32,
    max_length: int = 32,
    bf16: bool = False,
    progress: bool = True,
    report: bool = True,
    load_base: BaseLoader = minilm.load_base,
    parts: data.Split | None = None,
) -> DemoResult:
    """Fine-tune with a method, score it on held-out sentences, publish it, pull it back, ask it.

    ``method`` is a name or several. ``settings`` are the method's, as typed on a command line
    (``{"r": "16"}``; of several methods ``{"lora.r": "16"}``). The artifact goes
    to ``out`` (``ftplug-demo/METHOD`` by default) and to a Hub on this machine that ends with the
    demo; checkpoints go to a temporary folder. ``progress``
    shows a bar on standard error, ``report`` prints the table on standard output. ``load_base``
    returns a fresh model and its tokenizer on each call; ``parts`` replaces the demo's sentences.

    Raises :class:`FtplugError` when the model, scikit-learn or the method is not installed.
    """
    chosen = from_texts([method] if isinstance(method, str) else method, settings or {})
    recipe = Recipe(epochs, seed, learning_rate, batch_size, max_length, bf16)
    target = Path(out or f"ftplug-demo/{chosen[0].name}")
    parts = parts or data.split(data.read_sentences())
    if importlib.util.find_spec("sklearn") is None:
        raise FtplugError("the demo's metrics need scikit-learn: pip install 'ftplug[demo]'")
    if importlib.util.find_spec("starlette") is None:
        raise FtplugError("the demo's Hub needs an ASGI server: pip install 'ftplug[demo]'")
    with quiet():
        result = _run(chosen, recipe, parts, target, load_base, progress)
    if report:
        print_report(result)
    return result


def _run(
    methods: Sequence[Method],
    recipe: Recipe,
    parts: data.Split,
    target: Path,
    load_base: BaseLoader,
    progress: bool,
) -> DemoResult:
    from transformers import set_seed

    from ftplug.demo.predict import HeldOut, Reader

    set_seed(recipe.seed)
    model, tokenizer = load_base()
    held_out = HeldOut(parts.test, Reader(tokenizer, recipe.max_length))
    with tempfile.TemporaryDirectory(prefix="ftplug-demo-") as checkpoints:
        trainer = make_trainer(methods, recipe, parts, model, tokenizer, checkpoints)
        before = held_out.scores(held_out.ask(model))
        train(trainer, methods[0].name, progress=progress)
    after = held_out.ask(model)
    majority = data.majority_accuracy(parts)
    scores = {
        "after": held_out.scores(after),
        "before training": before,
        "majority class": {"accuracy": majority},
    }
    _save(trainer, held_out, scores, target)
    return DemoResult(
        seed=recipe.seed,
        max_length=recipe.max_length,
        train_rows=len(parts.train),
        validation_rows=len(parts.validation),
        test_rows=len(parts.test),
        majority_accuracy=majority,
        accuracy_before=before["accuracy"],
        accuracy=scores["after"]["accuracy"],
        f1=scores["after"]["f1"],
        validation_accuracy=best_epoch(trainer).validation_accuracy,
        best_epoch=best_epoch(trainer).epoch,
        epochs=epochs_of(trainer),
        epochs_asked=recipe.epochs,
        **_recorded(target),
        **_reloaded(trainer, load_base, held_out, after, target),
    )


def _save(
    trainer: Trainer,
    held_out: HeldOut,
    scores: Mapping[str, Mapping[str, float]],
    target: Path,
) -> None:
    """Write the artifact with what the Trainer knows about the run, and the held-out scores.

    ``scores`` are those of the trained model (``after``) and what to compare them with.
    """
    from ftplug.artifacts.saving import save
    from ftplug.training.facts.evaluation import EVALUATION
    from ftplug.training.record import training_facts

    named = {
        name: {f"test_{metric}": value for metric, value in metrics.items()}
        for name, metrics in scores.items()
    }
    facts = training_facts(trainer, trainer.ftplug.measured)  # type: ignore[attr-defined]
    facts["data"] |= {"dataset": data.NAME, "test_rows": len(held_out.sentences)}
    facts["metrics"] |= named.pop("after")
    facts[EVALUATION] = _evaluation(held_out)
    facts["baselines"] = _merged(facts.get("baselines", {}), named)
    model: Any = trainer.model
    known = model.config._name_or_path == minilm.HUB_ID
    save(
        model,
        target,
        training=facts,
        author={"license": minilm.LICENSE} if known else None,
        processing_class=held_out.reader.tokenizer,
    )


def _evaluation(held_out: HeldOut) -> dict[str, Any]:
    """Return how the held-out scores can be measured again."""
    from ftplug.training.facts.evaluation import ACCURACY, F1

    sentences, most = held_out.sentences, held_out.reader.max_length
    return {
        "rows": len(sentences),
        "metrics": {"test_accuracy": ACCURACY, "test_f1": F1},
        "data": {"source": data.SOURCE, "split": "test", "sha256": data.digest(sentences)},
        "preprocessing": {"text": ["text"], "label": "label", "max_length": most},
    }


def _merged(
    first: Mapping[str, Mapping[str, float]], second: Mapping[str, Mapping[str, float]]
) -> dict[str, dict[str, float]]:
    """Return the metrics of both, by what they belong to."""
    return {name: {**first.get(name, {}), **second.get(name, {})} for name in {**first, **second}}


def _recorded(target: Path) -> dict[str, Any]:
    """Return the figures that the artifact itself records, and its size on disk."""
    from ftplug.artifacts.manifest import read_manifest

    manifest = read_manifest(target)
    training, parameters = manifest.training, manifest.parameters
    sizes = {name: entry["size"] for name, entry in manifest.files.items()}
    return {
        "method": manifest.methods[0]["name"],
        "settings": manifest.methods[0]["settings"],
        "base": manifest.base["id"],
        "learning_rate": training["hyperparameters"]["learning_rate"],
        "batch_size": training["hyperparameters"]["per_device_train_batch_size"],
        "trained_parameters": parameters["trained"],
        "total_parameters": parameters["total"],
        "trained_share": parameters["trained"] / parameters["total"],
        "seconds": training["seconds"],
        "hardware": training["hardware"],
        "peak_memory_bytes": training["peak_memory_bytes"],
        "artifact": str(target),
        "artifact_bytes": sum(p.stat().st_size for p in target.rglob("*") if p.is_file()),
        "weights_bytes": sum(s for name, s in sizes.items() if name.endswith(".safetensors")),
    }


def _reloaded(
    trainer: Trainer, load_base: BaseLoader, held_out: HeldOut, logits: Tensor, target: Path
) -> dict[str, Any]:
    """Publish, pull and verify the artifact, put it on a fresh base, compare the answers."""
    from ftplug.artifacts.loading import load
    from ftplug.artifacts.registries import registry

    fresh, _ = load_base()
    name = trainer.ftplug.methods[0].name  # type: ignore[attr-defined]
    with registry().round_trip(target, f"reviews-{name}") as pulled:
        load(fresh.to(trainer.args.device), pulled.path)  # type: ignore[arg-type]
    again = held_out.ask(fresh)
    return {
        "published": f"{pulled.repo_id}@{pulled.sha}",
        "published_files": pulled.files,
        "published_bytes": pulled.bytes,
        "push_seconds": pulled.push_seconds,
        "pull_seconds": pulled.pull_seconds,
        "reloaded_agree": int((again.argmax(-1) == logits.argmax(-1)).sum()),
        "reloaded_logit_difference": float((again - logits).abs().max()),
        "predictions": held_out.reader.predict(fresh, SENTENCES),
    }
