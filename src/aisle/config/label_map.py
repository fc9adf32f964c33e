"""The `E=1,S=0.1,C=0.01,I=0` notation of label maps."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated

from pydantic import BeforeValidator
from tyro.constructors import PrimitiveConstructorSpec

from aisle.config.annotations import Help


def parse_label_map(value: object) -> dict[str, float] | None:
    """Return the relevance of each label.

    Args:
        value: Mapping (from YAML), text such as `E=1,S=0.1`, or None.

    Raises:
        ValueError: The text has another form, a label occurs twice, or a relevance is not in [0, 1].
    """
    if value is None or value == "None":
        return None
    if isinstance(value, Mapping):
        if any(isinstance(label, bool) for label in value):
            raise ValueError("YAML reads a bare yes or no as a truth value: put such labels in quotes")
        pairs = [(str(label), relevance) for label, relevance in value.items()]
    else:
        parts = [part for part in str(value).split(",") if part.strip()]
        if not parts or any("=" not in part for part in parts):
            raise ValueError("a label map has the form E=1,S=0.1,C=0.01,I=0")
        pairs = [
            (label.strip(), relevance) for label, _, relevance in (part.rpartition("=") for part in parts)
        ]
    label_map: dict[str, float] = {}
    for label, relevance in pairs:
        if label in label_map:
            raise ValueError(f"label {label!r} occurs twice in the label map")
        label_map[label] = _relevance(label, relevance)
    return label_map


def _relevance(label: str, relevance: object) -> float:
    try:
        number = float(str(relevance))
    except ValueError:
        number = math.nan
    if not 0 <= number <= 1:
        raise ValueError(f"label {label!r} must have a relevance from 0 to 1; found {relevance!r}")
    return number


def _text_of(label_map: Mapping[str, float] | None) -> list[str]:
    if label_map is None:
        return ["None"]
    return [",".join(f"{label}={relevance:g}" for label, relevance in label_map.items())]


LabelMap = Annotated[
    dict[str, float] | None,
    BeforeValidator(parse_label_map),
    PrimitiveConstructorSpec(
        nargs=1,
        metavar="LABEL=RELEVANCE,...",
        instance_from_str=lambda args: args[0],  # validated with all other settings, by `parse_label_map`
        is_instance=lambda value: value is None or isinstance(value, dict),
        str_from_instance=_text_of,
    ),
]
LabelGains = Annotated[
    LabelMap, Help("Relevance of each label, from 0 to 1, for example E=1,S=0.1,C=0.01,I=0.")
]
