"""Small indexes with known contents, for the tests of changes."""

import numpy as np


def ids(count, first=0):
    """Return the product ids that the `build` fixture gives."""
    return [f"p{row:05d}" for row in range(first, first + count)]


def axes(*numbers, dim=16):
    """Return unit vectors along axes."""
    return np.eye(dim, dtype=np.float32)[list(numbers)]


def held(index, *names):
    """Return product id and payload of every row."""
    return index.products.select(["product_id", *names]).to_pylist()
