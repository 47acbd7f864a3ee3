"""The parts of LoRA that peft does not have."""
