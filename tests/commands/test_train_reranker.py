"""`aisle train-reranker`: runs of tiny cross-encoders, resumed, in two processes, and with an index."""

import json
import re
import shutil
from dataclasses import replace

import datasets
import numpy as np
import pytest
import yaml

from aisle.cli import index_main, train_main, train_reranker_main
from aisle.commands.train import measured_blend
from aisle.commands.train.outcome import undefined_selection
from aisle.commands.train.reranker_settings import RerankerSettings, ServedListSettings
from aisle.commands.train.served_list import found_products
from aisle.commands.train.settings import TrainSettings
from aisle.config.load import parse_settings, saved_form
from aisle.data.pairs import Pairs
from aisle.evaluation.blend_fit import dcg
from aisle.evaluation.pair_metrics import roc_auc
from aisle.evaluation.retrieval_metrics import evaluate_run
from aisle.models.torch_reranker import load_torch_reranker
from aisle.search.open_searcher import open_searcher
from aisle.search.rerank_stage import rerank_by
from aisle.search.rerankers import load_reranker
from aisle.training.score_evaluation import ServedLists
from aisle.types.rerank_blend import BLEND_FILE
from tests.commands.conftest import QUERIES, judged_rows, write_rows
from tests.commands.launch import start_ranks

ROWS = [(q, p, y, f"p{n}") for n, (q, p, y) in enumerate(judged_rows(QUERIES))]
HEADER = ["query", "product", "relevance", "product_id"]
LONG = ["--num_train_epochs", 6, "--eval_epochs", 3]
LORA = ["--use_peft", "--learning_rate", 0.005]
FULL = ["--loss", "listwise", "--learning_rate", 0.002]
RESUMED = [*LORA, *LONG, "--dropout", 0.01, "--checkpointing_steps", 15]


def flags_of(folder, model, run_dir, *flags):
    given = ["--model_name_or_path", model, "--train_file", folder / "pairs.csv"]
    given += ["--validation_file", folder / "pairs.csv", "--max_length", 16]
    given += ["--per_device_train_batch_size", 8, "--output_dir", run_dir]
    return [*map(str, [*given, *flags])]


def train(folder, model, run_dir, *flags):
    return train_reranker_main(flags_of(folder, model, run_dir, *flags))


@pytest.fixture(scope="module")
def shop(tiny_bert, tmp_path_factory):
    """Pairs of a tiny shop, an index of its products, and runs by their name."""
    folder = tmp_path_factory.mktemp("rerankers")
    write_rows(folder / "pairs.csv", HEADER, ROWS)
    write_rows(folder / "catalog.csv", ["product_id", "title"], [(row[3], row[1]) for row in ROWS])
    built = ["build", "--model", tiny_bert, "--catalog", folder / "catalog.csv"]
    assert index_main([*map(str, [*built, "--index_dir", folder / "index"])]) == 0
    assert train(folder, tiny_bert, folder / "lora", *RESUMED) == 0
    served = ["--index_dir", folder / "index", "--rerank_depth", 20]
    assert train(folder, tiny_bert, folder / "listwise", *FULL, *LONG, "--dropout", 0, *served) == 0
    return folder


@pytest.mark.parametrize("name", ["lora", "listwise"])
def test_the_saved_reranker_scores_relevant_pairs_above_others(shop, name):
    scores = load_torch_reranker(shop / name, device="cpu").score([row[:2] for row in ROWS])

    metrics = json.loads((shop / name / "metrics.json").read_text())
    assert roc_auc(scores, np.array([row[2] for row in ROWS])) == pytest.approx(metrics["best"]["roc_auc"])
    assert metrics["best"]["roc_auc"] > max(0.75, metrics["base"]["roc_auc"])
    assert metrics["attention"] == "packed"


