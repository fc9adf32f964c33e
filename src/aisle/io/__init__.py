"""Durable files, the writer's lock and the Arrow writer."""
