"""The gradient of a step, against one plain forward and backward over all of its pairs."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState, PartialState

from aisle.errors import TrainingError
from aisle.losses import cosine_target
from aisle.models.encoder import EncoderSettings, TextEmbedder
from aisle.models.loading import Overrides, load_base
from aisle.models.sources import find_model
from aisle.models.tokens import TokenBudget
from aisle.training.batches import BatchPlan, PairCollator
from aisle.training.loop import Schedule, Trainer
from aisle.training.state import TrainState

SETTINGS = EncoderSettings(pooling="mean", query_prompt="", product_prompt="", max_length=16)


@pytest.fixture(autouse=True)
def fresh_accelerate():
    for state in (AcceleratorState, GradientState, PartialState):
        state._reset_state()


@pytest.fixture(scope="module")
def base(tiny_bert):
    return load_base(find_model(str(tiny_bert)), overrides=Overrides(max_length=16))


def pairs_of(count):
    rng = np.random.default_rng(0)
    words = ["sofa", "lamp", "red", "blue", "wooden", "bed", "chair", "table", "outdoor"]
    texts = [" ".join(rng.choice(words, size=rng.integers(1, 7))) for _ in range(2 * count)]
    return texts[:count], texts[count:], rng.random(count).astype(np.float32)


def trainer_of(base, *, pairs, batch_size, accumulation, objective=None, evaluate=None, **schedule):
    queries, products, relevance = pairs
    embedder = TextEmbedder(copy.deepcopy(base.backbone), pooling="mean", normalize=True)
    for module in embedder.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    accelerator = Accelerator(cpu=True)
    model, optimizer = accelerator.prepare(embedder, torch.optim.SGD(embedder.parameters(), lr=0.5))
    collator = PairCollator(base.tokenizer, SETTINGS, TokenBudget(64, 4))
    defaults = {
        "total_steps": 1,
        "eval_steps": None,
        "logging_steps": 1,
        "checkpointing_steps": None,
        "max_grad_norm": None,
    }
    return Trainer(
        accelerator=accelerator,
        model=model,
        optimizer=optimizer,
        scheduler=torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0),
        plan=BatchPlan(len(queries), batch_size, 1, accumulation, seed=1),
        schedule=Schedule(**(defaults | schedule)),
        collate=lambda rows: collator(
            [queries[row] for row in rows], [products[row] for row in rows], relevance[rows]
        ),
        objective=objective
        or (
            lambda found, batch: cosine_target(
                found[batch.query_rows], found[batch.product_rows], batch.relevance
            )
        ),
        evaluate=evaluate or (lambda: {"roc_auc": 0.5}),
        selection_metric="roc_auc",
        on_log=lambda _: None,
        on_evaluation=lambda _: None,
        checkpoints_dir=Path("unused"),
        identity={},
        state=TrainState(),
    )


def plain_gradient(base, pairs):
    """Mean loss over all pairs, each text padded to 16 tokens, one backward: the definition."""
    queries, products, relevance = pairs
    model = TextEmbedder(copy.deepcopy(base.backbone), pooling="mean", normalize=True).eval()
    found = []
    for texts in (queries, products):
        tokens = base.tokenizer(
            texts, padding="max_length", max_length=16, truncation=True, return_tensors="pt"
        )
        hidden = model.backbone(
            tokens["input_ids"], attention_mask=tokens["attention_mask"]
        ).last_hidden_state
        mask = tokens["attention_mask"][..., None].float()
        found.append(torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1), dim=1))
    cosine = (found[0] * found[1]).sum(1)
    y = torch.from_numpy(relevance)
    ((y * (1 - cosine) + torch.relu((1 - y) * cosine)) ** 2).mean().backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize(("batch_size", "accumulation"), [(64, 1), (16, 4), (7, 10), (1, 64)])
@pytest.mark.parametrize("count", [64, 50])
def test_a_step_has_the_gradient_of_the_mean_over_all_its_pairs(base, count, batch_size, accumulation):
    pairs = pairs_of(count)
    trainer = trainer_of(base, pairs=pairs, batch_size=batch_size, accumulation=accumulation)
    before = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
    trainer.run()
    for name, gradient in plain_gradient(base, pairs).items():
        moved = (before[name] - dict(trainer.model.named_parameters())[name].detach()) / 0.5
        torch.testing.assert_close(moved, gradient, atol=2e-6, rtol=1e-4)


def test_a_short_last_step_weighs_its_pairs_alike(base):
    pairs = pairs_of(20)
    logged = []
    trainer = trainer_of(base, pairs=pairs, batch_size=8, accumulation=2, total_steps=2)
    trainer.on_log = logged.append
    trainer.optimizer.param_groups[0]["lr"] = 0.0
    trainer.run()
    queries, products, relevance = pairs
    batch = PairCollator(base.tokenizer, SETTINGS, TokenBudget(64, 4))(queries, products, relevance)
    with torch.no_grad():
        found = trainer.model(batch.token_batches)
    losses = cosine_target(found[batch.query_rows], found[batch.product_rows], batch.relevance)
    rows = trainer.plan
    expected = [float(losses[np.concatenate(step)].mean()) for step in rows.steps(0)]
    assert [entry["loss"] for entry in logged] == pytest.approx(expected, abs=1e-6)
    assert trainer.state.total.pairs == 20


def test_evaluations_come_at_every_epoch_s_end_and_every_eval_steps(base):
    trainer = trainer_of(base, pairs=pairs_of(20), batch_size=4, accumulation=1, total_steps=12, eval_steps=3)
    trainer.run()
    assert [(entry["step"], entry["epoch"]) for entry in trainer.state.history] == [
        (3, 1),
        (5, 1),
        (6, 2),
        (9, 2),
        (10, 2),
        (12, 3),
    ]


def test_the_best_weights_are_those_of_the_best_evaluation(base):
    values = iter([0.6, 0.9, 0.7])
    trainer = trainer_of(
        base,
        pairs=pairs_of(12),
        batch_size=4,
        accumulation=1,
        total_steps=3,
        eval_steps=1,
        evaluate=lambda: {"roc_auc": next(values)},
    )
    seen = []
    trainer.on_evaluation = lambda entry: seen.append(
        {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
    )
    trainer.run()
    assert trainer.state.best["step"] == 2
    for name, value in seen[1].items():
        torch.testing.assert_close(trainer.best_weights[name], value, atol=0, rtol=0)
    assert any(not torch.equal(seen[2][name], trainer.best_weights[name]) for name in seen[2])


def test_a_loss_that_is_no_number_stops_training_and_says_what_to_try(base):
    trainer = trainer_of(
        base,
        pairs=pairs_of(8),
        batch_size=4,
        accumulation=1,
        objective=lambda found, batch: found[batch.query_rows].sum(dim=1) * float("nan"),
    )
    with pytest.raises(TrainingError, match=r"step 1: the loss is nan; lower --learning_rate"):
        trainer.run()


def test_gradients_longer_than_the_limit_are_cut_to_it(base):
    pairs = pairs_of(16)
    trainer = trainer_of(base, pairs=pairs, batch_size=16, accumulation=1, max_grad_norm=1e-3)
    before = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
    trainer.run()
    moved = [(before[name] - p.detach()).flatten() / 0.5 for name, p in trainer.model.named_parameters()]
    assert float(torch.cat(moved).norm()) == pytest.approx(1e-3, rel=1e-3)
