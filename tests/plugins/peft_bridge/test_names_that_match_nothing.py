"""Every setting of every method that names modules or parameters: a name of none lists those."""

import pytest
import tiny
from ftplug_plugins.freeze import Freeze

import ftplug
from ftplug import MethodError

NAMING = ("target_modules", "exclude_modules", "feedforward_modules", "train")
NEEDED = {
    "trainable-tokens": {"token_indices": [5]},
    "alora": {"alora_invocation_tokens": [1]},
}
METHODS = {
    (name, setting.name): setting.type
    for name, cls in ftplug.methods().items()
    for setting in cls.describe()
    if setting.name in NAMING and not cls.refused
}


def refused(method, setting, value):
    """Return what is said to a name on a Llama, whose modules peft knows."""
    if method == "qlora":
        pytest.importorskip("bitsandbytes", reason="pip install 'ftplug[qlora]'")
    with pytest.raises(MethodError) as said:
        ftplug.apply(tiny.llama(), method, **NEEDED.get(method, {}), **{setting: value})
    return str(said.value)


@pytest.mark.parametrize(("method", "setting"), METHODS)
def test_what_matches_nothing_lists_what_there_is(method, setting):
    kind = METHODS[method, setting]
    values = [["nosuch"]] * ("list" in kind) + ["nosuch.*nosuch"] * ("str |" in kind)
    assert values
    for value in values:
        text = refused(method, setting, value)
        assert "nosuch" in text
        assert "(there are " in text, text
        assert "\n" not in text


def test_patterns_that_are_nearly_right_are_answered_with_the_right_ones():
    with pytest.raises(MethodError, match=r"did you mean .*\*\.LayerNorm\.weight"):
        ftplug.apply(tiny.bert(), Freeze(train=("*.LayerNrm.weight",)))
