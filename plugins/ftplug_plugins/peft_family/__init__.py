"""Every PEFT type as a method under its own name."""
