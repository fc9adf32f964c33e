"""Tokenizers of the kinds that published models have, trained on a few texts."""

import json
from pathlib import Path

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

TRAINING_TEXTS = [
    "Red Running Shoes for Women, size 38, breathable",
    "",
    "a",
    "   \n\t ",
    "stainless steel espresso machine with milk frother " * 5,
    "👟🔥 sneakers 👩‍👩‍👧‍👦 café naïve ÅNGSTRÖM",
    "红色运动鞋 女士 ランニングシューズ حذاء رياضي",
]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "<s>", "</s>"]
QWEN_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
"""How Qwen's tokenizer splits a text before BPE."""


def trained(model, trainer, pre_tokenizer, *, normalizer=None, first="[CLS]", last="[SEP]"):
    """Return a backend trained on the texts, with a first and a last token; None leaves one out."""
    backend = Tokenizer(model)
    backend.pre_tokenizer = pre_tokenizer
    if normalizer is not None:
        backend.normalizer = normalizer
    backend.train_from_iterator(TRAINING_TEXTS, trainer)
    ends = [(token, backend.token_to_id(token)) for token in (first, last) if token is not None]
    template = " ".join(token for token in (first, "$A", last) if token is not None)
    backend.post_processor = processors.TemplateProcessing(single=template, special_tokens=ends)
    return backend


def byte_level(special=SPECIAL, **parts):
    trainer = trainers.BpeTrainer(
        special_tokens=list(special),
        vocab_size=400,
        initial_alphabet=parts.pop("alphabet", []),
        show_progress=False,
    )
    splitting = parts.pop("pre_tokenizer", pre_tokenizers.ByteLevel(add_prefix_space=False))
    return trained(models.BPE(), trainer, splitting, **parts)


def sentence_piece(special=SPECIAL, unknown="[UNK]", **parts):
    trainer = trainers.UnigramTrainer(
        special_tokens=list(special), unk_token=unknown, vocab_size=150, show_progress=False
    )
    splitting = pre_tokenizers.Metaspace()
    return trained(models.Unigram(), trainer, splitting, normalizer=normalizers.NFKC(), **parts)


def word_piece():
    trainer = trainers.WordPieceTrainer(special_tokens=SPECIAL, vocab_size=120, show_progress=False)
    normalizer = normalizers.BertNormalizer()
    model = models.WordPiece(unk_token="[UNK]")
    return trained(model, trainer, pre_tokenizers.BertPreTokenizer(), normalizer=normalizer)


def word_level():
    """Words without special tokens, so that a text may have no token at all."""
    backend = Tokenizer(models.WordLevel({token: i for i, token in enumerate([*SPECIAL, "a"])}, "[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    return backend


def write_roberta_tokenizer(folder: Path) -> Path:
    """Write a byte-level BPE tokenizer as RoBERTa's, and return the folder."""
    special = {"bos": "<s>", "pad": "<pad>", "eos": "</s>", "unk": "<unk>", "mask": "<mask>"}
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    backend = byte_level(special.values(), alphabet=alphabet, first="<s>", last="</s>")
    return _write(folder, backend, "RobertaTokenizer", special | {"cls": "<s>", "sep": "</s>"})


def write_qwen_tokenizer(folder: Path) -> Path:
    """Write a byte-level BPE tokenizer as Qwen3 Embedding's, which ends a text, and return the folder."""
    special = {"pad": "<|endoftext|>", "eos": "<|im_end|>"}
    splitting = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(QWEN_WORDS), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend = byte_level(
        [*special.values(), "<|im_start|>"],
        alphabet=pre_tokenizers.ByteLevel.alphabet(),
        pre_tokenizer=splitting,
        normalizer=normalizers.NFC(),
        first=None,
        last="<|endoftext|>",
    )
    return _write(folder, backend, "Qwen2Tokenizer", special)


def write_xlm_roberta_tokenizer(folder: Path) -> Path:
    """Write a Unigram tokenizer as XLM-R's, and return the folder."""
    special = {"bos": "<s>", "pad": "<pad>", "eos": "</s>", "unk": "<unk>", "mask": "<mask>"}
    backend = sentence_piece(special.values(), unknown="<unk>", first="<s>", last="</s>")
    return _write(folder, backend, "XLMRobertaTokenizer", special | {"cls": "<s>", "sep": "</s>"})


WRITERS = {
    "roberta": write_roberta_tokenizer,
    "qwen3": write_qwen_tokenizer,
    "xlm-roberta": write_xlm_roberta_tokenizer,
}
"""Architecture to the function that writes its kind of tokenizer."""


def _write(folder: Path, backend: Tokenizer, tokenizer_class: str, special: dict[str, str]) -> Path:
    folder.mkdir(exist_ok=True)
    backend.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": tokenizer_class, **{f"{name}_token": one for name, one in special.items()}}
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder
