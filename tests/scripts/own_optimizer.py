"""Fine-tune a classifier with an optimizer and a schedule made by hand."""

import argparse

import torch
from datasets import load_dataset
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    Trainer,
    TrainingArguments,
    get_cosine_schedule_with_warmup,
)

parser = argparse.ArgumentParser()
parser.add_argument("--model", required=True)
parser.add_argument("--data", required=True)
parser.add_argument("--out", required=True)
parser.add_argument("--resume")
options = parser.parse_args()

tokenizer = AutoTokenizer.from_pretrained(options.model)
data = load_dataset("json", data_files=options.data, split="train")
data = data.map(lambda rows: tokenizer(rows["text"]), batched=True, remove_columns="text")
model = AutoModelForSequenceClassification.from_pretrained(options.model)
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
trainer = Trainer(
    model,
    TrainingArguments(
        options.out,
        max_steps=4,
        save_steps=2,
        per_device_train_batch_size=4,
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
    ),
    train_dataset=data,
    processing_class=tokenizer,
    optimizers=(optimizer, get_cosine_schedule_with_warmup(optimizer, 1, 4)),
)
trainer.train(resume_from_checkpoint=options.resume)
trainer.save_model()
