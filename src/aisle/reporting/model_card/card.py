"""Render the model card of a run: metadata for the Hub, results, recipe, and code to paste."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

from huggingface_hub import ModelCardData

from aisle.losses.registry import find_loss
from aisle.reporting.markdown import table
from aisle.reporting.model_card.lineage import (
    has_merged_adapter,
    is_copy,
    lineage_rows,
    merged_sentence,
)
from aisle.reporting.model_card.results import eval_results, results_section
from aisle.reporting.model_card.tower_records import pooling_sentence, towers_of

REPO_PLACEHOLDER = "your-name/your-model"
"""Placeholder for the name of the repository in a card that is rendered before the upload."""
PLACEHOLDER_NAME = REPO_PLACEHOLDER.rpartition("/")[2]
_TAGS = ["sentence-similarity", "feature-extraction", "product-search", "aisle"]
_SETTINGS = {
    "runs": "Average of the weights of",
    "weights": "Weight of each run",
    "dataset_name": "Data set",
    "dataset_revision": "Revision of the data set",
    "train_file": "Training files",
    "validation_file": "Validation files",
    "text_template": "Text of a product",
    "esci_dir": "ESCI release",
    "esci_locale": "Locale",
    "esci_version": "Version",
    "label_map": "Relevance of each label",
    "loss": "Loss",
    "matryoshka_dims": "Matryoshka dimensions",
    "learning_rate": "Peak learning rate",
    "lr_scheduler_type": "Schedule",
    "num_warmup_steps": "Warm-up steps",
    "warmup_share": "Warm-up share of the steps",
    "weight_decay": "Weight decay",
    "max_grad_norm": "Largest gradient norm",
    "num_train_epochs": "Epochs",
    "max_train_steps": "Steps at most",
    "per_device_train_batch_size": "Pairs per process and batch",
    "gradient_accumulation_steps": "Batches per step",
    "mixed_precision": "Precision",
    "seed": "Seed",
    "two_towers": "Two towers",
    "tie": "Tied weights",
    "freeze": "Frozen tower",
    "similarity": "Similarity",
    "output_dropout": "Dropout on embeddings",
    "head": "Head",
    "freeze_encoder": "Frozen encoder",
    "lora_rank": "LoRA rank",
    "lora_alpha": "LoRA alpha",
    "lora_dropout": "LoRA dropout",
    "lora_target_modules": "Adapted layers",
    "use_dora": "DoRA",
    "use_rslora": "Rank-stabilised LoRA",
}
_POOLED = {
    "mean": "pooled = (tokens * mask.unsqueeze(-1)).sum(1) / mask.sum(1, keepdim=True)",
    "cls": "pooled = tokens[:, 0]",
    "last": "pooled = tokens[torch.arange(len(texts)), mask.sum(1) - 1]",
}
_AISLE_SNIPPET = """import aisle

encoder = aisle.load_encoder("{repo}")
queries = encoder.encode_queries(["waterproof running shoes"])
products = encoder.encode_products(["Trail running shoe with a membrane", "Cast iron pan, 28 cm"])
print(queries @ products.T)"""
_DORA_NOTE = (
    "Sentence Transformers opens this repository too, but leaves out the magnitudes of its DoRA adapter: its"
    " embeddings are close to those above, but not equal. Do not mix the two in an index."
)
_SENTENCE_TRANSFORMERS_SNIPPET = """from sentence_transformers import SentenceTransformer

