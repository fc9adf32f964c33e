"""Reports for people: the HTML page, the model card, experiment trackers."""
