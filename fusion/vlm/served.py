"""A model behind HTTP: one or several endpoints that share the load.

Knows how requests are spread, retried and reported; the wire formats are in `dialects`, health in `endpoints`, the rounds
of asking in `asking`. Knows no image format and no prompt wording.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from fusion.config import ServedVlm
from fusion.errors import ConfigError
from fusion.page import Failure, Reading
from fusion.vlm.asking import Model, Question, ask_cached, read_all
from fusion.vlm.cache import AnswerCache
from fusion.vlm.dialects import Dialect, InferenceDialect, OpenAIDialect
from fusion.vlm.endpoints import Endpoints, Trouble, parse_endpoints
from fusion.vlm.protocol import Answer, Query

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class ServedReader:
    """A served model behind the reader protocol. Closing it closes its cache."""

    name = "served"

    def __init__(self, config: ServedVlm, cache: AnswerCache) -> None:
        """Check addresses and key; nothing is sent yet.

        Raises:
            ConfigError: an endpoint that images may not be sent to, or a key that is not there.
        """
        self._config = config
        self._cache = cache
        addresses = parse_endpoints(config.endpoints, config.allowed_hosts)
        key = _key(config)
        self._dialect: Dialect = (
            OpenAIDialect(config, key, addresses) if config.dialect == "openai" else InferenceDialect(config, key)
        )
        self._endpoints = Endpoints(addresses)
        self.identity = f"{config.model} {' '.join(config.prompts)} {' '.join(sorted(a.url for a in addresses))}"
        self._workers = ThreadPoolExecutor(config.concurrency, thread_name_prefix="fusion-vlm")
        self._model = Model(
            engine=self._dialect.engine,
            version=self._dialect.version,
            # The plain dialect names no model, and what answers behind it is not the one that `vlm.model` happens to say.
            name=config.model if config.dialect == "openai" else f"unnamed, {' '.join(a.host for a in addresses)}",
            parameters={
                "max_tokens": config.max_tokens,
                "thinking": config.thinking,
                "endpoints": sorted(address.url for address in addresses),
            },
            ask_many=self._ask_many,
            has_temperature=self._dialect.has_temperature,
        )

    def read(self, queries: Sequence[Query]) -> list[tuple[Reading | Failure, ...]]:
        """Read each crop with each configured prompt, `vlm.concurrency` requests at a time."""
        return read_all(queries, self._config, self._model, self._cache)

    def ask(self, pixels: NDArray[np.uint8], question: str) -> Answer | Failure:
        """Free question about an image."""
        if pixels.size == 0:
            return Failure("vlm", "empty_crop", "the image has no pixels")
        return ask_cached([Question(pixels, question)], self._model, self._cache)[0]

    def close(self) -> None:
        """End the workers, close connections and cache; a second time does nothing."""
        self._workers.shutdown(wait=True, cancel_futures=True)
        self._dialect.close()
        self._cache.close()

    def _ask_many(self, questions: Sequence[Question]) -> list[Answer | Failure]:
        return list(self._workers.map(self._ask_one, questions))

    def _ask_one(self, question: Question) -> Answer | Failure:
        """Ask, and after a failure that may pass ask again, elsewhere where there is another endpoint."""
        tried: set[str] = set()
        failure = Failure("vlm", "unreachable", "no endpoint was asked")
        for _ in range(self._config.retries + 1):
            try:
                with self._endpoints.lend(tried) as endpoint:
                    tried.add(endpoint.url)
                    return self._dialect.ask(endpoint, question)
            except Trouble as trouble:
                failure = Failure("vlm", trouble.kind, trouble.message)
                if not trouble.again:
                    break
        return failure


def _key(config: ServedVlm) -> str | None:
    """The key from the named environment variable; None when none is named."""
    if config.api_key_env is None:
        return None
    key = os.environ.get(config.api_key_env, "").strip()
    if not key:
        problem = f"the environment variable {config.api_key_env} is not set"
        raise ConfigError("vlm.api_key_env", problem, "Set it to the endpoint's key, or leave vlm.api_key_env empty.")
    return key
