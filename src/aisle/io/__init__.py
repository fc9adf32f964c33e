"""Durable files, the lock of a writer, and the Arrow writer."""
