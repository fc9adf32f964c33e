"""Search an index with the encoder that made it."""