model = SentenceTransformer("{repo}")
queries = model.encode_query(["waterproof running shoes"])
products = model.encode_document(["Trail running shoe with a membrane", "Cast iron pan, 28 cm"])
print(model.similarity(queries, products))"""


def render_model_card(
    *,
    encoder: Mapping[str, object],
    settings: Mapping[str, object],
    metrics: Mapping[str, object],
    repo_id: str | None,
) -> str:
    """Return the README.md of a run: YAML metadata and Markdown, without absolute paths.

    Args:
        encoder: Contents of aisle.json.
        settings: Contents of config.yaml; absent settings and None are left out.
        metrics: Contents of metrics.json; figures that are absent, None or not finite count as not measured.
        repo_id: Repository of the run; None leaves `REPO_PLACEHOLDER`, which the upload replaces.
    """
    repo = repo_id or REPO_PLACEHOLDER
    sections = [
        f"---\n{_metadata(encoder, settings, metrics, repo).to_yaml()}\n---",
        f"# {repo.rpartition('/')[2]}",
        _introduction(encoder),
        "## Results",
        results_section(metrics),
        "## How it was trained",
        _recipe(encoder, settings, metrics),
        "## How to use it",
        _snippets(encoder, settings, repo),
        "## Limits",
        _limits(encoder),
    ]
    return "\n\n".join(sections) + "\n"


def fill_repository(card: str, repo_id: str) -> str:
    """Replace the placeholder in a card with the name of the repository."""
    return card.replace(REPO_PLACEHOLDER, repo_id).replace(PLACEHOLDER_NAME, repo_id.rpartition("/")[2])


def base_model_name(encoder: Mapping[str, object]) -> str:
    """Return the public name of the base model: its Hub id, or the last part of the local folder."""
    return str(encoder.get("base_model_hub_id") or Path(str(encoder["base_model"])).name)


def _metadata(
    encoder: Mapping[str, object], settings: Mapping[str, object], metrics: Mapping[str, object], repo: str
) -> ModelCardData:
    adapter = bool(encoder["adapter"])
    towers = towers_of(encoder) if len(towers_of(encoder)) > 1 else [encoder]
    hub_ids = list(
        dict.fromkeys(str(one["base_model_hub_id"]) for one in towers if one.get("base_model_hub_id"))
    )
    data_sets = _hub_datasets(settings)
    results = eval_results(metrics, data_set=data_sets[0] if len(data_sets) == 1 else None)
    card = ModelCardData(
        base_model=(hub_ids[0] if len(hub_ids) == 1 else hub_ids) or None,
        datasets=data_sets or None,
        library_name="peft" if adapter else "sentence-transformers",
        pipeline_tag="sentence-similarity",
        tags=_tags(adapter=adapter, dora=_is_dora(encoder, settings)),
        model_name=repo.rpartition("/")[2] if results else None,
        eval_results=results or None,
    )
    if hub_ids and not is_copy(encoder):
        card["base_model_relation"] = "adapter" if adapter else "finetune"
    return card


def _tags(*, adapter: bool, dora: bool) -> list[str]:
    """Return the card's tags; sentence-transformers opens every model except those with a DoRA adapter."""
    return [*([] if dora else ["sentence-transformers"]), *_TAGS, *(["lora"] if adapter else [])]


def _is_dora(encoder: Mapping[str, object], settings: Mapping[str, object]) -> bool:
    return bool(encoder["adapter"] and settings.get("use_dora"))


def _introduction(encoder: Mapping[str, object]) -> str:
    kind = "A copy of" if is_copy(encoder) else "A fine-tuned copy of"
    kind = "A LoRA adapter for" if encoder["adapter"] else kind
    local = "" if encoder.get("base_model_hub_id") else ", a local model that is not on the Hub,"
    queries, products = (
        f"with the prompt `{prompt!r}`" if prompt else "without a prompt"
        for prompt in (encoder["query_prompt"], encoder["product_prompt"])
    )
    two = len(towers_of(encoder)) > 1
    fingerprints = f"fingerprint `{encoder.get('fingerprint') or 'unknown'}`"
    if two:
        kind = "Two encoders, one for queries and one for products, fine-tuned from"
        fingerprints = (
            f"fingerprint of the product tower `{encoder['fingerprint']}`, of the query tower "
            f"`{encoder['query_fingerprint']}`"
        )
    norm = "with unit length, so that a dot product is a cosine" if encoder["normalize"] else "not normalised"
    return (
        f"{kind} {_base_names(encoder)}{local} that embed{'' if two else 's'} search queries and products for"
        " product search: the closer two embeddings, the better the product matches the query. Queries are"
        f" embedded {queries}, products {products}. {pooling_sentence(encoder)}, {norm}."
        f" Made with aisle; {fingerprints}."
        f"{merged_sentence(encoder)}"
    )


def _base_names(encoder: Mapping[str, object]) -> str:
    """Return the public names of the base models, in code type."""
    towers = towers_of(encoder)
    named = towers if len(towers) > 1 else [encoder]
    return " and ".join(dict.fromkeys(f"`{base_model_name(one)}`" for one in named))


def _recipe(
    encoder: Mapping[str, object], settings: Mapping[str, object], metrics: Mapping[str, object]
) -> str:
    unused = {"esci_locale", "esci_version"} if settings.get("esci_dir") is None else set()
    has_lora = encoder["adapter"] or has_merged_adapter(encoder)
    unused |= set() if has_lora else {key for key in _SETTINGS if "lora" in key or "dora" in key}
    unused |= {"head", "freeze_encoder"} if settings.get("head", "none") == "none" else set()
    unused |= set() if settings.get("two_towers") else {"two_towers", "tie", "freeze"}
    unused |= set() if settings.get("output_dropout") else {"output_dropout"}
    pairs = metrics.get("train_pairs")
    rows = [("Training pairs", f"{pairs:,}" if isinstance(pairs, int) else "not recorded")]
    rows += [
        (title, _plain(key, settings[key]))
        for key, title in _titles(settings).items()
        if settings.get(key) is not None and key not in unused
    ]
    rows += lineage_rows(encoder)
    if encoder.get("base_revision"):
        rows.append(("Revision of the base model", f"`{encoder['base_revision']}`"))
    return table(("Setting", "Value"), rows)


