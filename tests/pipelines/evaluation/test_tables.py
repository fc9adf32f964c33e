"""What an evaluation says on the terminal."""

from dataclasses import replace

from rich.console import Console

from aisle.evaluation.changes import headline
from aisle.evaluation.comparison import compare_runs
from aisle.evaluation.document import Estimate
from aisle.pipelines.evaluation.tables import retrieval_table

WIDTH = 80
"""Columns of a terminal that says nothing about itself."""


def compared(names, queries, **settings):
    """Systems of which the first finds the product of no query first, and the others that of each."""
    qrels = {f"q{number}": {"right": 1.0} for number in range(queries)}
    runs = {
        name: {query: {"right": 0.5, "wrong": 1.0 if row == 0 else 0.0} for query in qrels}
        for row, name in enumerate(names)
    }
    kinds = dict.fromkeys(names, "other")
    catalogue = {"products": 2, "known_products": ["right", "wrong"]}
    return compare_runs(runs, qrels, kinds=kinds, base=names[0], **catalogue, **settings)[0]


def printed(retrieval):
    console = Console(width=WIDTH)
    with console.capture() as capture:
        console.print(retrieval_table(retrieval, base=retrieval.rows[0].name, first="ndcg@10"))
    return capture.get()


def test_a_long_name_is_broken_into_lines_and_not_cut_off():
    name = "an-index-of-last-summer-with-titles-only"
    text = printed(compared(["base", name], 30))

    first_words = [line.split()[0] for line in text.splitlines() if line.strip()]
    assert name in "".join(first_words)
    assert "precision@1" in text


def test_numbers_agree_with_their_nouns():
    assert "1 query, 2 products" in printed(compared(["base", "tuned"], 1))
    assert "30 queries, 2 products" in printed(compared(["base", "tuned"], 30))
    assert headline(compared(["base", "tuned"], 1), base="base", tuned="tuned").endswith(
        "worse on 0 of 1 query"
    )


def test_narrow_intervals_keep_their_ends_apart_and_leave_room_for_the_names():
    retrieval = compared(["base", "tuned"], 30)
    narrow = [
        replace(row, metrics={name: Estimate(0.022, 0.0211, 0.0236) for name in row.metrics})
        for row in retrieval.rows
    ]
    text = printed(replace(retrieval, rows=tuple(narrow)))

    assert text.count(".021\u2013.024") == 12
    assert [line.split()[0] for line in text.splitlines() if "0.022" in line] == ["base", "tuned"]
    assert "1.00\u20131.00" in printed(retrieval)


def test_of_many_cutoffs_the_headline_s_metric_is_shown_and_the_rest_is_counted():
    text = printed(compared(["base", "tuned"], 30, cutoffs=(1, 5, 10, 20)))

    assert next(line for line in text.splitlines() if "@" in line).split()[0] == "ndcg@10"
    assert "7 more figures with --report and --json" in " ".join(text.split())
