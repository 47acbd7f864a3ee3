"""How any method talks to peft: configs, targets, files, and several adapters on one model."""
