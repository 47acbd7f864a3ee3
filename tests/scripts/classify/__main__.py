"""Fine-tune a classifier: HfArgumentParser, the best checkpoint, gradient accumulation."""

from pathlib import Path

from datasets import load_dataset
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    HfArgumentParser,
    Trainer,
    TrainingArguments,
)

from .arguments import DataArguments


def main():
    assert Path(__file__).name == "__main__.py"
    parser = HfArgumentParser((DataArguments, TrainingArguments))
    options, args = parser.parse_args_into_dataclasses()
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    data = load_dataset("json", data_files=options.data, split="train")
    data = data.map(lambda rows: tokenizer(rows["text"]), batched=True, remove_columns="text")
    trainer = Trainer(
        AutoModelForSequenceClassification.from_pretrained(options.model),
        args,
        train_dataset=data,
        eval_dataset=data.select(range(8)),
        processing_class=tokenizer,
        compute_metrics=lambda p: {
            "accuracy": float((p.predictions.argmax(-1) == p.label_ids).mean())
        },
    )
    if args.do_train:
        trainer.train(resume_from_checkpoint=args.resume_from_checkpoint)
        trainer.save_model()
        trainer.save_state()
    if args.do_eval:
        trainer.save_metrics("eval", trainer.evaluate())
    trainer.create_model_card(tasks="text-classification")


if __name__ == "__main__":
    main()
