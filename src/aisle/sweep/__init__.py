"""Search for training settings: the search space, the study on disk and its time budget. No torch."""
