"""`aisle rag`: train the query tower of an index through the answers of a generator."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from aisle.commands.command import Command
from aisle.commands.generator_settings import input_maker, open_index_and_generator
from aisle.commands.output import Output, quieten_libraries
from aisle.commands.rag_settings import RagSettings, rag_inputs, rag_problems
from aisle.errors import ConfigError, TrainingError

if TYPE_CHECKING:
    from aisle.commands.rag_questions import RagQuestions
    from aisle.index import Manifest, SearchIndex
    from aisle.models.generator import Generator
    from aisle.models.loading import LoadedModel
    from aisle.models.model_source import ModelSource
    from aisle.training.rag_training import RagTrainer

MAX_GRAD_NORM = 1.0
TRAINED_THROUGH = "rag_sequence"
"""Key in `aisle.json` of the record of the training."""


def rag(settings: RagSettings) -> str:
    """Train the query tower, write the run, and return its folder.

    Raises:
        AisleError: The index, its encoder, the generator or the questions cannot be used; or the answers to
            held-out questions did not become likelier, and nothing is written.
    """
    from aisle.commands.rag_questions import read_questions
    from aisle.commands.train.run_dir import check_model_dir
    from aisle.commands.write_model import write_model
    from aisle.models.merging import base_named
    from aisle.models.run_file import read_settings_file
    from aisle.models.two_towers import TwoTowers, UnchangedModel
    from aisle.models.whole_model import WholeModel

    output = Output(json_only=settings.json)
    quieten_libraries()
    check_model_dir(Path(settings.output_dir), overwrite=settings.overwrite_output_dir)
    questions = read_questions(settings, output.log)
    index, generator = open_index_and_generator(settings, output.log)
    source = _source(settings, index.manifest)
    query = _load(settings, index.manifest, source, side="query")
    trainer = _trainer(settings, index, generator, query, questions)
    record = _train(settings, trainer, questions, output)
    towers = TwoTowers(
        query=WholeModel(
            tower=trainer.tower,
            tokenizer=query.tokenizer,
            settings=query.settings,
            base=base_named(query.source, read_settings_file(query.source.path), None, None, adapter=False),
        ),
        product=UnchangedModel(_load(settings, index.manifest, source, side="product")),
        lineage={TRAINED_THROUGH: record},
    )
    write_model(towers, Path(settings.output_dir), settings={}, metrics={})
    output.log(f"saved to {settings.output_dir}; search the index with --model {settings.output_dir}")
    output.document({"run_dir": settings.output_dir, **record})
    return settings.output_dir


def _source(settings: RagSettings, manifest: Manifest) -> ModelSource:
    """Return the encoder of the index, whose files must stay as they are.

    Raises:
        ConfigError: The encoder has an adapter or is a bundle, or the index changes its embeddings.
    """
    from aisle.bundle.bundle_file import is_bundle
    from aisle.models.loading import ADAPTER_FILE
    from aisle.models.model_source import find_model

    named = settings.model or str(manifest.encoder["model"])
    if is_bundle(named):
        raise ConfigError(f"--model {named}: is a bundle, whose weights are fixed; give the run")
    if manifest.encoder.get("dimensions") is not None or manifest.query_adapter is not None:
        raise ConfigError(
            f"--index_dir {settings.index_dir}: has a query adapter, or only the first components of "
            "embeddings; give an index with the encoder's own embeddings"
        )
    revision = manifest.encoder.get("revision") if settings.model is None else None
    source = find_model(named, revision=revision)
    if (source.path / ADAPTER_FILE).is_file():
        raise ConfigError(
            f"{named}: has a LoRA adapter, and a run of two towers has whole models; merge it with `aisle "
            "merge`, and build the index with the merged model"
        )
    return source


def _load(settings: RagSettings, manifest: Manifest, source: ModelSource, *, side: Any) -> LoadedModel:
    """Return the tower of a side, with the settings that the index records.

    Raises:
        ConfigError: The product tower did not make the index.
    """
    from aisle.models.loading import load_tower
    from aisle.models.run_file import has_two_towers, read_settings_file, tower_source
    from aisle.search.encoders import recorded_overrides

    if has_two_towers(read_settings_file(source.path)):
        source = tower_source(source, side)
    loaded = load_tower(
        source, recorded_overrides(manifest.encoder), trust_remote_code=settings.trust_remote_code
    )
    if side == "product" and loaded.fingerprint != manifest.fingerprint:
        raise ConfigError(f"--model {source.name}: is not the encoder that made {settings.index_dir}")
    return loaded.model


def _trainer(
    settings: RagSettings,
    index: SearchIndex,
    generator: Generator,
    query: LoadedModel,
    questions: RagQuestions,
) -> RagTrainer:
    from aisle.models.backbone import padding_token
    from aisle.text.distinct_tokens import distinct_texts
    from aisle.training.rag_training import RagTrainer

    tower = query.tower().eval()
    tower.requires_grad_(True)
    tokens = distinct_texts(questions.questions).tokenize(
        query.tokenizer,
        prompt=query.settings.query_prompt,
        side="query",
        max_length=query.settings.max_length,
    )
    return RagTrainer(
        tower=tower,
        tokens=tokens.tokens,
        place=tokens.place,
        pad_token_id=padding_token(query.backbone),
        index=index,
        generator=generator,
        questions=questions.questions,
        answers=questions.answers,
        prompt=input_maker(settings.generator_input),
        top_k=settings.top_k,
        temperature=settings.temperature,
    )


def _train(
    settings: RagSettings, trainer: RagTrainer, questions: RagQuestions, output: Output
) -> dict[str, Any]:
    """Train, leave the tower with the weights of the best epoch, and return the record of the training.

    Raises:
        TrainingError: No epoch made the answers to held-out questions likelier.
    """
    import numpy as np
    import torch

    train, held_out, size = questions.train, questions.held_out, settings.batch_size
    before = best = trainer.mean_loss(held_out, batch_size=size)
    output.log(
        f"{len(train):,} questions to train on, {len(held_out):,} held out; their answers' negative "
        f"log-likelihood is {before:.4f} before training"
    )
    optimizer = torch.optim.AdamW(trainer.tower.parameters(), lr=settings.learning_rate, weight_decay=0.0)
    random = np.random.default_rng(settings.seed)
    kept: dict[str, torch.Tensor] | None = None
    for epoch in range(1, settings.num_train_epochs + 1):
        loss = trainer.train_epoch(
            random.permutation(train), optimizer, batch_size=size, max_grad_norm=MAX_GRAD_NORM
        )
        measured = trainer.mean_loss(held_out, batch_size=size)
        output.log(f"epoch {epoch}: loss {loss:.4f}, held out {measured:.4f}")
        if measured < best:
            best, best_epoch = measured, epoch
            kept = {name: weight.clone() for name, weight in trainer.tower.state_dict().items()}
    if kept is None:
        raise TrainingError(
            f"the answers to the {len(held_out):,} held-out questions did not become likelier (negative "
            f"log-likelihood {before:.4f} before), so nothing is saved; give more questions, another "
            "--learning_rate, or a generator that was trained to answer from a context"
        )
    trainer.tower.load_state_dict(kept)
    return {
        "generator": settings.generator,
        "top_k": settings.top_k,
        "questions": len(train),
        "held_out_questions": len(held_out),
        "held_out_loss_before": before,
        "held_out_loss": best,
        "epoch": best_epoch,
    }


COMMAND = Command("rag", RagSettings, rag, problems=rag_problems, inputs=rag_inputs, extra="train")
