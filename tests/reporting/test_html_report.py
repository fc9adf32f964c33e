"""The report's folder: its files, the text of the page, and that untrusted text never becomes markup."""

import base64
import hashlib
import json
import re
import struct
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from xml.etree import ElementTree

import pytest

from aisle.errors import EvaluationError
from aisle.evaluation.document import AnnPoint, Difference, Estimate, Evaluation, TrainingCurve
from aisle.reporting.html import figures_of, headline_of, write_report
from aisle.reporting.html.cells import best_value
from aisle.reporting.html.chart_text import drawable
from aisle.reporting.html.drawing import inline_svg, png_bytes
from aisle.reporting.html.formatting import (
    bounds,
    byte_count,
    clean,
    clipped,
    figure,
    listing,
    moment,
    p_value,
    signed,
)
from aisle.reporting.html.interval_plots import interval_plots
from aisle.reporting.html.palette import COLOURS, system_styles
from aisle.reporting.html.relevance_levels import RelevanceLevels
from tests.reporting.evaluations import (
    HOSTILE,
    change,
    crowded_evaluation,
    empty_evaluation,
    evaluation,
    hostile_evaluation,
    one_query_evaluation,
    pairs,
    retrieval,
    slices,
)

MINUS = "\u2212"
DASH = "\u2013"
FIGURES = {
    "retrieval",
    "roc",
    "precision_recall",
    "scores",
    "training",
    "recall_by_ef",
    "reliability",
    "heatmap_1",
    "heatmap_2",
    "slices",
}


class Page(HTMLParser):
    """The elements and the text of a page."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.texts, self._open = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self._open.append(tag)

    def handle_endtag(self, tag):
        while self._open and self._open.pop() != tag:
            pass

    def handle_data(self, data):
        if not {"style", "script"} & set(self._open[-1:]):
            self.texts.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.texts).split())

    def attributes(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The report of an evaluation with every part; read it, never write to it."""
    folder = tmp_path_factory.mktemp("report") / "new" / "folder"
    write_report(folder, evaluation())
    return folder


@pytest.fixture(scope="module")
def page(folder):
    return Page((folder / "report.html").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def hostile_folder(tmp_path_factory):
    """The report of an evaluation with hostile text; read it, never write to it."""
    folder = tmp_path_factory.mktemp("hostile")
    write_report(folder, hostile_evaluation())
    return folder


@pytest.fixture(scope="module")
def hostile_page(hostile_folder):
    return Page((hostile_folder / "report.html").read_text(encoding="utf-8"))


def page_of(found, folder):
    return Page(write_report(folder, found).read_text(encoding="utf-8"))


def sections(page):
    return [attributes["id"] for attributes in page.attributes("section")]


def test_the_folder_holds_the_page_the_document_and_the_figures(folder):
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}

    assert names == {"report.html", "report.json", *(f"figures/{name}.png" for name in FIGURES)}


def test_the_document_is_read_back_as_the_same_evaluation(folder):
    content = json.loads((folder / "report.json").read_text(encoding="utf-8"))

    assert Evaluation.from_dict(content) == evaluation()


def test_figures_are_pictures_of_their_size(folder):
    for name, drawn in figures_of(evaluation()).items():
        content = (folder / "figures" / f"{name}.png").read_bytes()

        assert content[:8] == b"\x89PNG\r\n\x1a\n"
        assert struct.unpack(">II", content[16:24]) == tuple(
            int(side * 160) for side in drawn.get_size_inches()
        )
        assert len(content) > 5_000, name


def test_the_same_evaluation_gives_the_same_bytes(folder, tmp_path):
    write_report(tmp_path, evaluation())

    for path in folder.rglob("*.*"):
        assert path.read_bytes() == (tmp_path / path.relative_to(folder)).read_bytes(), path.name


