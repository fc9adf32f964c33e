"""A small catalogue with texts that would break a careless page, served with a base and a tuned model."""

import numpy as np
import pyarrow as pa

from aisle.index import open_index
from aisle.search.searcher import Searcher
from aisle.service.engine import Engine
from aisle.service.http.app import create_app
from aisle.service.pairs.served_pair import PairSource, ServedPair
from aisle.service.running_service import RunningService
from aisle.service.service_limits import ServiceLimits
from tests.search.word_encoder import WordEncoder, write_shop

HOSTILE_TITLE = "<script>owned = 1</script><img src=x onerror='owned = 1'> train"
BRANDS = ("Acme", "Zenith", 'O\'Neill "& Sons"', "back\\slash", "line\nbreak", "<b>Bold</b>", None)
ENCODERS = {"tuned": WordEncoder("f" * 64), "base": WordEncoder("b" * 64)}


def products():
    """Return the products as rows."""
    rng = np.random.default_rng(7)
    kinds, parts = ("red", "blue", "oak", "toy"), ("set", "track", "station", "bridge")
    titles = [f"{rng.choice(kinds)} train {rng.choice(parts)} {row}" for row in range(40)]
    titles += [f"{rng.choice(kinds)} {rng.choice(['lamp', 'sofa', 'rug'])} {row}" for row in range(16)]
    rows = [
        {
            "title": title,
            "brand": BRANDS[row % len(BRANDS)],
            "price": float(rng.integers(100, 6000)) / 100,
            "wooden": bool(rng.integers(2)),
            "tags": [str(tag) for tag in rng.choice(["gift", "new", "sale"], 2, replace=False)],
            "description": f"Number {row} of our range, made to be played with.",
        }
        for row, title in enumerate(titles)
    ]
    rows[3] |= {"title": HOSTILE_TITLE, "description": "</p><script>owned = 2</script>"}
    rows[4]["title"] = "🚂🚂 train for Zoë"
    rows[5]["title"] = "قطار خشبي train"
    bare = {"title": None, "brand": None, "price": None, "wooden": None, "tags": None, "description": None}
    return [*rows, bare]


PRODUCTS = products()


def write_index(index_dir, encoder):
    """Build the index of the catalogue with an encoder."""
    texts = [f"{row['title'] or 'zzbare'} {row['brand'] or ''}".replace("\n", " ") for row in PRODUCTS]
    ids = [f"P-{row:02d}" for row in range(len(PRODUCTS) - 1)] + ["P-BARE"]
    write_shop(index_dir, encoder, titles=texts, product_ids=ids, payload=pa.Table.from_pylist(PRODUCTS))


def demo_engines(folder):
    """Write an index for each model; return the engines by name."""
    engines = {}
    for name, encoder in ENCODERS.items():
        write_index(folder / name, encoder)
        searcher = Searcher(open_index(folder / name), encoder, threads=1)
        source = PairSource(folder / name, model=f"models/{name}")
        engines[name] = Engine(ServedPair(searcher, source, "a" * 64))
    return engines


def base_service(engine):
    """Return the service of the base model."""
    return RunningService(engine, ServiceLimits(), None, log_queries=False)


def demo_app(engines):
    """Return the application with the demo page and both models."""
    return create_app(engines["tuned"], base=base_service(engines["base"]), demo=True)
