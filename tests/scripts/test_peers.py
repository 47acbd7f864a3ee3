"""Packages with versions of their own: their training runs with a method, reloads and resumes.

A package's tests run where it is installed, in its set of ``make matrix``.
"""

import importlib.util
import json
import random
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import folders
import pytest
import torch
from script_cells import METHODS, Script, auto, measure

pytestmark = pytest.mark.filterwarnings("ignore")  # what others' code warns about is not ours
_ENTITIES = ("good", "bad")
_CAUSAL = auto("AutoModelForCausalLM")


def _gliner(folder: Path) -> Any:
    from gliner import GLiNER

    return GLiNER.from_pretrained(folder)


def _entity_scores(model: Any) -> torch.Tensor:
    training = model.training
    found = model.eval().inference(["the good is not bad", "i and i"], _ENTITIES, threshold=0.0)
    model.train(training)
    return torch.tensor([entity["score"] for text in found for entity in text])


# By package: what is installed where its script can run.
PEERS: Mapping[str, Script] = {
    "gliner": Script(
        "gliner", "peers/entities.py", "gliner", "entities.jsonl", _gliner, answers=_entity_scores
    ),
    "llamafactory": Script(
        "LLaMA-Factory",
        "llamafactory.cli",
        "llama",
        ".",
        _CAUSAL,
        ("model_name_or_path=", "dataset_dir=", "output_dir="),
        "resume_from_checkpoint=",
        first=("train", "peers/llamafactory.yaml"),
        module=True,
    ),
    "swift": Script(
        "ms-swift",
        "swift.cli.sft",
        "llama",
        "messages.jsonl",
        _CAUSAL,
        ("--model", "--dataset", "--output_dir"),
        "--resume_from_checkpoint",
        more=(
            *shlex.split("--model_type llama --template default --tuner_type full --max_steps 4"),
            *shlex.split("--save_steps 2 --logging_steps 1 --per_device_train_batch_size 4"),
            *shlex.split("--gradient_accumulation_steps 1 --learning_rate 1e-2 --use_cpu true"),
            *shlex.split("--torch_dtype float32 --report_to none --split_dataset_ratio 0"),
            *shlex.split("--add_version false --check_model false --dataloader_num_workers 0"),
        ),
        module=True,
        artifact="checkpoint-4",  # it saves nothing after training
    ),
}


def peer_inputs(root: Path, package: str) -> Path:
    """Write the model and the rows for a package's script."""
    folders.language_model(root / "llama")
    draw = random.Random(0)
    turns = [[" ".join(draw.choices(folders.WORDS[4:], k=5)) for _ in range(2)] for _ in range(16)]
    (root / "rows.json").write_text(
        json.dumps([{"instruction": ask, "input": "", "output": said} for ask, said in turns])
    )
    (root / "dataset_info.json").write_text('{"local": {"file_name": "rows.json"}}')
    roles = ("user", "assistant")
    messages = [
        [{"role": r, "content": t} for r, t in zip(roles, turn, strict=True)] for turn in turns
    ]
    folders.write_lines(root / "messages.jsonl", [{"messages": turn} for turn in messages])
    # Labels given, or gliner draws them anew for a batch: it would not resume exactly by itself.
    spans = {"ner": [[0, 1, "good"], [3, 3, "bad"]], "ner_labels": ["good", "bad"]}
    folders.write_lines(
        root / "entities.jsonl", [{"tokenized_text": ask.split(), **spans} for ask, _ in turns]
    )
    if package == "gliner":
        _save_gliner(root)
    return root


def _save_gliner(root: Path) -> None:
    from gliner import GLiNER, GLiNERConfig

    folders.encoder(root / "encoder")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = GLiNER.from_config(
            GLiNERConfig(model_name=str(root / "encoder"), hidden_size=16, max_width=3)
        )
    model.save_pretrained(root / "gliner")


@pytest.fixture(scope="module", params=PEERS)
def package(request):
    if importlib.util.find_spec(request.param) is None:
        pytest.skip(f"needs {request.param}: make matrix")
    return request.param


@pytest.fixture(scope="module")
def inputs(package, tmp_path_factory):
    return peer_inputs(tmp_path_factory.mktemp("inputs"), package)


@pytest.mark.parametrize("method", METHODS)
def test_a_packages_own_training_runs_with_a_method(package, inputs, tmp_path, method):
    found = measure(PEERS[package], method, inputs, tmp_path / "out")
    assert found["reloads"]
    assert found["resumes"]
    assert 0 < found["moved"] <= found["may_train"]
    if method in ("lora", "bottleneck", "prompt-tuning"):
        assert found["moved"] == found["may_train"]
