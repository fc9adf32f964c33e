"""The five most used architectures export in both precisions and pass every gate."""

import pytest

from aisle.bundle.bundle_file import read_bundle
from aisle.export.gates import LIMITS
from aisle.export.sample_texts import SampleTexts, sample_shop_texts
from aisle.export.write_bundle import ExportOptions, write_bundle
from aisle.models.loading import load_encoder
from aisle.system.cpu_features import why_int8_saturates
from tests import tiny_models
from tests.skip_reasons import NO_INT8_INSTRUCTIONS

needs_int8 = pytest.mark.skipif(why_int8_saturates() is not None, reason=NO_INT8_INSTRUCTIONS)


@pytest.fixture(scope="module", params=["bert", "xlm-roberta", "mpnet", "modernbert", "qwen3"])
def encoder(request, minilm_dir, tmp_path_factory):
    """A tiny model with random weights as wide as those that transformers initialises."""
    config = tiny_models.CONFIGS[request.param] | {"initializer_range": 0.02}
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(tiny_models.CONFIGS, request.param, config)
        folder = tmp_path_factory.mktemp("model") / request.param
        tiny_models.write_tiny_model(folder, request.param, minilm_dir)
    return load_encoder(folder, device="cpu")


@pytest.mark.parametrize("precision", ["fp32", pytest.param("int8", marks=needs_int8)])
def test_the_five_architectures_pass_every_gate(encoder, precision, tmp_path):
    shop = sample_shop_texts()
    sample = SampleTexts(shop.queries[:30], [*shop.products[:110], shop.products[-1]])

    write_bundle(encoder, tmp_path / "bundle", ExportOptions(precision, sample))

    bundle = read_bundle(tmp_path / "bundle")
    judged = {"ndcg@10_difference_low"}
    assert set(bundle.gates.limits) == set(LIMITS[precision]) - judged
    assert bundle.gates.passed
    assert not bundle.accepted
    assert bundle.gates.not_measured == ()
