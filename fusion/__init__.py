"""fusion reads handwriting with two readers that check each other, and says where every character came from.

>>> import fusion
>>> page = fusion.transcribe("note.jpg")[0]          # doctest: +SKIP
>>> [(s.text, s.source, s.confidence, s.because) for line in page.lines for s in line.spans]   # doctest: +SKIP
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fusion.config import Config, load_config
    from fusion.engine import Engine, transcribe
    from fusion.page import Page
    from fusion.records import page_schema

__version__ = "0.1.0"
__all__ = ["Config", "Engine", "Page", "load_config", "page_schema", "transcribe"]

_HOMES = {
    "Config": "config",
    "Engine": "engine",
    "Page": "page",
    "load_config": "config",
    "page_schema": "records",
    "transcribe": "engine",
}


def __getattr__(name: str) -> Any:
    """Load a public name when it is first used, so that `import fusion` costs nothing."""
    if name not in _HOMES:
        raise AttributeError(f"module 'fusion' has no attribute {name!r}; public names: {', '.join(__all__)}")
    return getattr(import_module(f"fusion.{_HOMES[name]}"), name)
