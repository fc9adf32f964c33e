"""Texts as a model reads them: token ids, and batches of tokens by side."""
