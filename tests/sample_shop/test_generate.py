"""The sample catalogue: deterministic, judged by rule, and neither trivial nor hopeless for BM25."""

from __future__ import annotations

import csv
import math
import os
import subprocess
import sys
from collections import Counter, defaultdict
from itertools import islice
from pathlib import Path

import bm25s
import pytest

from aisle.errors import DataError
from aisle.sample_shop.generate import SampleFiles, iter_products, write_sample
from aisle.sample_shop.grading import label_of, words_of
from aisle.sample_shop.items import draw_products
from aisle.sample_shop.shopper_queries import Judged, Need
from aisle.sample_shop.vocabulary import is_trailing, load_vocabulary

SPLITS = ("train", "validation", "test")


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> SampleFiles:
    return write_sample(tmp_path_factory.mktemp("sample") / "shop")


def read(path: Path, delimiter: str = ",") -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter=delimiter))


def judged(type_name: str, *facts: str) -> Judged:
    return Judged("P1", "a title", type_name, frozenset(facts), words_of("a title"))


def test_every_name_in_the_vocabulary_refers_to_something():
    vocabulary = load_vocabulary()
    for kind in vocabulary.types:
        assert set(kind.instead + kind.goes_with) <= set(vocabulary.by_name), kind.name
        assert {name for facet in kind.facets for name in facet} <= set(vocabulary.attributes), kind.name
        assert set(kind.colours) <= set(vocabulary.colours), kind.name
        assert not set(kind.misspelt) & set(kind.ask), kind.name
    used = {name for kind in vocabulary.types for facet in kind.facets for name in facet}
    assert used == set(vocabulary.attributes)


def test_the_shop_is_as_broad_as_promised():
    vocabulary = load_vocabulary()
    per_department = Counter(kind.department for kind in vocabulary.types)
    assert len(per_department) >= 12
    assert min(per_department.values()) >= 6
    assert len(vocabulary.by_name) == len(vocabulary.types)


def test_a_wording_that_opens_with_a_preposition_follows_the_noun():
    assert is_trailing("with Drawers")
    assert is_trailing("Ages 2-4")
    assert not is_trailing("Full-Grain Leather")


def test_a_larger_catalogue_begins_with_the_smaller_one():
    assert list(islice(iter_products(5000, seed=3), 700)) == list(iter_products(700, seed=3))


def test_another_seed_is_another_shop():
    assert list(iter_products(50, seed=1)) != list(iter_products(50, seed=2))


def test_product_ids_are_unique_and_titles_nearly_so():
    products = list(iter_products(30_000))
    assert [product.product_id for product in products[:2]] == ["P0000001", "P0000002"]
    assert len({product.product_id for product in products}) == 30_000
    assert len({product.title for product in products}) > 0.99 * 30_000


def test_titles_tell_every_fact_that_a_label_can_rest_on():
    vocabulary = load_vocabulary()
    for product, facts in draw_products(2000, seed=5):
        for fact in facts:
            slot, _, name = fact.partition(":")
            wordings = {
                "brand": lambda name: (name,),
                "colour": lambda name: vocabulary.colours[name].sell,
                "size": lambda name: vocabulary.size(name).sell,
                "is": lambda name: vocabulary.attributes[name].sell,
            }[slot](name)
            assert any(wording in product.title for wording in wordings), (product.title, fact)


def test_prices_lie_in_the_range_of_their_type():
    vocabulary = load_vocabulary()
    for product in iter_products(3000):
        low, high = vocabulary.by_name[product.product_type].price
        assert low - 1 <= product.price <= high


def test_a_negative_count_is_refused():
    with pytest.raises(DataError, match="must be 0 or more, found -1"):
        iter_products(-1)


