"""The commands: the settings of each, and what it does."""
