"""What a run notes so that its figures can be measured again: its script, its evaluation."""
