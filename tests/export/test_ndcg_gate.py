"""The gate of nDCG@10 with judged queries: at its limit, with a run that passes, and with a bad graph."""

import copy
import json
from dataclasses import replace

import numpy as np
import pytest

from aisle.bundle.bundle_file import read_bundle
from aisle.cli import main, train_main
from aisle.export import gates
from aisle.export import write_bundle as module
from aisle.export.gates import failures, measure
from aisle.export.sample_texts import Judgements
from aisle.models.loading import load_encoder
from aisle.system.cpu_features import why_int8_saturates
from tests.commands.conftest import write_rows
from tests.export.test_gates import SAMPLE, SOURCE, Fixed, two_are_enough, unit  # noqa: F401
from tests.skip_reasons import NO_INT8_INSTRUCTIONS

GATE = "ndcg@10_difference_low"
NOUNS = (
    *(
        "sofa",
        "lamp",
        "table",
        "chair",
        "bed",
        "rug",
        "desk",
        "shelf",
        "mirror",
        "stool",
        "bench",
        "tent",
        "vase",
    ),
    *("kettle", "candle", "clock", "basket", "curtain", "pillow", "towel", "mug", "bowl", "knife", "spade"),
    *("ladder", "bucket"),
)
COLOURS = ("red", "blue", "green", "white")
TITLES = [f"{colour} {noun}" for noun in NOUNS for colour in COLOURS]
QUERIES = [f"{noun} for the garden" for noun in NOUNS]


def shop_files(folder, judgements):
    """Write catalogue, queries and judgements, and return the flags of `export` that name them."""
    files = {
        "--catalog": write_rows(folder / "products.csv", ["product_id", "title"], enumerate(TITLES)),
        "--queries": write_rows(folder / "queries.csv", ["query_id", "query"], enumerate(QUERIES)),
        "--qrels": write_rows(folder / "qrels.csv", ["query_id", "product_id", "relevance"], judgements),
    }
    return [str(part) for item in files.items() for part in item]


needs_int8 = pytest.mark.skipif(why_int8_saturates() is not None, reason=NO_INT8_INSTRUCTIONS)


def judged_sample(fall):
    """Return a sample where exchanging both products costs every query this much nDCG.

    With gains of 1 and g, nDCG falls from 1 to (g + d) / (1 + g d), where d = 1 / log2(3) discounts the
    second place.
    """
    discount = 1 / np.log2(3)
    gain = (1 - discount - fall) / (1 - discount * (1 - fall))
    gains = {"p1": 1.0, "p2": float(gain)}
    return replace(SAMPLE, judgements=Judgements(("q1", "q2"), ("p1", "p2"), {"q1": gains, "q2": gains}))


@pytest.mark.usefixtures("two_are_enough")
@pytest.mark.parametrize(("fall", "passed"), [(0.00499, True), (0.00501, False)])
def test_the_lower_bound_of_the_difference_must_be_at_least_its_limit(fall, passed):
    products = unit(-0.02, 0.02)
    source, exported = Fixed(unit(-0.01, -0.01), products), Fixed(unit(0.01, 0.01), products)

    results = measure(source, exported, judged_sample(fall), "int8")

    assert results.figures["ndcg@10_source"] == 1
    assert results.figures[GATE] == pytest.approx(-fall, abs=1e-9)
    assert results.limits[GATE] == -0.005
    assert (results.passed, results.failed) == (passed, () if passed else (GATE,))


@pytest.mark.usefixtures("two_are_enough")
def test_a_bound_at_the_limit_passes_and_the_next_number_below_fails(monkeypatch):
    def results_of(low):
        monkeypatch.setattr(gates, "ndcg_figures", lambda *_: {GATE: low})
        return measure(SOURCE, SOURCE, judged_sample(0.1), "int8")

    assert results_of(-0.005).passed
    below = results_of(float(np.nextafter(-0.005, -1)))
    assert not below.passed
    assert failures(below, "int8") == [f"{GATE} is -0.005 and must be at least -0.005"]


@needs_int8
def test_a_trained_run_passes_with_judged_queries(tmp_path, minilm):
    relevant = [(query, title) for query in QUERIES for title in TITLES if title.split()[1] in query]
    pairs = [(query, title, int((query, title) in relevant)) for query in QUERIES for title in TITLES[::3]]
    table = write_rows(tmp_path / "pairs.csv", ["query", "product", "relevance"], pairs)
    train = ["--model_name_or_path", minilm, "--use_peft", "--train_file", table, "--max_train_steps", 2]
    assert train_main([*map(str, train), "--output_dir", str(tmp_path / "run"), "--max_length", "16"]) == 0
    judgements = [(QUERIES.index(query), TITLES.index(title), 1) for query, title in relevant]

    code = main(
        [
            *("export", str(tmp_path / "run"), "--output_dir", str(tmp_path / "bundle")),
            *("--precision", "int8", *shop_files(tmp_path, judgements)),
        ]
    )

    assert code == 0
    found = read_bundle(tmp_path / "bundle").gates
    assert found.passed
    assert set(found.limits) >= {"lowest_cosine", "mean_cosine", GATE}
    assert found.figures["judged_queries"] == len(QUERIES)
    assert found.figures["ndcg@10_source"] > 0.9
    assert -0.005 <= found.figures[GATE] <= found.figures["ndcg@10_difference"]


@pytest.fixture
def judged_files(tiny_bert, tmp_path):
    """Flags of a shop that judges each query's best product by the tiny model."""
    encoder = load_encoder(tiny_bert, device="cpu")
    best = (encoder.encode_queries(QUERIES) @ encoder.encode_products(TITLES).T).argmax(axis=1)
    return shop_files(tmp_path, [(query, product, 1) for query, product in enumerate(best)])


@pytest.fixture
def bad_graph(monkeypatch):
    """Make the export write graphs that read every word as another word."""
    write = module.write_graph

    def write_bad(tower, path, *, max_length):
        bad = copy.deepcopy(tower)
        words = bad.backbone.get_input_embeddings().weight.data
        words.copy_(words.roll(7, dims=0))
        write(bad, path, max_length=max_length)

    monkeypatch.setattr(module, "write_graph", write_bad)


@needs_int8
@pytest.mark.usefixtures("bad_graph")
def test_worse_rankings_write_nothing_unless_they_are_accepted(tiny_bert, judged_files, tmp_path, capfd):
    folder = tmp_path / "bundles" / "bad"
    export = ["export", str(tiny_bert), "--output_dir", str(folder), "--precision", "int8", *judged_files]

    code = main(export)

    message = capfd.readouterr().err
    assert code == 2
    assert message.count("error:") == 1
    assert "Traceback" not in message
    assert f"{GATE} is -" in message
    assert "and must be at least -0.005" in message
    assert "Give --accept to write it nevertheless" in message
    assert not folder.exists()
    assert not list(folder.parent.iterdir())

    assert main([*export, "--accept", "--json"]) == 0

    shown = capfd.readouterr()
    assert "accepted a failed gate: lowest_cosine" in shown.err
    bundle = read_bundle(folder)
    assert bundle.accepted
    assert not bundle.gates.passed
    assert GATE in bundle.gates.failed
    assert GATE in bundle.failed_gates
    assert json.loads(shown.out)["gates"]["failed"] == list(bundle.gates.failed)
