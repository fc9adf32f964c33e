"""The search section of a card: its place, the unchanged rest, and the visible text."""

import re
from dataclasses import replace
from itertools import pairwise

import pytest
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt

from aisle.errors import ModelError
from aisle.reporting.model_card import SearchResults, fill_repository, render_model_card, with_search_results
from aisle.reporting.model_card.search_section import BEGIN, END
from tests.reporting.test_card import ENCODER, METRICS, SETTINGS

RESULTS = SearchResults(
    sentence="tuned beats base by 0.06 nDCG@10 [0.04, 0.08]; worse on 31 of 400 queries.",
    header=("System", "nDCG@10", "Recall@10"),
    rows=(
        ("base", "0.460 [0.440, 0.481]", "0.610 [0.589, 0.630]"),
        ("tuned", "0.521 [0.500, 0.541]", "0.671 [0.650, 0.691]"),
    ),
    queries=400,
    products=12_345,
    metrics={"ndcg@10": ("nDCG@10", 0.5211111111), "recall@10": ("Recall@10", 0.671)},
    alt_texts={"retrieval": "Chart. tuned: 0.521 [0.500, 0.541].", "roc": "Chart. tuned: 0.9."},
)
SECOND = replace(
    RESULTS,
    sentence="tuned beats base by 0.07 nDCG@10 [0.05, 0.09]; worse on 2 of 40 queries.",
    queries=40,
    metrics={"ndcg@10": ("nDCG@10", 0.53)},
    alt_texts={"retrieval": "Chart."},
)


@pytest.fixture
def card():
    return render_model_card(encoder=ENCODER, settings=SETTINGS, metrics=METRICS, repo_id=None)


def section_of(card):
    return card[card.index(BEGIN) : card.index(END) + len(END)]


def without_section(card):
    """Return the body of a card without the section and the empty line after it."""
    body = re.split(r"^---\r?$", card, maxsplit=2, flags=re.MULTILINE)[-1]
    return body.replace(section_of(card), "").replace("\r\n\r\n\r\n", "\r\n").replace("\n\n\n", "\n")


def rows_of(card):
    """Return the cells of the section's table, parsed."""
    tokens = MarkdownIt("commonmark").enable("table").parse(section_of(card))
    cells = [
        "".join(part.content for part in token.children)
        for before, token in pairwise(tokens)
        if before.type in {"th_open", "td_open"}
    ]
    width = sum(token.type == "th_open" for token in tokens)
    return [tuple(cells[at : at + width]) for at in range(0, len(cells), width)]


def test_the_section_has_sentence_table_sizes_and_charts(card):
    found = section_of(with_search_results(card, RESULTS))

    assert "\n## Search over a catalogue\n" in found
    assert f"\n{RESULTS.sentence}\n" in found
    assert "Means over 400 judged queries over a catalogue of 12,345 products" in found
    assert "`base` is the model that this model is compared with, `tuned` is this model." in found
    assert rows_of(found) == [RESULTS.header, *RESULTS.rows]
    assert "![Chart. tuned: 0.521 \\[0.500, 0.541\\].](evaluation/retrieval.png)" in found
    assert "![Chart. tuned: 0.9.](evaluation/roc.png)" in found


def test_the_section_comes_after_the_results_and_the_rest_stays(card):
    changed = with_search_results(card, RESULTS)

    headings = [line for line in changed.splitlines() if line.startswith("## ")]
    assert headings[:3] == ["## Results", "## Search over a catalogue", "## How it was trained"]
    before, after = changed.split(section_of(changed) + "\n\n")
    body = card[card.index("# your-model") :]
    assert before[before.index("# your-model") :] + after == body


def test_a_second_evaluation_replaces_the_first(card):
    once = with_search_results(card, RESULTS)
    twice = with_search_results(once, SECOND)

    assert twice == with_search_results(card, SECOND)
    assert twice.count("## Search over a catalogue") == 1
    assert "roc.png" not in twice
    assert "400 judged" not in twice
    assert with_search_results(twice, SECOND) == twice


