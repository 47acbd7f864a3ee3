"""The bridge from methods to peft: configs, targets, files, and several adapters on one model."""
