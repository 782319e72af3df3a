"""A model behind HTTP: one or several endpoints that share the load, asked in one of two dialects.

What goes wrong becomes `Trouble`. How bytes come and go is in `http`.
"""

from __future__ import annotations

import base64
import http.client
import math
import os
import platform
import ssl
import time
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from email.utils import parsedate_to_datetime
from typing import Any

from fusion.config import ServedVlm
from fusion.errors import ConfigError
from fusion.page import Failure, Token
from fusion.vlm.asking import AskingReader, Question
from fusion.vlm.cache import AnswerCache
from fusion.vlm.endpoints import Endpoint, Endpoints, Trouble, parse_endpoints
from fusion.vlm.http import Reply, exchange
from fusion.vlm.images import LONGEST_SIDE, prepare, to_png
from fusion.vlm.protocol import Answer

SEED = 1  # for temperatures above 0, so that a second run gives the same answers where the server honours it
SMALLEST_PICTURE = 200  # px of the longer side to which a picture is reduced at most where a server finds it too large
OPTIONAL = {
    "logprobs": ("logprobs",),
    "thinking": ("thinking",),
    "chat_template_kwargs": ("thinking", "chat_template"),
    "temperature": ("temperature",),
    "max_tokens": ("max_tokens",),
    "seed": ("seed",),
}
"""Parts of a request that a server may refuse, each with the words by which its refusal names it."""
EXTENSIONS = {"logprobs", "thinking", "chat_template_kwargs"}  # what is left out where a refusal names nothing

_ZAI_HOSTS = ("z.ai", "bigmodel.cn")
_STATUS = {401: "unauthorized", 403: "unauthorized", 404: "not_found", 413: "too_large", 429: "busy"}
_MESSAGES = {
    "timeout": "did not answer within {timeout:g} s (vlm.timeout)",
    "unreachable": "can't be reached. Start the model server or correct vlm.endpoints.",
    "untrusted": "shows a certificate that is not trusted; name that of its authority in SSL_CERT_FILE",
    "bad_answer": "sent an answer that is not of its dialect (vlm.dialect)",
    "no_content": "sent no content; with a thinking model raise vlm.max_tokens or set vlm.thinking=false",
    "busy": "is overloaded ({status}); lower vlm.concurrency",
    "server_error": "failed ({status}); see its log",
    "unauthorized": "refuses access ({status}); name the variable that holds the key in vlm.api_key_env",
    "not_found": "has no such address or model ({status}); check vlm.endpoints and vlm.model",
    "too_large": "takes no picture of this size ({status}); raise the server's limit",
    "redirected": "redirects elsewhere ({status}), which is not followed; put the final address in vlm.endpoints",
    "refused": "refuses the request ({status}); check vlm.model and vlm.max_tokens, and see its log",
}
_ELSEWHERE = ("untrusted", "unauthorized", "not_found", "redirected", "refused")
"""Kinds that the same request never gets over at this endpoint, though another may be set up as it should be."""
_ILL = ("timeout", "unreachable", "busy", "server_error")  # kinds after which an endpoint is left alone for a while


class ServedReader(AskingReader):
    """A served model: `Writes` and `Answers`."""

    name = "served"

    def __init__(self, config: ServedVlm, cache: AnswerCache) -> None:
        """Check addresses and key; nothing is sent yet.

        Raises:
            ConfigError: an endpoint that images may not be sent to, or a key that is not there.
        """
        super().__init__(config, cache)
        addresses = parse_endpoints(config.endpoints, config.allowed_hosts)
        openai = config.dialect == "openai"
        self._dialect = OpenAIDialect(config) if openai else InferenceDialect(config)
        self._addresses = len(addresses)
        self._endpoints = Endpoints(addresses)
        self._retries = config.retries
        self._workers = ThreadPoolExecutor(config.concurrency, thread_name_prefix="fusion-vlm")
        self.engine, self.version = self._dialect.engine, self._dialect.version
        # The inference dialect names no model, and `vlm.model` need not be what answers.
        self.model = config.model if openai else f"unnamed, {' '.join(a.host for a in addresses)}"
        urls = sorted(address.url for address in addresses)
        self.parameters = {"max_tokens": config.max_tokens, "thinking": config.thinking, "endpoints": urls}
        self.has_temperature = self._dialect.has_temperature
        self.identity = f"{config.model} {' '.join(config.prompts)} {' '.join(urls)}"

    def close(self) -> None:
        """Ask nothing more and close the cache; what is under way is not waited for. A second time does nothing."""
        self._workers.shutdown(wait=False, cancel_futures=True)
        self._cache.close()

    def ask_many(self, questions: Sequence[Question]) -> list[Answer | Failure]:
        """Ask, `vlm.concurrency` requests at a time."""
        answers = list(self._workers.map(self._ask_one, questions))
        self.has_temperature = self._dialect.has_temperature
        return answers

    def _ask_one(self, question: Question) -> Answer | Failure:
        """Ask, and after a failure that may pass ask again, elsewhere where there is another endpoint."""
        tried: set[str] = set()
        longest, retries = LONGEST_SIDE, self._retries
        while True:
            try:
                with self._endpoints.lend(tried) as endpoint:
                    tried.add(endpoint.url)
                    return self._dialect.ask(endpoint, question, longest)
            except Trouble as trouble:
                half = max(prepare(question.pixels, longest).size) // 2
                if trouble.kind == "too_large" and half >= SMALLEST_PICTURE:
                    longest = half
                elif trouble.again and retries > 0:
                    retries -= 1
                elif trouble.kind in _ELSEWHERE and len(tried) < self._addresses:
                    continue
                else:
                    return Failure("vlm", trouble.kind, trouble.message)


