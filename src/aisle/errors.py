"""Errors that aisle raises on purpose, in one tree.

AisleError                       the user can fix it: the command line prints the message and exits with 2
├── ConfigError                  a flag, a YAML key or a combination of them
├── DataError                    pairs, catalogue, queries or judgements
├── ModelError                   weights, tokenizer, adapter, pooling, device
├── TrainingError                a run that cannot start or continue, or has learnt nothing
│   └── CheckpointError          a checkpoint is missing, damaged or of another run
├── TrainingStopped              a signal stopped a run; it can resume from its last checkpoint
├── IndexStoreError              an index directory that cannot be read or written
│   ├── IndexIntegrityError      a file is missing, truncated or altered
│   ├── IndexLockedError         another process is writing the index
│   └── FingerprintMismatchError the index was made by another encoder
├── SearchError                  a search that the index cannot answer
├── EvaluationError              judgements and rankings that do not match
├── HubError                     an upload failed; the run on disk is complete
└── OptionalDependencyError      a package of an extra is not installed

A message says where (flag, file and row, field), states the rule and the value found, and says what to do.
"""

from __future__ import annotations

__all__ = [
    "AisleError",
    "CheckpointError",
    "ConfigError",
    "DataError",
    "EvaluationError",
    "FingerprintMismatchError",
    "HubError",
    "IndexIntegrityError",
    "IndexLockedError",
    "IndexStoreError",
    "ModelError",
    "OptionalDependencyError",
    "SearchError",
    "TrainingError",
    "TrainingStopped",
]


class AisleError(Exception):
    """An error that the user can fix; the message says how."""


class ConfigError(AisleError):
    """A flag, a YAML key, or a combination of them is not valid."""


class DataError(AisleError):
    """Pairs, catalogue, queries or judgements cannot be used as they are."""


class ModelError(AisleError):
    """A model, tokenizer or adapter cannot be loaded or used as asked."""


class TrainingError(AisleError):
    """Training cannot start or continue."""


class CheckpointError(TrainingError):
    """A checkpoint is missing, damaged, or belongs to another run."""


class TrainingStopped(AisleError):  # noqa: N818 - not a failure
    """A signal asked a run to stop, and it stopped between two steps; it can resume from a checkpoint."""


class IndexStoreError(AisleError):
    """An index directory cannot be read or written."""


class IndexIntegrityError(IndexStoreError):
    """A file of an index is missing, truncated or altered."""


class IndexLockedError(IndexStoreError):
    """Another process is writing the index."""


class FingerprintMismatchError(IndexStoreError):
    """An index was made by a different encoder than the one that queries it."""


class SearchError(AisleError):
    """The index cannot answer the search."""


class EvaluationError(AisleError):
    """Judgements and rankings do not match."""


class HubError(AisleError):
    """An upload failed; the run on disk is complete."""


class OptionalDependencyError(AisleError):
    """A package that belongs to an extra is not installed.

    Args:
        package: Name of the missing package.
        extra: Extra of aisle that installs it.
    """

    def __init__(self, package: str, *, extra: str) -> None:
        super().__init__(f"{package} is not installed; install it with: pip install 'aisle-search[{extra}]'")
