"""Checks of a model: as prepared, as trained, saved, loaded, copied, merged and disabled.

One looks at the method's source alone.
"""

from __future__ import annotations

import copy
import re

import torch

from ftplug.applying import apply
from ftplug.artifacts.saving import save
from ftplug.attaching.attachment import attachment_of
from ftplug.attaching.disabling import disabled
from ftplug.attaching.merging import merge
from ftplug.errors import MethodError
from ftplug.inplace import is_wrapped
from ftplug.testing.case import Case
from ftplug.testing.compare import difference, gap, logits, shake, weights
from ftplug.testing.imports import heavy_import


def heavy_imports_are_lazy(case: Case) -> None:
    """Importing the method's module loads neither torch, transformers nor peft."""
    imports = heavy_import(type(case.configured).__module__)
    if not imports:
        return
    *through, heavy = imports
    by = "".join(f", by way of {step.name} ({step.file}:{step.line})" for step in through)
    raise AssertionError(
        f"{case}: {heavy.file}:{heavy.line}: {heavy.name} is imported at module level{by}: import "
        "it inside the hooks, or listing methods takes seconds"
    )


def refused_in_one_line(case: Case, reason: str) -> None:
    """Where the method does not fit, it says so in one line that ``reason`` matches."""
    model = case.base()
    before = weights(model)
    try:
        apply(model, *case.methods())
    except MethodError as error:
        said = str(error)
    else:
        raise AssertionError(
            f"{case}: declared unfit, but it was applied: raise MethodError in prepare_model or "
            f"select_trainable, or take {case.family} out of `unfit`"
        )
    assert re.search(reason, said), f"{case}: the refusal does not match {reason!r}: {said}"
    assert difference(before, weights(model)) is None and attachment_of(model) is None, (
        f"{case}: the refusal left a changed model: look before the first change"
    )


def start_equals_the_base(case: Case) -> None:
    """Before the first step the model answers as the base does, if the method claims it."""
    if not case.starts_at_base:
        return
    base, model = logits(case.base()), logits(case.untrained)
    assert torch.allclose(model, base, rtol=1e-4, atol=1e-6), (
        f"{case}: before training its answers differ from the base's by {gap(model, base):.2g}: "
        "start what is added at zero, or declare starts_at_base = False"
    )


def initialisation_is_seeded(case: Case) -> None:
    """Preparing twice gives the same values, whatever the user's generators hold."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        name = difference(weights(case.untrained), weights(case.prepared()))
    assert name is None, (
        f"{case}: {name} starts from other values each time: draw from torch's own generator, "
        "which is seeded for prepare_model, or processes and resumed runs disagree"
    )


def a_loaded_artifact_gives_equal_logits(case: Case) -> None:
    """Save, load onto a fresh base: equal logits; save again: the same bytes."""
    model, loaded = case.run.model, case.loaded
    name = difference(dict(model.named_parameters()), dict(loaded.named_parameters()))
    assert name is None, f"{case}: the loaded artifact has another {name}"
    assert torch.equal(logits(loaded), logits(model)), (
        f"{case}: the loaded artifact has the same tensors but answers differently by "
        f"{gap(logits(loaded), logits(model)):.2g}: something that the forward uses is neither a "
        "setting nor a tensor; make it a persistent buffer"
    )
    again = save(loaded, case.folder / "again")
    for path in case.artifact.rglob("*"):
        if path.suffix == ".safetensors":
            twin = again / path.relative_to(case.artifact)
            assert twin.is_file() and twin.read_bytes() == path.read_bytes(), (
                f"{case}: {path.name} has other bytes when the loaded model is saved again: "
                "load_artifact must be the exact inverse of save_artifact"
            )


def disabled_is_the_base(case: Case) -> None:
    """Within ``ftplug.disabled`` a trained model gives the base's answers exactly."""
    base, model = logits(case.base()), case.run.model
    if case.quantizes:
        with disabled(case.untrained):
            base = logits(case.untrained)
    trained, trains = logits(model), [p.requires_grad for p in model.parameters()]
    assert not torch.allclose(trained, base), f"{case}: training changed no answer"
    with disabled(model):
        within = logits(model)
    assert torch.equal(within, base), (
        f"{case}: disabled differs from the base by {gap(within, base):.2g}: add modules through "
        "ftplug.inplace.wrap_forward, or implement disable_model"
    )
    assert torch.equal(logits(model), trained), f"{case}: disabled left the model changed"
    assert [p.requires_grad for p in model.parameters()] == trains, (
        f"{case}: disabled left other parameters trainable"
    )


def merged_equals_the_forward(case: Case) -> None:
    """A merged model is a plain one and answers the same; what cannot be merged says so."""
    model = case.trained()
    expected, before = logits(model), weights(model)
    try:
        merge(model)
    except MethodError as error:
        assert not is_mergeable(case), f"{case}: it should merge, but was refused: {error}"
        assert difference(before, weights(model)) is None and attachment_of(model), (
            f"{case}: the refusal to merge left a changed model"
        )
        return
    assert is_mergeable(case), f"{case}: declared not mergeable, but it was merged"
    base = weights(case.base())
    strange = sorted(weights(model).keys() ^ base.keys())
    assert not strange and not any(map(is_wrapped, model.modules())), (
        f"{case}: the merged model is not a plain one ({(strange or ['a wrapped forward'])[0]}): "
        "merge_model removes what prepare_model added"
    )
    assert torch.allclose(logits(model), expected, rtol=1e-3, atol=1e-5), (
        f"{case}: merged answers differ by {gap(logits(model), expected):.2g}: fold exactly what "
        "the forward adds, or leave merge_model out"
    )


def a_deepcopy_is_independent(case: Case) -> None:
    """A copy has its own weights: changing one of the two does not change the other's answers."""
    model = case.trained()
    twin, before = copy.deepcopy(model), logits(model)
    assert torch.equal(logits(twin), before), f"{case}: a deepcopy answers differently"
    shake(twin)
    own = logits(twin)
    assert torch.equal(logits(model), before) and not torch.equal(own, before), (
        f"{case}: changing a deepcopy's weights changes the original's answers, or nothing: a "
        "forward must find its tensors on the module it is given"
    )
    shake(model, scale=0.1)
    assert torch.equal(logits(twin), own), (
        f"{case}: a deepcopy still runs the original's weights: wrap forwards by "
        "ftplug.inplace.wrap_forward with a function that holds no module and no tensor"
    )


def is_mergeable(case: Case) -> bool:
    """Whether all methods can be folded in: declared, or by what they implement."""
    if case.mergeable is not None:
        return case.mergeable if isinstance(case.mergeable, bool) else case.family in case.mergeable
    host = case.host
    return all(
        method.kind != "structure" or host.implements_for(method, "merge_model")
        for method in host.methods
    )
