"""Fused residual norms: which modules are fused, and that they compute the same as before.

The kernel itself is tested in tests/gpu.
"""

import pytest
import torch
from torch import nn
from transformers import AutoModel

from aisle.kernels.residual_norms import fuse_add_norm
from tests.tiny_models import ARCHITECTURES

FUSED = ("bert", "roberta", "xlm-roberta", "mpnet")
"""Architectures with BERT's residual norms, two in each of the tiny models' layers."""


def read(backbone):
    ids = torch.arange(1000, 1012).view(2, 6)
    return backbone(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state


def read_seeded(backbone):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return read(backbone).detach()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_on_cpu_a_fused_backbone_computes_bit_for_bit_the_same(architecture, tiny_model):
    backbone = AutoModel.from_pretrained(tiny_model(architecture), dtype=torch.float32)
    separate = [read_seeded(backbone.train(training)) for training in (False, True)]

    fused = fuse_add_norm(backbone)

    assert (fused > 0) == (architecture in FUSED)
    again = [read_seeded(backbone.train(training)) for training in (False, True)]
    assert all(map(torch.equal, separate, again))
    assert fuse_add_norm(backbone) == 0  # they are fused already


class Impostor(nn.Module):
    """A module of the same parts as BERT's, which multiplies where BERT adds."""

    def __init__(self):
        super().__init__()
        self.dense = nn.Linear(4, 4)
        self.dropout = nn.Dropout(0.1)
        self.LayerNorm = nn.LayerNorm(4)

    def forward(self, hidden_states, input_tensor):
        return self.LayerNorm(self.dropout(self.dense(hidden_states)) * input_tensor)


class OneInput(Impostor):
    def forward(self, hidden_states):
        return self.LayerNorm(self.dropout(self.dense(hidden_states)))


class OtherNorm(Impostor):
    def __init__(self):
        super().__init__()
        self.LayerNorm = nn.LayerNorm(4, bias=False)

    def forward(self, hidden_states, input_tensor):
        return self.LayerNorm(self.dropout(self.dense(hidden_states)) + input_tensor)


@pytest.mark.parametrize("kind", [Impostor, OneInput, OtherNorm])
def test_modules_that_compute_something_else_stay(kind):
    assert fuse_add_norm(nn.ModuleList([kind()])) == 0


class OutOfMemory(Impostor):
    def forward(self, hidden_states, input_tensor):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 MiB")


def test_memory_that_runs_out_in_the_comparison_is_raised():
    with pytest.raises(torch.OutOfMemoryError):
        fuse_add_norm(nn.ModuleList([OutOfMemory()]))


def test_an_adapted_dense_layer_is_still_called(tiny_model):
    backbone = AutoModel.from_pretrained(tiny_model("bert"), dtype=torch.float32).eval()
    before = read(backbone)
    assert fuse_add_norm(backbone) == 4
    dense = backbone.encoder.layer[1].output.dense

    dense.forward = lambda hidden: 2 * nn.Linear.forward(dense, hidden)

    assert not torch.allclose(read(backbone), before)
