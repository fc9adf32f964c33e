"""Texts as model input: token ids, and batches of tokens by side."""
