"""The second reader: a vision-language model that reads each crop again.

Knows which readers there are; opening one loads its libraries, importing this room loads none.
"""

from __future__ import annotations

from importlib.metadata import entry_points

from fusion.config import LocalVlm, NoVlm, ReplayVlm, ServedVlm, VlmConfig
from fusion.errors import DependencyError
from fusion.vlm.cache import AnswerCache
from fusion.vlm.protocol import Answer, Answers, Look, Looks, Query, Reader, Writes

__all__ = ["Answer", "Answers", "Look", "Looks", "Query", "Reader", "Writes", "open_reader"]

PLUGINS = "fusion.readers"
"""Entry points of other packages: name → a function from `vlm.options` to a `Reader`."""


def open_reader(config: VlmConfig) -> Reader | None:
    """Open the configured second reader; None when there is none.

    Raises:
        ConfigError: the section can't be used as it is (refused endpoint, missing key, missing file).
        ReaderError: the cache or the checkpoint can't be opened.
        DependencyError: a package or checkpoint is missing.
    """
    if isinstance(config, NoVlm):
        return None
    if isinstance(config, ServedVlm):
        from fusion.vlm.served import ServedReader

        try:
            return ServedReader(config, AnswerCache(config.cache))
        except ImportError as error:
            way = "pip install 'fusion[served]', or set vlm.dialect: inference."
            raise DependencyError("vlm.engine: served", "the openai package is not installed", way) from error
    if isinstance(config, LocalVlm):
        return _open_local(config)
    if isinstance(config, ReplayVlm):
        from fusion.vlm.replay import ReplayReader

        return ReplayReader(config)
    (plugin,) = entry_points(group=PLUGINS, name=config.engine)
    reader: Reader = plugin.load()(config.options)
    return reader


def _open_local(config: LocalVlm) -> Reader:
    """The small reader where the checkpoint has its graphs; any other GLM with transformers."""
    from fusion.vlm import small

    if (small.folder_of(config.model) / small.READER).is_file():
        return small.SmallReader(config)
    try:
        from fusion.vlm.local import LocalReader, load
    except ImportError as error:
        way = "pip install 'fusion[glm]', or set vlm.model: small."
        raise DependencyError(f"vlm.model: {config.model}", "torch and transformers are not installed", way) from error
    return LocalReader(config, AnswerCache(config.cache), load(config))
