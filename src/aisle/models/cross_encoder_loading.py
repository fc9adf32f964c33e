"""Load a cross-encoder: from a run of `aisle train-reranker`, or from a base model with or without a head."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import nn

from aisle.errors import ModelError
from aisle.models.backbone import (
    code_hint,
    load_pretrained,
    longest_input,
    one_line,
    padding_token,
    refuse_missing,
)
from aisle.models.classification_heads import head_modules
from aisle.models.cross_encoder import CrossEncoder, reads_types
from aisle.models.fingerprint import fingerprint_of
from aisle.models.loading import ADAPTER_FILE
from aisle.models.model_source import ModelSource
from aisle.models.modules_file import module_folder, read_json
from aisle.models.run_file import read_reranker_file
from aisle.models.tokenizers import load_tokenizer
from aisle.text.joined_pairs import PairTokenizer
from aisle.text.token_batches import pad
from aisle.types.encoder_settings import CrossEncoderSettings

PROBE_PAIR = ("a", "b")


@dataclass(frozen=True)
class LoadedCrossEncoder:
    """Cross-encoder loaded from its files, as parts that training can change.

    Args:
        source: Location of the files.
        backbone: Model for sequence classification with one label, in float32.
        tokenizer: Tokenizer of the model.
        settings: Maximum length.
        seed: Seed of a new head; None if the model has its head from the files.
        note: Assumption about the model that its files leave open, to print; None without.
    """

    source: ModelSource
    backbone: nn.Module
    tokenizer: Any
    settings: CrossEncoderSettings
    seed: int | None = None
    note: str | None = None
    query: ClassVar[None] = None
    """A cross-encoder has no tower for queries, unlike `LoadedModel`."""
    adapter: ClassVar[None] = None
    """It starts from no adapter, which is merged when a run is saved."""

    @property
    def pair_tokenizer(self) -> PairTokenizer:
        """Tokenizer of joined pairs."""
        typed = reads_types(self.backbone, self.tokenizer)
        return PairTokenizer(self.tokenizer, self.settings.max_length, typed)

    @property
    def fingerprint(self) -> str:
        """Hash of everything in the files that determines a score."""
        path = self.source.path
        return fingerprint_of(base_dir=path, model_dir=path, adapter=False, settings=self.settings)

    def cross_encoder(self) -> CrossEncoder:
        """Return the model that scores token batches."""
        return CrossEncoder(self.backbone)


def load_cross_encoder(
    source: ModelSource,
    *,
    max_length: int | None = None,
    new_head_seed: int | None = None,
    trust_remote_code: bool = False,
) -> LoadedCrossEncoder:
    """Load a cross-encoder in float32.

    Args:
        source: Run of `aisle train-reranker`, cross-encoder or, with `new_head_seed`, any other base model.
        max_length: Maximum length of a pair in tokens; None takes that of a run, or the model's limit.
        new_head_seed: Seed of the random weights of a new head, if the files have none for a single score;
            None refuses the model then.
        trust_remote_code: Whether to run Python code from the model's repository.

    Raises:
        ModelError: Files are missing or do not fit together, `max_length` is longer than the model can read,
            or the model has no head for a single score.
    """
    if (source.path / ADAPTER_FILE).is_file():
        raise ModelError(
            f"{source.name}: is a LoRA adapter of an encoder; merge it into its base model with `aisle "
            "merge`, and give the merged model"
        )
    saved = read_reranker_file(source.path)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(new_head_seed or 0)
        model, info = load_pretrained(
            source,
            _classifier_class,
            trust_remote_code=trust_remote_code,
            converter="AutoModelForSequenceClassification",
            num_labels=1,
        )
    head = _names_in(model, head_modules(model))
    replaced = [key for key, *_ in info["mismatched_keys"]]
    refuse_missing(
        source,
        model,
        sorted(key for key in [*info["missing_keys"], *replaced] if key not in head),
        trust_remote_code=trust_remote_code,
    )
    new = sorted(set(info["missing_keys"]) | set(replaced))
    if new and new_head_seed is None:
        raise ModelError(
            f"{source.name}: has no classification head with one score ({new[0]} is missing or has another "
            "shape), so it is not a reranker; train it with `aisle train-reranker`"
        )
    tokenizer = load_tokenizer(source.path, trust_remote_code=trust_remote_code)
    _set_padding_token(model, tokenizer)
    limit = longest_input(_base(model), tokenizer)
    wanted = max_length or (None if saved is None else int(saved["max_length"])) or limit
    if wanted > limit:
        raise ModelError(f"--max_length {wanted}: {source.name} reads at most {limit} tokens")
    loaded = LoadedCrossEncoder(
        source, model, tokenizer, CrossEncoderSettings(wanted), seed=new_head_seed if new else None
    )
    _check_reads_pairs(loaded, trust_remote_code=trust_remote_code)
    if not new:
        return loaded
    note = f"{source.name}: has no classification head with one score; a new one starts with random weights"
    return replace(loaded, note=note)


def load_reranker_run(source: ModelSource, *, trust_remote_code: bool = False) -> LoadedCrossEncoder:
    """Load a trained cross-encoder to score pairs; a run's files must be those that training saved.

    Raises:
        ModelError: As in `load_cross_encoder`, or a file of a run was altered.
    """
    loaded = load_cross_encoder(source, trust_remote_code=trust_remote_code)
    saved = read_reranker_file(source.path)
    if saved is not None and loaded.fingerprint != saved["fingerprint"]:
        raise ModelError(
            f"{source.name}: was saved with fingerprint {saved['fingerprint']}, and has "
            f"{loaded.fingerprint}: a file was altered; restore it, or train again"
        )
    return loaded


def is_reranker(folder: Path) -> bool:
    """Return whether a model's folder has a cross-encoder: a reranker's run, or a model with one score.

    A folder of sentence-transformers with a pooling is an encoder, whatever its base model was.

    Raises:
        ModelError: A file of the folder is not JSON.
    """
    if read_reranker_file(folder) is not None:
        return True
    if module_folder(folder, "Pooling") is not None:
        return False
    described = read_json(folder / "config.json")
    classes = [str(name) for name in described.get("architectures") or ()]
    # transformers assumes two labels where the file names none.
    one_score = len(described.get("id2label") or (0, 1)) == 1 or described.get("num_labels") == 1
    return one_score and any(name.endswith("ForSequenceClassification") for name in classes)


def _classifier_class(source: ModelSource, config: Any) -> Any:
    """Return the class that loads a model for sequence classification.

    Raises:
        ModelError: The model has a decoder that reads an encoder's output.
    """
    from transformers import AutoModelForSequenceClassification

    if getattr(config, "is_encoder_decoder", False):
        raise ModelError(
            f"{source.name}: {config.model_type} is an encoder with a decoder; use an encoder (BERT and its "
            "relatives) or a decoder-only model"
        )
    return AutoModelForSequenceClassification


def _names_in(model: nn.Module, modules: Collection[nn.Module]) -> set[str]:
    """Return the names, in a model, of the weights of some of its modules."""
    weights = {id(weight) for module in modules for weight in module.parameters()}
    return {name for name, weight in model.named_parameters() if id(weight) in weights}


def _base(model: Any) -> nn.Module:
    base: nn.Module = model.base_model
    return base


def _set_padding_token(model: Any, tokenizer: Any) -> None:
    """Give the model the tokenizer's padding token, by which a decoder finds the last token of a pair."""
    if model.config.pad_token_id is None:
        model.config.pad_token_id = tokenizer.pad_token_id


def _check_reads_pairs(loaded: LoadedCrossEncoder, *, trust_remote_code: bool) -> None:
    """Refuse a model that does not return one score for a pair.

    Raises:
        ModelError: The tokenizer has tokens without an embedding, or the model fails on a pair.
    """
    source, model = loaded.source, loaded.backbone
    embeddings: Any = model
    rows = embeddings.get_input_embeddings().weight.shape[0]
    if len(loaded.tokenizer) > rows:
        raise ModelError(
            f"{source.name}: its tokenizer has {len(loaded.tokenizer):,} tokens, but its weights have "
            f"embeddings for {rows:,} tokens; resize the model's embeddings and save both"
        )
    try:
        tokens = loaded.pair_tokenizer.tokenize([PROBE_PAIR])
        batch = pad(tokens, np.array([0]), padding_token(model))
        with torch.inference_mode():
            found = tuple(loaded.cross_encoder().eval()([batch]).shape)
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
        hint = "" if trust_remote_code else code_hint(source.path)
        raise ModelError(
            f"{source.name}: {type(model).__name__} does not score a pair: {one_line(error)}{hint}"
        ) from None
    if found != (1, 1):
        raise ModelError(f"{source.name}: {type(model).__name__} must return one score, it returned {found}")