def test_text_written_by_hand_stays_byte_for_byte(card):
    card = with_search_results(card, RESULTS)
    edited = card.replace(END, f"{END}\n\nMy note:\t`x`  \n\x0b\u2028 two  spaces").replace(
        "A LoRA", "Our LoRA"
    )
    edited = edited.replace("\nlibrary_name", "\n# a comment of mine\nlicence:   'mit'\nlibrary_name")

    changed = with_search_results(edited, SECOND)

    assert without_section(changed) == without_section(edited)
    assert "\n# a comment of mine\nlicence:   'mit'\nlibrary_name" in changed
    assert SECOND.sentence in changed
    assert RESULTS.sentence not in changed


def test_line_ends_of_windows_stay(card):
    windows = card.replace("\n", "\r\n")

    changed = with_search_results(windows, RESULTS)

    assert changed == with_search_results(card, RESULTS).replace("\n", "\r\n")
    assert with_search_results(changed, SECOND) == with_search_results(card, SECOND).replace("\n", "\r\n")


@pytest.mark.parametrize(
    ("card", "before", "after"),
    [
        ("# Mine\n\ntext\n", "# Mine\n\ntext\n\n", ""),
        ("# Mine\n\ntext", "# Mine\n\ntext\n\n", ""),
        ("", "", ""),
        ("## Results\ngood\n## Next\n", "## Results\ngood\n\n", "\n## Next\n"),
        ("## Results\n\ngood\n\n# Next\n", "## Results\n\ngood\n\n", "\n# Next\n"),
        ("## Results\n```\n## Next\n```\n", "## Results\n```\n## Next\n```\n\n", ""),
        ("```\n## Results\n```\n\n## Other\n", "```\n## Results\n```\n\n## Other\n\n", ""),
        ("```\n```py\n## Results\n## A\n```\n", "```\n```py\n## Results\n## A\n```\n\n", ""),
        ("~~~~\n## Results\n~~~\n## A\n~~~~\n\n", "~~~~\n## Results\n~~~\n## A\n~~~~\n\n", ""),
    ],
    ids=[
        "own card",
        "no line end",
        "empty",
        "tight",
        "title",
        "fenced end",
        "fenced results",
        "not a fence's end",
        "long fence",
    ],
)
def test_the_place_of_the_section_in_a_card_written_by_hand(card, before, after):
    changed = with_search_results(card, RESULTS)

    assert changed[changed.index("---\n", 4) + 4 :] == before + section_of(changed) + "\n" + after


def test_the_metadata_gains_the_figures_of_this_model(card):
    found = ModelCard(with_search_results(card, RESULTS)).data

    results = {
        (result.task_type, result.metric_type, result.metric_name): result.metric_value
        for result in found.eval_results
    }
    assert results == {
        ("sentence-similarity", "roc_auc", "ROC-AUC"): 0.912346,
        ("sentence-similarity", "average_precision", "Average precision"): 0.75,
        ("sentence-similarity", "f1", "Best F1"): 0.7,
        ("information-retrieval", "ndcg_at_10", "nDCG@10"): 0.521111,
        ("information-retrieval", "recall_at_10", "Recall@10"): 0.671,
    }
    assert {result.dataset_name for result in found.eval_results} == {
        "acme/judged",
        "400 judged queries over a catalogue of 12,345 products",
    }
    assert found.model_name == "your-model"
    assert ModelCard(card).data.to_dict().keys() == found.to_dict().keys()


def test_a_second_evaluation_replaces_its_figures_in_the_metadata(card):
    card = with_search_results(with_search_results(card, RESULTS), SECOND)

    found = [result for result in ModelCard(card).data.eval_results if "retrieval" in result.task_type]
    assert [(result.metric_type, result.metric_value) for result in found] == [("ndcg_at_10", 0.53)]


