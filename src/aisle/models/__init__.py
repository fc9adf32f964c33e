"""Encoders: where weights come from, pooling, adapters, and how all of it is saved together."""