def test_the_sections_are_in_order(page):
    order = [
        "retrieval",
        "joint-pool",
        "pairs",
        "training",
        "graph",
        "calibration",
        "heatmaps",
        "slices",
        "changes",
        "provenance",
    ]

    assert sections(page) == order
    assert [link["href"] for link in page.attributes("a")] == [f"#{name}" for name in order]


def test_a_part_that_was_not_requested_is_left_out(tmp_path):
    graph = {"ann": (), "ann_recall_at_10": None, "graph": (), "calibration": None}
    found = evaluation(pairs=None, joint_pool=(), training=(), heatmaps=(), **graph)

    assert sections(page_of(found, tmp_path)) == ["retrieval", "slices", "changes", "provenance"]
    assert {path.stem for path in (tmp_path / "figures").iterdir()} == {"retrieval", "slices"}


def test_an_evaluation_without_figures_is_still_a_page(tmp_path):
    page = page_of(empty_evaluation(), tmp_path)

    assert sections(page) == ["provenance"]
    assert "The evaluation has no figures." in page.text


def test_one_query_is_written_in_the_singular(tmp_path):
    page = page_of(one_query_evaluation(), tmp_path)

    assert "base reaches nDCG@10 1.000 over 1 query." in page.text
    assert "1 query with at least one relevant product, 1 product, 1 judgement." in page.text
    assert "All pairs are positive: ROC-AUC is undefined." in page.text


def test_too_much_and_too_large_is_still_a_page(hostile_page, tmp_path):
    crowded_page = page_of(crowded_evaluation(), tmp_path)

    assert sections(crowded_page)[-1] == sections(hostile_page)[-1] == "provenance"


def test_tables_state_figures_with_intervals_differences_and_corrected_p(page):
    # Row of tuned: nDCG@10 of 0.521, 0.061 above the base.
    assert "0.521 [0.500, 0.541]" in page.text
    assert "tuned nDCG@10 +0.061 [+0.041, +0.082] 0.001 0.003 240 31 129" in page.text
    assert f"bm25 nDCG@10 {MINUS}0.050 [{MINUS}0.070, {MINUS}0.029]" in page.text
    assert "2.1% 12.3%" in page.text


def test_relevance_levels_of_pairs_have_their_labels(page):
    assert [text for text in page.texts if text.startswith("Against")] == [
        "Against S 0.1",
        "Against C 0.01",
        "Against I 0",
    ]


def test_changed_queries_show_both_rankings_with_relevance_and_moves(page):
    text = page.text
    start = text.index("coffee mug nDCG@10 0.212 → 0.845 +0.633")
    before, after = text[start:].split("After: tuned")[:2]

    assert "Garden hose, 20 m, with nozzle and wall bracket I 0 P04 0.910 out" in before
    assert "Mug tree for eight mugs, beech wood not judged P07 0.824 now 5" in before
    assert "Coffee mug, enamel, 300 ml, navy E 1 P06 0.867 new" in after
    assert "dishwasher safe E 1 P01 0.910 was 4" in after


def test_how_it_was_made_names_inputs_settings_versions_and_command(page):
    for said in (
        "2026-11-21 20:45 UTC",
        "Seed 42",
        "transformers 5.23.0",
        "aisle evaluate --index_dir runs/esci-index",
        "judgements data/qrels.tsv 1.0 MB " + "b2" * 32,
        "index.ef_construction 200",
        "rerank null",
    ):
        assert said in page.text


def test_every_chart_has_an_alternative_text(page):
    charts = [svg for svg in page.attributes("svg") if svg.get("class") == "chart"]

    assert len(charts) == 7
    assert all(svg["role"] == "img" and svg["aria-label"].startswith("Chart. ") for svg in charts)
    (roc,) = [svg["aria-label"] for svg in charts if "area below each curve" in svg["aria-label"]]
    assert roc.endswith("base: 0.660; tuned: 0.916.")


def test_every_table_has_a_caption_and_every_id_is_there_once(page):
    tables = page.attributes("table")
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]

    assert len(tables) == len(page.attributes("caption")) == 15
    assert len(ids) == len(set(ids))


