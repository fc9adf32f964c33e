"""Read a data set by name: a local file, a folder of split files, a saved data set, or a Hub id."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from aisle.data.arrow_rows import declared_types, table_rows
from aisle.data.dataset_card import with_card_classes
from aisle.data.files import expand_files, has_format, iter_rows
from aisle.data.rows import Row
from aisle.data.saved_sets import open_saved, saved_splits
from aisle.data.text_files import PLAIN_TEXT, TextFormat
from aisle.errors import DataError

__all__ = [
    "DatasetSource",
    "Row",
    "expand_files",
    "iter_hub_rows",
    "iter_rows",
    "iter_split",
    "resolve_dataset",
    "splits_of",
]

_HUB_BATCH = 4096

# The word of a split must stand alone: `walmart_train.csv`, `dev-00001.parquet`, not `latest.csv`.
_SPLIT_WORDS = {
    "train": re.compile(r"(?<![a-z])train(ing)?(set|data)?(?![a-z])"),
    "validation": re.compile(r"(?<![a-z])(val|valid|validation|dev)(set|data)?(?![a-z])"),
    "test": re.compile(r"(?<![a-z])test(ing)?(set|data)?(?![a-z])"),
}


@dataclass(frozen=True)
class DatasetSource:
    """Location of the splits of a data set.

    Attributes:
        name: Data set as the user named it.
        splits: Split to its files; None for a data set on the Hub, see `splits_of`.
        ignored: Files without a split in their name, in a folder where other names have one.
        config: Configuration to use, for a data set on the Hub that has several.
        saved: Whether the files are folders that `Dataset.save_to_disk` wrote.
    """

    name: str
    splits: Mapping[str, tuple[Path, ...]] | None
    ignored: tuple[Path, ...] = ()
    config: str | None = None
    saved: bool = False


def resolve_dataset(name: str, *, config: str | None = None) -> DatasetSource:
    """Return where the splits of a data set are, without reading or downloading anything.

    `NAME:CONFIG` is the configuration CONFIG of the data set NAME on the Hub.

    A file or a glob is the train split. The names of files or sub-folders in a folder name their splits:
    train, validation (valid, val, dev) or test; if no name does, all are the train split. A folder that
    `save_to_disk` wrote has the splits that were saved. Any other name is an id on the Hub.

    Args:
        name: File, glob, folder or Hub id.
        config: Configuration of a data set on the Hub.

    Raises:
        DataError: A file does not exist, a folder has no data or a file that names two splits, or a
            configuration is given for local files, or two configurations for a data set on the Hub.
    """
    path = Path(name).expanduser()
    local = path.exists() or looks_local(name)
    if not local and ":" in name:
        name, _, suffix = name.partition(":")
        if config not in (None, suffix):
            raise DataError(
                f"{name}:{suffix}: names a configuration; leave out --dataset_config_name {config}."
            )
        config = suffix
    if local and config is not None:
        raise DataError(
            f"{name}: a data set on the Hub has configurations, and these are local files; leave out "
            f"--dataset_config_name {config}."
        )
    saved = saved_splits(path)
    if saved:
        return DatasetSource(name, {split: (folder,) for split, folder in saved.items()}, saved=True)
    if path.is_dir():
        return _resolve_folder(name, path)
    if local:
        return DatasetSource(name, {"train": tuple(expand_files([name]))})
    return DatasetSource(name, None, config=config)


def looks_local(name: str) -> bool:
    """Return whether the name of a data set can only be a local file or folder."""
    starts = ("/", "./", "../", "~")
    return name.startswith(starts) or name.count("/") > 1 or has_format(name) or "*" in name


def _resolve_folder(name: str, folder: Path) -> DatasetSource:
    splits: dict[str, list[Path]] = {}
    unnamed: list[Path] = []
    files = expand_files([name])
    for file in files:
        split = _split_of(file.relative_to(folder))
        (unnamed if split is None else splits.setdefault(split, [])).append(file)
    if not splits:
        return DatasetSource(name, {"train": tuple(files)})
    return DatasetSource(name, {split: tuple(found) for split, found in splits.items()}, tuple(unnamed))


def _split_of(path: Path) -> str | None:
    """Return the split in the name of a file, or else in the name of the nearest folder."""
    for part in reversed(path.parts):
        found = [split for split, word in _SPLIT_WORDS.items() if word.search(part.lower())]
        if len(found) > 1:
            raise DataError(
                f"{path}: the name contains {' and '.join(found)}; a file must belong to one split."
            )
        if found:
            return found[0]
    return None


def splits_of(
    source: DatasetSource, *, revision: str | None = None, token: str | None = None
) -> dict[str, str]:
    """Return {standard name of a split: its name in the data set}; a data set on the Hub needs a request.

    A split is train, validation or test by its name, or by a word that means it (`dev` is validation) if only
    one split has such a word; other splits keep their names.

    Raises:
        DataError: The Hub cannot be reached or has no such data set, or a configuration must be chosen.
    """
    if source.splits is not None:
        names = tuple(source.splits)
    else:
        import datasets

        with _hub_errors(source.name, config=source.config, revision=revision, token=token):
            names = tuple(
                datasets.get_dataset_split_names(
                    source.name, config_name=source.config, revision=revision, token=token
                )
            )
    found = {name: name for name in names}
    for split, word in _SPLIT_WORDS.items():
        alike = [name for name in names if word.search(name.lower())]
        if split not in names and len(alike) == 1:
            found[split] = found.pop(alike[0])
    return found


def iter_split(
    source: DatasetSource,
    split: str,
    *,
    revision: str | None = None,
    token: str | None = None,
    text: TextFormat = PLAIN_TEXT,
) -> Iterator[Row]:
    """Return the rows of a split; `text` is the format of local text files.

    Raises:
        DataError: The data set lacks the split, or it cannot be read.
    """
    if source.splits is None:
        return iter_hub_rows(source.name, split=split, config=source.config, revision=revision, token=token)
    if split not in source.splits:
        raise DataError(
            f"{source.name}: there is no split {split!r}; the splits are: {', '.join(source.splits)}."
        )
    if source.saved:
        return _saved_rows(source.name, source.splits[split][0])
    rows, folder = iter_rows(source.splits[split], text=text), Path(source.name).expanduser()
    return with_card_classes(rows, folder) if folder.is_dir() else rows


def _saved_rows(name: str, folder: Path) -> Iterator[Row]:
    first = 1
    saved = open_saved(folder).with_format("arrow")
    declared = declared_types(saved.data.schema)
    for table in saved.iter(batch_size=_HUB_BATCH):
        yield from table_rows(table, source=name, first=first, declared=declared)
        first += table.num_rows


def iter_hub_rows(
    dataset_name: str,
    *,
    split: str,
    config: str | None = None,
    revision: str | None = None,
    streaming: bool = False,
    token: str | None = None,
) -> Iterator[Row]:
    """Yield the rows of a split of a data set on the Hub.

    Args:
        dataset_name: Id of the data set, `owner/name`.
        split: Name of the split.
        config: Name of the configuration; None is the only one or the default.
        revision: Branch, tag or commit; None is the default branch.
        streaming: Whether to download while reading; otherwise the data set is first downloaded to the cache.
        token: Token for gated and private data sets; None uses the login.

    Raises:
        DataError: The Hub cannot be reached, the data set or split does not exist, or access is denied.
    """
    import datasets

    first, declared = 1, None
    with _hub_errors(dataset_name, config=config, revision=revision, token=token):
        loaded = datasets.load_dataset(
            dataset_name, name=config, split=split, revision=revision, streaming=streaming, token=token
        )
        for table in loaded.with_format("arrow").iter(batch_size=_HUB_BATCH):
            declared = declared or declared_types(table.schema)
            yield from table_rows(table, source=dataset_name, first=first, declared=declared)
            first += table.num_rows


@contextmanager
def _hub_errors(name: str, *, config: str | None, revision: str | None, token: str | None) -> Iterator[None]:
    """Turn errors of `datasets` into a DataError with one sentence."""
    from datasets.exceptions import DatasetsError
    from huggingface_hub.errors import HfHubHTTPError, HTTPError  # type: ignore[attr-defined]

    unreachable = (
        f"{name}: this is not a local file or folder, and the Hub cannot be reached: no network, or "
        "offline mode (HF_HUB_OFFLINE). Check the name and the connection, or give local files."
    )
    try:
        yield
    except (ConnectionError, TimeoutError):
        raise DataError(unreachable) from None
    except (FileNotFoundError, HfHubHTTPError) as error:
        raise DataError(_absent(name, error)) from None
    except HTTPError:  # httpx's or httpx2's, depending on the release
        raise DataError(unreachable) from None
    except (DatasetsError, OSError, RuntimeError, ValueError) as error:
        if _is_about_configs(error):
            raise DataError(_choose_config(name, config, revision, token)) from None
        raise DataError(f"{name}: the data set cannot be loaded: {_first_line(error)}") from None


def _is_about_configs(error: Exception) -> bool:
    text = str(error)
    return "Config name is missing" in text or ("BuilderConfig" in text and "not found" in text)


def _choose_config(name: str, config: str | None, revision: str | None, token: str | None) -> str:
    """Return the message that a configuration must be chosen, with the choices."""
    import datasets

    names = datasets.get_dataset_config_names(name, revision=revision, token=token)
    found = "several configurations" if config is None else f"no configuration {config!r}"
    return f"{name}: the data set has {found}. Name one with --dataset_config_name: {', '.join(names)}."


def _absent(name: str, error: Exception) -> str:
    if "gated" in str(error).lower():
        return f"{name}: the data set is gated. Request access on its page, then log in with `hf auth login`."
    return f"{name}: there is no such file or folder, and the Hub refuses it: {_first_line(error)}"


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
