"""QLoRA on a CPU with AVX512-BF16, where bitsandbytes would repack 4-bit weights and round them.

Simulated on any CPU: layers are built as they are there. What evaluates a repacked weight then has
another kernel than there, and finds nonsense.
"""

import copy
import inspect
import subprocess
import sys

import pytest
import tiny
import torch
import transformers
from runs import logits, losses, same, shake, trainer, weights

import ftplug
from ftplug import MethodError

modules = pytest.importorskip("bitsandbytes.nn.modules", reason="pip install 'ftplug[qlora]'")

# Of 128 features all can be repacked; a block has 64, and 48 is no multiple of 32 rows either.
WIDTHS = pytest.mark.parametrize("width", [128, 48, 32])
METHODS = pytest.mark.parametrize("method", ["qlora", "bottleneck"])


@pytest.fixture(autouse=True)
def avx512_bf16(monkeypatch):
    monkeypatch.setattr(modules, "has_avx512bf16", lambda: True)


def llama(width):
    return tiny.llama(hidden_size=width, intermediate_size=2 * width)


def trained_forward(model):
    with torch.no_grad():
        return model.train()(**tiny.inputs(model)).logits


def repacked(model):
    states = (getattr(p, "quant_state", None) for p in model.parameters())
    return [state for state in states if hasattr(state, "original_nested")]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    llama(128).save_pretrained(folder)
    return folder


def quantized_by_transformers(folder, **options):
    config = transformers.BitsAndBytesConfig(load_in_4bit=True, **options)
    return transformers.LlamaForCausalLM.from_pretrained(
        folder, quantization_config=config, device_map="cpu"
    )


def test_without_ftplug_an_evaluation_repacks_what_it_can():
    layer = modules.Linear4bit(128, 64, compute_dtype=torch.float32, quant_type="nf4").to("cpu")
    x = torch.randn(3, 128)
    trained = layer(x)
    assert not torch.equal(layer.eval()(x), trained)
    assert layer.weight.quant_state.packing_format_for_cpu
    narrow = modules.Linear4bit(32, 64, compute_dtype=torch.float32).to("cpu").eval()
    with pytest.raises(RuntimeError, match=r"shape '\[64, 0\]' is invalid"):
        narrow(torch.randn(3, 32))


@WIDTHS
@pytest.mark.parametrize("double_quant", [True, False])
def test_it_evaluates_as_it_trains(width, double_quant):
    model = shake(ftplug.apply(llama(width), "qlora", r=4, double_quant=double_quant))
    expected = trained_forward(model)
    before = weights(model)
    assert torch.equal(logits(model), expected)
    assert torch.equal(trained_forward(model), expected)
    assert same(weights(model), before)
    assert not repacked(model)


@WIDTHS
def test_disabled_saved_loaded_copied_and_merged(width, tmp_path):
    base = llama(width)
    model = ftplug.apply(copy.deepcopy(base), "qlora", r=4)
    quantized = trained_forward(model)
    expected = trained_forward(shake(model))
    assert torch.equal(logits(model), expected)
    with ftplug.disabled(model):
        assert torch.equal(logits(model), quantized)
    ftplug.save(model, tmp_path / "artifact")
    loaded = ftplug.load(copy.deepcopy(base), tmp_path / "artifact")
    assert torch.equal(logits(loaded), expected)
    assert torch.equal(logits(copy.deepcopy(model)), expected)
    assert torch.allclose(logits(ftplug.merge(model)), expected, atol=1e-5)


@pytest.mark.parametrize("make", [tiny.bert, tiny.t5, tiny.vit])
def test_other_architectures_evaluate_as_they_train(make):
    model = shake(ftplug.apply(make(), "qlora", r=4))
    assert torch.equal(logits(model), trained_forward(model))


def test_a_refused_merge_leaves_layers_that_are_not_repacked(monkeypatch):
    from ftplug_plugins.peft_bridge import files as peft_files

    def refuse(*arguments):
        raise MethodError("lora: cannot be merged")

    model = shake(ftplug.apply(llama(128), "qlora", r=4))
    expected = trained_forward(model)
    monkeypatch.setattr(peft_files, "merge", refuse)
    with pytest.raises(MethodError, match="cannot be merged"):
        ftplug.merge(model)
    assert torch.equal(logits(model), expected)


