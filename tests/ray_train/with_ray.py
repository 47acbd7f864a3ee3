"""Somebody's training on two CPU workers of Ray Train; without ``--ray`` the same, as a script."""

import argparse
import os
import tempfile
from pathlib import Path

import tiny
import torch
from transformers import Trainer, TrainerCallback, TrainingArguments

import ftplug
from ftplug.testing.compare import base_model

WAYS = ("callback", "attach", "attach-last")


def built(out, callbacks=()):
    model = base_model("bert", dropout=0.1)
    batch = tiny.inputs(model, rows=32)
    rows = [{name: value[i] for name, value in batch.items()} for i in range(32)]
    args = TrainingArguments(
        str(out),
        use_cpu=True,  # two processes then talk over gloo
        per_device_train_batch_size=4,
        max_steps=4,
        save_steps=2,
        learning_rate=1e-2,
        report_to=[],
        disable_tqdm=True,
    )
    return Trainer(model, args, train_dataset=rows, callbacks=list(callbacks))


def keep(trainer, out):
    """Leave what this process ends with, and the artifact."""
    weights = {name: value.detach().clone() for name, value in trainer.model.named_parameters()}
    torch.save(weights, f"{out}-{trainer.args.process_index}-of-{trainer.args.world_size}.pt")
    trainer.save_model(f"{out}-artifact")


class FailsOnce(TrainerCallback):
    """Ends one worker behind its first checkpoint."""

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == 3 and args.process_index == 1:
            raise RuntimeError("this worker is gone")


def in_every_way(config):
    from ray.train.huggingface.transformers import RayTrainReportCallback, prepare_trainer

    for way in WAYS:
        out = Path(config["out"], way)
        ours = [ftplug.FTPlugCallback("lora", r=4)] if way == "callback" else []
        trainer = built(out, [*ours, RayTrainReportCallback()])
        if way == "attach":
            ftplug.attach(trainer, "lora", r=4)
        trainer = prepare_trainer(trainer)
        if way == "attach-last":
            ftplug.attach(trainer, "lora", r=4)
        trainer.train()
        keep(trainer, out)


def from_the_last_checkpoint(config):
    import ray.train
    from ray.train.huggingface.transformers import RayTrainReportCallback, prepare_trainer

    out = Path(config["out"], "retried")
    last = ray.train.get_checkpoint()  # after a failure: what was reported last
    callbacks = [RayTrainReportCallback(), *([] if last else [FailsOnce()])]
    trainer = prepare_trainer(ftplug.attach(built(out, callbacks), "lora", r=4))
    if last is None:
        trainer.train()
    else:
        with last.as_directory() as folder:
            trainer.train(resume_from_checkpoint=os.path.join(folder, "checkpoint"))
    keep(trainer, out)


def on_ray(out):
    import ray
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    sockets = tempfile.TemporaryDirectory(prefix="ray-")  # whose paths must be short
    ray.init(
        num_cpus=2,
        include_dashboard=False,
        _node_ip_address="127.0.0.1",
        object_store_memory=80 * 2**20,
        _temp_dir=sockets.name,
    )
    try:
        for train, failures in ((in_every_way, 0), (from_the_last_checkpoint, 1)):
            result = TorchTrainer(
                train,
                train_loop_config={"out": str(out)},
                scaling_config=ScalingConfig(num_workers=2),
                run_config=RunConfig(
                    name=train.__name__,
                    storage_path=str(out / "results"),
                    failure_config=FailureConfig(max_failures=failures),
                ),
            ).fit()
            (out / f"{train.__name__}.txt").write_text(result.checkpoint.path)
    finally:
        ray.shutdown()
        sockets.cleanup()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--ray", action="store_true")
    options = parser.parse_args()
    if options.ray:
        on_ray(options.out)
    else:
        alone = built(options.out)
        alone.train()
        keep(alone, options.out)
