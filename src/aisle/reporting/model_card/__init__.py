"""Model card of a run, with a section on search that an evaluation writes."""

from aisle.reporting.model_card.card import base_model_name, fill_repository, render_model_card
from aisle.reporting.model_card.card_files import (
    CARD,
    CHARTS,
    card_charts,
    check_card,
    copy_card_charts,
    read_card,
    read_settings,
    remove_card_charts,
    write_search_results,
)
from aisle.reporting.model_card.reranker_card import render_reranker_card
from aisle.reporting.model_card.results import NOT_MEASURED
from aisle.reporting.model_card.search_section import (
    SearchResults,
    SearchSection,
    search_section_in,
    with_search_results,
    with_search_section,
)
from aisle.reporting.model_card.signature import is_signed_card, signed_card

__all__ = [
    "CARD",
    "CHARTS",
    "NOT_MEASURED",
    "SearchResults",
    "SearchSection",
    "base_model_name",
    "card_charts",
    "check_card",
    "copy_card_charts",
    "fill_repository",
    "is_signed_card",
    "read_card",
    "read_settings",
    "remove_card_charts",
    "render_model_card",
    "render_reranker_card",
    "search_section_in",
    "signed_card",
    "with_search_results",
    "with_search_section",
    "write_search_results",
]
