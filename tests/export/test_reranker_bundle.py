"""Bundles of rerankers: their scores, gates, searches and refusals."""

import shutil
from dataclasses import replace

import numpy as np
import pytest

from aisle.bundle.onnx_encoder import load_bundle
from aisle.bundle.onnx_reranker import load_reranker_bundle
from aisle.cli import main
from aisle.errors import ModelError
from aisle.export.sample_texts import sample_shop_texts
from aisle.export.write_reranker_bundle import check_gates, measure_scores, write_reranker_bundle
from aisle.models.torch_reranker import load_torch_reranker
from aisle.search.rerankers import load_reranker
from aisle.system.cpu_features import why_int8_saturates
from tests.models.test_cross_encoder import PAIRS, runs  # noqa: F401 (a fixture)
from tests.skip_reasons import NO_INT8_INSTRUCTIONS

PLAIN = [*PAIRS, ("a [SEP] b", "lamp [SEP]"), ("", "sofa"), ("lamp", "table " * 50)]


def sample():
    texts = sample_shop_texts()
    return replace(texts, queries=texts.queries[:20], products=texts.products[-24:])


@pytest.fixture(scope="module")
def bundle(runs, tmp_path_factory):  # noqa: F811
    folder = tmp_path_factory.mktemp("bundles") / "bert"
    assert main(["export", str(runs("bert")), "--output_dir", str(folder)]) == 0
    return folder


def test_a_bundle_has_the_scores_of_the_reranker_alone_and_in_a_batch(runs, bundle):  # noqa: F811
    reranker, exported = load_torch_reranker(runs("bert"), device="cpu"), load_reranker_bundle(bundle)

    scores = exported.score([*PLAIN, PLAIN[0]])

    np.testing.assert_allclose(scores[:-1], reranker.score(PLAIN), atol=2e-5)
    np.testing.assert_allclose(scores[:-1], [exported.score([pair])[0] for pair in PLAIN], atol=1e-6)
    assert scores[-1] == scores[0]
    assert exported.score([]).shape == (0,)
    types = [exported.tokenize([pair]).types.tolist() for pair in PLAIN[:2]]
    assert types == [reranker.tokenizer.tokenize([pair]).types.tolist() for pair in PLAIN[:2]]
    with pytest.raises(ModelError, match="must be a query and a text"):
        exported.score(["ab"])


def test_a_model_without_token_types_has_the_same_scores(runs, tmp_path):  # noqa: F811
    reranker = load_torch_reranker(runs("xlm-roberta"), device="cpu")
    expected = reranker.score(PLAIN)

    write_reranker_bundle(reranker, tmp_path / "bundle", precision="fp32", sample=sample())

    np.testing.assert_allclose(load_reranker_bundle(tmp_path / "bundle").score(PLAIN), expected, atol=2e-5)


@pytest.mark.skipif(why_int8_saturates() is not None, reason=NO_INT8_INSTRUCTIONS)
def test_the_scores_of_int8_are_close_and_those_of_a_pair_are_the_same_in_a_batch(runs, tmp_path):  # noqa: F811
    reranker = load_torch_reranker(runs("bert"), device="cpu")
    expected = reranker.score(PLAIN)

    written = write_reranker_bundle(
        reranker, tmp_path / "bundle", precision="int8", sample=sample(), accept=True
    )

    exported = load_reranker_bundle(tmp_path / "bundle")
    np.testing.assert_allclose(exported.score(PLAIN), expected, atol=0.1)
    assert written.gates.figures["greatest_difference_in_a_batch"] == 0
    assert exported.score(PLAIN).tolist() == [float(exported.score([pair])[0]) for pair in PLAIN]


def test_a_bundle_with_other_scores_fails_the_gate_with_the_figures(bundle):
    exported = load_reranker_bundle(bundle)
    expected = exported.score(PLAIN)

    gates = measure_scores(expected + 0.5, exported, PLAIN, "fp32")

    assert (gates.passed, gates.failed) == (False, ("greatest_difference",))
    assert measure_scores(expected, exported, PLAIN, "fp32").passed
    with pytest.raises(ModelError, match=r"greatest_difference is .* and must be at most 0.0001.*--accept"):
        check_gates("run", gates, "fp32")


def test_a_bundle_reranks_as_its_run_does(runs, bundle, capfd):  # noqa: F811
    run = str(runs("bert"))
    exported, trained = load_reranker(str(bundle)), load_reranker(run)

    np.testing.assert_allclose(exported.logits(PLAIN), trained.logits(PLAIN), atol=2e-5)
    assert exported.limit.max_length == trained.limit.max_length
    assert exported.limit.count(PLAIN) == trained.limit.count(PLAIN)
    assert max(exported.limit.count(PLAIN)) > exported.limit.max_length
    words = ["export", run, "--output_dir", str(bundle), "--overwrite_output_dir", "--pooling", "cls"]
    assert main(words) == 2
    assert "--pooling: is a setting of encoders" in capfd.readouterr().err


def test_other_bundles_models_and_altered_files_are_refused(runs, bundle, tmp_path):  # noqa: F811
    with pytest.raises(ModelError, match="is the bundle of a reranker, which has no embeddings"):
        load_bundle(bundle)
    altered = shutil.copytree(bundle, tmp_path / "altered")
    with (altered / "tokenizer.json").open("a") as file:
        file.write(" ")
    with pytest.raises(ModelError, match="altered"):
        load_reranker_bundle(altered)
    mpnet = load_torch_reranker(runs("mpnet"), device="cpu")
    with pytest.raises(ModelError, match="no packed classification head for mpnet, so it cannot be exported"):
        write_reranker_bundle(mpnet, tmp_path / "mpnet", precision="fp32", sample=sample())
