"""Train a query tower and a product tower in each case, and write their weights; run it in ranks.

Usage: tower_ranks.py BERT DISTILBERT OUTPUT_DIR
"""

import os
import sys
from pathlib import Path

import datasets
import torch
from safetensors.torch import save_file

from aisle.data.pairs import Pairs
from aisle.models.bi_encoder import BiEncoder
from aisle.models.loading import load_base
from aisle.models.model_source import find_model
from aisle.text.side_tokenizers import SideTokenizer, SideTokenizers
from aisle.training.tokenized import tokenize_pairs
from aisle.types.encoder_settings import Overrides
from tests.training.conftest import texts_of, tower_of, trainer_of

PAIRS = 9
"""In batches of 8: the last batch has a single pair, so a rank has a text of neither side."""
CASES = {
    "summed_by_the_step": {"loss": "in_batch", "sync": True},
    "cached": {"loss": "in_batch", "sync": True, "cached": True, "max_tokens": 16},
    "summed_by_ddp": {"loss": "in_batch", "sync": False},
    "padded": {"loss": "in_batch", "sync": True, "packed": False, "accumulation": 2},
}


def main(bert, distilbert, output_dir):
    """Take four steps in each case."""
    query_base, product_base = (
        load_base(find_model(model), overrides=Overrides(max_length=16)) for model in (bert, distilbert)
    )
    side = SideTokenizer(query_base.tokenizer, "", max_length=16)
    texts = {"query": texts_of(PAIRS, seed=5, longest=4), "product": texts_of(PAIRS, seed=6)}
    pairs = tokenize_pairs(
        Pairs(datasets.Dataset.from_dict(texts)), SideTokenizers(side, side, separate=True)
    )
    ranks = int(os.environ["WORLD_SIZE"])
    for name, case in CASES.items():
        towers = BiEncoder(tower_of(query_base), tower_of(product_base))
        trainer = trainer_of(query_base, pairs, tower=towers, batch_size=8 // ranks, total_steps=4, **case)
        trainer.run()
        if os.environ["RANK"] == "0":
            weights = {key: value.contiguous() for key, value in towers.state_dict().items()}
            save_file(weights, Path(output_dir) / f"{name}.safetensors")
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