def test_the_best_evaluation_is_chosen_by_the_list_that_an_index_serves(shop):
    metrics = json.loads((shop / "listwise" / "metrics.json").read_text())

    assert metrics["selection_metric"] == "served_ndcg@10"
    assert metrics["best"]["served_ndcg@10"] == max(one["served_ndcg@10"] for one in metrics["history"])
    assert {one["unranked_ndcg@10"] for one in metrics["history"]} == {metrics["base"]["unranked_ndcg@10"]}
    assert metrics["base"]["ranked_queries"] == len(QUERIES)
    reranker = load_torch_reranker(shop / "listwise", device="cpu")
    lists = dict(zip(QUERIES, open_searcher(shop / "index", mode="hybrid").search(QUERIES, 20), strict=True))
    qrels = {query: {p: y for q, _, y, p in ROWS if q == query} for query in QUERIES}
    for name, score in (
        ("unranked", lambda query, hits: -np.arange(len(hits))),
        ("served", lambda query, hits: reranker.score([(query, hit.text) for hit in hits])),
    ):
        run = {
            query: dict(zip([hit.product_id for hit in hits], score(query, hits).tolist(), strict=True))
            for query, hits in lists.items()
        }
        found = evaluate_run(qrels, run, cutoffs=(10,)).values["ndcg@10"]
        assert metrics["best"][f"{name}_ndcg@10"] == pytest.approx(found)
    assert json.loads((shop / "lora" / "metrics.json").read_text())["selection_metric"] == "roc_auc"


def test_copies_of_a_product_in_the_index_count_in_the_best_possible_list(tiny_bert, tmp_path):
    copies = [(f"{row[3]}-{copy}", row[1]) for row in ROWS for copy in range(3)]
    write_rows(tmp_path / "catalog.csv", ["product_id", "title"], copies)
    built = ["build", "--model", tiny_bert, "--catalog", tmp_path / "catalog.csv"]
    assert index_main([*map(str, [*built, "--index_dir", tmp_path / "index"])]) == 0
    judged = [(*row[:2], row[2]) for row in ROWS] + [(QUERIES[0], "a sofa of another shop", 0.5)]
    columns = dict(zip(HEADER[:3], map(list, zip(*judged, strict=True)), strict=True))
    served = ServedListSettings(str(tmp_path / "index"), index_mode="lexical", rerank_depth=120)

    found = found_products(
        served, Pairs(datasets.Dataset.from_dict(columns)), trust_remote_code=False, log=lambda line: None
    )

    # Three relevant texts for each query, each of three products.
    np.testing.assert_allclose(found.ideal, [dcg(np.array([1.0] * 9 + [0.5] * (q == 0))) for q in range(8)])
    offsets = np.concatenate([[0], np.cumsum(found.counts)])
    lists = ServedLists(None, offsets, found.relevance, found.ideal, served.rerank_depth)
    best = dcg(np.ones(9)) / found.ideal
    assert lists.ndcg(found.relevance) == pytest.approx(best.mean())


def test_a_resumed_run_gives_the_bytes_of_an_uninterrupted_run(shop, tiny_bert, tmp_path):
    first = sorted((shop / "lora" / "checkpoints").glob("step_*"))[0]

    code = train(shop, tiny_bert, tmp_path / "resumed", *RESUMED, "--resume_from_checkpoint", first)

    assert code == 0
    saved, expected = (run / "model.safetensors" for run in (tmp_path / "resumed", shop / "lora"))
    assert saved.read_bytes() == expected.read_bytes()


def test_two_processes_train_as_one_does(shop, tiny_bert, tmp_path):
    recipe = [*FULL, "--dropout", 0, "--keep", "last", "--max_train_steps", 3]
    assert train(shop, tiny_bert, tmp_path / "one", *recipe) == 0
    halved = flags_of(shop, tiny_bert, tmp_path / "two", *recipe, "--per_device_train_batch_size", 4)

    start_ranks(2, "train_reranker.py", *halved, timeout=150)

    pairs = [row[:2] for row in ROWS]
    one, two = (load_torch_reranker(tmp_path / name, device="cpu").score(pairs) for name in ("one", "two"))
    # Not the weights: Adam moves those without a gradient, such as biases of keys, by rounding errors.
    np.testing.assert_allclose(two, one, atol=1e-3)
    files = (tmp_path / name / "metrics.json" for name in ("one", "two"))
    losses = [json.loads(file.read_text())["final_loss"] for file in files]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_the_run_keeps_its_settings_and_a_card(shop):
    saved = yaml.safe_load((shop / "lora" / "config.yaml").read_text())

    assert (saved["loss"], saved["positive_weight"]) == ("binary", 1.0)
    assert {"pooling", "head", "two_towers", "selection", "matryoshka_dims"}.isdisjoint(saved)
    again = parse_settings(RerankerSettings, ["--config", str(shop / "lora" / "config.yaml")], prog="")
    assert saved_form(again) == saved
    card = (shop / "lora" / "README.md").read_text()
    assert "CrossEncoder(" in card
    assert "text-ranking" in card
    assert str(shop) not in card


