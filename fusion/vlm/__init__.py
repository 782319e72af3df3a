"""The second reader: a vision-language model that reads each crop again.

Knows which readers there are; opening one loads its libraries, importing this room loads none.
"""

from __future__ import annotations

from fusion.config import LocalVlm, NoVlm, ServedVlm, VlmConfig
from fusion.vlm.cache import AnswerCache
from fusion.vlm.protocol import Answer, Query, Reader

__all__ = ["Answer", "Query", "Reader", "open_reader"]


def open_reader(config: VlmConfig) -> Reader | None:
    """Open the configured second reader; None when there is none.

    Raises:
        ConfigError: the section can't be used as it is (refused endpoint, missing key, missing file).
        ReaderError: the cache or the checkpoint can't be opened.
    """
    if isinstance(config, NoVlm):
        return None
    if isinstance(config, ServedVlm):
        from fusion.vlm.served import ServedReader

        return ServedReader(config, AnswerCache(config.cache))
    if isinstance(config, LocalVlm):
        return _open_local(config)
    from fusion.vlm.replay import ReplayReader

    return ReplayReader(config)


def _open_local(config: LocalVlm) -> Reader:
    """One loader for every checkpoint; one that has an ink witness beside it weighs, any other writes."""
    from fusion.vlm.checkpoint import load

    checkpoint = load(config)
    if checkpoint.witness is not None:
        from fusion.vlm.scoring import ScoringReader

        return ScoringReader(config, checkpoint, checkpoint.witness)
    from fusion.vlm.local import LocalReader

    return LocalReader(config, AnswerCache(config.cache), checkpoint)
