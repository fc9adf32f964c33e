"""Trainers of tiny models, built without the command line."""

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState, PartialState

from aisle.data.batching import distinct
from aisle.data.negatives import KnownPositives, equality_keys
from aisle.losses.in_batch import Direction
from aisle.losses.registry import loss_named
from aisle.losses.specification import Loss
from aisle.models.heads import Normalize
from aisle.models.loading import load_base
from aisle.models.model_source import find_model
from aisle.models.pooling import Pooling
from aisle.models.prepare_model import freeze_pooler, set_dropout
from aisle.models.tower import Tower
from aisle.text.batch_layout import Layout
from aisle.text.tokens import tokenize
from aisle.training.batch_plan import BatchPlan
from aisle.training.batches import Collator
from aisle.training.forward import Forward, with_captured_passes
from aisle.training.loop import Trainer
from aisle.training.memory_retry import MemoryRetry
from aisle.training.objective import Objective
from aisle.training.rank_sync import RankSync
from aisle.training.schedule import Schedule
from aisle.training.step import TrainingStep
from aisle.training.teacher_lists import scored_products_of
from aisle.training.tokenized import TokenizedPairs
from aisle.training.train_state import TrainState
from aisle.types.encoder_settings import Overrides

DIRECTIONS: tuple[Direction, ...] = (
    "query_to_product",
    "product_to_query",
    "query_to_query",
    "product_to_product",
)
WORDS = ["sofa", "lamp", "red", "blue", "wooden", "bed", "chair", "table", "outdoor"]


@pytest.fixture(scope="session")
def minilm_tokenizer(minilm):
    from aisle.models.loading import load_tokenizer

    return load_tokenizer(find_model(minilm).path)


@pytest.fixture(autouse=True)
def fresh_accelerate():
    for state in (AcceleratorState, GradientState, PartialState):
        state._reset_state()


@pytest.fixture(scope="module")
def base(tiny_bert):
    return load_base(find_model(str(tiny_bert)), overrides=Overrides(max_length=16))


def texts_of(count, *, seed=0, longest=7):
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(WORDS, size=rng.integers(1, longest))) for _ in range(count)]


def tokenized(
    tokenizer, queries, products, relevance=None, *, negatives=None, product_ids=None, prompts=("", "")
):
    """Tokenise pairs by hand; with equal prompts, a text of both sides is a single text."""
    negatives = negatives or [[] for _ in queries]
    flat = [text for one in negatives for text in one]
    texts = distinct([prompts[0] + q for q in queries] + [prompts[1] + p for p in [*products, *flat]])
    tokens = tokenize(tokenizer, texts.texts, prompt="", max_length=16)
    query_rows, product_rows, negative_rows = np.split(texts.rows, [len(queries), 2 * len(queries)])
    query_keys = np.full(len(tokens), -1)
    query_keys[query_rows] = equality_keys(query_rows, None)
    product_keys = np.full(len(tokens), -1)
    product_keys[product_rows] = equality_keys(product_rows, product_ids)
    for row in negative_rows:
        if product_keys[row] < 0:
            product_keys[row] = product_keys.max() + 1
    return TokenizedPairs(
        ids=tokens.ids,
        offsets=tokens.offsets,
        queries=query_rows,
        products=product_rows,
        negatives=negative_rows,
        negative_offsets=np.concatenate([[0], np.cumsum([len(one) for one in negatives])]).astype(np.int64),
        query_keys=query_keys,
        product_keys=product_keys,
        relevance=np.empty(0, np.float32) if relevance is None else np.asarray(relevance, np.float32),
    )


def spec_of(loss):
    """Return a loss of encoders by its name; a loss as it is."""
    return loss if isinstance(loss, Loss) else loss_named(loss)


def parameters_of(loss, **values):
    """Return the parameters of a loss; values without a parameter are ignored."""
    kind = spec_of(loss).parameters
    return kind(**{name: value for name, value in values.items() if name in kind.__dataclass_fields__})


def collator_of(
    pairs,
    *,
    loss="cosine_target",
    packed=True,
    max_tokens=64,
    process=(0, 1),
    separate=False,
    static_length=None,
):
    known = None
    if spec_of(loss).contrasts:
        known = KnownPositives.of(
            pairs.query_keys[pairs.queries],
            pairs.product_keys[pairs.products],
            pairs.positive(np.arange(len(pairs))),
        )
    layout = Layout(
        packed, max_tokens, group_cost=4, pad_token_id=0, separate_sides=separate, static_length=static_length
    )
    spec = spec_of(loss)
    scored = scored_products_of(pairs) if spec.takes_lists else None
    return Collator(pairs, layout, *process, known=known, unit=spec.unit, scored=scored)


