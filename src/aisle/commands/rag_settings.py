"""Settings that `answer` and `rag` share, and the generator's input."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from aisle.config.annotations import Help
from aisle.errors import IndexStoreError

if TYPE_CHECKING:
    from aisle.index import SearchIndex

__all__ = ["DEFAULT_INPUT", "GeneratorInput", "GeneratorName", "RagTemperature", "check_texts", "input_maker"]

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


def check_texts(index: SearchIndex, index_dir: str) -> None:
    """Refuse an index that does not store the texts of its products.

    Raises:
        IndexStoreError: It stores none.
    """
    from aisle.types.columns import TEXT_COLUMN

    if TEXT_COLUMN not in index.products.column_names:
        raise IndexStoreError(
            f"{index_dir}: stores no texts for the generator to read; build the index again from texts"
        )