@pytest.mark.parametrize(
    ("need", "product", "label"),
    [
        (Need("sofa"), judged("sofa"), "E"),
        (Need("sofa", frozenset({"colour:grey"})), judged("sofa", "colour:grey", "is:velvet"), "E"),
        (Need("sofa", frozenset({"colour:grey"})), judged("sofa", "colour:blue"), "S"),
        (Need("sofa", avoids=frozenset({"is:leather"})), judged("sofa", "is:leather"), "S"),
        (Need("sofa", avoids=frozenset({"is:leather"})), judged("sofa", "is:velvet"), "E"),
        (Need("sofa"), judged("armchair"), "S"),
        (Need("sofa"), judged("cushion"), "C"),
        (Need("sofa"), judged("drill"), "I"),
        (Need(None, frozenset({"is:toddler", "is:train"})), judged("jigsaw", "is:toddler", "is:train"), "E"),
        (Need(None, frozenset({"is:toddler", "is:train"})), judged("jigsaw", "is:child", "is:train"), "S"),
        (Need(None, frozenset({"is:toddler", "is:train"})), judged("jigsaw", "is:child", "is:space"), "I"),
        (Need(None, frozenset({"is:toddler", "is:farm"})), judged("toy storage", "is:farm"), "C"),
    ],
)
def test_a_label_follows_from_the_need_and_the_facts(need: Need, product: Judged, label: str):
    assert label_of(need, product, load_vocabulary()) == label


def test_the_default_sample_keeps_its_promises(sample: SampleFiles):
    queries = read(sample.queries)
    assert len(read(sample.products)) == sample.product_count >= 2000
    assert len(queries) == sample.query_count >= 400
    kinds = Counter(row["kind"] for row in queries)
    assert set(kinds) == {"plain", "synonym", "misspelling", "attribute", "purpose", "negation"}
    assert min(kinds.values()) >= 40
    shares = Counter(row["split"] for row in queries)
    assert shares["train"] / len(queries) == pytest.approx(0.6, abs=0.05)
    assert shares["test"] / len(queries) == pytest.approx(0.25, abs=0.05)


def test_no_query_is_in_two_splits(sample: SampleFiles):
    for column in ("query", "query_id"):
        of_split = [{row[column] for row in read(getattr(sample, split))} for split in SPLITS]
        assert sum(map(len, of_split)) == len(set().union(*of_split)) == sample.query_count


def test_every_query_has_exact_products_and_others(sample: SampleFiles):
    for split in SPLITS:
        labels: dict[str, Counter[str]] = defaultdict(Counter)
        rows = read(getattr(sample, split))
        for row in rows:
            labels[row["query_id"]][row["esci_label"]] += 1
        assert len(rows) == sample.pair_counts[split]
        assert set().union(*labels.values()) == {"E", "S", "C", "I"}
        assert all(counts["E"] and counts["E"] < counts.total() <= 40 for counts in labels.values())


def test_no_pair_is_judged_twice(sample: SampleFiles):
    for split in SPLITS:
        pairs = [(row["query_id"], row["product_id"]) for row in read(getattr(sample, split))]
        assert len(pairs) == len(set(pairs))


def test_qrels_agree_with_the_judged_test_pairs(sample: SampleFiles):
    gains = {(row["query-id"], row["corpus-id"]): row["score"] for row in read(sample.qrels, "\t")}
    expected = {"E": "3", "S": "1", "C": None, "I": None}
    for row in read(sample.test):
        assert gains.get((row["query_id"], row["product_id"])) == expected[row["esci_label"]]


def test_bm25_finds_the_sample_neither_trivial_nor_hopeless(sample: SampleFiles):
    products = read(sample.products)
    retriever = bm25s.BM25()
    texts = [f"{row['title']} {row['brand']}" for row in products]
    retriever.index(bm25s.tokenize(texts, stopwords=None, show_progress=False), show_progress=False)
    gains: dict[str, dict[str, int]] = defaultdict(dict)
    for row in read(sample.qrels, "\t"):
        gains[row["query-id"]][row["corpus-id"]] = int(row["score"])

    scores = []
    for row in read(sample.queries):
        if row["split"] != "test":
            continue
        tokens = bm25s.tokenize([row["query"]], stopwords=None, return_ids=False, show_progress=False)[0]
        best = (-retriever.get_scores(tokens)).argsort(kind="stable")[:10]
        judged_gains = gains[row["query_id"]]
        found = [judged_gains.get(products[place]["product_id"], 0) for place in best]
        scores.append(dcg(found) / dcg(sorted(judged_gains.values(), reverse=True)[:10]))

    assert 0.3 <= sum(scores) / len(scores) <= 0.7


