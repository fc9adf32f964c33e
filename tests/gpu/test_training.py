"""Training runs on a GPU: captured steps compared with eager ones, memory that runs out, resume."""

import gc
import json
from contextlib import ExitStack, contextmanager
from functools import partial

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

import aisle
from aisle.kernels.captured_passes import CapturedPasses, CudaGraphs
from aisle.kernels.residual_norms import fuse_add_norm
from aisle.losses.registry import registered_losses
from aisle.models.half_precision import compute_in_half
from aisle.models.pooling import Pooling
from aisle.models.prepare_model import set_dropout
from aisle.text.static_shapes import static_batch
from aisle.text.token_batches import pack
from aisle.training.memory_retry import MemoryRetry
from aisle.training.peak_memory import peak_memory_bytes
from tests.commands.launch import ROOT, accelerate_environment, free_port
from tests.packed_towers import ROWS, random_texts, tower_without_dropout

WORDS = ["sofa", "lamp", "red", "blue", "wooden", "bed", "chair", "table", "outdoor", "steel", "garden"]
STEPS = 20
RATE = 2e-3
SAME_KERNELS = 0.02
"""The same kernels sum in the order in which threads finish, and AdamW makes steps of equal size of the
smallest gradients."""
OTHER_SHAPES = 0.2
"""Products of other shapes round differently in every layer."""
OF_PAIRS = [loss.name for loss in registered_losses() if not loss.needs_groups]


def judged_pairs(queries=24, per_query=5):
    rng = np.random.default_rng(0)

    def text(longest):
        return " ".join(rng.choice(WORDS, size=rng.integers(1, longest)))

    return [
        {"query": query, "product": text(20), "relevance": float(rng.choice([0.0, 0.4, 1.0]))}
        for query in (f"{text(5)} {number}" for number in range(queries))
        for _ in range(per_query)
    ]


@pytest.fixture(scope="module")
def train_in(tiny_model):
    """Return a function that trains 20 steps in a folder, and returns the adapter and metrics.json."""

    def run(folder, *, architecture="bert", pairs=None, **settings):
        usual = {
            "mixed_precision": "bf16",
            "max_train_steps": STEPS,
            "per_device_train_batch_size": 24,
            "validation_share": 0.1,
        }
        aisle.train(
            train_data=judged_pairs() if pairs is None else pairs,
            model_name_or_path=str(tiny_model(architecture)),
            output_dir=folder,
            use_peft=True,
            keep="last",
            learning_rate=RATE,
            **(usual | settings),
        )
        metrics = json.loads((folder / "metrics.json").read_text())
        return load_file(folder / "adapter_model.safetensors"), metrics

    return run


@pytest.fixture
def train(train_in, tmp_path):
    """Return `train_in`, for folders named by the test."""
    return lambda name, **settings: train_in(tmp_path / name, **settings)


@pytest.fixture(scope="module")
def plain(train_in, tmp_path_factory):
    """The adapter of captured steps without dropout."""
    adapter, metrics = train_in(tmp_path_factory.mktemp("plain") / "run", dropout=0.0)
    assert metrics["graphs"] == "captured"
    return adapter


def apart(found, expected):
    """Return how far two adapters are apart, relative to the way from the start: every B begins at 0."""
    assert found.keys() == expected.keys()
    of_b = [name for name in expected if "lora_B" in name]
    found, expected = (np.concatenate([one[name].ravel() for name in of_b]) for one in (found, expected))
    assert np.abs(expected).max() > STEPS * RATE / 10
    return np.linalg.norm(found - expected) / np.linalg.norm(expected)


@pytest.mark.parametrize(
    ("loss", "mixed_precision"), [*((loss, "bf16") for loss in OF_PAIRS), ("cosent", "fp16")]
)
def test_captured_steps_train_the_adapter_of_eager_steps(train, loss, mixed_precision):
    settings = {"loss": loss, "mixed_precision": mixed_precision, "dropout": 0.0}
    expected, eager = train("eager", cuda_graphs=False, **settings)
    found, captured = train("captured", **settings)
    assert (eager["graphs"], eager["graphs_reason"]) == ("eager", "--no_cuda_graphs")
    assert (captured["graphs"], captured["graphs_reason"]) == ("captured", None)
    assert captured["captured_batches"] >= STEPS // 2
    assert eager["captured_batches"] == 0
    assert captured["attention"] == eager["attention"] == "packed"
    assert apart(found, expected) < SAME_KERNELS


@pytest.mark.parametrize("architecture", ["xlm-roberta", "distilbert", "modernbert", "qwen3"])
def test_steps_of_other_architectures_are_captured(train, architecture):
    found, metrics = train("run", architecture=architecture)
    assert all(np.isfinite(value).all() for value in found.values())
    assert (metrics["attention"], metrics["attention_reason"]) == ("packed", None)
    assert (metrics["graphs"], metrics["graphs_reason"]) == ("captured", None)
    assert metrics["captured_batches"] >= STEPS // 2


