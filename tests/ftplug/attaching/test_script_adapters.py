"""Scripts with peft adapters of their own: named as theirs, and left out where that is asked."""

import json
import sys
import textwrap

import folders
import peft
import pytest
import tiny
import torch
from ftplug_plugins.lora import Lora
from runs import same, weights
from transformers.integrations.peft import PeftAdapterMixin

import ftplug
from ftplug import cli
from ftplug.training.script import Launch

WAYS = {
    "get_peft_model": "model = get_peft_model(model, config)\nmodel.print_trainable_parameters()",
    "peft.get_peft_model": "model = peft.get_peft_model(model, config)",
    "add_adapter": "model.add_adapter(config)",
}


def script(folder, way, end=""):
    """Write a script that adapts its model in a way of its own; return its path."""
    text = f"""
        import sys, peft, tiny
        from peft import LoraConfig, get_peft_model
        from runs import trainer

        model, config = tiny.bert(), LoraConfig(target_modules=["query"], r=2)
        {textwrap.indent(WAYS[way], " " * 8).strip()}
        run = trainer(model, sys.argv[1], save_strategy="no", max_steps=4)
        run.train()
        run.save_model(sys.argv[1])
        {end}
    """
    (folder / "adapts.py").write_text(textwrap.dedent(text))
    return [str(folder / "adapts.py"), str(folder / "out")]


@pytest.mark.parametrize("way", ["get_peft_model", "peft.get_peft_model"])
@pytest.mark.filterwarnings("ignore:Already found a `peft_config`")
def test_a_script_s_own_adapter_is_refused_with_the_option_that_leaves_it_out(tmp_path, way):
    with pytest.raises(ftplug.MethodError, match=r"script's own .*run --drop-peft-config"):
        Launch([Lora()]).run(script(tmp_path, way))


@pytest.mark.filterwarnings("ignore:Could not find a config file")
@pytest.mark.parametrize("dropped", [False, True])
def test_an_adapter_that_is_loaded_is_not_left_out(tmp_path, dropped):
    way = f"model = peft.PeftModel.from_pretrained(model, {str(tmp_path / 'adapter')!r})"
    peft.get_peft_model(tiny.bert(), peft.LoraConfig(target_modules=["query"])).save_pretrained(
        tmp_path / "adapter"
    )
    command = script(tmp_path, "add_adapter")
    path = tmp_path / "adapts.py"
    path.write_text(path.read_text().replace(WAYS["add_adapter"], way))
    with pytest.raises(ftplug.MethodError, match=r"merge_and_unload\(\) it") as said:
        Launch([Lora()], drop_peft_config=dropped).run(command)
    assert ("--drop-peft-config" in str(said.value)) is not dropped


@pytest.mark.parametrize("way", WAYS)
def test_left_out_the_method_alone_trains(tmp_path, way, caplog):
    own, add = peft.get_peft_model, PeftAdapterMixin.add_adapter
    Launch([Lora(r=4)], drop_peft_config=True).run(script(tmp_path, way))
    assert f"{way.rpartition('.')[2]} of the script is left out" in caplog.text
    assert (peft.get_peft_model, PeftAdapterMixin.add_adapter) == (own, add)
    path = tmp_path / "adapts.py"
    path.write_text(path.read_text().replace(WAYS[way].partition("\n")[0], ""))
    path.write_text(path.read_text().replace("model.print_trainable_parameters()", ""))
    Launch([Lora(r=4)]).run([str(path), str(tmp_path / "plain")])
    found, expected = (
        weights(ftplug.load(tiny.bert(), tmp_path / name)) for name in ("out", "plain")
    )
    assert same(found, expected)


def test_a_script_that_folds_its_adapter_in_at_the_end_does(tmp_path):
    end = "model.merge_and_unload().save_pretrained(sys.argv[1] + '/merged')"
    Launch([Lora(r=4)], drop_peft_config=True).run(script(tmp_path, "get_peft_model", end))
    merged = type(tiny.bert()).from_pretrained(tmp_path / "out/merged")
    trained = ftplug.merge(ftplug.load(tiny.bert(), tmp_path / "out"))
    for name, value in merged.state_dict().items():
        torch.testing.assert_close(value, trained.state_dict()[name])


def test_a_module_that_took_the_function_meanwhile_has_peft_s_own_afterwards(tmp_path):
    from ftplug.attaching.script_adapters import left_out

    with left_out():
        taken = peft.get_peft_model
    model = taken(tiny.bert(), peft.LoraConfig(target_modules=["query"]))
    assert isinstance(model, peft.PeftModel)


TRL = """
    import sys, torch
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM
    from trl import DPOConfig, DPOTrainer

    folder, out = sys.argv[1:]
    rows = [{"prompt": "w1 w2", "chosen": f" w{i} w8", "rejected": " w9"} for i in range(3, 8)]
    trainer = DPOTrainer(
        folder,
        args=DPOConfig(out, max_steps=2, report_to=[], save_strategy="no", use_cpu=True),
        train_dataset=Dataset.from_list(rows),
        peft_config=LoraConfig(r=2, target_modules=["q_proj"]),
    )
    trainer.train()
    trainer.save_model(out)
"""


@pytest.mark.filterwarnings("ignore")  # what others' code warns about is not ours
def test_trl_s_peft_config_is_named_and_left_out(tmp_path):
    (tmp_path / "dpo.py").write_text(textwrap.dedent(TRL))
    base = folders.language_model(tmp_path)
    command = [str(tmp_path / "dpo.py"), str(base), str(tmp_path / "out")]
    with pytest.raises(ftplug.MethodError, match=r"peft_config=\): .*--drop-peft-config leaves"):
        Launch([Lora()]).run(command)
    Launch([Lora(r=4)], drop_peft_config=True).run(command)
    manifest = json.loads((tmp_path / "out/ftplug.json").read_text())
    assert manifest["methods"][0]["settings"]["r"] == 4


QLORA = """
    import sys, torch
    from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training
    from runs import trainer
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    folder, out = sys.argv[1:]
    config = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_compute_dtype=torch.float32)
    model = AutoModelForCausalLM.from_pretrained(folder, quantization_config=config)
    model = get_peft_model(prepare_model_for_kbit_training(model), LoraConfig(r=2))
    run = trainer(model, out, save_strategy="no", max_steps=2)
    run.train()
    run.save_model(out)
"""


@pytest.mark.filterwarnings("ignore")
def test_a_script_that_quantized_its_model_for_an_adapter_trains_with_ours(tmp_path):
    pytest.importorskip("bitsandbytes")
    from ftplug_plugins.qlora import Qlora

    (tmp_path / "qlora.py").write_text(textwrap.dedent(QLORA))
    base = folders.language_model(tmp_path)
    command = [str(tmp_path / "qlora.py"), str(base), str(tmp_path / "out")]
    Launch([Qlora(r=4)], drop_peft_config=True).run(command)
    manifest = json.loads((tmp_path / "out/ftplug.json").read_text())
    assert manifest["methods"][0]["name"] == "qlora"


def test_the_option_reaches_the_script(tmp_path, monkeypatch):
    command = ["ftplug", "run", "--method", "lora", "--drop-peft-config", "--"]
    monkeypatch.setattr(sys, "argv", [*command, *script(tmp_path, "get_peft_model")])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert not ended.value.code
    assert (tmp_path / "out/ftplug.json").is_file()
