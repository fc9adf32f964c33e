"""Reports of an evaluation: HTML page, model card, experiment trackers."""