def test_steps_of_an_architecture_that_reads_padded_texts_are_eager_with_the_reason(train):
    _, metrics = train("run", architecture="roformer")
    assert (metrics["attention"], metrics["graphs_reason"]) == ("padded", "texts are padded")


def test_captured_dropout_repeats_with_the_seed(train, plain):
    first, metrics = train("first", dropout=0.3)
    again, _ = train("again", dropout=0.3)
    assert metrics["graphs"] == "captured"
    assert apart(again, first) < SAME_KERNELS
    assert apart(plain, first) > 2 * SAME_KERNELS


def test_captured_dropout_differs_from_replay_to_replay(tiny_model, device):
    """A mask that was drawn while the graph was captured would be the same in every step."""
    tower = tower_without_dropout(tiny_model("bert"), adapter=True)
    set_dropout(tower.backbone, 0.3)
    tower = tower.to(device).train()
    assert compute_in_half(tower, torch.bfloat16) is None
    fuse_add_norm(tower.backbone)
    trained = [weight for weight in tower.parameters() if weight.requires_grad]
    for weight in trained:
        torch.nn.init.normal_(weight, std=0.1)
    batch = static_batch(pack(random_texts(), ROWS), 40, 0).to(device)
    passes = CapturedPasses(lambda one: tower([one]), tower.dim, trained, print, CudaGraphs(), eager_steps=0)
    assert passes.passes([batch]) is None
    tower([batch]).sum().backward()  # compiles the kernels

    def both_passes():
        ((one, _),) = passes.passes([batch])
        embeddings = one.embed(batch).clone()
        passes.keep_gradients()
        for weight in trained:
            weight.grad.zero_()
        one.backward_from(torch.ones_like(embeddings))
        return embeddings, torch.cat([weight.grad.flatten() for weight in trained])

    both_passes()  # captures them
    state = torch.cuda.get_rng_state()
    first, other = both_passes(), both_passes()
    torch.cuda.set_rng_state(state)
    again = both_passes()
    assert (passes.why_eager, passes.captured_batches) == (None, 4)
    for one, different, same in zip(first, other, again, strict=True):
        assert torch.isfinite(one).all()
        assert (one - different).norm() > 0.1 * one.norm()
        assert (one - same).norm() < SAME_KERNELS * one.norm()


class ReadInBackward(torch.autograd.Function):
    """Vectors as they are; their backward pass reads a number from the device."""

    @staticmethod
    def forward(ctx, vectors):
        return vectors.clone()

    @staticmethod
    def backward(ctx, gradient):
        gradient.sum().item()
        return gradient.clone()


def idle_pools():
    """The memory pools of captures that keep memory without a tensor."""
    gc.collect()
    torch.cuda.empty_cache()
    segments = torch.cuda.memory_snapshot()
    pools = {tuple(one["segment_pool_id"]) for one in segments if not one["active_size"]}
    return {pool for pool in pools if any(pool)}


def test_a_pass_that_reads_from_the_device_is_eager_and_later_runs_are_captured(train, monkeypatch):
    """torch 2.11 ends neither the allocations of a failed capture nor its generator's part in it."""
    pooled, before = Pooling.__call__, idle_pools()

    def refuse(self, function, number):
        raise RuntimeError("refused before a capture")

    def reading_forward(self, vectors, batch):
        vectors.sum().item()
        return pooled(self, vectors, batch)

    def reading_backward(self, vectors, batch):
        return pooled(self, ReadInBackward.apply(vectors), batch)

    with monkeypatch.context() as patched:
        patched.setattr(CudaGraphs, "__call__", refuse)
        expected, metrics = train("expected", dropout=0.1)
    assert metrics["graphs_reason"] == "CUDA graphs cannot capture it: refused before a capture"
    for reading in (reading_forward, reading_backward):
        with monkeypatch.context() as patched:
            patched.setattr(Pooling, "__call__", reading)
            found, metrics = train(reading.__name__, dropout=0.1)
        assert "not permitted when stream is capturing" in metrics["graphs_reason"]
        assert metrics["captured_batches"] == 0
        assert apart(found, expected) < SAME_KERNELS
    assert idle_pools() <= before
    _, metrics = train("captured", dropout=0.1)
    assert (metrics["graphs"], metrics["graphs_reason"]) == ("captured", None)


def test_accumulated_captured_steps_equal_eager_ones(train):
    settings = {"gradient_accumulation_steps": 2, "dropout": 0.0, "max_train_steps": 12}
    expected, _ = train("eager", cuda_graphs=False, **settings)
    found, metrics = train("captured", **settings)
    assert metrics["graphs"] == "captured"
    assert apart(found, expected) < SAME_KERNELS


def test_cached_embeddings_train_the_adapter_of_plain_steps(train, plain):
    found, metrics = train("cached", dropout=0.0, cached_embeddings=True, max_tokens_per_sub_batch=64)
    assert "--cached_embeddings" in metrics["graphs_reason"]
    assert apart(found, plain) < OTHER_SHAPES


