"""Make the relevance of pairs from clicks (--label_from)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

from aisle.commands.train.data_settings import DataSettings
from aisle.commands.train.read_part import named_columns, peek_row
from aisle.commands.train.row_sources import Rows
from aisle.data.click_columns import ClickColumns
from aisle.data.click_model import ClickModel, fit_click_model
from aisle.data.click_rows import CLICK_RELEVANCE, SummedClicks, sum_clicks
from aisle.data.position_bias import Propensities, estimate_propensities
from aisle.data.rows import Row

SHOWN_POSITIONS = 10


@dataclass(frozen=True)
class JudgedByClicks:
    """Sources whose rows have a relevance.

    Attributes:
        train: Training rows.
        validation: Validation rows; None if they are held out of the training rows.
        settings: How to read the training rows.
        held_out: How to read the validation rows.
    """

    train: Rows
    validation: Rows | None
    settings: DataSettings
    held_out: DataSettings


def judge_by_clicks(
    settings: DataSettings, train: Rows, validation: Rows | None, *, log: Callable[[str], None]
) -> JudgedByClicks:
    """Return the sources with a relevance from clicks; without --label_from, the sources as they are.

    The model of clicks is fitted on the training rows. Validation rows without the columns of clicks are
    judged pairs.

    Raises:
        DataError: A column is missing, counts cannot be used, or clicks do not tell products apart.
    """
    if settings.label_from is None:
        return JudgedByClicks(train, validation, settings, settings)
    clicks, impressions, *purchases = settings.label_from
    columns = ClickColumns(clicks, impressions, purchases[0] if purchases else None, settings.position_column)
    summed = _summed(train, columns, settings)
    model = _fitted(summed, settings)
    for line in _described(summed, model, settings):
        log(line)
    plain = replace(settings, label_from=None, label_max=None)
    judged = replace(plain, label_column=CLICK_RELEVANCE, label_map=None, train_format="pairs")
    train = partial(summed.judged_rows, model.relevance(summed.counts))
    if validation is None:
        return JudgedByClicks(train, None, judged, judged)
    head, _ = peek_row(validation())
    if head is not None and columns.clicks not in head.values:
        log("validation: has no clicks, so its pairs are read as judged pairs")
        return JudgedByClicks(train, validation, judged, _columns_in(plain, head))
    others = _summed(validation, columns, settings)
    held_out = partial(others.judged_rows, model.relevance(others.counts))
    return JudgedByClicks(train, held_out, judged, judged)


def _columns_in(settings: DataSettings, head: Row) -> DataSettings:
    """Return the settings for judged pairs, which need not have the columns of a log of clicks.

    A column that the row lacks is found by its usual names, or is left out.
    """

    def there(column: str | None) -> str | None:
        return column if column in head.values else None

    return replace(
        settings,
        query_column=there(settings.query_column),
        product_column=there(settings.product_column),
        query_id_column=there(settings.query_id_column),
        product_id_column=there(settings.product_id_column),
        group_column=there(settings.group_column),
    )


def _summed(rows: Rows, columns: ClickColumns, settings: DataSettings) -> SummedClicks:
    head, _ = peek_row(rows())
    by_id = settings.catalog is not None
    return sum_clicks(rows, columns, wanted=named_columns(settings, head), by_id=by_id)


def _fitted(summed: SummedClicks, settings: DataSettings) -> ClickModel:
    if settings.position_column is None:
        propensities = Propensities.none()
    elif settings.position_propensities is None:
        propensities = estimate_propensities(summed.counts)
    else:
        propensities = Propensities.given(settings.position_propensities)
    return fit_click_model(
        summed.counts,
        propensities=propensities,
        strength=settings.click_prior_strength,
        purchase_weight=settings.purchase_weight,
        full_rate=settings.label_max,
    )


def _described(summed: SummedClicks, model: ClickModel, settings: DataSettings) -> list[str]:
    """Return lines that tell how clicks become a relevance."""
    strength = "as given" if settings.click_prior_strength is not None else "estimated"
    usual = "the mean rate" if model.full_rate == model.rate else "the 95th percentile of clicked pairs"
    scale = usual if settings.label_max is None else "--label_max"
    lines = [
        f"train: {summed.read:,} rows of clicks, of {summed.counts.items:,} pairs; mean rate "
        f"{model.rate:.4g}, which counts for {model.strength:.1f} impressions of each pair ({strength}); a "
        f"smoothed rate of {model.full_rate:.4g} ({scale}) or more is relevance 1"
    ]
    if settings.position_column is not None:
        found = model.propensities
        shown = list(zip(found.positions.tolist(), found.values.tolist(), strict=True))
        more = f", and {len(shown) - SHOWN_POSITIONS:,} more" if len(shown) > SHOWN_POSITIONS else ""
        how = "as given" if found.compared is None else f"estimated from {found.compared:,} pairs at several"
        listed = ", ".join(f"{position}: {value:.2f}" for position, value in shown[:SHOWN_POSITIONS])
        lines.append(f"propensities of positions ({how}): {listed}{more}")
    return lines
