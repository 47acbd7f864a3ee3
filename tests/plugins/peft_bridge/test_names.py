"""Names in peft's settings: what matches nothing is refused, what means something does it."""

import pytest
import tiny
import torch
from contracts import built_in, contract
from transformers import CLIPVisionConfig, LlavaConfig, LlavaForConditionalGeneration

import ftplug
from ftplug.attaching.attachment import require_attachment
from ftplug.attaching.reach import towers
from ftplug.discovery import entry
from ftplug.testing.compare import weights

SETTINGS = {"ia3": {"feedforward_modules": ()}}
PEFT = [
    name
    for name in built_in()
    if "target_modules" in entry(name).load().defaults() and not entry(name).load().refused
    if name != "adaption-prompt"  # one kind of module, which its config knows
]


def settings_of(name):
    given = contract(name)
    return given.get("settings", {}) | SETTINGS.get(name, {}), given.get("beside", ())


def refusal(name, **asked):
    """Return why a method refuses settings; the model is as it was."""
    settings, beside = settings_of(name)
    base = tiny.llama(attention_bias=True)
    before = weights(base)
    with pytest.raises(ftplug.MethodError) as refused:
        ftplug.apply(base, *beside, entry(name).load().configure(settings | asked))
    after = weights(base)
    assert after.keys() == before.keys()
    assert all(after[key].equal(before[key]) for key in before)
    said = str(refused.value)
    assert "\n" not in said
    return said


@pytest.mark.parametrize("name", PEFT)
def test_one_misspelt_target_of_several_is_refused(name):
    said = refusal(name, target_modules=("q_proj", "v_porj"))
    assert "'v_porj' matches no module of LlamaForCausalLM" in said
    assert "did you mean v_proj" in said


def having(setting):
    return [name for name in PEFT if setting in entry(name).load().defaults()]


@pytest.mark.parametrize("name", having("exclude_modules"))
def test_a_misspelt_exclusion_is_refused(name):
    asked = {"target_modules": ("q_proj", "v_proj"), "exclude_modules": ("q_porj",)}
    assert "exclude_modules: 'q_porj' matches no module" in refusal(name, **asked)


@pytest.mark.parametrize("name", having("layers_to_transform"))
def test_a_layer_that_is_not_there_is_refused(name):
    asked = {"target_modules": ("q_proj", "v_proj"), "layers_to_transform": (0, 7)}
    assert "no target in a layer 7 of LlamaForCausalLM" in refusal(name, **asked)


PATTERNS = [
    (name, setting)
    for name in PEFT
    for setting in entry(name).load().defaults()
    if setting.endswith("_pattern") and setting != "layers_pattern"
]


@pytest.mark.parametrize(("name", "setting"), PATTERNS)
def test_a_pattern_that_fits_no_target_is_refused(name, setting):
    asked = {"target_modules": ("q_proj",), setting: {"v_proj": 2}}  # there, but no target
    assert f"{setting}: 'v_proj' matches no target" in refusal(name, **asked)


ONE_PATTERN = ("gralora", "miss", "randlora")  # they take no several


@pytest.mark.parametrize("setting", ["rank_pattern", "alpha_pattern"])
def test_a_pattern_that_is_none_is_refused_in_one_line(setting):
    said = refusal("lora", target_modules=("q_proj",), **{setting: {"q_(proj": 2}})
    assert "unterminated subpattern" in said


@pytest.mark.parametrize("name", having("layers_pattern"))
def test_a_list_of_layers_that_is_not_there_is_refused(name):
    pattern = "layres" if name in ONE_PATTERN else ("layers", "layres")
    asked = {
        "target_modules": ("q_proj",), "layers_to_transform": (0,), "layers_pattern": pattern,
    }  # fmt: skip
    assert "layers_pattern: 'layres' matches no list of layers" in refusal(name, **asked)


@pytest.mark.parametrize("name", ["lora"])
def test_a_parameter_that_is_not_there_is_refused(name):
    asked = {"target_modules": ("q_proj",), "target_parameters": ("q_porj.weight",)}
    said = refusal(name, **asked)
    assert "target_parameters: 'q_porj.weight' matches no parameter" in said
    assert "did you mean q_proj.weight" in said


