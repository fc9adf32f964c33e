"""Fine-tune a cross-encoder that reranks the products of a search.

    accelerate launch train_reranker.py --use_peft --train_file pairs.csv --output_dir runs/reranker
    accelerate launch train_reranker.py --train_file pairs.csv --index_dir index --output_dir runs/reranker
    python train_reranker.py --help

docs/how-to/train-a-reranker.md explains the flags.
"""

import sys

from aisle.cli import train_reranker_main

if __name__ == "__main__":
    sys.exit(train_reranker_main())
