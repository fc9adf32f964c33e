"""Tests; a package, so that test modules can share the Hub server of `hub_server`."""
