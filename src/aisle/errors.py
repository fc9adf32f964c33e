"""Every error aisle raises on purpose, in one tree.

AisleError                       the user can mend it: the command line prints the message and exits with 2
├── ConfigError                  a flag, a YAML key or a combination of them
├── DataError                    pairs, catalogue, queries or judgements
├── ModelError                   weights, tokenizer, adapter, pooling, device
├── TrainingError                a run that cannot start, continue or has learnt nothing
│   └── CheckpointError          a checkpoint that is missing, damaged or of another run
├── TrainingStopped              a signal asked a run to stop; it can go on from its last checkpoint
├── IndexStoreError              an index directory that cannot be read or written
│   ├── IndexIntegrityError      a file is missing, truncated or altered
│   ├── IndexLockedError         another process is writing the index
│   └── FingerprintMismatchError the index was made by another encoder
├── SearchError                  a search that the index cannot answer as asked
├── EvaluationError              judgements and rankings that do not fit together
├── HubError                     an upload that failed; the run on disk is whole
└── OptionalDependencyError      a package of an extra is not installed

A message says where (flag, file and row, field), what the rule is, what was found, and what to do.
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
    """Something the user can mend; the message says how."""


class ConfigError(AisleError):
    """A flag, a YAML key, or a combination of them, is not valid."""


class DataError(AisleError):
    """Pairs, catalogue, queries or judgements cannot be used as they are."""


class ModelError(AisleError):
    """A model, tokenizer or adapter cannot be loaded or used as asked."""


class TrainingError(AisleError):
    """Training cannot start or continue."""


class CheckpointError(TrainingError):
    """A checkpoint is missing, damaged, or belongs to another run."""


class TrainingStopped(AisleError):  # noqa: N818 - the run did what it was asked to
    """A signal asked a run to stop, and it stopped between two steps; it can go on from a checkpoint."""


class IndexStoreError(AisleError):
    """An index directory cannot be read or written."""


class IndexIntegrityError(IndexStoreError):
    """A file of an index is missing, truncated or altered."""


class IndexLockedError(IndexStoreError):
    """Another process is writing the index."""


class FingerprintMismatchError(IndexStoreError):
    """An index was made by another encoder than the one that queries it."""


class SearchError(AisleError):
    """The index cannot answer the search as asked."""


class EvaluationError(AisleError):
    """Judgements and rankings do not fit together."""


class HubError(AisleError):
    """An upload failed; the run on disk is whole."""


class OptionalDependencyError(AisleError):
    """A package that belongs to an extra is not installed.

    Args:
        package: the distribution that is missing.
        extra: the extra of aisle that brings it.
    """

    def __init__(self, package: str, *, extra: str) -> None:
        super().__init__(f"{package} is not installed; install it with: pip install 'aisle-search[{extra}]'")
