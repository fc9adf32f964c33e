"""Load the teacher of `mine`: a cross-encoder that scores pairs of a query and a text."""

from __future__ import annotations

from pathlib import Path

from aisle.commands.output import quieten_libraries
from aisle.errors import ConfigError
from aisle.mining.choose_negatives import Teacher
from aisle.search.rerankers import load_reranker

__all__ = ["teacher_named"]


def teacher_named(name: str) -> Teacher:
    """Return the function of a cross-encoder that scores pairs.

    Raises:
        ConfigError: The name is neither a folder nor a Hub id.
        ModelError: The model is no cross-encoder, or its files are missing or altered.
    """
    if not Path(name).is_dir() and "/" not in name:
        raise ConfigError(
            f"--teacher {name}: must be the folder of a run of `aisle train-reranker`, or the folder or Hub "
            "id of another cross-encoder; there is no such folder"
        )
    from aisle.training.cpu_threads import use_cpu_threads  # imports torch

    quieten_libraries()
    use_cpu_threads()
    return load_reranker(name).logits
