"""Text as the model reads it: tokens, and the batches they are laid out in."""
