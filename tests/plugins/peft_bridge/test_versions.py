"""Differences between versions of peft: asked by presence, said with the version that has it."""

import copy
import json
import subprocess
import sys
from dataclasses import dataclass, field
from typing import Any

import peft
import pytest
import tiny
import torch
from ftplug_plugins.lora import Lora
from ftplug_plugins.peft_bridge import versions
from ftplug_plugins.peft_family import family
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING as CONFIGS
from runs import trainer

import ftplug
from ftplug import ArtifactError, MethodError, discovery
from ftplug.artifacts.manifest import MANIFEST


@dataclass
class OlderConfig:
    """A config class that lacks what came later."""

    r: int = 8
    targets: list[str] = field(default_factory=list)


@pytest.fixture
def older(monkeypatch):
    """Let the installed peft be one without HiRA, whose LoRA is the older one."""
    monkeypatch.setattr(versions, "installed", lambda: "0.18.1")
    monkeypatch.setattr(versions, "configs", lambda: {"LORA": OlderConfig, "PSOFT": OlderConfig})
    monkeypatch.setattr(versions, "types", lambda: frozenset({"LORA", "PSOFT"}))


def test_settings_at_their_default_are_dropped_where_the_config_lacks_them():
    values = {"r": 4, "targets": ["a"], "new": None, "newer": [1]}
    config = versions.build_config("mine", OlderConfig, values, {"r": 8, "new": None, "newer": [1]})
    assert config == OlderConfig(4, ["a"])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("use_bdlora", "lora: use_bdlora needs peft ≥ 0.19 (found 0.18.1)"),
        ("kasa_config", "lora: kasa_config needs peft ≥ 0.21 (found 0.18.1)"),
        ("unheard_of", "lora: unheard_of is not in the installed peft 0.18.1"),
        ("lora_alpha", "lora: lora_alpha is not in the installed peft 0.18.1"),  # since 0.18
    ],
)
@pytest.mark.parametrize("defaults", [{}, {"use_bdlora": None, "kasa_config": 0, "unheard_of": 0}])
def test_any_other_value_is_refused_with_the_version_that_has_it(older, name, message, defaults):
    with pytest.raises(MethodError) as refused:
        versions.build_config("lora", OlderConfig, {"r": 4, name: {"a": 1}}, defaults)
    assert str(refused.value) == message


def test_a_younger_setting_is_refused_as_soon_as_it_is_given(older):
    assert Lora().use_bdlora is None
    with pytest.raises(MethodError, match=r"^lora: use_bdlora needs peft ≥ 0\.19 \(found 0\.18"):
        Lora(use_bdlora={"target_modules_bd_a": ["query"]})


def test_peft_is_not_imported_for_settings_that_every_version_has(monkeypatch):
    monkeypatch.setattr(versions, "configs", lambda: pytest.fail("peft was asked"))
    assert Lora(r=4, use_dora=True).r == 4
    with pytest.raises(pytest.fail.Exception):
        Lora(use_bdlora={"a": 1})


