"""Settings that `answer` and `rag` share, their index and generator, and the generator's input."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Protocol

from pydantic import Field

from aisle.config.annotations import Help
from aisle.errors import IndexStoreError

if TYPE_CHECKING:
    from aisle.index import SearchIndex
    from aisle.models.generator import Generator

__all__ = [
    "DEFAULT_INPUT",
    "GeneratorInput",
    "GeneratorName",
    "RagTemperature",
    "RetrievalSettings",
    "input_maker",
    "input_problems",
    "open_index_and_generator",
]

DEFAULT_INPUT = "question: {question} context: {document}"
QUESTION, DOCUMENT = "{question}", "{document}"
GeneratorName = Annotated[
    str, Help("Sequence-to-sequence model of transformers, such as T5 or BART, as a folder or a Hub id.")
]
GeneratorInput = Annotated[
    str, Help("Input of the generator, made from {question} and {document}, as the generator was trained.")
]
RagTemperature = Annotated[
    Annotated[float, Field(gt=0, allow_inf_nan=False)],
    Help("Cosines are divided by it to weight the documents. Lower makes the nearest count more."),
]


class RetrievalSettings(Protocol):
    """Settings of `answer` and `rag` that name the index and the generator."""

    @property
    def index_dir(self) -> str:
        """Directory of the index."""

    @property
    def generator(self) -> str:
        """Folder or Hub id of the generator."""

    @property
    def trust_remote_code(self) -> bool:
        """Whether to run Python code from the generator's repository."""


def input_problems(template: str) -> list[str]:
    """Return a message if a template lacks the question or the document."""
    missing = [field for field in (QUESTION, DOCUMENT) if field not in template]
    return [f"--generator_input {template!r}: must contain {' and '.join(missing)}"] if missing else []


def input_maker(template: str) -> Callable[[str, str], str]:
    """Return the function from a question and a document to the generator's input."""
    before, _, after = template.partition(DOCUMENT)

    def made(question: str, document: str) -> str:
        # Filled in part by part: a document may contain the marks.
        return before.replace(QUESTION, question) + document + after.replace(QUESTION, question)

    return made


def open_index_and_generator(
    settings: RetrievalSettings, log: Callable[[str], None]
) -> tuple[SearchIndex, Generator]:
    """Return the index, which stores the texts of its products, and the generator that reads them.

    Args:
        settings: Settings of the command.
        log: Logs messages for the user.

    Raises:
        AisleError: The index cannot be opened or stores no texts, or the generator cannot be loaded.
    """
    from aisle.index import open_index
    from aisle.models.generator import load_generator
    from aisle.types.columns import TEXT_COLUMN

    index = open_index(settings.index_dir)
    if TEXT_COLUMN not in index.products.column_names:
        raise IndexStoreError(
            f"{settings.index_dir}: stores no texts for the generator to read; build the index again from "
            "texts"
        )
    return index, load_generator(settings.generator, trust_remote_code=settings.trust_remote_code, log=log)
