"""Verdicts on plain answers: vectors whose distances are known, no model."""

import math
from dataclasses import replace

import pytest
import torch

from ftplug.effect.figures import measured
from ftplug.effect.verdicts import Conclusion, Conditions, concluded, overall

INPUTS, VALUES = 8, 40
FULL = Conditions("float32", "float32")
HALF = Conditions("float32", "bfloat16")
SHORT = ("float16", "bfloat16")
FOUR_BITS = Conditions("float32", "quantized")


def drawn(seed, scale=1.0, *, kind="logits", values=VALUES):
    draw = torch.Generator().manual_seed(seed)
    return tuple({kind: scale * torch.randn(values, generator=draw)} for _ in range(INPUTS))


def plus(one, other, factor=1.0):
    return tuple({k: a[k] + factor * b[k] for k in a} for a, b in zip(one, other, strict=True))


BASE = drawn(0)


def judged(conditions=FULL, *, effect=0.3, share=1.0, noise=0.0, fault=None, shift=None, off=True):
    """Judge answers with a share of the effect, independent noise on both sides, and a fault."""
    change = drawn(1, effect)
    trained = plus(BASE, change)
    here = plus(plus(BASE, change, share), drawn(2, noise))
    without_here = plus(BASE, drawn(3, noise))
    if fault:
        here = plus(here, drawn(4, fault))
    if shift:  # another base: both move
        here, without_here = (plus(each, drawn(5, shift)) for each in (here, without_here))
    figures = measured(here, without_here if off else None, trained, BASE, least=conditions.least)[
        "logits"
    ]
    return figures, concluded(figures, conditions)


def verdict(*arguments, **given):
    return judged(*arguments, **given)[1].verdict


def test_distances_are_what_they_say():
    figures, _ = judged(effect=0.3, share=0.5, noise=0.01)
    assert figures.effect == pytest.approx(0.3, rel=0.1)
    assert figures.error == pytest.approx(0.15, rel=0.1)
    assert figures.noise == pytest.approx(0.01, rel=0.15)
    assert figures.remaining == pytest.approx(0.15, rel=0.1)
    assert figures.share == pytest.approx(0.5, abs=3 * figures.uncertainty)


@pytest.mark.parametrize("effect", [1e-4, 1e-2, 1.0])
@pytest.mark.parametrize("noise", [0, 1e-7, 3e-6])
def test_the_trained_answers_are_trained(effect, noise):
    assert verdict(effect=effect, noise=noise) == "trained"


@pytest.mark.parametrize("effect", [1e-3, 1e-2, 1.0])
@pytest.mark.parametrize("noise", [0, 1e-6])
def test_the_answers_without_the_method_have_no_effect(effect, noise):
    assert verdict(effect=effect, share=0.0, noise=noise) == "no effect"
    assert verdict(effect=effect, share=0.0, noise=noise, off=False) == "no effect"


@pytest.mark.parametrize("share", [0.5, 0.9, 0.99, 1.01, 2.0, -1.0])
@pytest.mark.parametrize("effect", [0.01, 1.0])
def test_a_wrong_scale_is_something_else_in_full_precision(share, effect):
    assert verdict(share=share, effect=effect) == "other"


def test_a_fault_of_a_hundredth_of_the_effect_is_found_in_full_precision():
    assert verdict(fault=0.003) == "other"


def test_another_base_in_the_same_dtype_is_something_else_and_no_noise():
    figures, conclusion = judged(shift=0.05)
    assert (conclusion.verdict, figures.noise > 0.02) == ("other", True)
    assert "base" in conclusion.reason


@pytest.mark.parametrize("conditions", [HALF, FOUR_BITS])
@pytest.mark.parametrize("shift", [0.3, 1.5])
def test_another_base_in_another_dtype_is_never_trained(conditions, shift):
    found = judged(conditions, shift=shift)[1]
    assert (found.verdict, found.unlike) == ("not decidable here", True)


@pytest.mark.parametrize("noise", [0.003, 0.01, 0.02])
def test_honest_noise_is_no_alarm(noise):
    found = {verdict(HALF, effect=e, noise=noise) for e in (1e-3, 1e-2, 0.05, 0.1, 0.3, 1.0)}
    assert found <= {"trained", "not decidable here"}
    assert verdict(HALF, effect=1.0, noise=noise) == "trained"
    assert verdict(HALF, effect=2 * noise, noise=noise) == "not decidable here"


@pytest.mark.parametrize("dtype", SHORT)
@pytest.mark.parametrize("effect", [0.006, 0.03, 0.3, 1.4])
def test_another_kernel_of_a_short_type_is_no_alarm(dtype, effect):
    """It rounds what the method adds; of the base's own answers little shows it."""
    steps = torch.finfo(getattr(torch, dtype)).eps
    given = {"effect": effect, "noise": 1e-4, "fault": steps * max(0.5, effect)}
    found = verdict(Conditions(dtype, dtype), **given)
    assert found == ("trained" if effect > 0.1 else found)
    assert found in ("trained", "not decidable here")
    alike = Conditions(dtype, dtype, repeated=True)
    assert verdict(alike, effect=effect, fault=0.01 * effect) == "other"


