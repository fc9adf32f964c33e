"""The tables that an evaluation prints on the terminal."""

from dataclasses import replace

import numpy as np
from rich.console import Console

from aisle.commands.evaluate.printed_tables import graph_line, pairs_table, retrieval_table, side_by_side
from aisle.evaluation.comparison import compare_runs
from aisle.evaluation.document import Estimate, GraphLoss
from aisle.evaluation.headline import headline
from aisle.evaluation.pair_comparison import compare_pairs

DASH = "\u2013"
WIDTH = 80
"""Columns of a terminal of unknown width."""


def compared(names, queries, **settings):
    """Compare systems: the first never ranks the right product first, the others always do."""
    qrels = {f"q{number}": {"right": 1.0} for number in range(queries)}
    runs = {
        name: {query: {"right": 0.5, "wrong": 1.0 if row == 0 else 0.0} for query in qrels}
        for row, name in enumerate(names)
    }
    kinds = dict.fromkeys(names, "other")
    catalogue = {"products": 2, "known_products": ["right", "wrong"]}
    return compare_runs(runs, qrels, kinds=kinds, base=names[0], **catalogue, **settings)[0]


def lines_of(table):
    console = Console(width=WIDTH)
    with console.capture() as capture:
        console.print(table)
    return capture.get().splitlines()


def printed(retrieval):
    return "\n".join(lines_of(retrieval_table(retrieval, base=retrieval.rows[0].name, first="ndcg@10")))


def test_a_long_name_is_broken_into_lines_and_not_cut_off():
    name = "an-index-of-last-summer-with-titles-only"
    text = printed(compared(["base", name], 30))

    first_words = [line.split()[0] for line in text.splitlines() if line.strip()]
    assert name in "".join(first_words)
    assert "precision@1" in text


def test_intervals_are_explained_only_if_there_are_any():
    assert "95% interval" in printed(compared(["base", "tuned"], 30))
    assert "95% interval" not in printed(compared(["base", "tuned"], 1))
    assert "* differs from base" in printed(compared(["base", "tuned"], 1))


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


def test_with_many_cutoffs_the_headline_metric_is_shown_and_the_rest_counted():
    text = printed(compared(["base", "tuned"], 30, cutoffs=(1, 5, 10, 20)))

    assert next(line for line in text.splitlines() if "@" in line).split()[0] == "ndcg@10"
    assert "7 more figures with --report and --json" in " ".join(text.split())


def test_pairs_have_their_intervals_below_the_figures():
    scores = {"base": np.array([0.1, 0.9, 0.4, 0.6]), "tuned": np.array([0.1, 0.2, 0.8, 0.9])}
    kinds = {"base": "base", "tuned": "tuned"}
    pairs = compare_pairs(scores, np.array([0.0, 0.0, 1.0, 1.0]), kinds=kinds, resamples=100)

    lines = [line.split() for line in lines_of(pairs_table(pairs)) if line.strip()]

    assert lines[0] == ["4", "pairs,", "50%", "positive"]
    assert lines[1] == ["ROC-AUC", "AP", "Spearman", "best", "F1", "at", "score"]
    base, below, tuned = lines[3:6]
    row = pairs.rows[0].metrics["roc_auc"]
    assert base[:2] == ["base", "0.500"]
    assert below[0] == f"{row.low:.3f}".removeprefix("0")[:4] + DASH + f"{row.high:.3f}".removeprefix("0")[:4]
    assert tuned[:3] == ["tuned", "1.000", "1.000"]


def test_a_spearman_interval_below_zero_keeps_its_sign():
    scores = {"base": np.array([0.9, 0.7, 0.4, 0.1, 0.3, 0.2])}
    pairs = compare_pairs(
        scores, np.array([0.0, 0.0, 0.5, 1.0, 1.0, 0.5]), kinds={"base": "base"}, resamples=100
    )

    found = pairs.rows[0].metrics["spearman"]
    assert found.high < 0
    assert f"-{abs(found.high):.3f}".replace("0.", ".") in "\n".join(lines_of(pairs_table(pairs)))


def test_the_line_on_the_graph_names_the_search_effort_if_there_is_one():
    loss = GraphLoss("tuned", 0.98, 0.5, 0.49, Estimate(-0.01, -0.02, -0.005), 1)
    figures = "ann_recall@10 0.9800, nDCG@10 0.490 for 0.500 by exact search"
    rest = f"{figures} (-0.0100 [-.020{DASH}-.005]; 1 query changed)"

    assert graph_line(loss, ef_search=40) == f"tuned through the graph, at ef_search 40: {rest}"
    assert graph_line(loss, ef_search=None) == f"tuned through the graph: {rest}"


def test_answers_stand_side_by_side_per_rank():
    answers = {"bm25": [(12.5, "red mug"), (3.0, "mug")], "tuned": [(0.91, "coffee cup")]}

    lines = lines_of(side_by_side("cup", answers))

    assert lines[0].split() == ["“cup”"]
    assert lines[2].split() == ["#", "bm25", "tuned"]
    assert lines[4].split() == ["1", "12.500", "red", "mug", "0.910", "coffee", "cup"]
    assert lines[5].split() == ["2", "3.000", "mug", DASH]


def test_brackets_and_control_characters_are_shown_as_text():
    answers = {"a [bold]": [(0.5, "x [red]y[/red]\n\x1b[31mz")]}

    text = "\n".join(lines_of(side_by_side("q [/]", answers)))

    assert "“q [/]”" in text
    assert "a [bold]" in text
    assert "0.500 x [red]y[/red] [31mz" in text
    assert "\x1b" not in text


def test_long_titles_are_cut_and_the_table_stays_in_80_characters():
    answers = {name: [(0.5, "word " * 50)] for name in ("bm25", "base", "tuned")}

    lines = lines_of(side_by_side("q", answers, title_width=20))

    assert max(map(len, lines)) <= 80
    assert sum(line.count("word") for line in lines) == 3 * 4
    assert sum(line.count("…") for line in lines) == 3


def test_no_answers_give_an_empty_table():
    assert "tuned" in "\n".join(lines_of(side_by_side("q", {"tuned": []})))