def _snippets(encoder: Mapping[str, object], settings: Mapping[str, object], repo: str) -> str:
    snippets = {"aisle": _AISLE_SNIPPET.format(repo=repo)}
    if not encoder.get("heads") and len(towers_of(encoder)) < 2:  # Transformers alone has neither
        name = ("PEFT and " if encoder["adapter"] else "") + "Transformers"
        snippets[name] = _transformers_snippet(encoder, repo)
    dora = _is_dora(encoder, settings)
    if not dora:
        snippets["Sentence Transformers"] = _SENTENCE_TRANSFORMERS_SNIPPET.format(repo=repo)
    shown = [f"With {name}:\n\n```python\n{code}\n```" for name, code in snippets.items()]
    return "\n\n".join([*shown, _DORA_NOTE] if dora else shown)


def _transformers_snippet(encoder: Mapping[str, object], repo: str) -> str:
    pooling = str(encoder["pooling"])
    side = ', padding_side="right"' if pooling == "last" else ""
    product_prompt = encoder["product_prompt"]
    returned = "torch.nn.functional.normalize(pooled, dim=1)" if encoder["normalize"] else "pooled"
    adapter, hub_id, commit = (encoder.get(key) for key in ("adapter", "base_model_hub_id", "base_revision"))
    revision = f', revision="{commit}"' if commit and hub_id else ""
    imports = "from peft import PeftModel\n" if adapter else ""
    base = f'base = AutoModel.from_pretrained("{base_model_name(encoder)}"{revision})\n' if adapter else ""
    loaded = "PeftModel.from_pretrained(base, repo)" if adapter else "AutoModel.from_pretrained(repo)"
    return f"""import torch
{imports}from transformers import AutoModel, AutoTokenizer

repo = "{repo}"
tokenizer = AutoTokenizer.from_pretrained(repo)
{base}model = {loaded}.eval()


def embed(texts, prompt):
    texts = [prompt + text for text in texts]
    options = dict(padding=True, truncation=True, max_length={encoder["max_length"]}{side})
    batch = tokenizer(texts, return_tensors="pt", **options)
    with torch.inference_mode():
        tokens = model(**batch).last_hidden_state
    mask = batch["attention_mask"]
    {_POOLED[pooling]}
    return {returned}


queries = embed(["waterproof running shoes"], prompt={encoder["query_prompt"]!r})
products = embed(["Trail running shoe with a membrane", "Cast iron pan, 28 cm"], prompt={product_prompt!r})
print(queries @ products.T)"""


def _limits(encoder: Mapping[str, object]) -> str:
    limits = [
        "Figures on judged pairs say little about search over a whole catalogue, and figures on a catalogue"
        " say little about another catalogue. Measure the model with your queries and judgements before you"
        " rely on it.",
        "It has the languages, the kinds of products and the biases of its base model and training pairs.",
        f"It reads only the first {encoder['max_length']} tokens of a text, including the prompt.",
        "Embeddings are comparable only with embeddings of the same model. Build an index again if another"
        " model made it, even the base model.",
        "A cosine is not a probability; choose a threshold on your own pairs.",
        "The licence of the base model and the terms of the training data apply to these weights too.",
    ]
    return "\n".join(f"- {limit}" for limit in limits)


def _hub_datasets(settings: Mapping[str, object]) -> list[str]:
    """Return the data sets whose names look like Hub ids: not a file with a suffix, not a local path."""
    given = settings.get("dataset_name") or ()
    names = given if isinstance(given, list | tuple) else [given]
    found = [re.fullmatch(r"([A-Za-z0-9][\w-]*/[A-Za-z0-9][\w-]*)(:[^/]+)?", str(name)) for name in names]
    return [match[1] for match in found if match]


def _titles(settings: Mapping[str, object]) -> dict[str, str]:
    """Return the title of each setting in the card; the loss is followed by its parameters."""
    titles: dict[str, str] = {}
    for key, title in _SETTINGS.items():
        titles[key] = title
        loss = find_loss(str(settings.get("loss"))) if key == "loss" else None
        titles |= loss.titles if loss is not None else {}
    return titles


def _plain(key: str, value: object) -> str:
    if key == "loss":
        loss = find_loss(str(value))
        return str(value) if loss is None else f"{loss.full_name}: {loss.help}"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        return ", ".join(f"{label}: {relevance}" for label, relevance in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(_plain(key, item) for item in value)
    text = str(value)
    return Path(text).name if os.path.isabs(text) else text
