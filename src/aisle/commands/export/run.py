"""`aisle export`: write a model as a bundle that runs without torch."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from aisle.commands.export.settings import ExportSettings
from aisle.commands.output import Output, quieten_libraries
from aisle.errors import ConfigError

if TYPE_CHECKING:
    from aisle.bundle.bundle_record import Bundle
    from aisle.export.sample_texts import SampleTexts

ENCODERS_ONLY = (
    *("qrels", "base_model", "model_revision"),
    *("pooling", "query_prompt", "product_prompt", "max_length"),
)
"""Settings that a reranker does not take."""


def export(settings: ExportSettings) -> Bundle:
    """Write the bundle and return the contents of its bundle.json.

    Raises:
        AisleError: The model cannot be loaded or exported, the bundle fails a gate, or the folder cannot be
            written; an earlier bundle is unchanged.
    """
    from aisle.commands.export.compared_texts import compared_texts
    from aisle.export.write_bundle import ExportOptions, check_bundle_dir, write_bundle
    from aisle.models.cross_encoder_loading import is_reranker
    from aisle.models.loading import load_encoder
    from aisle.models.model_source import find_model
    from aisle.models.run_file import read_settings_file
    from aisle.types.encoder_settings import Overrides

    folder = Path(settings.output_dir).expanduser()
    check_bundle_dir(folder, overwrite=settings.overwrite_output_dir)
    output = Output(json_only=settings.json)
    quieten_libraries()
    sample = compared_texts(settings)
    source = find_model(settings.model, revision=settings.model_revision, token=settings.hub_token)
    if is_reranker(source.path):
        return _export_reranker(settings, folder, sample, output)
    encoder = load_encoder(
        settings.model,
        base_model=settings.base_model,
        overrides=Overrides(
            settings.pooling, settings.query_prompt, settings.product_prompt, settings.max_length
        ),
        revision=settings.model_revision,
        token=settings.hub_token,
        device="cpu",
        trust_remote_code=settings.trust_remote_code,
    )
    if encoder.note is not None:
        output.log(encoder.note)
    saved = read_settings_file(source.path) or {}
    options = ExportOptions(settings.precision, sample, settings.accept, settings.overwrite_output_dir)
    bundle = write_bundle(encoder, folder, options, base_model=saved.get("base_model"))
    figures = bundle.gates.figures
    output.log(
        f"exported {settings.model} to {folder}, {bundle.precision}; {figures['texts']:,} texts compared "
        f"with the model: greatest difference {figures['greatest_difference']:.1e}, lowest cosine "
        f"{figures['lowest_cosine']:.5f}"
    )
    for figure in bundle.gates.not_measured:
        output.log(f"not measured: {figure}")
    if bundle.failed_gates is not None:
        output.log(f"accepted a failed gate: {bundle.failed_gates}")
    output.document({"output_dir": str(folder), **asdict(bundle)})
    return bundle


def _export_reranker(settings: ExportSettings, folder: Path, sample: SampleTexts, output: Output) -> Bundle:
    """Write the bundle of a reranker.

    Raises:
        AisleError: A setting is only for encoders, or as in `export`.
    """
    from aisle.export.write_reranker_bundle import write_reranker_bundle
    from aisle.models.torch_reranker import load_torch_reranker

    given = [name for name in ENCODERS_ONLY if getattr(settings, name) is not None]
    if given:
        raise ConfigError(f"--{given[0]}: is a setting of encoders, and {settings.model} is a reranker")
    reranker = load_torch_reranker(settings.model, device="cpu", trust_remote_code=settings.trust_remote_code)
    bundle = write_reranker_bundle(
        reranker,
        folder,
        precision=settings.precision,
        sample=sample,
        accept=settings.accept,
        overwrite=settings.overwrite_output_dir,
    )
    figures = bundle.gates.figures
    output.log(
        f"exported {settings.model} to {folder}, {bundle.precision}; scores of {figures['pairs']:,} pairs "
        f"compared with the reranker: greatest difference {figures['greatest_difference']:.1e} of the "
        f"largest logit, correlation {figures['correlation']:.5f}"
    )
    if bundle.failed_gates is not None:
        output.log(f"accepted a failed gate: {bundle.failed_gates}")
    output.document({"output_dir": str(folder), **asdict(bundle)})
    return bundle
