"""Fine-tune GLiNER to find entities, with gliner's own Trainer."""

import argparse
import json
from pathlib import Path

from gliner import GLiNER
from gliner.data_processing import UniEncoderSpanDataCollator
from gliner.training import Trainer, TrainingArguments

parser = argparse.ArgumentParser()
parser.add_argument("--model", required=True)
parser.add_argument("--data", required=True)
parser.add_argument("--out", required=True)
parser.add_argument("--resume")
options = parser.parse_args()

rows = [json.loads(line) for line in Path(options.data).read_text().splitlines()]
model = GLiNER.from_pretrained(options.model)
trainer = Trainer(
    model=model,
    args=TrainingArguments(
        options.out,
        max_steps=4,
        save_steps=2,
        per_device_train_batch_size=4,
        learning_rate=1e-2,
        others_lr=5e-3,
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
    ),
    train_dataset=rows,
    processing_class=model.data_processor.transformer_tokenizer,
    data_collator=UniEncoderSpanDataCollator(
        model.config, data_processor=model.data_processor, prepare_labels=True
    ),
)
trainer.train(resume_from_checkpoint=options.resume)
trainer.save_model()
