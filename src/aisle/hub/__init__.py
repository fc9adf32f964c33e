"""Uploads to the Hub."""

from aisle.hub.upload import push_run

__all__ = ["push_run"]
