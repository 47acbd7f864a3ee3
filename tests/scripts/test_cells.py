"""Every script with every method does what the table of docs/scripts.md says it does."""

import json

import pytest
from folders import script_inputs
from script_cells import CELLS, METHODS, SCRIPTS, measure, run
from scripts_table import PAGE, RESULTS, key, section, table

from ftplug.training.script import Launch, methods_from

pytestmark = pytest.mark.filterwarnings("ignore")  # what others' code warns about is not ours
RECORDED = json.loads(RESULTS.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    return script_inputs(tmp_path_factory.mktemp("inputs"))


@pytest.mark.parametrize(("script", "method"), CELLS)
def test_a_script_trains_saves_and_resumes_with_a_method(inputs, tmp_path, script, method):
    found = measure(SCRIPTS[script], method, inputs, tmp_path / "out")
    assert found == RECORDED[key(script, method)]
    if "refused" in found:
        assert script == "own-optimizer"
        assert "adds parameters" in found["refused"]
        return
    assert found["reloads"]
    assert found["resumes"] is not False
    if method in ("gradual-unfreezing", "full"):  # what a script does not use has no gradient
        assert found["moved"] > 0
    else:
        assert found["moved"] == found["may_train"]


def test_the_results_are_those_of_the_cells_and_the_page_shows_them():
    assert list(RECORDED) == [key(script, method) for script, method in CELLS]
    assert section(PAGE.read_text(encoding="utf-8")) == table(RECORDED), (
        "docs/scripts.md is stale: python tests/support/scripts_table.py"
    )


def test_a_report_holds_every_trainer_of_a_script(inputs, tmp_path):
    report = run(SCRIPTS["align"], "lora", inputs, tmp_path / "out").report
    assert [one["trainer"] for one in report["runs"]] == ["SFTTrainer", "DPOTrainer"]
    for one in report["runs"]:
        assert one["tensors"] == {"may_train": 8, "moved": 8}
        assert one["methods"][0]["settings"]["r"] == METHODS["lora"]["r"]
        assert one["training"]["steps"] == 4
        assert any("train_loss" in log for log in one["log_history"])


def test_a_dry_run_and_an_artifact_to_continue_from_reach_trls_script(inputs, tmp_path, capsys):
    run(SCRIPTS["trl-sft"], "lora", inputs, tmp_path / "out")
    artifact = tmp_path / "out"
    launch = Launch(methods_from(str(artifact)), start_from=str(artifact), dry_run=True)
    with pytest.raises(SystemExit):
        launch.run(SCRIPTS["trl-sft"].command(inputs, tmp_path / "out2"))
    assert "lora on LlamaForCausalLM" in capsys.readouterr().out