def test_headings_do_not_skip_a_level(page):
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch("h[1-6]", tag)]

    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))


def test_the_policy_allows_only_the_page_s_style_and_script(folder):
    html = (folder / "report.html").read_text(encoding="utf-8")
    (policy,) = [
        meta["content"]
        for meta in Page(html).attributes("meta")
        if meta.get("http-equiv") == "Content-Security-Policy"
    ]

    for tag in ("style", "script"):
        (content,) = re.findall(f"<{tag}>(.*?)</{tag}>", html, flags=re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none';")
    assert "unsafe" not in policy


@pytest.mark.parametrize("kind", ["page", "hostile_page"])
def test_no_text_becomes_markup(kind, request):
    page = request.getfixturevalue(kind)
    names = [name for _, attributes in page.elements for name in attributes]

    assert {tag for tag, _ in page.elements} & {"img", "b", "iframe", "link", "object", "image"} == set()
    assert len(page.attributes("script")) == 1
    assert "style" not in names
    assert not [name for name in names if name.startswith("on")]
    assert not [
        link for link in page.attributes("a") + page.attributes("use") if not link["href"].startswith("#")
    ]


def test_hostile_text_is_shown_as_text(hostile_page):
    text = hostile_page.text

    # Title, note, product, command: control characters are replaced, the direction mark is removed.
    shown = '</script><img src=x onerror="document.title=1"><b>$x_{$ & rtl [31m \ufffd 日本語'
    assert text.count(shown) >= 20
    assert "\u202e" not in text
    assert "\x1b" not in text


def test_hostile_text_survives_in_the_document(hostile_folder):
    content = json.loads((hostile_folder / "report.json").read_text(encoding="utf-8"))
    assert Evaluation.from_dict(content).title == HOSTILE


def test_charts_take_every_colour_from_the_page():
    for make in (evaluation, crowded_evaluation):
        for name, drawn in figures_of(make()).items():
            if not name.startswith("heatmap"):
                svg = inline_svg(drawn, name=name, alt="words")
                assert re.findall("#[0-9a-fA-F]{3,8}(?=[\"';])", svg.replace(f"#{name}-", "")) == [], name
                assert "var(--ink)" in svg or "var(--muted)" in svg
                assert {element.tag for element in ElementTree.fromstring(svg).iter()} <= {
                    *("svg", "g", "path", "text", "use", "defs", "clipPath", "rect")
                }


def test_the_stylesheet_has_the_colours_of_the_charts(folder):
    html = (folder / "report.html").read_text(encoding="utf-8")
    light = dict(re.findall(r"--([\w-]+): light-dark\((#\w{6}), #\w{6}\)", html))

    assert {name: light.get(name) for name in COLOURS} == COLOURS


def test_a_figure_that_is_not_finite_is_refused_with_its_name(tmp_path):
    found = evaluation(training=(TrainingCurve("loss", (1, 2), (0.5, float("nan"))),))

    with pytest.raises(EvaluationError, match=r"evaluation\.training\[0\]\.values\[1\] is nan.*leave it out"):
        write_report(tmp_path / "report", found)
    assert not (tmp_path / "report").exists()


def test_a_folder_that_is_a_file_is_refused(tmp_path):
    path = tmp_path / "report"
    path.write_text("mine")

    with pytest.raises(EvaluationError, match=r"--report .*report: the report cannot be written"):
        write_report(path, empty_evaluation())
    assert path.read_text() == "mine"


def test_a_crash_leaves_the_earlier_page_complete(tmp_path, monkeypatch):
    path = write_report(tmp_path, empty_evaluation())
    earlier = path.read_bytes()

    def full_disk(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("aisle.io.durable.os.replace", full_disk)
    with pytest.raises(EvaluationError, match="No space left on device"):
        write_report(tmp_path, replace(empty_evaluation(), title="another"))

    assert path.read_bytes() == earlier


def test_charts_of_an_earlier_report_do_not_stay_and_other_files_do(tmp_path):
    write_report(tmp_path, evaluation(slices=()))
    (tmp_path / "figures" / "mine.png").write_bytes(b"mine")

    write_report(tmp_path, evaluation(pairs=None, heatmaps=evaluation().heatmaps[:1]))

    assert {path.stem for path in (tmp_path / "figures").iterdir()} == (
        FIGURES - {"roc", "precision_recall", "scores", "heatmap_2"}
    ) | {"mine"}


def test_drawing_leaves_no_trace_in_matplotlib():
    import matplotlib

    before = dict(matplotlib.rcParams)

    for name, drawn in figures_of(evaluation()).items():
        png_bytes(drawn)
        inline_svg(drawn, name=name, alt="")

    assert dict(matplotlib.rcParams) == before


def test_figures_are_named_as_trackers_take_them():
    assert set(figures_of(evaluation())) == FIGURES
    assert figures_of(empty_evaluation()) == {}


def test_the_chosen_ef_is_marked_and_axes_hold_the_measured_values():
    axes = figures_of(evaluation())["recall_by_ef"].axes[0]

    assert axes.lines[0].get_xydata()[3].tolist() == [0.11, 0.987]
    assert [text.get_text() for text in axes.texts if "use" in text.get_text()] == ["ef 128 (in use)"]


def test_the_reliability_curve_has_a_line_for_each_mode_beside_the_diagonal():
    figure = figures_of(evaluation())["reliability"]

    diagonal, dense = (line.get_xydata().tolist() for line in figure.axes[0].lines[:2])
    assert diagonal == [[0, 0], [1, 1]]
    assert dense == [[0.05, 0.08], [0.3, 0.33], [0.5, 0.52], [0.7, 0.71], [0.92, 0.9]]
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names == ["dense 0.031", "lexical 0.031", "hybrid 0.031"]


def test_the_page_says_what_the_probabilities_were_measured_on(tmp_path):
    page = write_report(tmp_path, evaluation()).read_text(encoding="utf-8")

    section = page.partition('<section id="calibration">')[2].partition("</section>")[0]
    assert "120 judged queries and version 3 of the index" in section
    assert "the best 10 products of each query count" in section
    assert "Highest p, 98% answered" in section
    assert 'id="calibration"' not in write_report(tmp_path, empty_evaluation()).read_text(encoding="utf-8")


def test_a_panel_of_scores_holds_densities_of_area_one():
    panels = figures_of(evaluation())["scores"].axes

    assert [panel.get_ylabel() for panel in panels] == ["E 1\n400", "S 0.1\n400", "C 0.01\n400", "I 0\n400"]
    for panel in panels:
        for stairs in panel.patches:
            values, edges, _ = stairs.get_data()
            assert sum(values * (edges[1:] - edges[:-1])) == pytest.approx(1)


def test_systems_of_a_kind_look_different():
    styles = system_styles([("a", "tuned"), ("b", "tuned"), ("c", "other"), ("a", "other"), ("d", "base")])

    assert [style.colour for style in styles.values()] == ["tuned", "other-1", "other-2", "base"]
    assert len({(style.colour, style.dashes, style.marker) for style in styles.values()}) == 4


def headline(difference, **changes):
    found = retrieval()
    rows = tuple(
        replace(row, differences={"ndcg@10": difference}) if row.name == "tuned" else row
        for row in found.rows
    )
    return headline_of(evaluation(retrieval=replace(found, rows=rows), **changes))


def test_a_gain_is_claimed_only_if_it_is_significant():
    assert headline(Difference(0.0612, 0.04, 0.0821, 0.001, 0.003, 240, 31, 129)) == (
        "tuned beats base by 0.06 nDCG@10 [0.04, 0.08]; worse on 31 of 400 queries."
    )


def test_a_loss_is_called_a_loss():
    assert headline(Difference(-0.05, -0.07, -0.03, 0.001, 0.003, 31, 240, 129)) == (
        "tuned is worse than base by 0.05 nDCG@10 [0.03, 0.07]; worse on 240 of 400 queries."
    )


@pytest.mark.parametrize(("low", "p_corrected"), [(-0.01, 0.01), (0.001, 0.07), (-0.01, 0.0001)])
def test_no_winner_is_named_without_support_of_interval_and_test(low, p_corrected):
    sentence = headline(Difference(0.02, low, 0.05, 0.01, p_corrected, 200, 150, 50))

    assert sentence.startswith("tuned is not clearly better than base: +0.02")
    assert sentence.endswith("; worse on 150 of 400 queries.")


def test_without_retrieval_the_sentence_is_about_pairs():
    assert headline_of(evaluation(retrieval=None)) == (
        "tuned separates 1,600 judged pairs with ROC-AUC 0.916 [0.904, 0.927], "
        "base with 0.660 [0.648, 0.671]."
    )


def test_without_roc_auc_the_sentence_uses_spearman():
    row = replace(pairs().rows[0], metrics={"roc_auc": Estimate(None), "spearman": Estimate(0.82)})
    found = evaluation(retrieval=None, tuned=None, pairs=replace(pairs(), rows=(row,)))

    assert headline_of(found) == "base separates 1,600 judged pairs with Spearman 0.820."


def test_the_sentence_without_retrieval_and_pairs():
    found = evaluation(retrieval=None, pairs=None)

    assert headline_of(found).startswith("tuned ranks a text's partner first with precision@1 0.701 [0.688")
    assert headline_of(replace(found, joint_pool=())) == "The graph finds 0.987 of the exact top 10."


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, DASH),
        (0.12345, "0.123"),
        (-0.0001, "0.000"),
        (-0.5, f"{MINUS}0.500"),
        (12345.6, "12,345.600"),
        (1234567890.0, "1.235e+09"),
        (-1e12, f"{MINUS}1.000e+12"),
        (0, "0.000"),
    ],
)
def test_figures_have_three_decimals(value, shown):
    assert figure(value) == shown


