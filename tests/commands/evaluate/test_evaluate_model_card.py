"""infer_index.py evaluate --model_card: the section on search in the run's model card."""

import pytest
from huggingface_hub import ModelCard

from aisle.cli import train_main
from aisle.errors import ModelError
from aisle.evaluation.document import Evaluation
from aisle.reporting.evaluation_card import write_evaluation_card
from aisle.reporting.html import headline_of, tables_of
from aisle.reporting.model_card.search_section import BEGIN, END
from tests.commands.evaluate.evaluated_shop import evaluate, write_adapter
from tests.reporting.evaluations import evaluation as made_up
from tests.reporting.evaluations import retrieval


def replace_run(run_dir, pairs, model):
    """Train again into the folder of a run."""
    given = [
        "--use_peft", "--model_name_or_path", model, "--train_file", pairs, "--max_length", 16,
        "--output_dir", run_dir, "--overwrite_output_dir", "--max_train_steps", 1, "--learning_rate", 0.01,
    ]  # fmt: skip
    assert train_main(list(map(str, given))) == 0


@pytest.mark.parametrize("given", [["--rows", "bm25", "base"], ["--mode", "lexical"]])
def test_a_card_needs_the_row_of_its_model(run_flags, given, never_embeds, capfd):
    code, found, said = evaluate(capfd, *run_flags, "--model_card", *given)

    assert (code, found) == (2, None)
    assert "--model_card: needs the row tuned" in said


def document(found):
    return Evaluation.from_dict({name: found[name] for name in Evaluation.__dataclass_fields__})


def test_a_card_needs_queries_and_judgements(trained, run_dir, never_embeds, capfd):
    code, _, said = evaluate(capfd, "--model", run_dir, "--pairs", trained["pairs"], "--model_card")

    assert code == 2
    assert "--model_card: needs --queries and --qrels" in said


def test_the_card_of_the_run_gets_sentence_table_and_charts(run_flags, run_dir, tmp_path, capfd):
    before = (run_dir / "README.md").read_text(encoding="utf-8")
    code, found, said = evaluate(capfd, *run_flags, "--model_card", "--report", tmp_path / "report")

    assert code == 0
    assert f"model card: {run_dir / 'README.md'}" in " ".join(said.split())
    card = (run_dir / "README.md").read_text(encoding="utf-8")
    evaluation = document(found)
    section = card[card.index(BEGIN) : card.index(END)]
    assert headline_of(evaluation) in section
    assert "4 judged queries over a catalogue of 6 products" in section
    lines = section.splitlines()
    table = tables_of(evaluation)["retrieval"]
    assert f"| {' | '.join(table.header)} |" in lines
    assert [f"| {' | '.join(row)} |" in lines for row in table.rows] == [True] * 4
    for name in ("retrieval", "recall_by_ef"):
        assert f"](evaluation/{name}.png)" in section
        drawn = (tmp_path / "report" / "figures" / f"{name}.png").read_bytes()
        assert (run_dir / "evaluation" / f"{name}.png").read_bytes() == drawn
    assert {path.name for path in (run_dir / "evaluation").iterdir()} == {"retrieval.png", "recall_by_ef.png"}
    measured = {result.metric_name: result.metric_value for result in ModelCard(card).data.eval_results}
    tuned = next(row for row in evaluation.retrieval.rows if row.name == "tuned")
    assert measured["nDCG@10"] == pytest.approx(tuned.metrics["ndcg@10"].value, abs=1e-6)
    assert str(tmp_path) not in card
    body = before[before.index("\n# ") :]
    assert card.replace(card[card.index(BEGIN) : card.index(END) + len(END) + 2], "").endswith(body)


def test_a_second_evaluation_replaces_section_and_charts(run_flags, trained, run_dir, capfd):
    evaluate(capfd, *run_flags, "--model_card")
    readme = run_dir / "README.md"
    readme.write_text(readme.read_text(encoding="utf-8") + "\nMine.\n", encoding="utf-8")
    code, _, _ = evaluate(capfd, *run_flags, "--pairs", trained["pairs"], "--model_card", "--rows", "tuned")

    assert code == 0
    card = readme.read_text(encoding="utf-8")
    assert card.count("## Search over a catalogue") == 1
    assert "\n| bm25 |" not in card
    assert "](evaluation/roc.png)" in card
    assert {path.name for path in (run_dir / "evaluation").iterdir()} == {"retrieval.png", "roc.png"}
    assert card.endswith("\nMine.\n")


