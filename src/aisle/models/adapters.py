"""LoRA adapters: choose the layers, attach an adapter, load a saved one."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from aisle.errors import ModelError

# Attention projections of each family of architectures, by the layer's name inside its block.
ATTENTION_PROJECTIONS = (
    ("query", "key", "value"),  # BERT, RoBERTa, XLM-R, ELECTRA
    ("q_lin", "k_lin", "v_lin"),  # DistilBERT
    ("q_proj", "k_proj", "v_proj"),  # Qwen, Mistral, Llama, Gemma
    ("query_proj", "key_proj", "value_proj"),  # DeBERTa-v2
    ("q", "k", "v"),  # MPNet, T5
    ("Wqkv",),  # ModernBERT
    ("query_key_value",),  # GPT-NeoX, BLOOM
    ("c_attn",),  # GPT-2
)
POOLER = r"(.*\.)?pooler\..*"
"""BERT's pooler also has a layer named dense, but no embedding depends on it: it would get no gradient."""
# PEFT's semantic-search example wraps the backbone in a module: its keys have an additional `model.`.
WRAPPED_PREFIX = "base_model.model.model."
PREFIX = "base_model.model."


@dataclass(frozen=True)
class TrainableShare:
    """Number of trained weights, and of all weights, of a model."""

    trainable: int
    total: int

    def __str__(self) -> str:
        share = self.trainable / max(self.total, 1)
        return f"{self.trainable:,} of {self.total:,} parameters are trained ({share:.2%})"


def default_target_modules(backbone: nn.Module) -> tuple[str, ...]:
    """Return the names of the attention projections of an architecture.

    Raises:
        ModelError: The architecture's family is unknown; the message lists its linear layers.
    """
    names = linear_layer_names(backbone)
    for family in ATTENTION_PROJECTIONS:
        if set(family) <= names:
            return family
    raise ModelError(
        f"--lora_target_modules: aisle has no default layers for {type(backbone).__name__}; name the layers "
        f"to adapt; its linear layers are {', '.join(sorted(names))}"
    )


def linear_layer_names(backbone: nn.Module) -> set[str]:
    """Return the last part of the name of every linear layer."""
    return {name.rpartition(".")[2] for name, _ in _linear_layers(backbone)}


def _linear_layers(backbone: nn.Module) -> list[tuple[str, nn.Module]]:
    """Return the layers that LoRA can adapt, by name; GPT-2's Conv1D is linear with a transposed weight."""
    from transformers.pytorch_utils import Conv1D

    return [
        (name, module) for name, module in backbone.named_modules() if isinstance(module, nn.Linear | Conv1D)
    ]


def attach_lora(
    backbone: nn.Module,
    *,
    rank: int,
    alpha: int,
    dropout: float,
    target_modules: Sequence[str] | None,
    use_dora: bool,
    use_rslora: bool,
    base_reference: str,
    base_revision: str | None,
    excluded: str | None = None,
) -> Any:
    """Return the frozen backbone with a new LoRA adapter (https://arxiv.org/abs/2106.09685) to train.

    Args:
        backbone: Any `AutoModel`.
        rank: Rank of the update matrices.
        alpha: Numerator of the update's scale: alpha / rank, or alpha / sqrt(rank) with `use_rslora`.
        dropout: Dropout before the update matrices.
        target_modules: Names of the linear layers to adapt; the attention projections if None.
        use_dora: Whether to use DoRA (https://arxiv.org/abs/2402.09353).
        use_rslora: Whether to use rank-stabilised LoRA (https://arxiv.org/abs/2312.03732).
        base_reference: Folder or Hub id of the base model, saved in PEFT's configuration of the adapter.
        base_revision: Commit of the base model, if it is on the Hub.
        excluded: Pattern for the names of layers that are never adapted; None excludes BERT's pooler.

    Raises:
        ModelError: No linear layer has the name of a target; the message lists the linear layers.
    """
    from peft import LoraConfig, TaskType, get_peft_model

    targets = tuple(target_modules) if target_modules else default_target_modules(backbone)
    _check_targets(backbone, targets, excluded or POOLER)
    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,
        lora_dropout=dropout,
        target_modules=list(targets),
        exclude_modules=excluded or (POOLER if hasattr(backbone, "pooler") else None),
        use_dora=use_dora,
        use_rslora=use_rslora,
        fan_in_fan_out=_are_transposed(backbone, targets),
        bias="none",
        task_type=TaskType.FEATURE_EXTRACTION,
        revision=base_revision,
    )
    with _without_checkpointing_warning():
        adapted = get_peft_model(backbone, config)
    adapted.peft_config["default"].base_model_name_or_path = base_reference
    return adapted


