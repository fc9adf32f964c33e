"""Tiny base models of every supported architecture: seeded random weights, a few MiB."""

import json
import shutil
from pathlib import Path

from tests.edit_json import edit_json

POSITIONS = 64
"""Maximum length of a tiny model, in tokens."""
DIM = 32
SHARED = {
    "vocab_size": 30_522,
    "hidden_size": DIM,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    # Far wider than usual, so that texts differ strongly and a wrong mask or position shows.
    "initializer_range": 0.3,
    "pad_token_id": 0,
}
ABSOLUTE = SHARED | {"max_position_embeddings": POSITIONS}
# Positions start after the padding index: 1 in the published models, as here.
OFFSET = SHARED | {"max_position_embeddings": POSITIONS + 2, "pad_token_id": 1}
# Space for the end token that transformers adds with these tokenizers.
DECODER = SHARED | {
    **{"vocab_size": 30_528, "max_position_embeddings": POSITIONS},
    **{"num_key_value_heads": 1, "head_dim": 16},
}
CONFIGS = {
    "bert": ABSOLUTE,
    "roberta": OFFSET,
    "xlm-roberta": OFFSET,
    "mpnet": OFFSET,
    "distilbert": {
        "vocab_size": 30_522,
        "dim": DIM,
        "n_layers": 2,
        "n_heads": 2,
        "hidden_dim": 48,
        "initializer_range": 0.3,
        "max_position_embeddings": POSITIONS,
        "pad_token_id": 0,
    },
    "modernbert": ABSOLUTE
    | {"bos_token_id": 101, "cls_token_id": 101, "eos_token_id": 102, "sep_token_id": 102}
    | {"local_attention": 8, "global_attn_every_n_layers": 2},
    "qwen2": DECODER,
    "qwen3": DECODER,
    "mistral": DECODER | {"sliding_window": None},
    "longformer": OFFSET | {"attention_window": [8, 8], "bos_token_id": 101, "sep_token_id": 102},
    "roformer": ABSOLUTE,
}
UNREAD = ("longformer", "roformer")
"""Supported architectures with weights that do not affect embeddings."""
ARCHITECTURES = tuple(name for name in CONFIGS if name not in UNREAD)
DECODERS = ("qwen2", "qwen3", "mistral")
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt")


WORDS = ("sofa", "lamp", "red", "blue", "wooden", "bed", "chair", "table", "outdoor", "steel", "garden")


def write_tiny_model(folder: Path, architecture: str, tokenizer_dir: Path, *, seed: int = 0) -> Path:
    """Write a model of the architecture with MiniLM's tokenizer, and return the folder."""
    import torch
    from transformers import AutoConfig, AutoModel

    config = AutoConfig.for_model(architecture, **CONFIGS[architecture])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        backbone = AutoModel.from_config(config, dtype=torch.float32)
        # Biases and norms start at constants, which would hide some mistakes.
        with torch.no_grad():
            for parameter in backbone.parameters():
                if parameter.dim() == 1:
                    parameter.add_(0.1 * torch.randn_like(parameter))
    backbone.save_pretrained(folder)
    if architecture in DECODERS:
        edit_json(folder / "config.json", architectures=[f"{architecture.capitalize()}ForCausalLM"])
    for name in TOKENIZER_FILES:
        shutil.copy(tokenizer_dir / name, folder / name)
    if architecture in {"roberta", "xlm-roberta", "mpnet", "longformer"}:
        _pad_with_first_unused(folder)
    return folder


def write_tokenizer(folder: Path) -> Path:
    """Write a tokenizer of letters, digits and a few words, and return the folder.

    It has MiniLM's special tokens, and takes its place where the package is not installed.
    """
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    letters = [chr(code) for code in (*range(ord("0"), ord("9") + 1), *range(ord("a"), ord("z") + 1))]
    special = ["[PAD]", *(f"[unused{number}]" for number in range(99)), "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    vocabulary = [*special, *letters, *(f"##{letter}" for letter in letters), *WORDS]
    numbers = {token: number for number, token in enumerate(vocabulary)}
    tokenizer = Tokenizer(models.WordPiece(numbers, unk_token="[UNK]"))
    tokenizer.add_special_tokens(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"])
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 101), ("[SEP]", 102)],
    )
    folder.mkdir()
    tokenizer.save(str(folder / "tokenizer.json"))
    names = {f"{name}_token": f"[{name.upper()}]" for name in ("unk", "sep", "pad", "cls", "mask")}
    written = {
        "tokenizer_config.json": json.dumps(
            names | {"tokenizer_class": "BertTokenizer", "model_max_length": 512}
        ),
        "special_tokens_map.json": json.dumps(names),
        "vocab.txt": "\n".join(vocabulary) + "\n",
    }
    for name, content in written.items():
        (folder / name).write_text(content, encoding="utf-8")
    return folder


def _pad_with_first_unused(folder: Path) -> None:
    """Make [unused0], id 1, the padding token, because these models expect padding id 1."""
    edit_json(folder / "tokenizer_config.json", pad_token="[unused0]")
    edit_json(folder / "special_tokens_map.json", pad_token="[unused0]")
