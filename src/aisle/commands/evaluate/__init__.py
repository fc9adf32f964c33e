"""`infer_index.py evaluate`: compare an index and its encoder with judgements and with baselines."""
