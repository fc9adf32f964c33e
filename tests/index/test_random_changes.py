"""After any sequence of changes, an index has and finds the products of a dict of id -> vector."""

import numpy as np
import pyarrow as pa
import pytest

from aisle.index import compact_index, delete_products, open_index, retune_index, rollback

STEPS = 25


class Changes:
    """A random sequence of changes to an index and to the dict that it must equal."""

    def __init__(self, index_dir, build, upsert, vectors, seed):
        self.index_dir, self.build, self.upsert, self.vectors = index_dir, build, upsert, vectors
        self.rng = np.random.default_rng(seed)
        self.model, self.tags, self.next_id, self.past = {}, {}, 0, {}
        self.start()

    def start(self):
        self.model, self.tags = {}, {}
        names, vectors = self.put(self.rng.integers(1, 60), new=1.0)
        tags = pa.table({"tag": [self.tags[name] for name in names]})
        self.build(vectors, self.index_dir, product_ids=names, payload=tags, store_dtype="float32")

    def put(self, count, *, new):
        """Give `count` products a vector, some of them new; return their ids and vectors."""
        names = set()
        for _ in range(count):
            if self.model and self.rng.random() > new:
                names.add(str(self.rng.choice(sorted(self.model))))
            else:
                names.add(f"p{self.rng.permutation(10)[0]}-{self.next_id}")
                self.next_id += 1
        names = self.rng.permutation(sorted(names)).tolist()
        vectors = self.vectors[self.rng.integers(len(self.vectors), size=len(names))]
        self.model |= dict(zip(names, vectors, strict=True))
        self.tags |= {name: f"{name}/{self.rng.integers(1000)}" for name in names}
        return names, vectors

    def add(self):
        names, vectors = self.put(self.rng.integers(1, 15), new=self.rng.choice([0.0, 0.5, 1.0]))
        self.upsert(names, vectors, self.index_dir, columns={"tag": [self.tags[name] for name in names]})

    def remove(self):
        if len(self.model) > 1:
            most = min(len(self.model) - 1, int(self.rng.choice([1, 5, 40])))
            names = self.rng.choice(
                sorted(self.model), size=self.rng.integers(1, most + 1), replace=False
            ).tolist()
            delete_products(self.index_dir, names)
            for name in names:
                del self.model[name], self.tags[name]

    def go_back(self):
        older = [number for number in self.past if (self.index_dir / "versions" / f"{number:06d}").exists()]
        number = int(self.rng.choice(older))
        rollback(self.index_dir, to=number)
        self.model, self.tags = (dict(held) for held in self.past[number])

    def step(self):
        steps = {
            "add": self.add,
            "remove": self.remove,
            "compact": lambda: compact_index(self.index_dir, threads=1),
            "tune": lambda: retune_index(self.index_dir, ef_search=int(self.rng.integers(1, 50))),
            "go_back": self.go_back,
            "start": self.start,
        }
        name = str(self.rng.choice(list(steps), p=[0.42, 0.33, 0.08, 0.05, 0.08, 0.04]))
        steps[name]()
        return name


@pytest.mark.parametrize("seed", range(4))
def test_after_any_changes_the_index_is_a_dict_of_vectors(
    build, upsert, clustered, assert_holds, tmp_path, seed
):
    # Few vectors for many products, so that equal and recurring vectors are common.
    vectors = clustered(30 if seed % 2 else 400, dim=8, seed=seed)
    changes, queries = Changes(tmp_path / "index", build, upsert, vectors, seed), clustered(6, dim=8, seed=99)
    for number in range(STEPS):
        changes.past[open_index(tmp_path / "index").manifest.version] = (
            dict(changes.model),
            dict(changes.tags),
        )
        done = changes.step()
        index = open_index(tmp_path / "index")
        try:
            assert_holds(index, changes.model, queries)
        except AssertionError as error:
            raise AssertionError(f"step {number}, {done}: {error}") from None
        tags = index.products.select(["product_id", "tag"]).to_pylist()
        assert {row["product_id"]: row["tag"] for row in tags} == changes.tags
        distinct = {vector.tobytes() for vector in changes.model.values()}
        assert index.manifest.graph_nodes == len(distinct)