def test_a_card_rendered_with_a_repository_names_it(card):
    named = fill_repository(with_search_results(card, RESULTS), "acme/search")

    assert ModelCard(named).data.model_name == "search"
    assert named == with_search_results(fill_repository(card, "acme/search"), RESULTS)


@pytest.mark.parametrize("ends", ["\n", "\r\n"])
def test_a_card_without_metadata_gains_some(ends):
    changed = with_search_results(f"# Mine{ends}", RESULTS)

    assert changed.startswith(f"---{ends}model-index:{ends}- name: your-model{ends}")
    assert len(ModelCard(changed.replace("\r\n", "\n")).data.eval_results) == 2


def test_without_figures_the_metadata_stays_as_it_is(card):
    changed = with_search_results(card, replace(RESULTS, metrics={}))

    assert changed[: changed.index("# your-model")] == card[: card.index("# your-model")]


def test_the_last_figures_leave_with_their_block():
    card = "---\nlicense: mit\n---\n# Mine\n"

    changed = with_search_results(with_search_results(card, RESULTS), replace(RESULTS, metrics={}))

    assert changed.startswith(card)


def test_metadata_of_others_in_the_model_index_is_kept():
    theirs = """---
model-index:
- name: mine
  results:
  - task: {type: x, name: Theirs}
    dataset: {name: d, type: d, odd: 1}
    metrics: [{type: m, value: 0.25, verified: true}]
# my comment
license: mit
---
"""
    changed = with_search_results(theirs, RESULTS)

    found = ModelCard(changed).data.to_dict()
    (model,) = found["model-index"]
    assert model["name"] == "mine"
    assert [result["metrics"][0]["value"] for result in model["results"]] == [0.25, 0.521111]
    assert "odd: 1\n" in changed
    assert "# my comment\nlicense: mit\n---\n" in changed


NAMES = ["a|b", "日本語 für Läden", "<!-- aisle:search end -->", "_x_ *y* `z`", "[a](b)", "&lt;", "back\\"]


@pytest.mark.parametrize("name", NAMES)
def test_names_of_systems_are_shown_as_they_are(card, name):
    results = replace(
        RESULTS,
        sentence=f"{name} is worse.",
        rows=((name, "0.1", "0.2"),),
        alt_texts={"retrieval": f"Chart. {name}: 0.1"},
    )

    changed = with_search_results(card, results)

    assert rows_of(changed) == [RESULTS.header, (name, "0.1", "0.2")]
    assert "`tuned`" not in section_of(changed)
    assert with_search_results(changed, RESULTS) == with_search_results(card, RESULTS)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (f"{BEGIN}\n", "found 1 and 0"),
        (f"{END}\n", "found 0 and 1"),
        (f"{END}\n{BEGIN}\n", "once after it; found 1 and 1"),
        (f"{BEGIN}\n{END}\n{BEGIN}\n{END}\n", "found 2 and 2"),
        ("---\na: [\n---\n", "its metadata is not valid YAML"),
        ("---\n- a\n---\n", "must be names with values"),
        ("---\nmodel-index: 3\n---\n", "must be a list of models"),
        ("---\nmodel-index:\n- 3\n---\n", "must be a list of models"),
        ("---\n'model-index':\n- name: x\n  results: []\n---\n", "must be a list that starts on a new line"),
    ],
    ids=["no end", "no begin", "turned round", "twice", "no YAML", "a list", "a number", "numbers", "quoted"],
)
def test_a_card_that_cannot_be_changed_safely_is_refused(text, reason):
    with pytest.raises(ModelError, match=r"^README\.md: ") as raised:
        with_search_results(text, RESULTS)
    assert reason in str(raised.value)


def test_markers_inside_a_line_are_text(card):
    quoted = card + f"\nBetween `{BEGIN}` and `{END}` stands what an evaluation writes.\n"

    assert with_search_results(quoted, RESULTS).endswith(quoted[quoted.index("## Limits") :])
