"""Fine-tune sentence embeddings on pairs, with sentence-transformers."""

import argparse

from datasets import load_dataset
from sentence_transformers import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from sentence_transformers.losses import MultipleNegativesRankingLoss

parser = argparse.ArgumentParser()
parser.add_argument("--model", required=True)
parser.add_argument("--data", required=True)
parser.add_argument("--out", required=True)
parser.add_argument("--resume")
options = parser.parse_args()

model = SentenceTransformer(options.model, device="cpu")
data = load_dataset("json", data_files=options.data, split="train")
pairs = data.rename_columns({"chosen": "positive", "prompt": "anchor"}).remove_columns("rejected")
args = SentenceTransformerTrainingArguments(
    options.out,
    max_steps=4,
    save_steps=2,
    per_device_train_batch_size=4,
    learning_rate=1e-2,
    report_to="none",
    use_cpu=True,
    disable_tqdm=True,
)
trainer = SentenceTransformerTrainer(
    model, args, train_dataset=pairs, loss=MultipleNegativesRankingLoss(model)
)
trainer.train(resume_from_checkpoint=options.resume)
trainer.save_model()