def dcg(gains: list[int]) -> float:
    return sum(gain / math.log2(rank + 2) for rank, gain in enumerate(gains))


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_smallest_sample_has_an_exact_product_for_every_query(tmp_path: Path, seed: int):
    files = write_sample(tmp_path / "small", products=500, seed=seed)
    exact = {
        row["query_id"] for split in SPLITS for row in read(getattr(files, split)) if row["esci_label"] == "E"
    }
    assert len(exact) == files.query_count >= 400


def test_the_same_seed_gives_the_same_bytes_under_any_hash_seed(tmp_path: Path):
    script = "import sys; from pathlib import Path; from aisle.sample_shop.generate import write_sample; "
    script += "write_sample(Path(sys.argv[1]), products=500)"
    for hash_seed in ("1", "2"):
        command = [sys.executable, "-c", script, str(tmp_path / hash_seed)]
        subprocess.run(command, check=True, env={**os.environ, "PYTHONHASHSEED": hash_seed})
    names = sorted(path.name for path in (tmp_path / "1").iterdir())
    assert len(names) == 9
    assert all((tmp_path / "1" / name).read_bytes() == (tmp_path / "2" / name).read_bytes() for name in names)


def test_judgements_do_not_depend_on_products_beyond_the_judged_ones(tmp_path: Path, sample: SampleFiles):
    larger = write_sample(tmp_path / "larger", products=3000)
    assert larger.test.read_bytes() == sample.test.read_bytes()
    assert larger.products.read_bytes().startswith(sample.products.read_bytes())


def test_too_few_products_are_refused_with_the_rule(tmp_path: Path):
    with pytest.raises(DataError, match=r"--products: must be 500 or more.*found 499"):
        write_sample(tmp_path / "tiny", products=499)
    assert list(tmp_path.iterdir()) == []


def test_a_directory_of_other_files_is_never_touched(tmp_path: Path):
    (tmp_path / "thesis.txt").write_text("years of work", encoding="utf-8")
    with pytest.raises(DataError, match=r"found other files \(thesis.txt\)"):
        write_sample(tmp_path, products=500, overwrite=True)
    assert (tmp_path / "thesis.txt").read_text(encoding="utf-8") == "years of work"


def test_a_sample_with_a_file_of_the_user_in_it_is_never_replaced(tmp_path: Path):
    write_sample(tmp_path / "shop", products=500)
    (tmp_path / "shop" / "notes.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(DataError, match=r"notes\.txt"):
        write_sample(tmp_path / "shop", products=500, overwrite=True)


def test_a_sample_is_replaced_only_when_asked(tmp_path: Path):
    write_sample(tmp_path / "shop", products=500)
    with pytest.raises(DataError, match="--overwrite"):
        write_sample(tmp_path / "shop", products=600)
    files = write_sample(tmp_path / "shop", products=600, overwrite=True)
    assert len(read(files.products)) == 600
    assert [path.name for path in tmp_path.iterdir()] == ["shop"]


def test_a_write_that_fails_leaves_nothing(tmp_path: Path):
    def stop(_: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_sample(tmp_path / "shop", products=500, on_progress=stop)
    assert list(tmp_path.iterdir()) == []


def test_progress_counts_up_to_the_products_asked_for(tmp_path: Path):
    seen: list[int] = []
    write_sample(tmp_path / "shop", products=25_000, on_progress=seen.append)
    assert seen == sorted(seen)
    assert len(seen) > 2
    assert seen[-1] == 25_000