def test_a_run_without_a_card_gets_one(run_flags, run_dir, capfd):
    whole = (run_dir / "README.md").read_text(encoding="utf-8")
    evaluate(capfd, *run_flags, "--model_card")
    expected = (run_dir / "README.md").read_text(encoding="utf-8")
    assert expected != whole
    (run_dir / "README.md").unlink()

    code, _, _ = evaluate(capfd, *run_flags, "--model_card")

    assert code == 0
    assert (run_dir / "README.md").read_text(encoding="utf-8") == expected


def test_a_card_keeps_its_windows_line_ends(run_flags, run_dir, capfd):
    readme = run_dir / "README.md"
    readme.write_bytes(readme.read_bytes().replace(b"\n", b"\r\n"))

    assert evaluate(capfd, *run_flags, "--model_card")[0] == 0

    card = readme.read_bytes()
    assert BEGIN.encode() in card
    assert card.count(b"\n") == card.count(b"\r\n")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"\xff\xfe", "README.md: cannot be read as UTF-8"),
        (b"---\na: [\n---\n", "README.md: its metadata is not valid YAML"),
        (BEGIN.encode(), "README.md: must have the line"),
    ],
    ids=["not UTF-8", "no YAML", "half a section"],
)
def test_a_damaged_card_is_refused_before_anything_is_embedded(
    run_flags, run_dir, content, reason, never_embeds, capfd
):
    (run_dir / "README.md").write_bytes(content)
    code, found, said = evaluate(capfd, *run_flags, "--model_card")

    assert (code, found) == (2, None)
    assert reason in said
    assert (run_dir / "README.md").read_bytes() == content


def test_a_read_only_run_is_refused_before_anything_is_embedded(run_flags, run_dir, never_embeds, capfd):
    (run_dir / "evaluation").write_text("a file where the folder should be")
    code, found, said = evaluate(capfd, *run_flags, "--model_card")

    assert (code, found) == (2, None)
    assert f"--model_card: {run_dir / 'evaluation'} must be a folder for the charts" in " ".join(said.split())


def test_a_card_is_not_written_without_the_row_of_its_model(run_dir):
    before = (run_dir / "README.md").read_bytes()
    without = retrieval(systems=(("bm25", "bm25"), ("base", "base")))

    with pytest.raises(ModelError, match=r"--model_card: needs the row tuned.* has only bm25, base;"):
        write_evaluation_card(run_dir, made_up(retrieval=without), without)

    assert (run_dir / "README.md").read_bytes() == before
    assert not (run_dir / "evaluation").exists()


def test_an_encoder_that_is_not_a_finished_run_is_refused(judged, tiny_bert, tmp_path, never_embeds, capfd):
    adapter = write_adapter(tmp_path / "adapter", tiny_bert)
    for model in (adapter, "acme/search"):
        code, found, said = evaluate(capfd, *judged, "--model", model, "--model_card")
        assert (code, found) == (2, None)
        assert f"--model_card: {model} is not the folder of a finished run (it has no aisle.json)" in said


def test_a_card_that_cannot_be_saved_does_not_stop_the_evaluation(run_flags, run_dir, capfd, tmp_path):
    (run_dir / "evaluation" / "retrieval.png").mkdir(parents=True)
    code, found, said = evaluate(capfd, *run_flags, "--model_card", "--report", tmp_path / "report")

    assert code == 2
    assert f"--model_card: {run_dir} cannot be written: Is a directory" in said
    assert found["retrieval"]["queries"] == 4
    assert (tmp_path / "report" / "report.html").is_file()
    assert BEGIN not in (run_dir / "README.md").read_text(encoding="utf-8")


def test_a_run_that_replaces_another_removes_its_charts(run_flags, trained, run_dir, tiny_bert, capfd):
    evaluate(capfd, *run_flags, "--model_card")
    assert (run_dir / "evaluation").is_dir()

    replace_run(run_dir, trained["pairs"], tiny_bert)

    assert not (run_dir / "evaluation").exists()
    assert BEGIN not in (run_dir / "README.md").read_text(encoding="utf-8")


def test_a_report_in_the_folder_of_the_charts_survives_a_new_run(
    run_flags, trained, run_dir, tiny_bert, capfd
):
    folder = run_dir / "evaluation"
    evaluate(capfd, *run_flags, "--model_card", "--report", folder)
    reported = {path.name for path in (folder / "figures").iterdir()}
    (folder / "mine.png").write_bytes(b"mine")

    replace_run(run_dir, trained["pairs"], tiny_bert)

    kept = {"report.html", "report.json", "figures", "to_judge.csv", "mine.png"}
    assert {path.name for path in folder.iterdir()} == kept
    assert {path.name for path in (folder / "figures").iterdir()} == reported
