"""A small shop, served from an index that a small bundle made."""

from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
from fastapi.testclient import TestClient

from aisle.bundle.onnx_encoder import OnnxEncoder, load_bundle
from aisle.search.encoders import encoder_record
from aisle.service.engine import Engine
from aisle.service.http.app import create_app
from aisle.service.pairs.served_pair import PairSource, load_pair
from aisle.types.encoder_settings import Overrides
from tests.bundle.small_bundle import write_small_bundle
from tests.search.word_encoder import write_shop

TITLES = [
    "red sofa",
    "blue sofa",
    "oak table",
    "oak bed",
    "blue lamp",
    "black lamp",
    "wool rug",
    "white shelf",
]


@dataclass(frozen=True)
class ServedShop:
    """A bundle and the index that it made."""

    bundle: Path
    index_dir: Path
    encoder: OnnxEncoder

    def source(self, **changes):
        return PairSource(self.index_dir, str(self.bundle), **changes)

    def pair(self, **changes):
        return load_pair(self.source(**changes))

    def client(self, *, engine=None, **options):
        """Return a client of an application that answers with the pair of the shop."""
        engine = Engine(self.pair()) if engine is None else engine
        return TestClient(create_app(engine, **options), raise_server_exceptions=False)


def write_served_shop(folder, tokenizer_dir, *, titles=TITLES, **bundle_changes):
    """Write a bundle and an index of its own: title, brand, price and colours of each product."""
    bundle, index_dir = folder / "bundle", folder / "index"
    write_small_bundle(bundle, tokenizer_dir, **bundle_changes)
    encoder = load_bundle(bundle)
    record = encoder_record(
        model=str(bundle), revision=None, base_model=None, precision="fp32", overrides=Overrides()
    )
    payload = pa.table(
        {
            "title": titles,
            "brand": [
                None if row % 4 == 3 else ("Acme", "Zenith", "Möbel & Söhne")[row % 3]
                for row in range(len(titles))
            ],
            "price": [10.0 * row for row in range(len(titles))],
            "colours": [[title.split()[0]] for title in titles],
        }
    )
    write_shop(index_dir, encoder, titles=titles, payload=payload, encoder=record)
    return ServedShop(bundle, index_dir, encoder)
