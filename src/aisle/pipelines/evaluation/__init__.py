"""`infer_index.py evaluate`: an index and its encoder against judgements, and against what was before."""
