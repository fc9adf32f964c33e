import io

from rich.console import Console

from aisle.evaluation.report import pair_metrics_table, side_by_side

DASH = "\u2013"
BASE = {
    "roc_auc": 0.8123,
    "average_precision": 0.61,
    "best_f1": 0.7,
    "best_f1_threshold": 0.53,
    "spearman": None,
}
TUNED = {**BASE, "roc_auc": 0.9126, "average_precision": 0.5999, "best_f1_threshold": 0.71}


def _console():
    return Console(width=80, record=True, file=io.StringIO(), force_terminal=True)


def _lines(renderable):
    console = _console()
    console.print(renderable)
    return console.export_text().splitlines()


def _row(renderable, name):
    (line,) = [line for line in _lines(renderable) if line.split()[:1] == [name]]
    return line.split()[1:]


def _bold(renderable):
    segments = _console().render(renderable)
    return {s.text.strip() for s in segments if s.style and s.style.bold and s.text.strip()[:1].isdigit()}


def test_differences_to_the_base_stand_beside_the_values():
    table = pair_metrics_table({"base": BASE, "tuned": TUNED})

    assert _row(table, "base") == ["0.812", "0.610", "0.700", "0.530", DASH]
    assert _row(table, "tuned") == ["0.913", "+0.100", "0.600", "-0.010", "0.700", "+0.000", "0.710", DASH]


def test_the_best_value_of_a_column_is_bold_and_a_threshold_never_is():
    # 0.7 is best twice; of thresholds none is better
    assert _bold(pair_metrics_table({"base": BASE, "tuned": TUNED})) == {"0.913", "0.610", "0.700"}


def test_a_single_system_has_nothing_bold_and_no_difference():
    table = pair_metrics_table({"tuned": TUNED})

    assert _bold(table) == set()
    assert _row(table, "tuned") == ["0.913", "0.600", "0.700", "0.710", DASH]


def test_a_figure_that_the_base_lacks_has_no_difference():
    table = pair_metrics_table({"base": BASE, "tuned": {**TUNED, "spearman": 0.4}})

    assert _row(table, "tuned")[-1] == "0.400"


def test_a_difference_that_rounds_to_zero_has_no_minus_sign():
    table = pair_metrics_table({"base": BASE, "tuned": {**BASE, "best_f1": 0.69999}})

    assert _row(table, "tuned")[4:6] == ["0.700", "+0.000"]


def test_missing_metrics_are_undefined_rather_than_an_error():
    row = _row(pair_metrics_table({"bm25": {"average_precision": 0.5}}), "bm25")

    assert row == [DASH, "0.500", DASH, DASH, DASH]


def test_four_systems_fit_into_80_characters_without_cutting_a_number():
    pairs = {name: {**TUNED, "spearman": 0.25} for name in ("bm25", "base", "tuned", "hybrid")}

    lines = _lines(pair_metrics_table(pairs))

    assert max(map(len, lines)) <= 80
    assert "…" not in "".join(lines)
    assert sum(line.split()[:1] == [name] for line in lines for name in pairs) == 4


def test_answers_stand_side_by_side_per_rank():
    answers = {"bm25": [(12.5, "red mug"), (3.0, "mug")], "tuned": [(0.91, "coffee cup")]}

    lines = _lines(side_by_side("cup", answers))

    assert lines[0].split() == ["“cup”"]
    assert lines[2].split() == ["#", "bm25", "tuned"]
    assert lines[4].split() == ["1", "12.500", "red", "mug", "0.910", "coffee", "cup"]
    assert lines[5].split() == ["2", "3.000", "mug", DASH]


def test_brackets_and_control_characters_are_shown_as_text():
    answers = {"a [bold]": [(0.5, "x [red]y[/red]\n\x1b[31mz")]}

    text = "\n".join(_lines(side_by_side("q [/]", answers)))

    assert "“q [/]”" in text
    assert "a [bold]" in text
    assert "0.500 x [red]y[/red] [31mz" in text
    assert "\x1b" not in text


def test_long_titles_are_cut_and_the_table_stays_in_80_characters():
    answers = {name: [(0.5, "word " * 50)] for name in ("bm25", "base", "tuned")}

    lines = _lines(side_by_side("q", answers, title_width=20))

    assert max(map(len, lines)) <= 80
    assert sum(line.count("word") for line in lines) == 3 * 4
    assert sum(line.count("…") for line in lines) == 3


def test_no_answers_make_an_empty_table():
    assert "tuned" in "\n".join(_lines(side_by_side("q", {"tuned": []})))
