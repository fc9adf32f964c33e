"""Generator of answers: a sequence-to-sequence model of transformers, such as T5 or BART."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch.nn.functional import cross_entropy

from aisle.errors import ModelError
from aisle.models.backbone import longest_input

__all__ = ["Generator", "load_generator"]

LONGEST_INPUT = 512
"""Most tokens of an input, and of an answer to score."""
IGNORED = -100
"""Label of padding, which transformers' models leave out of the decoder's input."""


@dataclass(frozen=True)
class Generator:
    """Write answers, and score given answers. Its weights are frozen.

    Args:
        model: Any `AutoModelForSeq2SeqLM`, in evaluation mode.
        tokenizer: Its tokenizer.
        longest_input: Most tokens of an input.
        longest_answer: Most tokens of an answer.
    """

    model: Any
    tokenizer: Any
    longest_input: int = LONGEST_INPUT
    longest_answer: int = LONGEST_INPUT

    @torch.no_grad()
    def log_probs(self, inputs: Sequence[str], answers: Sequence[str]) -> torch.Tensor:
        """Return log p(answer | input) of each pair, the sum over the answer's tokens: (pairs,) float32.

        Args:
            inputs: Inputs; the end of a long one is cut off.
            answers: An answer for each input; the end of a long one is cut off.
        """
        labels = self.tokenizer(
            text_target=list(answers),
            padding=True,
            truncation=True,
            max_length=self.longest_answer,
            return_tensors="pt",
        )
        mask = labels["attention_mask"].bool()
        targets = labels["input_ids"].masked_fill(~mask, IGNORED)
        logits: torch.Tensor = self.model(**self._tokens(inputs), labels=targets).logits.float()
        return -cross_entropy(logits.transpose(1, 2), targets, ignore_index=IGNORED, reduction="none").sum(-1)

    @torch.no_grad()
    def generate(self, inputs: Sequence[str], *, max_new_tokens: int) -> list[str]:
        """Return the likeliest answer to each input, token by token.

        Args:
            inputs: Inputs; the end of a long one is cut off.
            max_new_tokens: Most tokens of an answer, if the decoder has a position for each.
        """
        # The decoder reads its start token and all tokens but the last.
        most = min(max_new_tokens, self.longest_answer)
        tokens = self.model.generate(
            **self._tokens(inputs), max_new_tokens=most, do_sample=False, num_beams=1
        )
        return [text.strip() for text in self.tokenizer.batch_decode(tokens, skip_special_tokens=True)]

    def _tokens(self, inputs: Sequence[str]) -> dict[str, torch.Tensor]:
        read = self.tokenizer(
            list(inputs), padding=True, truncation=True, max_length=self.longest_input, return_tensors="pt"
        )
        return {name: read[name] for name in ("input_ids", "attention_mask")}


def load_generator(
    name: str, *, trust_remote_code: bool = False, log: Callable[[str], None] = lambda _: None
) -> Generator:
    """Return the generator in a folder or on the Hub, on the CPU.

    Args:
        name: Folder or Hub id.
        trust_remote_code: Whether to run Python code from its repository.
        log: Function called with the limits of a generator that has fewer positions than usual.

    Raises:
        ModelError: It is not a sequence-to-sequence model, or cannot be loaded.
    """
    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=trust_remote_code)
        model: Any = AutoModelForSeq2SeqLM.from_pretrained(
            name, trust_remote_code=trust_remote_code, use_safetensors=True, dtype=torch.float32
        )
    except (OSError, ValueError, KeyError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ModelError(
            f"--generator {name}: cannot be loaded as a sequence-to-sequence model (T5, BART): {reason}"
        ) from None
    model.eval().requires_grad_(False)
    found = Generator(
        model,
        tokenizer,
        longest_input=_longest(model, tokenizer, "encoder"),
        longest_answer=_longest(model, tokenizer, "decoder"),
    )
    if min(found.longest_input, found.longest_answer) < LONGEST_INPUT:
        log(
            f"{name} reads at most {found.longest_input:,} tokens of a question with its document, and at "
            f"most {found.longest_answer:,} of an answer; the ends of longer texts are cut off"
        )
    return found


def _longest(model: Any, tokenizer: Any, part: Literal["encoder", "decoder"]) -> int:
    """Return the most tokens that a part of a model can read, up to LONGEST_INPUT."""
    half = model.get_encoder() if part == "encoder" else model.get_decoder()
    own = getattr(half.config, f"max_{part}_position_embeddings", None)  # LED has a limit for each part
    return min(LONGEST_INPUT, own or LONGEST_INPUT, longest_input(half, tokenizer))
