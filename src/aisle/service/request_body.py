"""What the bodies of all requests have in common: values are not converted, unknown fields are refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from aisle.config.flag_names import meant_by

__all__ = ["MAX_CHARACTERS", "Body", "Number", "Query", "ShortText", "Text", "not_blank"]

MAX_CHARACTERS = 10_000
"""Longest query. The tokenizer reads a text to its end before it is cut to the encoder's maximum length."""


OTHER_NAMES: dict[str, tuple[str, ...]] = {
    "where": ("filter",),
    "filters": ("filter",),
    "limit": ("top_k", "top_n"),
    "k": ("top_k", "top_n"),
    "top_k": ("top_n",),
    "size": ("top_k",),
    "hits_per_page": ("top_k",),
    "from": ("offset",),
    "start": ("offset",),
    "skip": ("offset",),
    "q": ("query",),
    "text": ("query",),
    "embedding": ("vector",),
    "query_vector": ("vector",),
    "threshold": ("min_score",),
    "score_threshold": ("min_score",),
    "ef_search": ("ef",),
    "attributes": ("fields",),
    "aggregations": ("facets",),
    "distinct": ("group_by",),
    "collapse": ("group_by",),
    "timeout": ("timeout_ms",),
    "input": ("inputs",),
    "texts": ("inputs", "documents"),
    "prompt": ("prompt_name",),
    "documents": ("texts",),
    "docs": ("documents", "texts"),
    "passages": ("documents", "texts"),
    "return_documents": ("return_text",),
    "return_text": ("return_documents",),
}
"""Names of fields here, by the name in other search engines; which of them a body has depends on its form."""


def _unicode(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:  # half of a pair of surrogates, which JSON can escape
        raise PydanticCustomError("unicode", "must be valid Unicode") from None
    return text


def not_blank(text: str) -> str:
    """Refuse a text of white space."""
    if not text.strip():
        raise PydanticCustomError("blank", "must not be blank")
    return text


Text = Annotated[str, AfterValidator(_unicode)]
ShortText = Annotated[str, Field(max_length=MAX_CHARACTERS), AfterValidator(_unicode)]
Query = Annotated[ShortText, AfterValidator(not_blank)]
Number = Annotated[float, Field(allow_inf_nan=False)]


def _shown(name: str) -> str:
    return name[:100].encode(errors="replace").decode()


class Body(BaseModel):
    """Body of a request. Values are not converted: `"10"` is not a number."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _known_fields_only(cls, given: Any) -> Any:
        """Refuse an unknown field, and name the field that was probably meant."""
        if not isinstance(given, Mapping):
            return given
        for name in given:
            if name not in cls.model_fields:
                others = [one for one in OTHER_NAMES.get(str(name).lower(), ()) if one in cls.model_fields]
                near = others[0] if others else meant_by(_shown(str(name)), cls.model_fields)
                hint = f"did you mean {near!r}?" if near else f"the fields are {', '.join(cls.model_fields)}"
                raise PydanticCustomError(
                    "unknown_field",
                    "unknown field; {hint}",
                    {"field": _shown(str(name)), "hint": hint},
                )
        return given
