"""Fine-tune a text-embedding model for product search.

    accelerate launch train_peft.py --use_peft --config faq --train_file faq.csv
    accelerate launch train_peft.py --use_peft --train_file pairs.csv --output_dir runs/mine
    python train_peft.py --help

docs/reference/training.md explains the flags.
"""

import sys

from aisle.cli import train_main

if __name__ == "__main__":
    sys.exit(train_main())