def test_a_resumed_run_trains_the_adapter_of_the_whole_run(train, tmp_path):
    expected, _ = train("run", dropout=0.1, checkpointing_steps=10)
    checkpoint = tmp_path / "run" / "checkpoints" / "step_00000010"
    found, metrics = train("run", dropout=0.1, checkpointing_steps=10, resume_from_checkpoint=str(checkpoint))
    assert (metrics["steps"], metrics["graphs"]) == (STEPS, "captured")
    assert apart(found, expected) < SAME_KERNELS


@contextmanager
def memory_left(size):
    """Leave this process about `size` bytes of a share of the GPU's memory, and occupy the rest of it."""
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(0.05)
    occupied, chunk = [], 1 << 30
    try:
        room = torch.empty(size, dtype=torch.uint8, device="cuda")
        while chunk >= 1 << 21:
            try:
                occupied.append(torch.empty(chunk, dtype=torch.uint8, device="cuda"))
            except torch.OutOfMemoryError:
                chunk //= 2
        del room
        torch.cuda.empty_cache()
        yield
    finally:
        occupied.clear()
        torch.cuda.set_per_process_memory_fraction(1.0)
        torch.cuda.empty_cache()


@pytest.fixture(scope="module")
def train_in_large_steps(train_in):
    """Return `train_in` for 8 steps of 7,000 pairs each."""
    pairs = judged_pairs(queries=1600)
    return partial(train_in, pairs=pairs, per_device_train_batch_size=8000, max_train_steps=8, dropout=0.0)


@pytest.fixture(scope="module")
def enough(train_in_large_steps, tmp_path_factory):
    """The adapter of large steps with enough memory, and the memory that they need."""
    torch.cuda.reset_peak_memory_stats()
    adapter, metrics = train_in_large_steps(tmp_path_factory.mktemp("enough") / "run")
    assert metrics["graphs"] == "captured"
    gc.collect()
    return adapter, peak_memory_bytes(torch.device("cuda")) - torch.cuda.memory_allocated()


@pytest.fixture
def halvings(monkeypatch):
    """A list with an entry for each time that memory ran out."""
    found, halve = [], MemoryRetry._halve
    monkeypatch.setattr(MemoryRetry, "_halve", lambda *given: found.append(1) or halve(*given))
    return found


def test_a_step_that_does_not_fit_in_memory_trains_the_adapter_of_one_that_does(
    train_in_large_steps, enough, halvings, tmp_path
):
    expected, needed = enough
    with memory_left(needed * 6 // 10):
        found, scarce = train_in_large_steps(tmp_path / "scarce")
    assert 1 <= len(halvings) <= 3
    assert scarce["graphs_reason"] == "memory ran out, so batches are embedded in sub-batches"
    assert apart(found, expected) < OTHER_SHAPES


def test_the_memory_of_captured_passes_is_free_for_the_sub_batches(
    train_in_large_steps, enough, halvings, tmp_path, monkeypatch
):
    """Half a step fits only in the memory that graphs had: a second halving would show that they keep it."""
    captured, full = CapturedPasses.passes, ExitStack()
    calls = []

    def out_of_memory_once(self, batches):
        calls.append(len(batches))
        if len(calls) == 6:
            assert self.captured_batches == 2
            full.enter_context(memory_left(1 << 21))
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return captured(self, batches)

    monkeypatch.setattr(CapturedPasses, "passes", out_of_memory_once)
    with full:
        found, metrics = train_in_large_steps(tmp_path / "scarce")
    assert len(calls) == 6  # further steps embed in sub-batches
    assert len(halvings) == 1
    assert metrics["graphs_reason"] == "memory ran out, so batches are embedded in sub-batches"
    assert apart(found, enough[0]) < OTHER_SHAPES


@pytest.fixture
def launch_one_process(monkeypatch):
    """Return a function that sets the variables of a launch with one process, and the given ones."""
    launched = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1"}
    launched |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    launched |= {"GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "lo"}

    def launch(more):
        for name, value in (launched | more).items():
            monkeypatch.setenv(name, value)

    yield launch
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


@pytest.mark.filterwarnings("default")  # torch and Accelerate warn of each other's changes
def test_one_process_of_fsdp2_trains_the_adapter_of_a_plain_run(train, plain, launch_one_process, capsys):
    launch_one_process(accelerate_environment(ROOT / "configs" / "accelerate" / "fsdp.yaml", processes=1))
    found, metrics = train("sharded", dropout=0.0)
    assert "processes: 1, distribution: FSDP, device: cuda, precision: bf16" in capsys.readouterr().err
    assert metrics["attention"] == "packed"
    assert (metrics["graphs"], metrics["graphs_reason"]) == ("eager", "FSDP2 gathers weights during a pass")
    assert apart(found, plain) < OTHER_SHAPES
