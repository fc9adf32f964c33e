"""Embed a catalogue into an HNSW index, search it, evaluate it.

    python infer_index.py build --model runs/mine --catalog products.csv --index_dir runs/mine-index
    python infer_index.py query --index_dir runs/mine-index "red sofa for a small room"
    python infer_index.py evaluate --index_dir runs/mine-index --queries queries.csv --qrels qrels.tsv
    python infer_index.py build --help

docs/how-to/operate-the-index.md explains the commands.
"""

import sys

from aisle.cli import index_main

if __name__ == "__main__":
    sys.exit(index_main())
