"""`aisle answer`: answer a question with a generator that reads what the index finds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from aisle.commands.command import Command
from aisle.commands.generator_settings import (
    DEFAULT_INPUT,
    GeneratorInput,
    GeneratorName,
    RagTemperature,
    input_maker,
    input_problems,
    open_index_and_generator,
)
from aisle.commands.output import Output, quieten_libraries
from aisle.commands.shared_settings import (
    AdapterBase,
    ConfigFile,
    Count,
    IndexDir,
    IndexModel,
    Json,
    TrustRemoteCode,
)
from aisle.commands.terminal import printable
from aisle.config.annotations import Positional

if TYPE_CHECKING:
    from aisle.index.search_result import Hit
    from aisle.models.generator import Generator


@dataclass(frozen=True)
class AnswerSettings:
    """Answer questions with a generator that reads what the index finds.

    For each document found, the generator writes an answer. The answer that is likeliest over all documents
    is printed, with the documents and the share that each has in it (RAG-Sequence).
    """

    index_dir: IndexDir
    generator: GeneratorName
    text: Positional[tuple[str, ...]] = ()
    """Questions."""
    top_k: Count = 5
    """Documents to read."""
    temperature: RagTemperature = 0.05
    generator_input: GeneratorInput = DEFAULT_INPUT
    max_new_tokens: Count = 64
    """Most tokens of an answer."""
    model: IndexModel = None
    base_model: AdapterBase = None
    trust_remote_code: TrustRemoteCode = False
    json: Json = False
    config: ConfigFile = None


def answer_problems(settings: AnswerSettings) -> list[str]:
    """Return one message for each combination of settings that cannot work."""
    blank = not settings.text or any(not text.strip() for text in settings.text)
    return [
        *(["a question is missing or blank; give some text"] if blank else []),
        *input_problems(settings.generator_input),
    ]


def answer(settings: AnswerSettings) -> None:
    """Answer the questions and print the answers with their sources.

    Raises:
        AisleError: The index, its encoder, the generator or the questions cannot be used.
    """
    from rich.text import Text

    from aisle.search.open_searcher import open_searcher

    output = Output(json_only=settings.json)
    quieten_libraries()
    index, generator = open_index_and_generator(settings, output.log)
    searcher = open_searcher(
        index,
        model=settings.model,
        base_model=settings.base_model,
        trust_remote_code=settings.trust_remote_code,
        log=output.log,
    )
    found = searcher.search(settings.text, settings.top_k)
    answers = [_answer(text, found[number], generator, settings) for number, text in enumerate(settings.text)]
    for one in () if settings.json else answers:
        output.show(Text(f"{printable(one['question'])}\n  {printable(one['answer'])}"))
        for source in one["sources"]:
            shown = " ".join(printable(source["text"]).split())[:100]
            output.show(Text(f"  {source['share']:4.0%}  {printable(source['product_id'])}  {shown}"))
    output.document(answers)


def _answer(question: str, hits: list[Hit], generator: Generator, settings: AnswerSettings) -> dict[str, Any]:
    """Return the likeliest answer among those to each document, with the share of each document in it."""
    import torch

    from aisle.losses.rag_sequence import document_posterior, log_marginal

    make = input_maker(settings.generator_input)
    inputs = [make(question, str(hit.text)) for hit in hits]
    candidates = list(dict.fromkeys(generator.generate(inputs, max_new_tokens=settings.max_new_tokens)))
    scores = torch.tensor([[hit.score for hit in hits]]).expand(len(candidates), -1)
    log_probs = torch.stack(
        [generator.log_probs(inputs, [candidate] * len(inputs)) for candidate in candidates]
    )
    likelihood = log_marginal(scores, log_probs, temperature=settings.temperature)
    best = int(likelihood.argmax())
    shares = document_posterior(scores, log_probs, temperature=settings.temperature)[best].tolist()
    sources = [
        {"rank": hit.rank, "product_id": hit.product_id, "score": hit.score, "share": share, "text": hit.text}
        for hit, share in zip(hits, shares, strict=True)
    ]
    return {
        "question": question,
        "answer": candidates[best],
        "log_likelihood": float(likelihood[best]),
        "sources": sources,
    }


COMMAND = Command("answer", AnswerSettings, answer, problems=answer_problems, extra="encode")
