"""The version, here rather than in the metadata of an installed distribution: a source tree has it too."""

__version__ = "0.1.0"
