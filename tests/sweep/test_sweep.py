"""A seeded tenth of the sweep over transformers' classes (tools/sweep.py), and its page."""

import gc
import json

import pytest
import small_model
import sweep
import sweep_page
import transformers
import trial

RESULTS = json.loads(sweep_page.RESULTS.read_text(encoding="utf-8"))
BUILT = {name: line.rpartition(" ")[0] for name, line in RESULTS["classes"].items()}
TENTH = sweep.shuffled(BUILT)[::10]
SETTINGS = list(trial.SETTINGS)
SIXTHS = [SETTINGS[i::6] for i in range(6)]  # of the settings: each class takes the next
THERE = set(dir(transformers))  # a third of a second each time it is asked for


@pytest.fixture
def unhurried(monkeypatch):
    """Let a busy machine take longer than the sweep does, and collect garbage once a class."""
    monkeypatch.setattr(trial, "SECONDS", 10 * trial.SECONDS)
    gc.disable()  # it takes as long as the methods else
    yield
    gc.collect()
    gc.freeze()  # what was imported stays
    gc.enable()


@pytest.mark.usefixtures("unhurried")
@pytest.mark.filterwarnings("ignore")  # of the models: of their own deprecations
@pytest.mark.parametrize(("index", "name", "task"), [(i, *pair) for i, pair in enumerate(TENTH)])
def test_every_method_works_or_is_refused_in_one_line(index, name, task):
    if name not in THERE:
        pytest.skip(f"no {name} in transformers {transformers.__version__}")
    rows = list(trial.tried(name, task, SIXTHS[index % 6]))
    assert [row for row in rows if row["end"] == "dies"] == []
    same = transformers.__version__ == RESULTS["transformers"]
    assert not same or {row["end"] for row in rows} <= {"works", "refused"}


def test_the_sweep_was_wide_and_nothing_died():
    codes = [line.rpartition(" ")[2] for line in RESULTS["classes"].values()]
    assert len(codes) >= 400
    assert len(set(BUILT.values())) >= 8
    assert RESULTS["settings"] == SETTINGS
    assert {len(code) for code in codes} == {len(SETTINGS)}
    assert not any("d" in code for code in codes)


def test_the_page_has_the_tables_of_the_results():
    page = sweep_page.PAGE.read_text(encoding="utf-8")
    assert sweep_page.tables_in(page) == sweep_page.tables(RESULTS)


def test_a_config_is_made_small_with_those_in_it():
    config = small_model.smaller(transformers.LlavaConfig(), small_model.SMALL)
    text, vision = config.text_config, config.vision_config
    assert (text.hidden_size, text.num_hidden_layers, text.num_attention_heads) == (32, 2, 4)
    assert (vision.image_size, vision.patch_size, vision.num_hidden_layers) == (32, 8, 2)
    assert config.image_token_index < text.vocab_size == small_model.VOCABULARY


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([("works", ""), ("works", "2 named"), ("refused", "why"), ("dies", "Error")], "wnrd"),
        ([("not built", "why")], ""),
    ],
)
def test_a_class_is_kept_as_a_letter_a_setting(rows, expected):
    assert sweep_page.code([{"end": end, "line": line} for end, line in rows]) == expected


def test_a_hang_a_crash_and_a_silent_tensor_each_count_as_death(monkeypatch):
    import torch

    class Silent(torch.nn.Linear):
        def forward(self, x):
            return (x @ self.weight.detach() + self.bias,)

    monkeypatch.setattr(trial.ftplug, "apply", lambda model, *_, **__: model)
    end, line = trial.outcome(Silent(2, 2), {"x": torch.ones(1, 2)}, "lora")
    assert (end, line[:41]) == ("dies", "1 tensors without a gradient, 0 named: ['")
    end, line = trial.outcome(Silent(2, 2), {"x": torch.ones(1, 3)}, "lora")
    assert (end, line[:12]) == ("dies", "RuntimeError")
