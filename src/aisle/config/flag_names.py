"""Report unknown flags, with the flags that the user probably meant."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterator, Sequence

ALIASES = {
    "alpha": ("lora_alpha",),
    "b": ("per_device_train_batch_size", "max_tokens"),
    "batch_size": ("per_device_train_batch_size", "max_tokens"),
    "bf16": ("mixed_precision",),
    "bs": ("per_device_train_batch_size",),
    "c": ("config",),
    "catalogue": ("catalog",),
    "dataset": ("dataset_name",),
    "dim": ("dimensions",),
    "dtype": ("mixed_precision", "store_dtype"),
    "early_stopping": ("early_stopping_patience",),
    "ef": ("ef_search",),
    "epochs": ("num_train_epochs",),
    "eval_batch_size": ("per_device_eval_batch_size",),
    "eval_file": ("validation_file",),
    "evaluation_steps": ("eval_steps",),
    "filter": ("where",),
    "force": ("overwrite_output_dir", "overwrite", "hub_overwrite_card"),
    "fp16": ("mixed_precision",),
    "grad_accum": ("gradient_accumulation_steps",),
    "ids": ("ids_file",),
    "index": ("index_dir",),
    "k": ("top_k", "cutoffs"),
    "learning_rate_scheduler": ("lr_scheduler_type",),
    "lora": ("use_peft",),
    "lora_r": ("lora_rank",),
    "lr": ("learning_rate",),
    "lr_scheduler": ("lr_scheduler_type",),
    "m": ("M", "model_name_or_path", "model"),
    "max_seq_len": ("max_length",),
    "max_seq_length": ("max_length",),
    "max_steps": ("max_train_steps",),
    "model": ("model_name_or_path", "model"),
    "model_name": ("model_name_or_path", "model"),
    "model_name_or_path": ("model",),
    "model_path": ("model_name_or_path", "model"),
    "n": ("top_k", "products"),
    "num_epochs": ("num_train_epochs",),
    "o": ("output_dir", "index_dir"),
    "out": ("output_dir", "index_dir", "report"),
    "output": ("output_dir", "index_dir", "report"),
    "output_dir": ("index_dir", "report"),
    "output_path": ("output_dir", "index_dir", "report"),
    "overwrite": ("overwrite_output_dir", "hub_overwrite_card"),
    "peft": ("use_peft",),
    "private": ("hub_private",),
    "products": ("catalog",),
    "q": ("queries_file", "queries"),
    "queries": ("queries_file",),
    "queries_file": ("queries",),
    "query_file": ("queries_file", "queries"),
    "r": ("lora_rank",),
    "rank": ("lora_rank",),
    "repo_id": ("hub_model_id",),
    "resume": ("resume_from_checkpoint",),
    "save_steps": ("checkpointing_steps",),
    "save_total_limit": ("checkpoints_to_keep",),
    "scheduler": ("lr_scheduler_type",),
    "steps": ("max_train_steps",),
    "template": ("text_template",),
    "threshold": ("min_score", "positive_threshold"),
    "token": ("hub_token",),
    "top": ("top_k",),
    "topk": ("top_k", "cutoffs"),
    "torch_dtype": ("mixed_precision", "store_dtype"),
    "train_batch_size": ("per_device_train_batch_size",),
    "valid_file": ("validation_file",),
    "wandb": ("report_to",),
    "warmup_ratio": ("warmup_share",),
    "warmup_steps": ("num_warmup_steps",),
    "wd": ("weight_decay",),
}
"""Names of flags here, by the name in other programs. The first that the command has is suggested."""
_OF_THE_PARSER = ("help", "tyro_print_completion", "tyro_write_completion")


def meant_by(name: str, known: Collection[str]) -> str | None:
    """Return the setting for a name: by its alias, otherwise the nearest in spelling, otherwise None."""
    for meant in ALIASES.get(name, ()) + ALIASES.get(name.lower(), ()):
        if meant in known:
            return meant
    near = difflib.get_close_matches(name, known, n=1)
    return near[0] if near else None


def unknown_flags(arguments: Sequence[str], known: Collection[str]) -> list[str]:
    """Return a message for each unknown flag of a command line.

    Args:
        arguments: Command line without the program's name.
        known: Names of the command's settings.
    """
    problems = []
    for typed in _flags(arguments):
        name = typed.lstrip("-").replace("-", "_")
        turned = name.removeprefix("no_")
        if name in known or turned in known or name in _OF_THE_PARSER or typed == "-h":
            continue
        meant = meant_by(turned, known)
        negated = "" if turned == name else "no_"
        hint = f"did you mean --{negated}{meant}?" if meant else "--help lists the flags"
        problems.append(f"{typed}: there is no such flag; {hint}")
    return problems


def _flags(arguments: Sequence[str]) -> Iterator[str]:
    """Yield the flags as typed, without values; nothing after a bare `--` is a flag."""
    for argument in arguments:
        if argument == "--":
            return
        after = argument.lstrip("-")[:1]
        if argument.startswith("-") and (after.isalpha() or after == "_"):
            yield argument.partition("=")[0]
