import pytest


@pytest.fixture(scope="session")
def minilm_tokenizer(minilm):
    from aisle.models.loading import load_tokenizer
    from aisle.models.sources import find_model

    return load_tokenizer(find_model(minilm).path)