def test_hard_negatives_are_pairs_of_relevance_0(tiny_bert, tmp_path):
    rows = [(q, p, "grey box", "green car") for q, p, y in judged_rows(QUERIES) if y]
    write_rows(tmp_path / "pairs.csv", ["query", "positive", "negative_1", "negative_2"], rows)
    flags = ["--model_name_or_path", tiny_bert, "--train_file", tmp_path / "pairs.csv", "--max_length", 16]
    flags += ["--output_dir", tmp_path / "run", "--validation_share", 0.3, "--positive_weight", "auto"]

    assert train_reranker_main([*map(str, flags), "--max_train_steps", "3"]) == 0

    assert yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["positive_weight"] == 2.0
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["best"]["roc_auc"] is not None


def test_validation_pairs_that_measure_nothing_are_refused_without_an_index(shop, tiny_bert, tmp_path, capfd):
    write_rows(tmp_path / "mined.csv", ["query", "positive", "negative"], [(*row[:2], "car") for row in ROWS])
    relevant = [row for row in ROWS if row[2]]
    write_rows(tmp_path / "all.csv", HEADER, ROWS)
    write_rows(tmp_path / "judged.csv", HEADER, relevant)
    unjudged = [(*row[:2], row[3]) for row in relevant]
    write_rows(tmp_path / "unjudged.csv", ["query", "product", "product_id"], unjudged)
    served = ["--index_dir", shop / "index"]

    for pairs, validation, more, code, message in (
        (
            "mined",
            "unjudged",
            [],
            2,
            "pairs have neither labels nor hard negatives, so ROC-AUC cannot choose",
        ),
        ("mined", "unjudged", served, 0, "best by served_ndcg@10"),
        ("all", "judged", [], 0, "relevant and irrelevant pairs as --validation_file, or --index_dir"),
    ):
        flags = [
            "--train_file",
            tmp_path / f"{pairs}.csv",
            "--validation_file",
            tmp_path / f"{validation}.csv",
        ]
        flags += ["--max_train_steps", 1, "--overwrite_output_dir", *more]
        capfd.readouterr()
        assert train(shop, tiny_bert, tmp_path / "run", *flags) == code
        assert message in " ".join(" ".join(capfd.readouterr()).split())


@pytest.mark.parametrize("settings", [TrainSettings, RerankerSettings])
def test_the_note_on_an_undefined_selection_names_flags_of_its_command(settings):
    note = undefined_selection("roc_auc", {"roc_auc": None, "note": "all are relevant"}, settings.reads)

    flags = set(re.findall(r"--(\w+)", note))
    assert flags
    assert flags <= saved_form(settings()).keys()


def test_wrong_indexes_and_losses_and_labels_are_refused_with_the_reason(shop, tiny_bert, tmp_path, capfd):
    write_rows(tmp_path / "other.csv", ["product_id", "title"], [("q1", "a"), ("q2", "b")])
    built = ["build", "--model", tiny_bert, "--catalog", tmp_path / "other.csv"]
    assert index_main([*map(str, [*built, "--index_dir", tmp_path / "index"])]) == 0
    write_rows(tmp_path / "unjudged.csv", ["query", "product"], [row[:2] for row in ROWS])
    unjudged = ["--train_file", tmp_path / "unjudged.csv", "--validation_file", tmp_path / "unjudged.csv"]
    for flags, message in (
        (["--index_dir", tmp_path / "index"], "finds no relevant product for any of 8 validation queries"),
        (["--index_dir", tmp_path / "none"], "--index_dir .*none: there is no such folder"),
        (["--rerank_depth", 5], "--rerank_depth: needs --index_dir"),
        (["--loss", "in_batch"], "--loss in_batch: is a loss of encoders .aisle train.*use binary, listwise"),
        (unjudged, "neither labels nor hard"),
        (["--pooling", "cls"], "--pooling"),
    ):
        capfd.readouterr()
        code = train(shop, tiny_bert, tmp_path / "run", *flags)
        assert code == 2
        assert re.search(message, " ".join(capfd.readouterr().err.split())), message
    assert train_main(["--loss", "binary", "--train_file", str(shop / "pairs.csv"), "--output_dir", "x"]) == 2
    message = "--loss binary: is a loss of cross-encoders .aisle train-reranker"
    assert re.search(message, capfd.readouterr().err)