def test_feed_forward_modules_of_ia3_are_targets():
    asked = {"target_modules": ("q_proj", "down_proj"), "feedforward_modules": ("down_porj",)}
    assert "`feedforward_modules` should be a subset" in refusal("ia3", **asked)  # peft's own


def test_without_any_near_name_those_that_exist_are_listed():
    said = refusal("lora", target_modules=("attention.query",))
    assert "(there are down_proj, embed_tokens, gate_proj, input_layernorm, " in said


def llava():
    torch.manual_seed(0)
    sizes = {
        "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
        "num_attention_heads": 4,
    }  # fmt: skip
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**sizes, image_size=16, patch_size=8),
        text_config=tiny.llama().config,
        image_token_index=5,
        vision_feature_select_strategy="full",
        vision_feature_layer=-1,
    )
    return LlavaForConditionalGeneration(config)


def adapted(model):
    """Return how many tensors train in each part: vision, projector, language."""
    names = [name for name, p in model.named_parameters() if p.requires_grad]
    parts = ("vision_tower", "multi_modal_projector", "language_model")
    counts = tuple(sum(part in name for name in names) for part in parts)
    assert sum(counts) == len(names)
    return counts


EXCLUSIONS = [
    "vision_tower",
    "model.vision_tower",
    "vision_tower.*",
    "*vision_tower*",
    "model.vision_tower.encoder",
    r".*\.vision_tower\..*",
    r"model\.(vision_tower|nothing)\..+",
]


@pytest.mark.parametrize("excluded", EXCLUSIONS)
@pytest.mark.parametrize("name", ["lora", "ia3", "hira", "loha", "oft"])
def test_a_tower_is_left_out_by_name_path_glob_or_expression(name, excluded):
    settings = settings_of(name)[0] | {"exclude_modules": (excluded,)}
    settings |= {"target_modules": ("q_proj", "v_proj")}
    vision, _, language = adapted(ftplug.apply(llava(), name, **settings))
    assert vision == 0
    assert language > 0


@pytest.mark.parametrize("excluded", EXCLUSIONS)
def test_a_tower_is_left_out_of_all_linear_layers(excluded):
    model = ftplug.apply(llava(), "lora", target_modules="all-linear", exclude_modules=(excluded,))
    vision, projector, language = adapted(model)
    assert (vision, projector > 0, language) == (0, True, 28)


def test_what_is_excluded_stays_out_of_a_loaded_artifact(tmp_path):
    settings = {"target_modules": "all-linear", "exclude_modules": ("vision_tower",)}
    model = ftplug.apply(llava(), "lora", **settings)
    expected = adapted(model)
    ftplug.save(model, tmp_path / "a")
    assert adapted(ftplug.load(llava(), tmp_path / "a")) == expected


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("language_model", (0, 0, 28)),
        (r".*language_model.*q_proj", (0, 0, 4)),
        ("language_model.*.q_proj", (0, 0, 4)),
        ("model.vision_tower", (24, 0, 0)),
        ("q_proj", (4, 0, 4)),
    ],
)
def test_targets_by_path_glob_and_expression(target, expected):
    assert adapted(ftplug.apply(llava(), "lora", target_modules=(target,))) == expected


def test_the_tensors_of_each_tower_are_counted():
    model = ftplug.apply(llava(), "lora")
    plan = require_attachment(model).plan
    assert towers(model, plan) == {"model.vision_tower": 8, "model.language_model": 8}
    left_out = ftplug.apply(llava(), "lora", exclude_modules=("vision_tower",))
    assert towers(left_out, require_attachment(left_out).plan)["model.vision_tower"] == 0
    assert towers(tiny.t5(), require_attachment(ftplug.apply(tiny.t5(), "lora")).plan) == {}


def test_that_several_towers_train_is_said(caplog):
    ftplug.apply(llava(), "lora")
    said = "lora on LlavaForConditionalGeneration trains 8 tensors in model.vision_tower, 8 tensors"
    assert said in caplog.text
    caplog.clear()
    ftplug.apply(llava(), "lora", exclude_modules=("vision_tower",))
    ftplug.apply(llava(), "full")
    ftplug.apply(tiny.t5(), "lora")
    assert not caplog.records
