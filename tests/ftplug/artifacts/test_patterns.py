"""Patterns of strangers end within a moment; messages are one line of at most 600 characters."""

import copy
import json
import re
import time
from dataclasses import dataclass, field
from typing import Annotated, ClassVar

import pytest
import tiny
from runs import same, shake, weights

import ftplug
from ftplug import ArtifactError, Method, MethodError
from ftplug.artifacts.strangers.patterns import check_names, note_names, with_names

SLOW = ["([a-z.0-9_]+)*X", "(.*)*(.*)*(.*)*Q", r"(\w+\.?)+!"]


@pytest.fixture
def base():
    return tiny.bert()


def refuse(base, folder):
    before, start = weights(base), time.monotonic()
    with pytest.raises(ArtifactError, match=r"takes too long|over 10,000 characters") as caught:
        ftplug.load(base, folder)
    assert time.monotonic() - start < 15
    assert "\n" not in str(caught.value)
    assert same(weights(base), before)


def edit(folder, name, change):
    content = json.loads((folder / name).read_text())
    change(content)
    (folder / name).write_text(json.dumps(content))


@pytest.mark.parametrize("pattern", SLOW)
@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("rank_pattern", lambda pattern: {pattern: 4}),
        ("layers_pattern", lambda pattern: pattern),
        ("target_modules", lambda pattern: [pattern]),
    ],
)
def test_an_artifacts_pattern_that_never_ends_is_refused(base, tmp_path, setting, value, pattern):
    folder = ftplug.save(shake(ftplug.apply(copy.deepcopy(base), "lora", r=4)), tmp_path / "a")
    (folder / "adapter_config.json").rename(tmp_path / "unlisted")  # a settings matter alone
    edit(folder, "ftplug.json", lambda m: m["files"].pop("adapter_config.json"))
    edit(
        folder,
        "ftplug.json",
        lambda m: m["methods"][0]["settings"].update({setting: value(pattern)}),
    )
    refuse(base, folder)


@pytest.mark.parametrize(
    "values",
    [
        {"target_modules": SLOW[0]},
        {"rank_pattern": {SLOW[1]: 2}},
        {"exclude_modules": SLOW[2]},
        {"alpha_pattern": {"(a|b)" * 2001: 1}},
    ],
    ids=["targets", "ranks", "excluded", "long"],
)
def test_a_plain_adapters_pattern_that_never_ends_is_refused(base, tmp_path, values):
    import peft

    config = peft.LoraConfig(task_type="SEQ_CLS", r=2, target_modules=["query"])
    peft.get_peft_model(copy.deepcopy(base), config).save_pretrained(
        tmp_path / "plain", save_embedding_layers=False
    )
    edit(tmp_path / "plain", "adapter_config.json", lambda c: c.update(values))
    refuse(base, tmp_path / "plain")


def test_a_sound_pattern_loads(base, tmp_path):
    model = ftplug.apply(
        copy.deepcopy(base), "lora", target_modules=[r".*layer\.1.*(query|value)"],
        rank_pattern={r"layer\.\d+\.attention\.self\.query": 2},
    )  # fmt: skip
    loaded = ftplug.load(base, ftplug.save(shake(model), tmp_path / "a"))
    assert sum("lora_A" in name for name, _ in loaded.named_parameters()) == 2


@pytest.mark.parametrize("kind", [ArtifactError, MethodError])
def test_a_message_is_one_line_of_at_most_600_characters(kind):
    text = str(kind("what:\n" + "x" * 10_000 + "\r\n: the way out"))
    assert len(text) <= 600
    assert text.startswith("what: xxx")
    assert text.endswith("xxx : the way out")
    assert "\n" not in text
    assert str(kind("short")) == "short"


@dataclass(frozen=True, eq=False)
class Picks(Method):
    """A method of somebody else, whose setting is a pattern."""

    name: ClassVar[str] = "picks"
    resolves: ClassVar[frozenset[str]] = frozenset({"layers"})
    layers: Annotated[tuple[str, ...], "Patterns."] = ()
    scales: Annotated[dict[str, float], "By pattern."] = field(default_factory=dict)

    def resolved(self, model):
        """Return what the patterns mean."""
        names = [name for name, _ in model.named_modules()]
        return {"layers": tuple(n for n in names if any(re.fullmatch(p, n) for p in self.layers))}


def test_a_method_of_somebody_else_may_resolve_its_patterns(base, tmp_path):
    method = Picks(layers=(".*query",))
    entries = [{"name": "picks", "settings": method.settings()}]
    note_names(entries, [method], base)
    names = [f"bert.encoder.layer.{n}.attention.self.query" for n in (0, 1)]
    assert entries[0]["resolved"] == {"layers": names}
    loaded = with_names(method, entries[0]["resolved"], tmp_path)
    assert loaded.layers == tuple(names)
    assert loaded.settings() == method.settings()
    again = [{"name": "picks", "settings": loaded.settings()}]
    note_names(again, [loaded], base)
    assert again == entries
    check_names(entries[0]["resolved"], base, tmp_path)
    with pytest.raises(ArtifactError, match="'nothing' is in its list of names"):
        check_names({"layers": ["nothing"]}, base, tmp_path)
    with pytest.raises(ArtifactError, match="'scales' is not resolved to names"):
        with_names(method, {"scales": {}}, tmp_path)
