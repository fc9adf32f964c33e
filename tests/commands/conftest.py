import csv
import random

import pytest

from aisle.models.encoder import TorchEncoder

QUERIES = ["red sofa", "blue lamp", "oak table", "garden chair", "kids bed", "wool rug", "desk", "shelf"]


@pytest.fixture(autouse=True)
def fresh_accelerate():
    from accelerate.state import AcceleratorState, GradientState, PartialState

    for state in (AcceleratorState, GradientState, PartialState):
        state._reset_state()


def write_rows(path, header, rows):
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)
    return path


def judged_rows(queries, *, per_query=5, seed=0):
    """Judged pairs: a product is relevant if it has the words of the query."""
    rng = random.Random(seed)
    words = ["sofa", "lamp", "table", "chair", "bed", "rug", "desk", "shelf"]
    for number, query in enumerate(queries):
        for item in range(per_query):
            right = item % 2 == 0
            noun = query.split()[-1] if right else rng.choice([w for w in words if w not in query])
            title = f"{rng.choice(['modern', 'small', 'large'])} {noun} model {number}{item}"
            yield query, title, 1.0 if right else 0.0


@pytest.fixture
def judged_csv(tmp_path):
    """40 judged pairs: queries and titles of a tiny shop."""
    rows = list(judged_rows(QUERIES))
    return write_rows(tmp_path / "judged.csv", ["query", "product", "relevance"], rows)


@pytest.fixture
def catalog_csv(tmp_path):
    rows = [
        (f"p{number}", title, "Acme", 10 + number)
        for number, (_, title, _) in enumerate(judged_rows(QUERIES, seed=1))
    ]
    return write_rows(tmp_path / "catalog.csv", ["product_id", "title", "brand", "price"], rows)


@pytest.fixture
def embedded(monkeypatch):
    """List of the texts embedded during the test."""
    texts = []
    tokenize = TorchEncoder.tokenize_products

    def tokenize_and_note(encoder, products, **options):
        texts.extend(products)
        return tokenize(encoder, products, **options)

    monkeypatch.setattr(TorchEncoder, "tokenize_products", tokenize_and_note)
    return texts