@pytest.mark.parametrize("share", [0.0, 0.5, 0.8, 1.25, 2.0])
@pytest.mark.parametrize("effect", [0.006, 0.03, 0.3, 1.4])
def test_another_kernel_of_a_short_type_hides_no_fault(effect, share):
    for dtype in SHORT:
        found = verdict(Conditions(dtype, dtype), effect=effect, share=share, noise=1e-4)
        assert found in ("no effect", "other") or (found, effect < 0.1) == (
            "not decidable here",
            True,
        )


@pytest.mark.parametrize("repeated", [True, False])
def test_full_precision_asks_for_no_repetition(repeated):
    conditions = Conditions("float32", "float32", repeated=repeated)
    assert (conditions.least, conditions.more) == (FULL.least, 0.0)


@pytest.mark.parametrize("noise", [0.003, 0.01, 0.02, 0.05])
@pytest.mark.parametrize("effect", [1e-3, 1e-2, 0.05, 0.1, 0.3, 1.0])
@pytest.mark.parametrize("share", [0.0, 0.5, 2.0])
def test_half_double_and_nothing_never_pass_in_noise(noise, effect, share):
    assert verdict(HALF, share=share, effect=effect, noise=noise) != "trained"
    assert verdict(FOUR_BITS, share=share, effect=effect, noise=3 * noise) != "trained"


@pytest.mark.parametrize(
    ("conditions", "routed", "elsewhere"),
    [(HALF, "not decidable here", "other"), (FULL, "other", "other")],
)
def test_a_router_may_choose_other_experts_by_rounding_alone(conditions, routed, elsewhere):
    off = {"effect": 1.0, "noise": 0.003 if conditions is HALF else 0.0, "fault": 0.12}
    assert verdict(conditions, **off) == elsewhere
    conditions = replace(conditions, routed=True)
    found = judged(conditions, **off)[1]
    assert (found.verdict, found.unlike) == (routed, routed != "other")
    assert verdict(conditions, share=0.75, effect=1.0) == "other"  # other experts scale nothing


@pytest.mark.parametrize(("noise", "says"), [(0.04, "trained"), (0.1, "not decidable here")])
def test_beside_much_noise_of_a_quantized_base_nothing_passes_as_trained(noise, says):
    found = judged(FOUR_BITS, effect=1.0, noise=noise)[1]
    assert (found.verdict, found.unlike) == (says, says != "trained"), found
    assert says == "trained" or "base" in found.reason


def test_an_effect_of_nil_cannot_be_decided_but_something_else_can():
    assert verdict(effect=0.0) == "not decidable here"
    assert verdict(effect=1e-6) == "not decidable here"
    assert verdict(effect=0.0, fault=0.01) == "other"


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_answers_that_overflow_are_something_else(value):
    here = plus(BASE, drawn(1))
    here[3]["logits"][7] = value
    found = measured(here, BASE, plus(BASE, drawn(1)), BASE, least=1e-3)["logits"]
    conclusion = concluded(found, HALF)
    assert (conclusion.verdict, conclusion.beyond) == ("other", math.inf)


def test_values_that_were_not_finite_are_left_out():
    trained = plus(BASE, drawn(1))
    trained[0]["logits"][0] = -math.inf
    found = measured(trained, BASE, trained, BASE, least=FULL.least)["logits"]
    assert concluded(found, FULL).verdict == "trained"


def test_one_input_that_is_off_is_not_lost_in_the_mean_of_many():
    change = drawn(1, 0.3)
    here = [dict(answers) for answers in plus(plus(BASE, change), drawn(2, 0.01))]
    here[2]["logits"] = BASE[2]["logits"]  # its expert was dropped
    without = plus(BASE, drawn(3, 0.01))
    found = measured(tuple(here), without, plus(BASE, change), BASE, least=HALF.least)["logits"]
    assert concluded(found, HALF).verdict != "trained"


def conclusion(verdict):
    return Conclusion(verdict, "", 1.0)


def test_no_other_kind_makes_up_for_answers_that_are_unlike_the_trained():
    unlike = Conclusion("not decidable here", "", 9.0, unlike=True)
    assert overall({"hidden": conclusion("trained"), "logits": unlike}) == ("logits", unlike)


@pytest.mark.parametrize(
    ("kinds", "all_of_them"),
    [
        (("trained", "trained"), "trained"),
        (("trained", "not decidable here"), "trained"),
        (("trained", "other"), "other"),
        (("trained", "no effect"), "other"),
        (("no effect", "not decidable here"), "no effect"),
        (("no effect", "no effect"), "no effect"),
        (("not decidable here", "not decidable here"), "not decidable here"),
        ((), "not decidable here"),
    ],
)
def test_one_verdict_for_all_kinds_of_answer(kinds, all_of_them):
    given = {str(number): conclusion(each) for number, each in enumerate(kinds)}
    kind, found = overall(given)
    assert found.verdict == all_of_them
    if all_of_them in kinds:
        assert given[kind] is found


@pytest.mark.parametrize(("effect", "says"), [(0.3, "trained"), (1e-5, "other")])
def test_the_trained_answers_to_the_last_digits_need_nothing_of_the_base(effect, says):
    """A model whose every tensor trained answers alike, whatever lies where its base was."""
    trained = plus(BASE, drawn(1, effect))
    another = plus(BASE, drawn(5, 0.5))
    figures = measured(trained, another, trained, BASE, least=FULL.least)["logits"]
    assert figures.noise > FULL.most
    assert concluded(figures, FULL).verdict == says