def test_differences_have_signs_and_intervals_brackets():
    assert [signed(value) for value in (0.0614, -0.02, 0.0004, None)] == [
        "+0.061",
        f"{MINUS}0.020",
        "0.000",
        DASH,
    ]
    assert bounds(0.04, 0.0816) == "[0.040, 0.082]"
    assert bounds(-0.01, 0.02, sign=True) == f"[{MINUS}0.010, +0.020]"
    assert bounds(None, 0.02) == ""
    assert [p_value(value) for value in (0.0005, 0.001, 1.0)] == ["< 0.001", "0.001", "1.000"]


def test_sizes_dates_and_long_lists_are_shortened():
    assert [byte_count(size) for size in (999, 48_213, 10**9, 10**16)] == [
        "999 B",
        "48.2 kB",
        "1.0 GB",
        "10,000.0 TB",
    ]
    assert moment("2026-11-21T20:45:01.5Z") == "2026-11-21 20:45 UTC"
    assert moment("yesterday") == "yesterday"
    assert listing(["a", "b", "c"], shown=2) == "a, b and 1 more"
    assert clipped("word " * 9, 12) == "word word w…"
    assert clean("a\x00\n b\u202e\ud800") == "a b\ufffd"


def test_labels_of_charts_are_not_read_as_mathematics():
    assert drawable("$5 & 日", 10) == r"\$5 & □"
    assert drawable("_a") == " _a"


