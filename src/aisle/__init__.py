"""Product search by fine-tuned text embeddings."""