def tower_of(base, *, dropout=0.0):
    backbone = copy.deepcopy(base.backbone)
    set_dropout(backbone, dropout)
    freeze_pooler(backbone)
    return Tower(backbone, Pooling("mean"), [Normalize()])


def trainer_of(
    base,
    pairs,
    *,
    batch_size=64,
    accumulation=1,
    loss="cosine_target",
    temperature=0.1,
    learn_temperature=False,
    directions=DIRECTIONS,
    cached=False,
    max_tokens=64,
    packed=True,
    dropout=0.0,
    evaluate=None,
    max_grad_norm=None,
    sync=False,
    tower=None,
    static_length=None,
    record=None,
    eager_steps=0,
    capture_log=lambda _: None,
    matryoshka_dims=(),
    **schedule,
):
    """Return a trainer whose steps change weights by half of their gradient."""
    accelerator, state = Accelerator(cpu=True), TrainState()
    objective = Objective(
        spec_of(loss),
        parameters_of(
            loss,
            temperature=temperature,
            learn_temperature=learn_temperature,
            in_batch_directions=directions,
        ),
        matryoshka_dims,
        vectors_of_groups(pairs, base.backbone.config.hidden_size),
    )
    tower = tower or tower_of(base, dropout=dropout)
    parameters = [p for m in (tower, objective) for p in m.parameters() if p.requires_grad]
    ranks, rank = accelerator.num_processes, accelerator.process_index
    sync = RankSync.of_all(accelerator) if sync and ranks > 1 else None
    model, optimizer = accelerator.prepare(tower, torch.optim.SGD(parameters, lr=0.5))
    forward = Forward(accelerator, model, wrapper_sums=sync is None and ranks > 1)
    if record is not None:
        forward = with_captured_passes(forward, log=capture_log, record=record)
        forward.captured.eager_steps = eager_steps
    settings = {
        "total_steps": 1,
        "eval_steps": None,
        "logging_steps": 1,
        "checkpointing_steps": None,
        "checkpoints_to_keep": None,
        "early_stopping_patience": None,
    }
    return Trainer(
        accelerator=accelerator,
        step=TrainingStep(
            accelerator=accelerator,
            forward=forward,
            objective=objective,
            optimizer=optimizer,
            scheduler=torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0),
            max_grad_norm=max_grad_norm,
            retry=MemoryRetry(
                accelerator, optimizer, sync, max_tokens if cached else None, state, log=lambda _: None
            ),
            sync=sync,
        ),
        plan=BatchPlan(len(pairs), batch_size, ranks, accumulation, seed=1),
        schedule=Schedule(**(settings | schedule)),
        collate=collator_of(
            pairs,
            loss=loss,
            packed=packed,
            max_tokens=max_tokens,
            process=(rank, ranks),
            separate=tower.separate_sides,
            static_length=static_length,
        ),
        evaluate=evaluate or (lambda: {"roc_auc": 0.5}),
        sample=lambda: np.zeros((1, 1), np.float32),
        selection_metric="roc_auc",
        log=lambda _: None,
        on_log=lambda _: None,
        on_evaluation=lambda _: None,
        checkpoints_dir=Path("unused"),
        identity={},
        state=state,
    )


def weights_of(trainer):
    return {name: p.detach().clone() for name, p in trainer.model.named_parameters()}


def labelled(base, count=40):
    labels = [1.0, 0.0, 0.4, 0.0, 1.0] * (count // 5)
    queries = [text for text in texts_of(count // 5, seed=5) for _ in range(5)]
    return tokenized(base.tokenizer, queries, texts_of(count, seed=6), labels)


def for_loss(pairs, loss):
    """Return the pairs with what the loss needs: a teacher's scores, or texts with their groups."""
    if spec_of(loss).needs_teacher_scores:
        return replace(pairs, teacher_scores=6 * pairs.relevance - 3)
    if not spec_of(loss).needs_groups:
        return pairs
    return replace(pairs, products=pairs.queries, groups=pairs.query_keys[pairs.queries])


def vectors_of_groups(pairs, dim):
    if not len(pairs.groups):
        return None
    return torch.randn(int(pairs.groups.max()) + 1, dim, generator=torch.Generator().manual_seed(0))


def moved_by(trainer):
    """Return the change of the weights in a step of the trainer."""
    before = weights_of(trainer)
    torch.manual_seed(3)
    trainer.run()
    return {name: value - before[name] for name, value in weights_of(trainer).items()}


def assert_same(first, second, *, atol=1e-6):
    assert max(float(value.abs().max()) for value in first.values()) > 1e-3
    for name, value in first.items():
        torch.testing.assert_close(second[name], value, atol=atol, rtol=1e-4)