class OpenAIDialect:
    """Chat completions."""

    engine = "served-openai"
    version = f"Python {platform.python_version()}"

    def __init__(self, config: ServedVlm) -> None:
        self._config, self._key = config, _key(config)
        self._refused: defaultdict[str, set[str]] = defaultdict(set)  # by URL

    @property
    def has_temperature(self) -> bool:
        """Whether every endpoint so far takes a temperature."""
        return not any("temperature" in refused for refused in list(self._refused.values()))

    def ask(self, endpoint: Endpoint, question: Question, longest: int) -> Answer:
        """Ask one endpoint once, with a picture whose longer side has at most `longest` px."""
        return _read_completion(self._complete(endpoint, self._request(endpoint, question, longest)), endpoint)

    def _complete(self, endpoint: Endpoint, request: dict[str, Any]) -> Any:
        """Send a request without what the endpoint is known to refuse; after a refusal again without what it names."""
        refused = set(self._refused[endpoint.url])
        while True:
            sent = {name: value for name, value in request.items() if name not in refused}
            reply = _exchange(endpoint, f"{endpoint.url}/chat/completions", self._config.timeout, self._key, sent)
            more = _refused_parts(reply.body.decode(errors="replace")) & sent.keys()
            if reply.status not in (400, 422) or not more:
                completion = _value(endpoint, reply)
                self._refused[endpoint.url] |= refused
                return completion
            refused |= more

    def _request(self, endpoint: Endpoint, question: Question, longest: int) -> dict[str, Any]:
        url = "data:image/png;base64," + base64.b64encode(to_png(question.pixels, longest)).decode()
        content = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": question.plain}]
        return {
            "model": self._config.model,
            "messages": [{"role": "user", "content": content}],
            "logprobs": True,
            "max_tokens": self._config.max_tokens,
            "temperature": question.temperature,
            **_thinking(endpoint.host, self._config.thinking),
            **({"seed": SEED} if question.temperature > 0 else {}),
        }


class InferenceDialect:
    """`POST {endpoint}/v1/inference {image, question} -> {answer}`; it has no temperature and gives no finish reason."""

    engine = "served-inference"
    version = f"Python {platform.python_version()}"
    has_temperature = False

    def __init__(self, config: ServedVlm) -> None:
        self._timeout, self._key = config.timeout, _key(config)

    def ask(self, endpoint: Endpoint, question: Question, longest: int) -> Answer:
        """Ask one endpoint once, with a picture whose longer side has at most `longest` px."""
        image = base64.b64encode(to_png(question.pixels, longest)).decode()
        url = f"{endpoint.url.removesuffix('/v1')}/v1/inference"
        body = {"image": image, "question": question.plain}
        value = _value(endpoint, _exchange(endpoint, url, self._timeout, self._key, body))
        answer = value.get("answer") if isinstance(value, dict) else None
        if not isinstance(answer, str):
            raise _trouble("bad_answer", endpoint)
        return Answer(answer)


def _exchange(endpoint: Endpoint, url: str, timeout: float, key: str | None, body: object = None) -> Reply:
    """One exchange, whatever its status; what keeps an answer from coming is `Trouble`."""
    try:
        return exchange(url, timeout, key, body)
    except TimeoutError as error:
        raise _trouble("timeout", endpoint, timeout=timeout) from error
    except ssl.SSLCertVerificationError as error:
        raise _trouble("untrusted", endpoint) from error
    except (OSError, http.client.HTTPException) as error:
        raise _trouble("unreachable", endpoint) from error
    except ValueError as error:
        raise _trouble("bad_answer", endpoint) from error