def test_query_orders_the_best_products_by_the_reranker(shop, tiny_bert, capfd):
    words = [*QUERIES[:2], "--index_dir", shop / "index", "--mode", "hybrid", "--json"]
    reranked = ["--reranker", shop / "lora", "--rerank_depth", 20]
    answers = []
    for flags in ([], reranked):
        assert index_main(["query", *map(str, [*words, "--top_k", 20, *flags])]) == 0
        answers.append(json.loads(capfd.readouterr().out))

    titles = {row[3]: row[1] for row in ROWS}
    reranker = load_reranker(str(shop / "lora"))
    assert reranker.limit.max_length == 16
    assert list(reranker.limit.count([("red sofa", "lamp")])) == [6]  # with three special tokens
    for plain, found in zip(*answers, strict=True):
        ids = [product["product_id"] for product in plain["results"]]
        logits = reranker.logits([(plain["query"], titles[product]) for product in ids])
        order = np.argsort(-logits, kind="stable")
        assert [product["product_id"] for product in found["results"]] == [ids[at] for at in order]
        np.testing.assert_allclose([one["score"] for one in found["results"]], logits[order], atol=1e-5)
        assert ids != [ids[at] for at in order]
    for flags, message in (
        (["--rerank_depth", 5], "--rerank_depth: needs --reranker"),
        ([*reranked, "--explain"], "--explain: cannot be combined"),
        (["--reranker", "nothing"], "there is no such folder; registered: "),
        (["--reranker", "runs/typo"], "--reranker runs/typo: must be the folder of a run of"),
        (["--reranker", "runs/typo/1"], "--reranker runs/typo/1: must be the folder of a run of"),
        (["--reranker", ""], "--reranker : must be the folder of a run of"),
        (["--reranker", tiny_bert], f"--reranker {tiny_bert}: has no classification head"),
    ):
        assert index_main(["query", *map(str, [*words, *flags])]) == 2
        assert message in capfd.readouterr().err


@pytest.fixture
def blended(shop, tmp_path, monkeypatch):
    """A copy of the listwise run, whose blend was measured on a few queries, and that blend."""
    monkeypatch.setattr(measured_blend, "FEWEST_QUERIES", 5)
    run = shutil.copytree(shop / "listwise", tmp_path / "run")
    settings = parse_settings(RerankerSettings, ["--config", str(run / "config.yaml")], prog="")
    pairs = Pairs(datasets.Dataset.from_dict(dict(zip(HEADER, zip(*ROWS, strict=True), strict=True))))
    lines = []
    blend = measured_blend.measure_blend(run, settings, pairs, log=lines.append)
    assert blend.summary in "\n".join(lines)
    assert ("kept: searches order by" in lines[-1]) == blend.kept
    return run, blend


def test_the_blend_of_a_run_orders_the_searches_of_its_mode(shop, blended):
    run, blend = blended
    reranker = load_reranker(str(run))
    kept = replace(reranker, blend=replace(blend, a=0.5, b=0.25, gain_low=0.01))
    dropped = replace(reranker, blend=replace(blend, gain_low=0.0))
    queries = QUERIES[:2]

    def found(rerank, mode="hybrid"):
        searcher = open_searcher(shop / "index", mode=mode, rerank=rerank, rerank_depth=20)
        return [[(hit.product_id, hit.score) for hit in hits] for hits in searcher.search(queries, 20)]

    assert reranker.blend == blend
    assert blend.ndcg_before == pytest.approx(
        json.loads((run / "metrics.json").read_text())["best"]["unranked_ndcg@10"]
    )
    lists = open_searcher(shop / "index", mode="hybrid").search(queries, 20)
    for query, hits, answer in zip(queries, lists, found(rerank_by(kept, mode="hybrid")), strict=True):
        logits = reranker.logits([(query, hit.text) for hit in hits])
        expected = 0.5 * np.array([hit.score for hit in hits]) + 0.25 * logits
        order = np.argsort(-expected, kind="stable")
        assert [product for product, _ in answer] == [hits[at].product_id for at in order]
        np.testing.assert_allclose([score for _, score in answer], expected[order], atol=1e-5)
    # Without an interval above zero the list is that of the search; in other modes nothing was measured.
    assert found(rerank_by(dropped, mode="hybrid")) == found(None)
    alone = found(rerank_by(replace(reranker, blend=None)), mode="lexical")
    assert found(rerank_by(kept, mode="lexical"), mode="lexical") == alone


