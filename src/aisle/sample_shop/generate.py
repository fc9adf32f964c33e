"""Write the sample catalogue: a synthetic shop of any size, with judged queries.

It is made from the hand-written files in `vocabulary`:

aisle sample --output_dir sample
aisle sample --output_dir big --products 1000000
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import files
from itertools import islice
from pathlib import Path

from aisle.errors import DataError
from aisle.io.durable import apply_umask
from aisle.io.folder_swap import put_in_place, why_irreplaceable
from aisle.io.staged_folder import staged_folder
from aisle.sample_shop.grading import Judgement, Label, judge, words_of
from aisle.sample_shop.items import Drawn, Product, draw_products, iter_products
from aisle.sample_shop.shopper_queries import Judged, Query, Split, write_queries
from aisle.sample_shop.vocabulary import Vocabulary, load_vocabulary, nonsense_queries

__all__ = ["DEFAULT_PRODUCTS", "MOST_JUDGED", "Product", "SampleFiles", "iter_products", "write_sample"]

DEFAULT_PRODUCTS = 2400
MOST_JUDGED = 2400
"""Queries are judged against this many first products only, so a large catalogue takes no longer to judge."""
FEWEST_PRODUCTS = 500
GAINS: dict[Label, int] = {"E": 3, "S": 1}
"""Gains in the qrels files; complements and irrelevant products have gain 0 and are not written."""

_TRAINING_MOST: dict[Label, int] = {"E": 6, "S": 6, "C": 2, "I": 3}
_ALL_RELEVANT: dict[Label, int] = {"E": 10_000, "S": 10_000, "C": 0, "I": 0}
_TEST_MOST: dict[Label, int] = {"E": 12, "S": 12, "C": 4, "I": 8}
_SPLITS: tuple[Split, ...] = ("train", "validation", "test")
_PRODUCT_COLUMNS = ("product_id", "title", "brand", "colour", "size", "price", "department", "description")
_MARK = "# aisle sample catalogue"
_PROGRESS_EVERY = 10_000


@dataclass(frozen=True)
class SampleFiles:
    """Files of a sample, and their numbers of rows."""

    output_dir: Path
    products: Path
    train: Path
    validation: Path
    test: Path
    queries: Path
    qrels: Path
    validation_qrels: Path
    nonsense: Path
    readme: Path
    product_count: int
    query_count: int
    pair_counts: dict[Split, int]


def write_sample(
    output_dir: Path,
    *,
    products: int = DEFAULT_PRODUCTS,
    seed: int = 0,
    overwrite: bool = False,
    on_progress: Callable[[int], None] | None = None,
) -> SampleFiles:
    """Write the catalogue, its judged queries and a README, and return their paths.

    The files are written beside `output_dir` and renamed at the end, so that a sample is never half-written.

    Args:
        output_dir: Directory that is absent, empty, or a sample to replace.
        products: Number of rows of products.csv, at least 500.
        seed: Seed of the shop; each seed is a different shop with the same vocabulary.
        overwrite: Whether to replace an existing sample.
        on_progress: Called with the number of products written so far.

    Raises:
        DataError: too few products, or `output_dir` holds something that must not be replaced.
    """
    output_dir = Path(output_dir)
    if products < FEWEST_PRODUCTS:
        raise DataError(
            f"--products: must be {FEWEST_PRODUCTS} or more, so that every query has an exact product, "
            f"found {products}; ask for --products {FEWEST_PRODUCTS} or leave it out ({DEFAULT_PRODUCTS})"
        )
    _check_replaceable(output_dir, overwrite=overwrite)
    with staged_folder(output_dir) as partial:
        counts = _write_files(partial, products=products, seed=seed, on_progress=on_progress)
        apply_umask(partial)
        put_in_place(partial, output_dir)
    return _sample_files(output_dir, products, *counts)


def _sample_files(folder: Path, products: int, queries: int, pairs: dict[Split, int]) -> SampleFiles:
    return SampleFiles(
        output_dir=folder,
        products=folder / "products.csv",
        train=folder / "train.csv",
        validation=folder / "validation.csv",
        test=folder / "test.csv",
        queries=folder / "queries.csv",
        qrels=folder / "qrels.tsv",
        validation_qrels=folder / "validation_qrels.tsv",
        nonsense=folder / "nonsense.txt",
        readme=folder / "README.md",
        product_count=products,
        query_count=queries,
        pair_counts=pairs,
    )


def _check_replaceable(output_dir: Path, *, overwrite: bool) -> None:
    if not output_dir.exists():
        return
    if not output_dir.is_dir():
        raise DataError(f"{output_dir}: --output_dir must be a directory, found a file; choose another path")
    reason = why_irreplaceable(output_dir)
    if reason is not None:
        raise DataError(f"--output_dir {output_dir}: {reason}")
    found = {path.name for path in output_dir.iterdir()}
    if not found:
        return
    ours = {
        path.name for path in vars(_sample_files(output_dir, 0, 0, {})).values() if isinstance(path, Path)
    }
    readme = output_dir / "README.md"
    is_sample = readme.is_file() and readme.read_text(encoding="utf-8", errors="replace").startswith(_MARK)
    if not is_sample or found - ours:
        raise DataError(
            f"{output_dir}: --output_dir must be absent, empty or a sample, found other files "
            f"({', '.join(sorted(found - ours if is_sample else found)[:3])}); choose another directory"
        )
    if not overwrite:
        raise DataError(f"{output_dir}: a sample is here already; pass --overwrite to replace it")


def _write_files(
    folder: Path, *, products: int, seed: int, on_progress: Callable[[int], None] | None
) -> tuple[int, dict[Split, int]]:
    judged = _write_products(folder / "products.csv", products, seed, on_progress)
    vocabulary = load_vocabulary()
    queries = write_queries(judged, vocabulary, seed=seed)
    _write_table(
        folder / "queries.csv",
        ("query_id", "query", "kind", "split"),
        ((query.query_id, query.text, query.kind, query.split) for query in queries),
    )
    pairs: dict[Split, int] = {}
    for split in _SPLITS:
        most = _TEST_MOST if split == "test" else _TRAINING_MOST
        rows = [
            (query.query_id, query.text, product.product_id, product.title, label)
            for query in queries
            if query.split == split
            for product, label in judge(query, judged, vocabulary, most=most, seed=seed)
        ]
        header = ("query_id", "query", "product_id", "product_title", "esci_label")
        pairs[split] = _write_table(folder / f"{split}.csv", header, rows)
    complete: dict[Split, str] = {"test": "qrels.tsv", "validation": "validation_qrels.tsv"}
    for split, name in complete.items():
        gains = _qrels([query for query in queries if query.split == split], judged, vocabulary, seed)
        _write_table(folder / name, ("query-id", "corpus-id", "score"), gains, delimiter="\t")
    nonsense = [query for queries in nonsense_queries().values() for query in queries]
    (folder / "nonsense.txt").write_text("".join(f"{query}\n" for query in nonsense), encoding="utf-8")
    readme = files("aisle.sample_shop.vocabulary").joinpath("sample_readme.md").read_text(encoding="utf-8")
    (folder / "README.md").write_text(readme.format(products=products, seed=seed), encoding="utf-8")
    return len(queries), pairs


def _write_products(
    path: Path, count: int, seed: int, on_progress: Callable[[int], None] | None
) -> list[Judged]:
    """Write products.csv and return the products that queries are judged against."""
    drawn = draw_products(count, seed=seed)
    first = list(islice(drawn, MOST_JUDGED))
    judged = [
        Judged(
            product.product_id, product.title, product.product_type, frozenset(facts), words_of(product.title)
        )
        for product, facts in first
    ]
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(_PRODUCT_COLUMNS)
        writer.writerows(_row(item) for item in first)
        written = len(first)
        while batch := list(islice(drawn, _PROGRESS_EVERY)):
            if on_progress:
                on_progress(written)
            writer.writerows(_row(item) for item in batch)
            written += len(batch)
    if on_progress:
        on_progress(written)
    return judged


def _row(drawn: Drawn) -> tuple[object, ...]:
    product = drawn.product
    return (*product[:5], f"{product.price:.2f}", product.department, product.description)


def _qrels(
    queries: Sequence[Query], judged: Sequence[Judged], vocabulary: Vocabulary, seed: int
) -> Iterator[tuple[str, str, int]]:
    for query in queries:
        judgements: list[Judgement] = judge(query, judged, vocabulary, most=_ALL_RELEVANT, seed=seed)
        for product, label in sorted(judgements, key=lambda judgement: judgement.product.product_id):
            yield query.query_id, product.product_id, GAINS[label]


def _write_table(
    path: Path,
    header: Sequence[str],
    rows: Iterator[tuple[object, ...]] | Sequence[tuple[object, ...]],
    delimiter: str = ",",
) -> int:
    count = 0
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter=delimiter, lineterminator="\n")
        writer.writerow(header)
        for row in rows:
            writer.writerow(row)
            count += 1
    return count
