"""Tokenise the pairs of a run into its folder, once for all processes of a machine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from hashlib import blake2b
from pathlib import Path
from typing import Any

from aisle.commands.train.run_dir import TOKENS
from aisle.commands.train.settings import TrainSettings
from aisle.data.pairs import Pairs
from aisle.io.durable import file_sha256
from aisle.models.cross_encoder_loading import LoadedCrossEncoder
from aisle.models.fingerprint import TOKENIZER_FILES
from aisle.models.loading import LoadedModel
from aisle.training.distributed import wait_for_all
from aisle.training.tokenized import TokenizedPairs, open_tokenized, tokenize_pairs, write_tokenized
from aisle.training.tokenized_joined import tokenize_joined


def tokenized(
    pairs: Pairs,
    digest: str,
    *,
    settings: TrainSettings,
    base: LoadedModel | LoadedCrossEncoder,
    accelerator: Any,
    log: Callable[[str], None],
) -> TokenizedPairs:
    """Return the tokenised pairs: one process per machine writes them, and all processes memory-map them.

    Args:
        pairs: Pairs to tokenise.
        digest: Digest of the pairs. Files of the same pairs, tokenizer and model settings are used again.
        settings: Settings with the run's folder.
        base: Model with the tokenizers.
        accelerator: Accelerator of the run.
        log: Logs messages for the user.
    """
    models: list[LoadedModel | LoadedCrossEncoder] = [base]
    models += [] if base.query is None else [base.query]
    sources = [one.source for one in models]
    sources += [one.adapter.run for one in models if one.adapter is not None]
    folders = [source.path for source in sources]
    files = [folder / name for folder in folders for name in TOKENIZER_FILES]
    tokenizer = [file_sha256(path) for path in files if path.is_file()]
    parts = (part.name for part in fields(TokenizedPairs))
    made_of = (digest, *tokenizer, *(item for one in models for item in vars(one.settings).items()), *parts)
    name = blake2b(repr(made_of).encode(), digest_size=8).hexdigest()
    folder = Path(str(settings.run.output_dir)) / TOKENS / name
    if accelerator.is_local_main_process and not folder.is_dir():
        log(f"tokenising {len(pairs):,} {'texts' if pairs.texts_of_groups else 'pairs'}")
        write_tokenized(_tokenize(pairs, base), folder)
    wait_for_all(accelerator)
    return open_tokenized(folder)


def _tokenize(pairs: Pairs, base: LoadedModel | LoadedCrossEncoder) -> TokenizedPairs:
    if isinstance(base, LoadedCrossEncoder):
        return tokenize_joined(pairs, base.pair_tokenizer)
    return tokenize_pairs(pairs, base.side_tokenizers)
