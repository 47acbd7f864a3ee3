"""Asking a model a probe's inputs, without a trace in the model."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import TYPE_CHECKING, Any

from ftplug import structure
from ftplug.attaching.attachment import unwrap_model
from ftplug.attaching.probing import without_a_trace
from ftplug.effect.inputs import called, materialized
from ftplug.effect.outputs import classes, head_answers, own_rows, trunk_heard
from ftplug.effect.pieces import Answers, Continuation, Input
from ftplug.effect.probe import Probe
from ftplug.effect.sampling import SAMPLE, TOP, sample
from ftplug.effect.tokens import writes
from ftplug.errors import FtplugError, NotProbed, NotReplayable, one_line

if TYPE_CHECKING:
    from torch import Tensor, nn

NEW_TOKENS = 16


@dataclass(frozen=True)
class Raw:
    """The answers to one input, on the CPU, with all that a later choice of tokens needs.

    ``answers`` are the samples (n,) by kind; ``next_token`` (vocabulary,) the log-probabilities of
    what comes next (language models); ``continuation`` the tokens that follow a prompt.
    ``classes`` is the width of whole rows in ``answers["logits"]``, 0 where they are none.
    """

    answers: dict[str, Tensor]
    next_token: Tensor | None = None
    continuation: tuple[int, ...] | None = None
    classes: int = 0


def ask(
    model: nn.Module, inputs: Sequence[Input], *, continuations: bool = True, finite: bool = True
) -> tuple[Raw, ...]:
    """Return the model's answers to inputs; what the model was before it is afterwards.

    In eval mode, without gradients, under seeded generators that are put back. Of a compiled model
    the uncompiled one is asked. Where processes share a model all must call. ``continuations`` asks
    for 16 greedy tokens after each prompt. Raises :class:`ftplug.errors.NotProbed` with the reason
    where the model gives no answer, or with ``finite`` one that is NaN or infinite.
    """
    whole = unwrap_model(model)
    ends = _ends_of_text(structure.pretrained(whole))
    raws = []
    with _reason_of(whole):
        for given in inputs:
            with without_a_trace(whole):  # so that each is answered as if it were the only one
                raws.append(_asked(whole, given))
        if finite:
            _refuse_infinite(raws)
        if continuations and writes(structure.pretrained(whole)):
            with without_a_trace(whole):
                continued = _continued(whole, inputs)
            for index, tokens in continued.items():
                raws[index] = replace(raws[index], continuation=_up_to(tokens, ends))
    return tuple(raws)


@contextlib.contextmanager
def _reason_of(model: nn.Module) -> Iterator[None]:
    try:
        yield
    except FtplugError:
        raise
    except Exception as error:  # whatever a model's forward may raise
        kind = type(structure.pretrained(model)).__name__
        raise NotProbed(
            f"{kind} does not answer the probe's inputs: {one_line(error)[:200] or repr(error)}"
        ) from error


def _asked(model: nn.Module, given: Input) -> Raw:
    inner: Any = structure.pretrained(model)
    tensors = materialized(given, model)
    with trunk_heard(model) as heard:
        output = called(model, tensors)
    headless = structure.backbone(model) is model
    found = head_answers(output, has_head=not headless)
    logits = found.get("logits", found.get("0"))
    if writes(inner) and logits is not None and logits.dim() == 3:
        rows = own_rows(logits, tensors)
        following = rows[0, -1].float().log_softmax(-1).cpu()
        return Raw({"logits": sample(rows, given.stored.get("input_ids"))}, following)
    answers = {}
    if found:
        answers["logits"] = _samples([own_rows(each, tensors) for each in found.values()])
    if heard:
        answers["hidden"] = sample(own_rows(heard[-1], tensors))
    if not answers:
        raise NotProbed(f"{type(inner).__name__} answers with no tensor of numbers")
    width = classes(inner, logits) if logits is not None and len(found) == 1 else 0
    return Raw(answers, classes=width)


def _samples(found: Sequence[Tensor]) -> Tensor:
    """Return the samples of all that a head answers, in the order of its output."""
    import torch

    return torch.cat([sample(each, most=SAMPLE // min(len(found), 4)) for each in found[:8]])


def _refuse_infinite(raws: Sequence[Raw]) -> None:
    for kind, answer in (pair for raw in raws for pair in raw.answers.items()):
        if not answer.isfinite().all():
            raise NotProbed(f"its answers ({kind}) to the probe's inputs are NaN or infinite")


def _ends_of_text(inner: Any) -> frozenset[int]:
    """Return the tokens behind which a model writes nothing more."""
    configs = (getattr(inner, "generation_config", None), inner.config.get_text_config())
    found = (getattr(config, "eos_token_id", None) for config in configs)
    ends: Any = next((each for each in found if each is not None), [])
    return frozenset(ends if isinstance(ends, list | tuple) else [ends])


def _up_to(tokens: tuple[int, ...], ends: frozenset[int]) -> tuple[int, ...]:
    """Return tokens up to the first that ends a text, which is the last."""
    end = next((i for i, token in enumerate(tokens) if token in ends), len(tokens))
    return tokens[: end + 1]


def _continued(model: nn.Module, inputs: Sequence[Input]) -> dict[int, tuple[int, ...]]:
    """Return what follows each prompt, those of one length asked at once: none is padded."""
    import torch

    inner: Any = structure.pretrained(model)
    prompts = [(len(each.stored["input_ids"][0]), i) for i, each in enumerate(inputs) if each.text]
    found: dict[int, tuple[int, ...]] = {}
    for _, group in groupby(sorted(prompts), key=lambda pair: pair[0]):
        indices = [index for _, index in group]
        rows = [materialized(inputs[i], model) for i in indices]
        batch = {
            name: torch.cat([row[name] for row in rows]) for name in ("input_ids", "attention_mask")
        }
        ids = inner.generate(**batch, max_new_tokens=NEW_TOKENS, do_sample=False)
        new = ids[:, 1 if inner.config.is_encoder_decoder else batch["input_ids"].shape[1] :]
        found |= {i: tuple(row.tolist()) for i, row in zip(indices, new, strict=True)}
    return found


def ask_as(model: nn.Module, probe: Probe) -> Answers:
    """Return a model's answers to a probe's inputs: the samples and tokens that the probe has.

    They may be NaN or infinite: a model that overflows answers otherwise. Raises
    :class:`ftplug.errors.NotReplayable` where the probe is that of a model of another kind.
    """
    raws = ask(model, probe.inputs, continuations=False, finite=False)
    for raw, ids in zip(raws, probe.token_ids, strict=False):
        if raw.next_token is not None and len(ids) and int(ids.max()) >= len(raw.next_token):
            raise NotReplayable(
                f"the probe asks for token {int(ids.max())}: this model has {len(raw.next_token)}"
            )
    answers = _chosen(raws, probe.token_ids)
    for here, trained in zip(answers, probe.trained, strict=True):
        for kind, values in trained.items():
            if kind not in here or len(here[kind]) != len(values):
                raise NotReplayable(
                    f"the probe has {len(values)} numbers of {kind} for an input, and this model "
                    f"gives {len(here.get(kind, ()))}: it was asked of another kind of model"
                )
    return answers


def make_probe(
    inputs: Sequence[Input],
    base: Sequence[Raw] | None,
    trained: Sequence[Raw],
    head_only: Sequence[Raw],
    *,
    dtype: str,
    fresh_head: bool = False,
    tokenizer: Any = None,
) -> Probe:
    """Put answers together, with the same tokens in all of them.

    ``base`` is None where it was never asked; with ``fresh_head`` only what does not pass its head
    counts. ``tokenizer`` spells the continuations.
    """
    token_ids = _likeliest(trained, base or head_only)
    before = _chosen(base, token_ids) if base else None
    if fresh_head and before is not None:
        without = tuple(
            {kind: value for kind, value in each.items() if kind == "hidden"} for each in before
        )
        before = without if any(without) else None
    return Probe(
        inputs=tuple(inputs),
        trained=_chosen(trained, token_ids),
        head_only=_chosen(head_only, token_ids),
        base=before,
        token_ids=token_ids,
        continuations=_continuations(trained, base, tokenizer),
        dtype=dtype,
        classes=min(raw.classes for raw in trained),
    )


def _likeliest(*asked: Sequence[Raw]) -> tuple[Tensor, ...]:
    """Return for each input the union of the likeliest next tokens, in the order of their ids."""
    import torch

    found = []
    for raws in zip(*asked, strict=True):
        rows = [raw.next_token for raw in raws if raw.next_token is not None]
        if rows:
            tops = [row.topk(min(TOP, len(row))).indices for row in rows]
            found.append(torch.cat(tops).unique())
    return tuple(found)


def _chosen(raws: Sequence[Raw], token_ids: Sequence[Tensor]) -> Answers:
    chosen = []
    for index, raw in enumerate(raws):
        answers = dict(raw.answers)
        if raw.next_token is not None and token_ids:
            answers["log_probs"] = raw.next_token[token_ids[index]]
        chosen.append(answers)
    return tuple(chosen)


def _continuations(
    trained: Sequence[Raw], base: Sequence[Raw] | None, tokenizer: Any
) -> tuple[Continuation, ...]:
    def spelled(tokens: tuple[int, ...]) -> str:
        return str(tokenizer.decode(list(tokens), skip_special_tokens=True))[:1024]

    found = []
    for index, raw in enumerate(trained):
        if raw.continuation is None or tokenizer is None:
            continue
        without = base[index].continuation if base else None
        text = None if without is None else spelled(without)
        found.append(
            Continuation(index, raw.continuation, spelled(raw.continuation), without, text)
        )
    return tuple(found)
