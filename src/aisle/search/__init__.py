"""From an index and its encoder to answers."""
