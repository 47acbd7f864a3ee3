"""Asking a classifier: logits for texts, and how it does on the held-out part."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ftplug.demo.report import Prediction

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import BatchEncoding, PreTrainedModel, PreTrainedTokenizerBase

    from ftplug.demo.data import Sentence

_BATCH = 64


@dataclass(frozen=True)
class Reader:
    """Turns texts into a model's logits; texts longer than ``max_length`` tokens are cut."""

    tokenizer: PreTrainedTokenizerBase
    max_length: int

    def logits(self, model: PreTrainedModel, texts: Sequence[str]) -> Tensor:
        """Return the logits, (texts, classes), on the CPU; the model's mode is left as it was."""
        import torch

        was_training = model.training
        model.train(False)
        with torch.inference_mode():
            batches = [
                model(**self._batch(texts[start : start + _BATCH]).to(model.device)).logits
                for start in range(0, len(texts), _BATCH)
            ]
        model.train(was_training)
        return torch.cat(batches).float().cpu()

    def predict(self, model: PreTrainedModel, texts: Sequence[str]) -> tuple[Prediction, ...]:
        """Return the likelier label of each text with its probability."""
        labels = dict(model.config.id2label or {})
        best = self.logits(model, texts).softmax(-1).max(-1)
        answers = zip(texts, best.indices.tolist(), best.values.tolist(), strict=True)
        return tuple(Prediction(text, labels[index], value) for text, index, value in answers)

    def _batch(self, texts: Sequence[str]) -> BatchEncoding:
        batch: BatchEncoding = self.tokenizer(
            list(texts),
            truncation=True,
            max_length=self.max_length,
            padding=True,
            return_tensors="pt",
        )
        return batch


@dataclass(frozen=True)
class HeldOut:
    """The held-out part: asked before and after training, and again of the reloaded artifact."""

    sentences: Sequence[Sentence]
    reader: Reader

    def ask(self, model: PreTrainedModel) -> Tensor:
        """Return the logits, (sentences, classes)."""
        return self.reader.logits(model, [sentence.text for sentence in self.sentences])

    def scores(self, logits: Tensor) -> dict[str, float]:
        """Return accuracy and F1 of the likelier classes."""
        from ftplug.demo.metrics import scores

        return scores(logits.argmax(-1), [sentence.label for sentence in self.sentences])