def attach_trained_lora(
    backbone: nn.Module,
    adapter_dir: Path,
    *,
    dropout: float,
    base_reference: str,
    base_revision: str | None,
) -> Any:
    """Return the frozen backbone with a saved LoRA adapter to train further.

    Args:
        backbone: Backbone of the model that the adapter was trained on.
        adapter_dir: Folder of the adapter.
        dropout: Dropout before the update matrices, in place of the saved dropout.
        base_reference: As in `attach_lora`.
        base_revision: As in `attach_lora`.

    Raises:
        ModelError: As in `load_adapter`.
    """
    adapted = load_adapter(backbone, adapter_dir, trained_with_dropout=dropout)
    config = adapted.peft_config["default"]
    config.base_model_name_or_path, config.revision = base_reference, base_revision
    return adapted


def load_adapter(backbone: nn.Module, adapter_dir: Path, *, trained_with_dropout: float | None = None) -> Any:
    """Return the backbone with a saved adapter, for inference or for more training.

    Adapters saved by PEFT's semantic-search example work too: their keys have an additional `model.`.

    Args:
        backbone: Backbone of the model that the adapter was trained on.
        adapter_dir: Folder of the adapter.
        trained_with_dropout: Dropout before LoRA's matrices in further training; None for inference.

    Raises:
        ModelError: The adapter's files are missing, or do not fit the backbone.
    """
    from peft import PeftConfig, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    weights_file = adapter_dir / "adapter_model.safetensors"
    if not weights_file.is_file():
        raise ModelError(f"{weights_file}: is missing; aisle reads adapters from safetensors only")
    try:
        config = PeftConfig.from_pretrained(str(adapter_dir))
        config.inference_mode = trained_with_dropout is None
        if trained_with_dropout is not None:
            config.lora_dropout = trained_with_dropout
        config.base_model_name_or_path = None  # or PEFT warns if the base has moved; we pass the backbone
        weights = _unwrapped(load_file(weights_file), backbone)
        with _without_checkpointing_warning():
            adapted = get_peft_model(backbone, config)
        expected = get_peft_model_state_dict(adapted, save_embedding_layers=False)
        result: Any = set_peft_model_state_dict(adapted, weights)
    except SafetensorError as error:
        raise ModelError(f"{weights_file}: is damaged ({error}); copy or train it again") from None
    except (ValueError, RuntimeError, KeyError, TypeError) as error:
        kind = type(backbone).__name__
        raise ModelError(f"{adapter_dir}: the adapter does not fit {kind}: {error}") from None
    # PEFT reports all weights of the base model as missing. `expected` lists only the adapter's weights:
    # LoRA's, DoRA's magnitudes, trained biases, and modules that are saved whole.
    missing = sorted(set(expected) - set(weights))
    if missing or result.unexpected_keys:
        odd = (missing or result.unexpected_keys)[0]
        raise ModelError(
            f"{weights_file}: the adapter does not fit {type(backbone).__name__}; "
            f"{len(missing)} of its weights are missing and {len(result.unexpected_keys)} are unknown, "
            f"{odd} for example. Is --base_model the model it was trained on?"
        )
    return adapted


def trainable_share(model: nn.Module) -> TrainableShare:
    """Count the trained weights and all weights of a model."""
    sizes = [(parameter.numel(), parameter.requires_grad) for parameter in model.parameters()]
    return TrainableShare(trainable=sum(n for n, on in sizes if on), total=sum(n for n, _ in sizes))


@contextmanager
def _without_checkpointing_warning() -> Iterator[None]:
    """Silence a warning that users cannot avoid: PEFT reads a property that transformers deprecates."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*", category=FutureWarning)
        yield


def _are_transposed(backbone: nn.Module, targets: Sequence[str]) -> bool:
    """Return whether the targets' weights are (in, out), as in GPT-2; PEFT needs this setting."""
    names = tuple(f".{target}" for target in targets)
    kinds = {type(module) for name, module in _linear_layers(backbone) if f".{name}".endswith(names)}
    return bool(kinds) and not any(issubclass(kind, nn.Linear) for kind in kinds)


def _check_targets(backbone: nn.Module, targets: Sequence[str], excluded: str) -> None:
    linear = [name for name, _ in _linear_layers(backbone) if not re.fullmatch(excluded, name)]
    unknown = [
        target
        for target in targets
        if not any(name == target or name.endswith(f".{target}") for name in linear)
    ]
    if unknown:
        raise ModelError(
            f"--lora_target_modules: {type(backbone).__name__} has no linear layer named "
            f"{', '.join(unknown)}; it has {', '.join(sorted(linear_layer_names(backbone)))}"
        )


def _unwrapped(weights: dict[str, torch.Tensor], backbone: nn.Module) -> dict[str, torch.Tensor]:
    if hasattr(backbone, "model") or not all(key.startswith(WRAPPED_PREFIX) for key in weights):
        return weights
    return {PREFIX + key.removeprefix(WRAPPED_PREFIX): value for key, value in weights.items()}
