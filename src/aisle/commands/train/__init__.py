"""`train_peft.py`: fine-tune a model, from its settings to a finished run."""