class TestATypeThatIsNotThere:
    reason = r"hira: needs peft ≥ 0\.20 \(found 0\.18\.1\)"

    @pytest.fixture(autouse=True)
    def hira(self, older, monkeypatch):
        monkeypatch.delitem(vars(family), "Hira", raising=False)
        yield
        vars(family).pop("Hira", None)

    def test_it_is_listed_with_the_version(self):
        cls = discovery.entry("hira").load()
        assert cls.refused == "needs peft ≥ 0.20 (found 0.18.1)"
        assert cls.summary().endswith("; needs peft ≥ 0.20 (found 0.18.1).")
        assert [s.name for s in cls.describe()][:1] == ["r"]

    def test_to_configure_it_is_refused(self):
        with pytest.raises(MethodError, match=self.reason):
            ftplug.apply(tiny.bert(), "hira", r=4)

    def test_to_attach_it_leaves_the_model_alone(self, tmp_path):
        model = tiny.bert()
        with pytest.raises(MethodError, match=self.reason):
            ftplug.attach(trainer(model, tmp_path), "hira")
        assert all(parameter.requires_grad for parameter in model.parameters())

    def test_to_load_it_is_refused_before_its_base_is(self, tmp_path):
        artifact = tmp_path / "artifact"
        ftplug.save(ftplug.apply(tiny.bert(), "lora", r=4), artifact)
        manifest = json.loads((artifact / MANIFEST).read_text(encoding="utf-8"))
        manifest["methods"][0] |= {"name": "hira", "settings": {"r": 4}}
        (artifact / MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")
        with pytest.raises(ArtifactError, match=self.reason[1:]) as refused:
            ftplug.load("no/such-base", artifact)
        assert "\n" not in str(refused.value)

    def test_what_cannot_be_used_here_says_why_rather_than_which_version_has_it(self):
        assert "wrapper around the model" in family.build("shadow").refused


def test_the_types_are_read_without_importing_peft():
    code = (
        "import sys; from ftplug_plugins.peft_bridge import versions\n"
        "print(*sorted(versions.types())); assert 'peft' not in sys.modules"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.split() == sorted(kind.value for kind in CONFIGS)
    assert versions._listed_in_source() == versions.types()
    assert versions.installed() == peft.__version__


def test_a_type_that_is_gone_again_is_not_said_to_come(monkeypatch):
    monkeypatch.setattr(versions, "types", frozenset)
    monkeypatch.setattr(versions, "installed", lambda: "0.30.0")
    assert versions.lacking("HIRA") == "is not in the installed peft 0.30.0"


@pytest.mark.parametrize("as_dictionary", [False, True])
def test_a_prompt_config_is_completed_from_either_form(monkeypatch, as_dictionary):
    real: Any = peft.utils._prepare_prompt_learning_config

    def prepare(config, base):
        if as_dictionary and not isinstance(base, dict):
            raise TypeError("argument of type 'BertConfig' is not iterable")
        return real(config, base if isinstance(base, dict) else base.to_dict())

    monkeypatch.setattr(peft.utils, "_prepare_prompt_learning_config", prepare)
    config = peft.PromptTuningConfig(num_virtual_tokens=4)
    versions.complete_prompt_config(config, tiny.bert().config)
    assert (config.num_layers, config.token_dim) == (tiny.LAYERS, 32)


def test_lora_on_embeddings_gets_the_group_that_an_older_peft_leaves_empty():
    model = torch.nn.ModuleDict(
        {"a": torch.nn.Linear(2, 2), "lora_embedding_A": torch.nn.Linear(2, 2)}
    )
    model = torch.nn.ModuleDict({"inner": model})
    theirs = list(model["inner"]["lora_embedding_A"].parameters())
    others = list(model["inner"]["a"].parameters())
    groups = [{"params": [*others, *theirs]}, {"params": [], "lr": 1e-6}, {"params": []}]
    optimizer = torch.optim.SGD(groups, lr=1.0)
    for _ in range(2):  # a second time there is nothing to move
        versions.group_embeddings(optimizer, model)
        found = [[id(p) for p in group["params"]] for group in optimizer.param_groups]
        assert found == [[id(p) for p in others], [id(p) for p in theirs], []]


def test_a_decomposition_that_takes_no_seed_is_given_one(monkeypatch):
    layer = pytest.importorskip("peft.tuners.adamss.layer", exc_type=ImportError)

    def draw(tensor, r, device, dtype=None):
        return torch.rand(r)

    monkeypatch.setattr(layer, "slice_pca", draw)
    found = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        with versions.seeded_svd():
            found.append(layer.slice_pca(None, 3, "cpu", torch.float32))
        assert torch.equal(torch.rand(1), torch.manual_seed(seed) and torch.rand(1))
    assert torch.equal(*found)
    assert layer.slice_pca is draw


def test_buffers_cut_from_their_graph_can_be_copied():
    buffers = {"default": torch.ones(2, requires_grad=True) * 2}
    versions.detach(buffers)
    assert torch.equal(copy.deepcopy(buffers)["default"], torch.full((2,), 2.0))
