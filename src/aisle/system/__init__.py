"""Processors and memory of the machine."""
