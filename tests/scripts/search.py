"""Search a learning rate with optuna, then train with the best one."""

import argparse

from datasets import load_dataset
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    Trainer,
    TrainingArguments,
)

parser = argparse.ArgumentParser()
parser.add_argument("--model", required=True)
parser.add_argument("--data", required=True)
parser.add_argument("--out", required=True)
options = parser.parse_args()

tokenizer = AutoTokenizer.from_pretrained(options.model)
data = load_dataset("json", data_files=options.data, split="train")
data = data.map(lambda rows: tokenizer(rows["text"]), batched=True, remove_columns="text")


def model_init(trial):
    return AutoModelForSequenceClassification.from_pretrained(options.model)


trainer = Trainer(
    args=TrainingArguments(
        options.out,
        max_steps=4,
        save_strategy="no",
        eval_strategy="epoch",
        per_device_train_batch_size=4,
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
    ),
    model_init=model_init,
    train_dataset=data,
    eval_dataset=data.select(range(8)),
    processing_class=tokenizer,
)
best = trainer.hyperparameter_search(
    lambda trial: {"learning_rate": trial.suggest_categorical("learning_rate", [1e-2, 3e-2])},
    n_trials=2,
)
for name, value in best.hyperparameters.items():
    setattr(trainer.args, name, value)
trainer.train()
trainer.save_model()
