"""Fine-tune a sequence-to-sequence model; every evaluation generates."""

import argparse

import numpy
from datasets import load_dataset
from transformers import (
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    DataCollatorForSeq2Seq,
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
)

parser = argparse.ArgumentParser()
parser.add_argument("--model", required=True)
parser.add_argument("--data", required=True)
parser.add_argument("--out", required=True)
parser.add_argument("--resume")
options = parser.parse_args()

tokenizer = AutoTokenizer.from_pretrained(options.model)
model = AutoModelForSeq2SeqLM.from_pretrained(options.model)


def tokenize(rows):
    return tokenizer(rows["prompt"], text_target=rows["chosen"], truncation=True)


data = load_dataset("json", data_files=options.data, split="train")
data = data.map(tokenize, batched=True, remove_columns=data.column_names)


def exact_match(prediction):
    texts = tokenizer.batch_decode(prediction.predictions, skip_special_tokens=True)
    labels = numpy.where(prediction.label_ids < 0, tokenizer.pad_token_id, prediction.label_ids)
    expected = tokenizer.batch_decode(labels, skip_special_tokens=True)
    return {"exact_match": numpy.mean([a == b for a, b in zip(texts, expected, strict=True)])}


trainer = Seq2SeqTrainer(
    model,
    Seq2SeqTrainingArguments(
        options.out,
        predict_with_generate=True,
        generation_max_length=8,
        max_steps=4,
        save_steps=2,
        eval_strategy="steps",
        eval_steps=2,
        per_device_train_batch_size=4,
        learning_rate=1e-2,
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
    ),
    train_dataset=data,
    eval_dataset=data.select(range(4)),
    processing_class=tokenizer,
    data_collator=DataCollatorForSeq2Seq(tokenizer, model=model),
    compute_metrics=exact_match,
)
trainer.train(resume_from_checkpoint=options.resume)
trainer.save_model()
trainer.log_metrics("predict", trainer.predict(data.select(range(2))).metrics)
