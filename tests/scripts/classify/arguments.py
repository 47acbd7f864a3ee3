"""What the command line of ``python -m classify`` takes beside the TrainingArguments."""

from dataclasses import dataclass, field


@dataclass
class DataArguments:
    """Model and data."""

    model: str = field(metadata={"help": "Id or folder of the model."})
    data: str = field(metadata={"help": "A file of JSON lines with text and label."})
