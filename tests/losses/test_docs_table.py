"""The table of losses in the docs matches the registry."""

from pathlib import Path

import pytest

from aisle.losses.registry import registered_losses

DOCS = Path(__file__).parents[2] / "docs"
PAGES = {"embeddings": DOCS / "explanation" / "losses.md", "scores": DOCS / "how-to" / "train-a-reranker.md"}
HEAD = "| `--loss` | also called | what it does | needs | mean of a step over | source |"
DEFAULTS = {"labelled": " (default with labels)", "unlabelled": " (default without labels)", None: ""}
UNITS = {"pair": "pairs", "positive": "positives", "triple": "triples", "query": "queries with a positive"}
UNITS["list"] = "queries with two scored products"


def needs_of(loss):
    needs = {
        "labels": loss.needs_labels,
        "positives": loss.needs_positives,
        "hard negatives": loss.needs_hard_negatives,
        "groups": loss.needs_groups,
        "teacher scores": loss.needs_teacher_scores,
        "a query's pairs in one batch": loss.keeps_queries_together,
    }
    return ", ".join(need for need, needed in needs.items() if needed)


def row_of(loss):
    cells = (
        f"`{loss.name}`{DEFAULTS[loss.default_for]}",
        ", ".join(loss.other_names),
        loss.help,
        needs_of(loss),
        UNITS[loss.unit],
        loss.source,
    )
    return f"| {' | '.join(cells)} |"


@pytest.mark.parametrize("reads", PAGES)
def test_the_page_has_a_row_for_each_loss_as_the_registry_describes_it(reads):
    lines = PAGES[reads].read_text(encoding="utf-8").splitlines()
    expected = [HEAD, "|---|---|---|---|---|---|", *map(row_of, registered_losses(reads))]

    start = lines.index(HEAD)

    assert lines[start : start + len(expected) + 1] == [*expected, ""], "paste:\n" + "\n".join(expected)
