"""Packages: a bundle, its index and settings, written as a folder or model.tar.gz, and served."""
