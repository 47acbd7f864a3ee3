"""Supervised fine-tuning, then DPO on the same model, in one script."""

import argparse

from datasets import load_dataset
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

parser = argparse.ArgumentParser()
parser.add_argument("--model", required=True)
parser.add_argument("--data", required=True)
parser.add_argument("--out", required=True)
parser.add_argument("--resume")
options = parser.parse_args()

settings = {
    "max_steps": 4,
    "per_device_train_batch_size": 4,
    "learning_rate": 1e-2,
    "report_to": "none",
    "use_cpu": True,
    "bf16": False,
    "disable_tqdm": True,
}
tokenizer = AutoTokenizer.from_pretrained(options.model)
model = AutoModelForCausalLM.from_pretrained(options.model)
pairs = load_dataset("json", data_files=options.data, split="train")
texts = pairs.map(
    lambda row: {"text": f"{row['prompt']} {row['chosen']}"}, remove_columns=pairs.column_names
)

sft = SFTTrainer(
    model,
    SFTConfig(f"{options.out}/sft", save_strategy="no", **settings),
    train_dataset=texts,
    processing_class=tokenizer,
)
sft.train()
dpo = DPOTrainer(
    model,
    args=DPOConfig(options.out, save_steps=2, **settings),
    train_dataset=pairs,
    processing_class=tokenizer,
)
dpo.train(resume_from_checkpoint=options.resume)
dpo.save_model()
