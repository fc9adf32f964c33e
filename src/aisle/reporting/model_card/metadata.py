"""Add figures to the model-index in a card's metadata; everything else stays unchanged."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import yaml
from huggingface_hub import EvalResult
from huggingface_hub.repocard_data import eval_results_to_model_index

from aisle.errors import ModelError
from aisle.reporting.model_card.card import PLACEHOLDER_NAME

__all__ = ["check_metadata", "results_in", "search_results", "with_results"]

TASK = "Search over a catalogue"
"""Task name that marks the results of an earlier evaluation."""
_METADATA = re.compile(r"\A(\ufeff?\s*---[ \t]*\r?\n)(.*?)(^---[ \t]*(?:\r?\n|\Z))", re.DOTALL | re.MULTILINE)
_MODEL_INDEX = re.compile(r"^model-index:.*?(?=^[^\s-]|\Z)", re.DOTALL | re.MULTILINE)
_ADVICE = "repair the block between the two lines of dashes, or remove it"


def search_results(metrics: Mapping[str, tuple[str, float]], data_set: str) -> list[Any]:
    """Return the results of a model-index for the figures of an evaluation.

    Args:
        metrics: {name such as "ndcg@10": (display name, value)}; at least one.
        data_set: Description of the data behind the figures.
    """
    results = [
        EvalResult(
            task_type="information-retrieval",
            task_name=TASK,
            dataset_type="judged-queries",
            dataset_name=data_set,
            metric_type=name.replace("@", "_at_"),
            metric_name=title,
            metric_value=round(value, 6),
        )
        for name, (title, value) in metrics.items()
    ]
    found: list[Any] = eval_results_to_model_index("", results)[0]["results"] if results else []
    return found


def results_in(card: str) -> list[Any]:
    """Return the results of an evaluation that a card has in its model-index.

    Raises:
        ModelError: If the metadata cannot be read, or its model-index has an unusual form.
    """
    models = _models(_values(card).get("model-index"))
    return [result for model in models for result in model["results"] if _is_of_search(result)]


def with_results(card: str, results: Sequence[Any]) -> str:
    """Return the card with these results in its model-index, replacing those of an earlier evaluation.

    Args:
        card: Card with or without metadata.
        results: Results of a model-index.

    Raises:
        ModelError: If the metadata cannot be read, or its model-index has an unusual form.
    """
    newline = "\r\n" if "\r\n" in card else "\n"
    found = _METADATA.match(card)
    dashes = f"---{newline}"
    opening, text, rest = (dashes, "", dashes + card) if found is None else _parts(found, card)
    values = _parsed(text)
    index = _model_index(values.get("model-index"), results)
    if index == values.get("model-index", []):
        return card
    block = yaml.safe_dump({"model-index": index}, sort_keys=False, allow_unicode=True, width=10**6)
    block = "" if not index else block.replace("\n", newline)
    known = _MODEL_INDEX.search(text)
    start, end = (len(text), len(text)) if known is None else known.span()
    changed = text[:start] + block + text[end:]
    expected = {key: value for key, value in values.items() if key != "model-index"}
    hidden = known is None and "model-index" in values  # a quoted key would now occur twice
    if hidden or _parsed(changed) != expected | ({"model-index": index} if index else {}):
        raise ModelError(
            "README.md: its model-index must be a list that starts on a new line and has no comments; "
            + _ADVICE
        )
    return opening + changed + rest


def check_metadata(card: str) -> None:
    """Check that the metadata of a card can be read.

    Raises:
        ModelError: If the metadata cannot be read.
    """
    _model_index(_values(card).get("model-index"), [])


def _parts(found: re.Match[str], card: str) -> tuple[str, str, str]:
    return found[1], found[2], found[3] + card[found.end() :]


def _parsed(text: str) -> dict[str, Any]:
    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split())
        raise ModelError(f"README.md: its metadata is not valid YAML ({reason}); {_ADVICE}") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ModelError(f"README.md: its metadata must be names with values; {_ADVICE}")
    return values


def _values(card: str) -> dict[str, Any]:
    found = _METADATA.match(card)
    return _parsed("" if found is None else found[2])


def _model_index(index: Any, results: Sequence[Any]) -> list[dict[str, Any]]:
    """Return a model-index with these results in place of those of an earlier evaluation."""
    models = [
        {**model, "results": [result for result in model["results"] if not _is_of_search(result)]}
        for model in _models(index)
    ]
    if not results:
        return [model for model in models if model["results"]]
    if not models:
        return [{"name": PLACEHOLDER_NAME, "results": list(results)}]
    models[0]["results"] += results
    return models


def _models(index: Any) -> list[dict[str, Any]]:
    """Return the models of a model-index, each with its list of results."""
    try:
        models = [{**model, "results": list(model.get("results") or [])} for model in index or []]
        for model in models:
            list(map(_is_of_search, model["results"]))
    except (KeyError, TypeError, AttributeError):
        raise ModelError(
            f"README.md: its model-index must be a list of models with results; {_ADVICE}"
        ) from None
    return models


def _is_of_search(result: Any) -> bool:
    return bool(result["task"].get("name") == TASK)
