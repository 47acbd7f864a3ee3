"""Fine-tune a classifier with a loss of its own, in the largest batch that memory takes."""

import argparse

import torch
from datasets import load_dataset
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    Trainer,
    TrainingArguments,
)

MEMORY_FOR = 12  # rows: what this pretends to have

parser = argparse.ArgumentParser()
parser.add_argument("--model", required=True)
parser.add_argument("--data", required=True)
parser.add_argument("--out", required=True)
parser.add_argument("--resume")
options = parser.parse_args()


class WeightedTrainer(Trainer):
    def compute_loss(self, model, inputs, return_outputs=False, **kwargs):
        labels = inputs.pop("labels")
        if len(labels) > MEMORY_FOR:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        outputs = model(**inputs)
        weight = torch.tensor([1.0, 3.0])
        loss = torch.nn.functional.cross_entropy(outputs.logits, labels, weight=weight)
        return (loss, outputs) if return_outputs else loss


tokenizer = AutoTokenizer.from_pretrained(options.model)
data = load_dataset("json", data_files=options.data, split="train")
data = data.map(lambda rows: tokenizer(rows["text"]), batched=True, remove_columns="text")
args = TrainingArguments(
    options.out,
    auto_find_batch_size=True,
    per_device_train_batch_size=16,
    max_steps=4,
    save_steps=2,
    learning_rate=1e-2,
    report_to="none",
    use_cpu=True,
    disable_tqdm=True,
)
model = AutoModelForSequenceClassification.from_pretrained(options.model)
trainer = WeightedTrainer(model, args, train_dataset=data, processing_class=tokenizer)
trainer.train(resume_from_checkpoint=options.resume)
trainer.save_model()
