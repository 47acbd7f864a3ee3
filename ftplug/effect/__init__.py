"""What methods change in a model's answers: fixed inputs, the answers to them, and their file."""
