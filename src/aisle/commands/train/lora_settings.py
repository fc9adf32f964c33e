"""Settings of `train` for a LoRA adapter."""

from __future__ import annotations

from dataclasses import dataclass, replace

from aisle.commands.shared_settings import Count, Share


@dataclass(frozen=True)
class LoraSettings:
    """The LoRA adapter. All of these flags need --use_peft."""

    use_peft: bool = False
    """Train a LoRA adapter instead of all weights."""
    lora_rank: Count | None = None
    """Rank of the update matrices. If not given: 8, or in `aisle train` the choice of --loss auto."""
    lora_alpha: Count | None = None
    """Scale of the update: it is multiplied by alpha / rank. If not given: 16, or in `aisle
    train` with --loss auto twice the rank."""
    lora_dropout: Share = 0.0
    """Dropout probability before the update matrices."""
    lora_target_modules: tuple[str, ...] | None = None
    """Names of the linear layers to adapt. If not given: the query, key and value projections."""
    use_dora: bool = False
    """Train magnitude and direction of the weights separately (DoRA).
    sentence-transformers leaves the magnitudes out when it opens the run."""
    use_rslora: bool = False
    """Scale by alpha / sqrt(rank) (rank-stabilised LoRA)."""

    def complete(self) -> LoraSettings:
        """Return the settings with the usual rank and alpha if they are not given."""
        return replace(self, lora_rank=self.rank, lora_alpha=self.alpha)

    @property
    def rank(self) -> int:
        """The rank, or the usual one if it is not given."""
        return self.lora_rank or 8

    @property
    def alpha(self) -> int:
        """Alpha, or the usual one if it is not given."""
        return self.lora_alpha or 16
