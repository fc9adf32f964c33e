"""Training losses: pure functions of embeddings and labels."""
