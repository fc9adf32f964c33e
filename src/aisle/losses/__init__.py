"""Training losses: a file for each loss, and the registry that the rest of aisle uses."""