def test_marks_fill_with_relevance_and_unjudged_products_look_different():
    levels = RelevanceLevels(evaluation())

    assert [
        (levels.label(value).text, levels.label(value).level) for value in (1.0, 0.1, 0.01, 0.0, None)
    ] == [
        ("E 1", 4),
        ("S 0.1", 3),
        ("C 0.01", 1),
        ("I 0", 0),
        ("not judged", None),
    ]
    assert [label.text for label in levels.legend()] == ["E 1", "S 0.1", "C 0.01", "I 0", "not judged"]


def test_a_single_low_relevance_is_not_shown_as_the_highest():
    answer = replace(change(0, 0, 1).before[0], relevance=0.3)
    only = replace(change(0, 0, 1), before=(answer,), after=())

    assert RelevanceLevels(replace(empty_evaluation(), improved=(only,))).label(0.3).level == 2


def test_many_relevance_levels_become_ranges_in_the_legend():
    answers = tuple(replace(change(0, 0, 1).before[0], relevance=number / 10) for number in range(11))
    found = replace(empty_evaluation(), improved=(replace(change(0, 0, 1), before=answers, after=()),))

    legend = RelevanceLevels(found).legend()
    assert [label.text for label in legend] == ["1", "0.8 to 0.9", "0.3 to 0.7", "0.1 to 0.2", "0"]


