"""Load a model's tokenizer with all settings from its files: padding, first and last token, lower case."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from aisle.errors import ModelError
from aisle.models.backbone import code_hint, one_line
from aisle.models.fingerprint import TOKENIZER_FILES
from aisle.models.modules_file import read_json
from aisle.models.st_files import lower_cases


def load_tokenizer(folder: Path, *, trust_remote_code: bool = False) -> Any:
    """Load the tokenizer in a folder, with a padding token.

    transformers ignores some settings in the folder: the first and last tokens of `tokenizer_config.json`
    (`add_bos_token`, `add_eos_token`), and sentence-transformers' `do_lower_case`. These are added to the
    tokenizer, so that they are saved with it.

    Raises:
        ModelError: There is no tokenizer, it has no token for padding, or its settings cannot be applied.
    """
    from transformers import AutoTokenizer

    # Without these files, transformers would make a tokenizer without a vocabulary.
    if not trust_remote_code and not any((folder / name).is_file() for name in TOKENIZER_FILES):
        raise ModelError(
            f"{folder}: has no tokenizer; a vocabulary must be in one of {', '.join(TOKENIZER_FILES)}"
        )
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code)
    except ImportError as error:
        raise ModelError(
            f"{folder}: its tokenizer needs a package that is not installed: {one_line(error)}"
        ) from None
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        hint = "" if trust_remote_code else code_hint(folder)
        raise ModelError(f"{folder}: has no usable tokenizer{hint or f': {one_line(error)}'}") from None
    if tokenizer.pad_token_id is None:
        if tokenizer.eos_token_id is None:
            raise ModelError(f"{folder}: the tokenizer has neither a padding token nor an end token")
        tokenizer.pad_token = tokenizer.eos_token
    if lower_cases(folder):
        _lower_case(tokenizer, folder)
    _add_first_and_last(tokenizer, folder)
    return tokenizer


def _lower_case(tokenizer: Any, folder: Path) -> None:
    from tokenizers.normalizers import Lowercase, Sequence

    backend = _backend(tokenizer, folder, "do_lower_case")
    before = backend.normalizer
    backend.normalizer = Lowercase() if before is None else Sequence([Lowercase(), before])


def _add_first_and_last(tokenizer: Any, folder: Path) -> None:
    """Add the first and the last token, if the settings ask for them and the tokenizer leaves them out."""
    from tokenizers.processors import Sequence, TemplateProcessing

    config = read_json(folder / "tokenizer_config.json")
    found = tokenizer("a")["input_ids"]
    first, last = tokenizer.bos_token_id, tokenizer.eos_token_id
    begins = config.get("add_bos_token") is True and first is not None and found[:1] != [first]
    ends = config.get("add_eos_token") is True and last is not None and found[-1:] != [last]
    if not begins and not ends:
        return
    backend = _backend(tokenizer, folder, "add_eos_token" if ends else "add_bos_token")
    before_text = [(tokenizer.bos_token, first)] if begins else []
    after_text = [(tokenizer.eos_token, last)] if ends else []
    template = TemplateProcessing(
        single=[*(name for name, _ in before_text), "$A", *(name for name, _ in after_text)],
        special_tokens=list(dict.fromkeys(before_text + after_text)),
    )
    before = backend.post_processor
    backend.post_processor = template if before is None else Sequence([before, template])


def _backend(tokenizer: Any, folder: Path, setting: str) -> Any:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise ModelError(
            f"{folder}: asks for {setting}, which {type(tokenizer).__name__} ignores and aisle cannot add; "
            "the embeddings would differ. Convert the tokenizer to a tokenizer.json"
        )
    return backend
