"""`aisle export`: write a model as a bundle that runs without torch."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from aisle.commands.export.settings import ExportSettings
from aisle.commands.output import Output, quieten_libraries

if TYPE_CHECKING:
    from aisle.bundle.bundle_record import Bundle


def export(settings: ExportSettings) -> Bundle:
    """Write the bundle and return the contents of its bundle.json.

    Raises:
        AisleError: The model cannot be loaded or exported, the bundle fails a gate, or the folder cannot be
            written; an earlier bundle is unchanged.
    """
    from aisle.commands.export.compared_texts import compared_texts
    from aisle.export.write_bundle import ExportOptions, check_bundle_dir, write_bundle
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
