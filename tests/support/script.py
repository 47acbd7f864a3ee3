"""Somebody's Trainer script: it knows nothing of ftplug."""

import argparse
import sys

import tiny
import torch
from torch.utils.data import Dataset
from transformers import Trainer, TrainingArguments


class Rows(Dataset):
    def __init__(self, model):
        batch = tiny.inputs(model, rows=32)
        self.rows = [{name: value[i] for name, value in batch.items()} for i in range(32)]

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        return self.rows[index]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", required=True)
    parser.add_argument("--exit", type=int, default=0)
    parser.add_argument("--fsdp", action="store_true")
    options = parser.parse_args()
    model = tiny.bert()
    args = TrainingArguments(
        options.out,
        per_device_train_batch_size=4,
        max_steps=20,
        save_strategy="no",
        learning_rate=1e-3,
        use_cpu=not torch.cuda.is_available(),  # two processes then talk over gloo
        report_to=[],
        disable_tqdm=True,
        fsdp=options.fsdp or None,
        fsdp_config={"transformer_layer_cls_to_wrap": ["BertLayer"]} if options.fsdp else None,
    )
    trainer = Trainer(model, args, train_dataset=Rows(model))
    trainer.train()
    trainer.save_model()
    backend = torch.distributed.get_backend() if torch.distributed.is_initialized() else None
    seen = {"argv": sys.argv[1:], "file": __file__, "name": __name__, "backend": backend}
    torch.save(seen, f"{options.out}/seen.pt")
    sys.exit(options.exit)


if __name__ == "__main__":
    main()
