"""Several models of one artifact over the memory of one base: ``load(…, share_base=True)``."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ftplug.artifacts.loading import load
from ftplug.artifacts.saving import save
from ftplug.attaching.attachment import attachment_of, require_attachment
from ftplug.attaching.disabling import disabled
from ftplug.attaching.merging import merge
from ftplug.errors import FtplugError, MethodError
from ftplug.structure import named_tensors
from ftplug.testing.case import Case
from ftplug.testing.compare import difference, gap, logits, shake, weights


def shares_its_base(case: Case) -> None:
    """Two models on one base answer as one loaded alone; neither touches the other or the base.

    What is saved is each one's own, and all else lies in the base's memory.
    """
    with case.findable():
        model = shake(case.prepared())
        artifact = save(model, case.folder / "shared", probe=False)
        base, alone = case.base(), load(case.base(), artifact)
        before = weights(base)
        first, second = _on_one_base(case, base, artifact), _on_one_base(case, base, artifact)
    expected, own = logits(alone), logits(base)
    for answer in map(logits, (first, second)):
        assert torch.equal(answer, expected), (
            f"{case}: on a shared base it answers differently by {gap(answer, expected):.2g}: a "
            "forward must find its tensors on the module it is given"
        )
    _require_apart(case, first, base)
    shake(first)
    assert torch.equal(logits(second), expected), (
        f"{case}: training one model changes another one on the same base: what it trains is not "
        "its own: name it in select_trainable"
    )
    with disabled(second):
        assert case.quantizes or torch.equal(logits(second), own), (
            f"{case}: on a shared base, disabled is not the base"
        )
    trained = logits(first)
    with suppress(MethodError):  # which methods merge is another check's
        merge(second)
    assert torch.equal(logits(first), trained), (
        f"{case}: merging one model changes another one on the same base"
    )
    _require_untouched(case, base, before, own)


def _on_one_base(case: Case, base: nn.Module, artifact: Path) -> nn.Module:
    try:
        return load(base, artifact, share_base=True)
    except FtplugError as error:
        raise AssertionError(f"{case}: not loaded onto a shared base: {error}") from error


def _require_apart(case: Case, model: nn.Module, base: nn.Module) -> None:
    """Compare addresses: of what is saved with the base's, and the other way round."""
    theirs = {_address(tensor) for tensor in base.parameters()}
    saved = set(require_attachment(model).plan.saved)
    for name, tensor in named_tensors(model).items():
        if name in saved:
            assert _address(tensor) not in theirs, (
                f"{case}: {name} is saved with the artifact, but lies in the base's memory"
            )
        elif isinstance(tensor, nn.Parameter) and tensor.is_floating_point():
            assert _address(tensor) in theirs, (
                f"{case}: {name} is the base's, but was copied: give it its values back as they "
                "were, in prepare_model, or leave it alone where run.loading"
            )


def _require_untouched(case: Case, base: Any, before: dict[str, Tensor], own: Tensor) -> None:
    changed = difference(before, weights(base))
    assert changed is None, f"{case}: {changed} of a shared base has other values"
    assert attachment_of(base) is None and torch.equal(logits(base), own), (
        f"{case}: a shared base is no longer bare"
    )


def _address(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()
