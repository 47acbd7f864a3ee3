"""The base that an adapter is put on: which class of model, with which head and vocabulary."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ftplug.adopting.folders import CONFIG
from ftplug.adopting.foreign import Foreign
from ftplug.errors import ArtifactError, one_line
from ftplug.quiet import quiet

if TYPE_CHECKING:
    from torch import nn

CLASSES = {
    "text-classification": "AutoModelForSequenceClassification",
    "token-classification": "AutoModelForTokenClassification",
    "question-answering": "AutoModelForQuestionAnswering",
    "text-generation": "AutoModelForCausalLM",
    "text2text-generation": "AutoModelForSeq2SeqLM",
    "feature-extraction": "AutoModel",
    "image-classification": "AutoModelForImageClassification",
    "fill-mask": "AutoModelForMaskedLM",
}
_MOST_LABELS = 100_000
_SEED = 716_253_948  # nobody else's: what an adapter holds is never equal to what is drawn


class BaseOf:
    """The base of one adapter, built anew at each call, always with the same fresh values."""

    def __init__(
        self,
        foreign: Foreign,
        base: str | os.PathLike[str],
        *,
        task: str | None,
        revision: str | None,
    ) -> None:
        if revision is not None and os.path.isdir(base):
            raise ArtifactError(f"{base}: a local folder has no revision {revision!r}")
        if revision is not None and not revision.strip():
            raise ArtifactError(f"{base}: the revision is empty: name a branch, tag or commit")
        if os.path.isfile(os.path.join(base, CONFIG)):
            raise ArtifactError(
                f"{base}: holds an adapter of its own ({CONFIG}), which transformers would load "
                "too: name the model that was trained on, or a copy without that file (--base)"
            )
        self.base, self.shapes = base, foreign.shapes
        named = revision or (foreign.named_revision if base == foreign.named_base else None)
        self._from = {"revision": named or "main", "trust_remote_code": False}
        with self._stated():
            from transformers import AutoConfig

            self.config = AutoConfig.from_pretrained(base, **self._from)
            empty = self._empty(foreign, task)
            self.cls = type(empty)
            self.labels, self.rows = self._sizes(empty)

    def built(self) -> nn.Module:
        """Return the base in eval mode; a head it has no values for is drawn under a fixed seed."""
        import torch

        labels = {} if self.labels is None else {"num_labels": self.labels}
        with self._stated(), quiet(bars=True), _unwarned(), torch.random.fork_rng():
            torch.manual_seed(_SEED)
            model: Any = self.cls.from_pretrained(
                self.base, **self._from, **labels, ignore_mismatched_sizes=True
            )
            if self.rows is not None:
                model.resize_token_embeddings(self.rows, mean_resizing=False)
        built: nn.Module = model.eval()
        return built

    def _empty(self, foreign: Foreign, task: str | None) -> Any:
        """Return the base without values, of the class for the task that is asked.

        Else for the adapter's task, of the adapter's class, or of the base's.
        """
        import torch
        import transformers

        if task is not None and task not in CLASSES:
            raise ArtifactError(f"--task {task[:80]!a}: one of {' | '.join(CLASSES)} is expected")
        named = [CLASSES.get(task or foreign.task or ""), foreign.model_class]
        named += list(self.config.architectures or ())[:1]
        unfit = None
        for name in filter(None, named[:1] if task else named):
            cls: Any = getattr(transformers, name, None)
            with torch.device("meta"), quiet(), _unwarned():
                if cls is not None and name.startswith("AutoModel"):
                    try:
                        return self._of_task(cls)
                    except ArtifactError as error:  # of whisper: the adapter's class, or the base's
                        unfit = unfit or error
                elif self._is_of(cls):
                    return cls(self.config)
        raise unfit or ArtifactError(
            f"neither {self.base} nor the adapter says which class of model it is for: --task "
            f"{' | '.join(CLASSES)}"
        )

    def _is_of(self, cls: Any) -> bool:
        """Whether this is a class of models with the base's config."""
        from transformers import PreTrainedModel

        if not (isinstance(cls, type) and issubclass(cls, PreTrainedModel)):
            return False
        return isinstance(self.config, cls.config_class or ())

    def _of_task(self, cls: Any) -> Any:
        try:
            return cls.from_config(self.config, trust_remote_code=False)
        except ValueError as error:
            if "Unrecognized configuration class" not in str(error):
                raise
            raise ArtifactError(
                f"{self.base}: a {self.config.model_type} is none of {cls.__name__}: "
                f"choose another --task ({' | '.join(CLASSES)})"
            ) from error

    def _sizes(self, empty: Any) -> tuple[int | None, int | None]:
        """Return how many labels and tokens the adapter has, where not as many as the base."""
        own = {n: tuple(p.shape) for n, p in empty.named_parameters(remove_duplicate=False)}
        other = {n: s for n, s in self.shapes.items() if n in own and s and s != own[n]}
        embeddings = _embeddings(empty)
        tokens = {f"{n}.weight" for n, m in empty.named_modules() if m in embeddings}
        rows = {shape[0] for name, shape in other.items() if name in tokens}
        count = getattr(self.config, "num_labels", None)
        labels = {s[0] for n, s in other.items() if n not in tokens and own[n][:1] == (count,)}
        fits = max(labels, default=1) <= _MOST_LABELS and min(labels | rows, default=1) >= 1
        if len(rows) > 1 or len(labels) > 1 or not fits:
            raise ArtifactError(f"the adapter's tensors do not fit one base: {_shown(other, own)}")
        return next(iter(labels), None), next(iter(rows), None)

    @contextmanager
    def _stated(self) -> Iterator[None]:
        try:
            yield
        except ArtifactError:
            raise
        except Exception as error:  # whatever a wrong id or folder raises
            raise ArtifactError(
                f"cannot load the base {str(self.base)!r}: {one_line(error)}"
            ) from error


def _embeddings(model: Any) -> list[Any]:
    found = []
    for get in (model.get_input_embeddings, model.get_output_embeddings):
        try:
            found.append(get())
        except (NotImplementedError, AttributeError):
            continue
    return [module for module in found if module is not None]


def _shown(other: Mapping[str, tuple[int, ...]], own: Mapping[str, tuple[int, ...]]) -> str:
    return ", ".join(f"{n}: {s}, the base's {own[n]}" for n, s in list(other.items())[:3])


@contextmanager
def _unwarned() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