def test_a_dropped_reranker_leaves_the_answers_and_says_so(shop, blended, capfd):
    run, blend = blended
    words = ["query", QUERIES[0], "--index_dir", str(shop / "index"), "--mode", "hybrid", "--json"]
    answers = []
    for low in (None, -0.1, 0.1):
        if low is not None:
            (run / BLEND_FILE).write_text(replace(blend, a=0.0, b=1.0, gain_low=low).text())
        assert index_main([*words, *([] if low is None else ["--reranker", str(run)])]) == 0
        written = capfd.readouterr()
        answers.append(json.loads(written.out)[0]["results"])
        assert ("is dropped, and the search's own list is served" in written.err) == (low == -0.1)
    assert answers[0] == answers[1] != answers[2]

    (run / BLEND_FILE).write_text(replace(blend, fingerprint="other").text())
    assert index_main([*words, "--reranker", str(run)]) == 2
    assert "is not of this reranker; remove it" in capfd.readouterr().err


def test_evaluate_has_a_row_of_the_reranker_and_says_whether_it_helps(shop, tmp_path, capfd):
    queries = [(f"q{number}", query) for number, query in enumerate(QUERIES)]
    write_rows(tmp_path / "queries.csv", ["query_id", "query"], queries)
    numbers = {query: number for number, query in queries}
    judged = [(numbers[query], product, grade) for query, _, grade, product in ROWS]
    write_rows(tmp_path / "qrels.csv", ["query_id", "product_id", "relevance"], judged)
    flags = ["--index_dir", shop / "index", "--queries", tmp_path / "queries.csv", "--mode", "hybrid"]
    flags += ["--qrels", tmp_path / "qrels.csv", "--rows", "hybrid", "--base_model_row", "none", "--json"]
    # Deeper than the largest cutoff.
    flags += ["--reranker", shop / "listwise", "--rerank_depth", 20, "--cutoffs", 10]

    assert index_main(["evaluate", *map(str, flags)]) == 0

    document = json.loads(capfd.readouterr().out)
    rows = {row["name"]: row for row in document["retrieval"]["rows"]}
    metrics = json.loads((shop / "listwise" / "metrics.json").read_text())["best"]
    for name, figure in (("hybrid", "unranked_ndcg@10"), ("hybrid+reranker", "served_ndcg@10")):
        assert rows[name]["metrics"]["ndcg@10"]["value"] == pytest.approx(metrics[figure])
    gain = metrics["served_ndcg@10"] - metrics["unranked_ndcg@10"]
    (note,) = [note for note in document["notes"] if note.startswith("reranker: over the 20 best")]
    assert f"ndcg@10 changes by {gain:+.4f}" in note
    assert ("it helps" in note) == (float(note.partition("[")[2].partition(",")[0]) > 0)


def test_evaluate_scores_pairs_with_the_reranker_too(shop, tiny_bert, capfd):
    flags = ["--pairs", shop / "pairs.csv", "--model", tiny_bert, "--base_model_row", "none", "--json"]

    assert index_main(["evaluate", *map(str, [*flags, "--reranker", shop / "lora"])]) == 0

    rows = {row["name"]: row for row in json.loads(capfd.readouterr().out)["pairs"]["rows"]}
    metrics = json.loads((shop / "lora" / "metrics.json").read_text())["best"]
    assert rows["reranker"]["metrics"]["roc_auc"]["value"] == pytest.approx(metrics["roc_auc"])