def _value(endpoint: Endpoint, reply: Reply) -> Any:
    """The JSON value that a server answered; a refusal is `Trouble`."""
    if reply.status // 100 != 2:
        raise _refusal(endpoint, reply.status, reply.retry_after)
    try:
        return reply.json()
    except ValueError as error:
        raise _trouble("bad_answer", endpoint) from error


def _thinking(host: str, wanted: bool) -> dict[str, Any]:
    """How an endpoint is told whether to think aloud: Z.ai's own switch, or the chat template's."""
    if any(host == zai or host.endswith(f".{zai}") for zai in _ZAI_HOSTS):
        return {"thinking": {"type": "enabled" if wanted else "disabled"}}
    return {"chat_template_kwargs": {"enable_thinking": wanted}}


def _refused_parts(said: str) -> set[str]:
    """The parts of a request that a refusal names, none where one request is too long; else the extensions."""
    if "context length" in said.lower():
        return set()
    return {part for part, words in OPTIONAL.items() if any(word in said.lower() for word in words)} or EXTENSIONS


def _read_completion(completion: Any, endpoint: Endpoint) -> Answer:
    """Text, finish reason and log-probabilities; thoughts that come apart from the text are left out."""
    # Any field of a careless server may be missing or of another type.
    try:
        choice = completion["choices"][0]
        text = choice["message"]["content"]
    except (LookupError, TypeError) as error:
        raise _trouble("bad_answer", endpoint) from error
    if not isinstance(text, str):
        raise _trouble("no_content" if text is None else "bad_answer", endpoint)
    finish, model = choice.get("finish_reason"), completion.get("model")
    try:
        entries = (choice.get("logprobs") or {}).get("content") or ()
        tokens = tuple(Token(str(entry["token"]), float(entry["logprob"])) for entry in entries)
    except (AttributeError, LookupError, TypeError, ValueError):
        tokens = ()
    if not all(math.isfinite(token.score) for token in tokens):
        tokens = ()  # half a sum is no score
    return Answer(text, finish if isinstance(finish, str) else None, tokens, model if isinstance(model, str) else "")


def _trouble(kind: str, endpoint: Endpoint, wait: float = 0.0, **values: float) -> Trouble:
    ill = kind in _ILL
    return Trouble(kind, f"{endpoint.url} {_MESSAGES[kind].format(**values)}", ill or kind == "bad_answer", ill, wait)


def _refusal(endpoint: Endpoint, status: int, retry_after: str | None) -> Trouble:
    """What an HTTP status means; Retry-After holds seconds or a date."""
    kind = _STATUS.get(status) or {3: "redirected", 5: "server_error"}.get(status // 100, "refused")
    text = (retry_after or "").strip()
    try:
        wait = float(text) if text.isdecimal() else parsedate_to_datetime(text).timestamp() - time.time()
    except (ValueError, TypeError):
        wait = 0.0
    return _trouble(kind, endpoint, max(0.0, wait), status=status)


def other_models(config: ServedVlm) -> dict[str, tuple[str, ...]]:
    """Endpoints that list their models (`GET /models`) without `vlm.model`: URL → the models listed. Sends no image.

    Raises:
        ConfigError: an endpoint that is not allowed, or a key that is not there.
    """
    found = {}
    for endpoint in parse_endpoints(config.endpoints, config.allowed_hosts):
        try:
            reply = _exchange(endpoint, f"{endpoint.url}/models", config.timeout, _key(config))
            models = tuple(str(model["id"]) for model in _value(endpoint, reply)["data"])
        except (Trouble, LookupError, TypeError):
            continue
        if models and config.model not in models:
            found[endpoint.url] = models
    return found


def _key(config: ServedVlm) -> str | None:
    """The key from the named environment variable; None when none is named."""
    if config.api_key_env is None:
        return None
    key = os.environ.get(config.api_key_env, "").strip()
    if not key:
        problem = f"the environment variable {config.api_key_env} is not set"
        raise ConfigError("vlm.api_key_env", problem, "Set it to the endpoint's key, or leave vlm.api_key_env empty.")
    if not (key.isascii() and key.isprintable()):
        problem = f"the environment variable {config.api_key_env} holds characters that no key has"
        raise ConfigError("vlm.api_key_env", problem, "Copy the key again.")
    return key