@METHODS
def test_a_model_that_transformers_quantized_evaluates_as_it_trains(checkpoint, tmp_path, method):
    model = quantized_by_transformers(checkpoint, bnb_4bit_use_double_quant=True)
    ftplug.apply(model, method)
    quantized = trained_forward(model)
    expected = trained_forward(shake(model))
    assert torch.equal(logits(model), expected)
    with ftplug.disabled(model):
        assert torch.equal(logits(model), quantized)
    ftplug.save(model, tmp_path / "artifact")
    again = quantized_by_transformers(checkpoint, bnb_4bit_use_double_quant=True)
    assert torch.equal(logits(ftplug.load(again, tmp_path / "artifact")), expected)
    assert torch.equal(logits(copy.deepcopy(model)), expected)
    assert not repacked(model)


def test_evaluations_between_steps_do_not_change_a_run(tmp_path):
    def run(**options):
        bound = trainer(llama(128), tmp_path, save_strategy="no", max_steps=6, **options)
        ftplug.attach(bound, "qlora", r=4).train()
        return bound

    straight, evaluated = run(), run(eval_strategy="steps", eval_steps=2)
    assert losses(straight) == losses(evaluated)
    assert same(weights(straight.model), weights(evaluated.model))


@METHODS
@pytest.mark.parametrize("double_quant", [True, False])
@pytest.mark.parametrize("read", [False, True])
def test_a_model_that_was_repacked_before_is_refused(checkpoint, method, double_quant, read):
    model = quantized_by_transformers(checkpoint, bnb_4bit_use_double_quant=double_quant)
    logits(model)
    if read:
        model.model.layers[0].self_attn.q_proj.state_dict()  # it unpacks
    with pytest.raises(MethodError, match=r"q_proj of this LlamaForCausalLM was evaluated before"):
        ftplug.apply(model, method)
    fresh = quantized_by_transformers(checkpoint, bnb_4bit_use_double_quant=double_quant)
    trained_forward(fresh)
    ftplug.apply(fresh, method)


def test_eight_bits_are_as_on_other_cpus(monkeypatch):
    model = shake(ftplug.apply(llama(128), "qlora", r=4, bits=8))
    expected = logits(model)
    monkeypatch.undo()
    assert torch.equal(logits(shake(ftplug.apply(llama(128), "qlora", r=4, bits=8))), expected)


# Logs as bitsandbytes does on such a CPU, already where a library that imports it is looked for.
LOGS = """
import logging, sys

class Finder:
    def find_spec(name, path=None, target=None):
        if name in ("transformers", "peft", "accelerate", "bitsandbytes"):
            logger = logging.getLogger("bitsandbytes.backends.cpu.ops")
            logger.warning("Failed to load CPU gemm_4bit_forward from kernels-community: %s. ", 1)
            logger.warning("another line")
            sys.exit()

sys.meta_path.insert(0, Finder)
"""
COMMAND = "from ftplug.cli import main; sys.argv = ['ftplug', *{!r}.split()]; main()"


@pytest.mark.parametrize(
    ("code", "lines"),
    [
        ("import bitsandbytes", ["Failed", "another"]),
        ("import ftplug; ftplug.attach", ["another"]),
        ("import ftplug; ftplug.FTPlugCallback", ["another"]),
        ("import ftplug.testing; ftplug.testing.MethodContract", ["another"]),
        (COMMAND.format("run --method lora -- script.py"), ["another"]),
        (COMMAND.format("demo"), ["another"]),
    ],
)
def test_its_line_on_import_is_dropped_and_no_other(code, lines):
    command = [sys.executable, "-c", LOGS + code]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert [line.split()[0] for line in done.stderr.splitlines()] == lines


def test_the_line_is_still_the_one_that_it_logs():
    from bitsandbytes.backends.cpu import ops

    assert ops.logger.name == "bitsandbytes.backends.cpu.ops"
    assert '"Failed to load CPU gemm_4bit_forward' in inspect.getsource(ops)
