"""Typed settings of every command, and how YAML and flags fill them."""