def test_interval_plots_share_a_scale_that_holds_zero():
    first, second, none = interval_plots([Estimate(0.1, 0.0, 0.2), Estimate(-0.2), Estimate(None)])

    assert (first.zero, first.low, first.value, first.high) == (70, 70, 102, 134)
    assert (second.low, second.value, second.high) == (6, 6, 6)
    assert none is None


@pytest.mark.parametrize("name", ["retrieval", "slices"])
def test_the_name_of_the_axis_is_inside_the_chart_beside_long_names_of_rows(name):
    long = "a system with a name that takes most of the width"
    rows = [replace(row, name=long) for row in evaluation().retrieval.rows[:1]]
    chart = figures_of(evaluation(retrieval=replace(evaluation().retrieval, rows=tuple(rows))))[name]
    png_bytes(chart)

    label = chart.axes[0].xaxis.label.get_window_extent()
    assert 0 <= label.x0 < label.x1 <= chart.bbox.x1


def test_a_value_that_all_systems_share_is_not_the_best_of_its_column():
    same = [Estimate(0.5), Estimate(0.5), None]

    assert best_value(same) is None
    assert best_value([*same, Estimate(0.51)]) == 0.51
    assert best_value([Estimate(0.5), Estimate(None)]) is None


def test_tables_without_intervals_do_not_mention_them(tmp_path):
    part = slices()[0]
    few = replace(part, by="brand", queries=9, difference=Estimate(part.difference.value))
    captions = page_of(evaluation(slices=(part, few)), tmp_path).text

    assert "Gain in nDCG@10 by query length, with 95% intervals" in captions
    assert "Gain in nDCG@10 by brand Brand" in " ".join(captions.split())
    assert "Slices of fewer than 10 queries have no interval" in captions


def test_noisy_times_are_drawn_without_a_line():
    points = (AnnPoint(16, 0.8, 0.03), AnnPoint(32, 0.9, 0.02), AnnPoint(64, 0.95, 0.05))

    drawn = figures_of(evaluation(ann=points))["recall_by_ef"].axes[0].lines[0]
    rising = figures_of(evaluation())["recall_by_ef"].axes[0].lines[0]

    assert drawn.get_linewidth() == 0
    assert rising.get_linewidth() > 0


def test_advice_follows_a_sentence_without_a_gain(tmp_path):
    unclear = Difference(0.02, -0.01, 0.05, 0.2, 0.2, 200, 150, 50)
    found = retrieval()
    rows = tuple(
        replace(row, differences={"ndcg@10": unclear}) if row.name == "tuned" else row for row in found.rows
    )
    clear, not_clear = (
        page_of(evaluation(retrieval=one, to_judge=146), tmp_path).text
        for one in (found, replace(found, rows=rows))
    )

    assert "What to try" not in clear
    assert "What to try judge more queries: about 1,900 would show a gain of this size" in not_clear
    assert "146 products among the top 10 of these systems have not been judged. to_judge.csv" in clear
