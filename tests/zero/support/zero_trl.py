"""TRL's DPO and GRPO in two processes, under DistributedDataParallel or a ZeRO stage."""

from __future__ import annotations

import warnings
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import zero_ranks

from ftplug.testing.run import without_collecting

LOGGED = ("loss", "rewards/chosen", "rewards/rejected", "grad_norm", "kl", "reward")


def _rows() -> list[dict[str, str]]:
    import folders

    words = folders.WORDS[4:]
    pairs = list(zip(words * 2, words[1:] + words, strict=False))[:16]
    return [
        {
            "prompt": f"{a} {b}",
            "chosen": f" {b} {a} {words[n % 8]}",
            "rejected": f" {a} {words[-1 - n % 8]}",
        }
        for n, (a, b) in enumerate(pairs)
    ]


def _lengths(completions: list[str], **_: Any) -> list[float]:
    return [float(len(set(text))) for text in completions]


def logged(
    folder: Path, out: Path, stage: int, method: str, algorithm: str, trained_before: bool = False
) -> tuple[str, list[dict[str, float]]]:
    """Train four steps; return what the reference is, and what was logged of each step."""
    import trl
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer

    import ftplug

    warnings.simplefilter("ignore")  # theirs
    settings = {"r": 4} if method == "lora" else {}
    given: dict[str, Any] = {"max_steps": 4, "per_device_train_batch_size": 2, "bf16": False}
    given |= {"learning_rate": 1e-2, "logging_steps": 1, "save_strategy": "no", "use_cpu": True}
    given |= {"report_to": "none", "disable_tqdm": True, "output_dir": str(out)}
    given |= zero_ranks.options(stage) if stage else {}
    with zero_ranks.on_cpus() if stage else nullcontext(), without_collecting():
        model = AutoModelForCausalLM.from_pretrained(folder)
        if trained_before:
            model = ftplug.apply(model, method, **settings)
            for name, parameter in model.named_parameters():
                if "lora_B" in name:
                    parameter.data.fill_(0.01)
        made: dict[str, Any] = {"processing_class": AutoTokenizer.from_pretrained(folder)}
        made |= {"callbacks": [ftplug.FTPlugCallback(method, **settings)]}
        data = Dataset.from_list(_rows())
        if algorithm == "dpo":
            args = trl.DPOConfig(**given)
            trainer: Any = trl.DPOTrainer(model, args=args, train_dataset=data, **made)
        else:
            given |= {"beta": 0.5, "num_generations": 2, "max_completion_length": 4}
            args = trl.GRPOConfig(**given)
            made |= {"train_dataset": data.select_columns("prompt")}
            trainer = trl.GRPOTrainer(model, reward_funcs=_lengths, args=args, **made)
        trainer.train()
        if stage:
            zero_ranks.require_engine(trainer, stage)
    logs = [log for log in trainer.state.log_history if "loss" in log]
    return type(trainer.ref_model).__name__, [
        {name: log[name] for name in LOGGED if name in log} for log in logs
    ]
