"""Commands that build, change and inspect an index."""
