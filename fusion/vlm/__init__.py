"""The second reader: a vision-language model that reads each crop again.

Opening a reader loads its libraries, importing this package loads none.
"""

from __future__ import annotations

from importlib.metadata import entry_points

from fusion.config import LocalVlm, NoVlm, PluginVlm, ReplayVlm, ServedVlm, VlmConfig
from fusion.errors import ConfigError, DependencyError, FusionError
from fusion.vlm.cache import AnswerCache
from fusion.vlm.protocol import Answer, Answers, Look, Looks, Query, Reader, Writes

__all__ = ["Answer", "Answers", "Look", "Looks", "Query", "Reader", "Writes", "open_reader"]

PLUGINS = "fusion.readers"
"""Entry points of other packages: name → a function from `vlm.options` to a `Reader`."""
_BROKEN = (ImportError, SyntaxError, AttributeError, TypeError, ValueError, LookupError, RuntimeError, OSError)
"""What loading or calling another package's function may raise when it is not as it should be."""


def open_reader(config: VlmConfig) -> Reader | None:
    """Open the configured second reader; None when there is none.

    Raises:
        ConfigError: the section can't be used as it is (refused endpoint, missing key, missing file, unused setting).
        ReaderError: the cache or the checkpoint can't be opened.
        DependencyError: a package or checkpoint is missing, or a plug-in can't be loaded.
    """
    if isinstance(config, NoVlm):
        return None
    if isinstance(config, ServedVlm):
        from fusion.vlm.served import ServedReader

        return ServedReader(config, AnswerCache(config.cache))
    if isinstance(config, ReplayVlm):
        from fusion.vlm.replay import ReplayReader

        return ReplayReader(config)
    return _open_plugin(config) if isinstance(config, PluginVlm) else _open_local(config)


def _open_local(config: LocalVlm) -> Reader:
    """The small reader where the checkpoint has its graphs; any other GLM with transformers."""
    from fusion.vlm import small

    if (small.folder_of(config.model) / small.READER).is_file():
        return small.SmallReader(config)
    try:
        from fusion.vlm.local import LocalReader, load
    except ImportError as error:
        way = "pip install 'fusion[glm]', or leave vlm out for the small reader."
        raise DependencyError(f"vlm.model: {config.model}", "torch and transformers are not installed", way) from error
    return LocalReader(config, AnswerCache(config.cache), load(config))


def _open_plugin(config: PluginVlm) -> Reader:
    subject = f"vlm.engine: {config.engine}"
    (plugin,) = entry_points(group=PLUGINS, name=config.engine)
    try:
        opened = plugin.load()
    except _BROKEN as error:
        problem = f"the reader plug-in {plugin.value} can't be loaded ({type(error).__name__}: {error})"
        raise DependencyError(subject, problem, "Install its package again, or choose another vlm.engine.") from error
    try:
        reader: Reader = opened(config.options)
    except FusionError:
        raise
    except _BROKEN as error:
        problem = f"the reader plug-in can't be opened ({type(error).__name__}: {error})"
        raise ConfigError(subject, problem, "Check vlm.options, or choose another vlm.engine.") from error
    return reader
