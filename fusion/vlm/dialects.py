"""How one question is put to one endpoint: OpenAI chat completions, or `POST /v1/inference {image, question}`.

Knows the two wire formats and turns what goes wrong into `Trouble`; knows no retry, no other endpoint, no acceptance.

Privacy: only known headers are sent, no key but the configured one, no redirect is followed, and no proxy of the environment
is used.
"""

from __future__ import annotations

import base64
import http.client
import json
import logging
import platform
import threading
import urllib.error
import urllib.request
from typing import TYPE_CHECKING, Any, Protocol

from fusion.config import ServedVlm
from fusion.page import Token
from fusion.vlm.asking import Question
from fusion.vlm.endpoints import Endpoint, Trouble
from fusion.vlm.images import to_png
from fusion.vlm.protocol import Answer

if TYPE_CHECKING:
    import openai
    from openai.types.chat import ChatCompletion

SEED = 1
"""For temperatures above 0, so that a second run gives the same answers where the server honours it."""
LARGEST_ANSWER = 4_000_000
"""Bytes of an inference answer; more is no transcription of a line."""

_SENT_HEADERS = {"host", "accept", "accept-encoding", "connection", "content-type", "content-length", "user-agent"}
_ZAI_HOSTS = ("z.ai", "bigmodel.cn")


class Dialect(Protocol):
    """A way to ask."""

    engine: str
    version: str
    has_temperature: bool

    def ask(self, endpoint: Endpoint, question: Question) -> Answer:
        """Ask one endpoint once; raises Trouble when there is no answer."""
        ...

    def close(self) -> None:
        """Give connections back."""
        ...


class OpenAIDialect:
    """Chat completions with the openai SDK, one client per endpoint."""

    engine = "served-openai"
    has_temperature = True

    def __init__(self, config: ServedVlm, key: str | None, endpoints: tuple[Endpoint, ...]) -> None:
        import openai

        # At DEBUG the SDK logs whole requests, that is images and text of pages.
        logging.getLogger("openai._base_client").setLevel(logging.WARNING)
        self.version = openai.__version__
        self._config = config
        self._clients = {endpoint.url: _client(endpoint, key, config) for endpoint in endpoints}
        self._without_logprobs: set[str] = set()
        self._lock = threading.Lock()

    def ask(self, endpoint: Endpoint, question: Question) -> Answer:
        """Ask, with log-probabilities where the endpoint gives them."""
        import openai

        request = self._request(endpoint, question)
        try:
            completion = self._complete(endpoint, request)
        except openai.APITimeoutError as error:
            raise _timeout(endpoint, self._config) from error
        except openai.APIConnectionError as error:
            raise _unreachable(endpoint) from error
        except openai.APIStatusError as error:
            raise _refused(endpoint, error.status_code) from error
        except (openai.OpenAIError, ValueError) as error:
            # The SDK lets a body that is not JSON through as json.JSONDecodeError, a ValueError.
            raise _malformed(endpoint) from error
        return _read_completion(completion, endpoint)

    def close(self) -> None:
        """Close the connections."""
        for client in self._clients.values():
            client.close()

    def _complete(self, endpoint: Endpoint, request: dict[str, Any]) -> ChatCompletion:
        """One request; a second one without log-probabilities where the endpoint does not know them."""
        import openai

        create = self._clients[endpoint.url].chat.completions.create
        with self._lock:
            wants_logprobs = endpoint.url not in self._without_logprobs
        if not wants_logprobs:
            completion: ChatCompletion = create(**request)
            return completion
        try:
            completion = create(**request, logprobs=True)
        except openai.APIStatusError as error:
            if error.status_code not in (400, 422):
                raise
            completion = create(**request)
            with self._lock:
                self._without_logprobs.add(endpoint.url)
        return completion

    def _request(self, endpoint: Endpoint, question: Question) -> dict[str, Any]:
        """The body of a request, without `logprobs`."""
        url = "data:image/png;base64," + base64.b64encode(to_png(question.pixels)).decode()
        content = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": question.plain}]
        request: dict[str, Any] = {
            "model": self._config.model,
            "messages": [{"role": "user", "content": content}],
            "max_tokens": self._config.max_tokens,
            "temperature": question.temperature,
            "extra_body": _thinking(endpoint.host, self._config.thinking),
        }
        if question.temperature > 0:
            request["seed"] = SEED
        return request


class InferenceDialect:
    """`POST {endpoint}/v1/inference {image, question} -> {answer}`; it has no temperature and gives no finish reason."""

    engine = "served-inference"
    has_temperature = False

    def __init__(self, config: ServedVlm, key: str | None) -> None:
        self.version = f"urllib {platform.python_version()}"
        self._config = config
        self._headers = {"Content-Type": "application/json", "User-Agent": "fusion"}
        if key is not None:
            self._headers["Authorization"] = f"Bearer {key}"

    def ask(self, endpoint: Endpoint, question: Question) -> Answer:
        """Ask once."""
        image = base64.b64encode(to_png(question.pixels)).decode()
        body = json.dumps({"image": image, "question": question.plain}).encode()
        address = f"{endpoint.url.removesuffix('/v1')}/v1/inference"
        request = urllib.request.Request(address, body, self._headers, method="POST")
        try:
            with _opener().open(request, timeout=self._config.timeout) as response:
                content = response.read(LARGEST_ANSWER + 1)
        except urllib.error.HTTPError as error:
            with error:
                raise _refused(endpoint, error.code) from error
        except TimeoutError as error:
            raise _timeout(endpoint, self._config) from error
        except urllib.error.URLError as error:
            if isinstance(error.reason, TimeoutError):
                raise _timeout(endpoint, self._config) from error
            raise _unreachable(endpoint) from error
        except (OSError, http.client.HTTPException) as error:
            raise _unreachable(endpoint) from error
        try:
            answer = json.loads(content)["answer"] if len(content) <= LARGEST_ANSWER else None
        except (ValueError, KeyError, TypeError) as error:
            raise _malformed(endpoint) from error
        if not isinstance(answer, str):
            raise _malformed(endpoint)
        return Answer(answer)

    def close(self) -> None:
        """Nothing to give back: every request has its own connection."""


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Redirects are answers, not orders."""

    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        return None


def _opener() -> urllib.request.OpenerDirector:
    """No redirects and no proxies: images go to the hosts that are allowed, and through no other."""
    return urllib.request.build_opener(urllib.request.ProxyHandler({}), _NoRedirect)


def _client(endpoint: Endpoint, key: str | None, config: ServedVlm) -> openai.OpenAI:
    """An SDK client that sends nothing of the user's OpenAI settings and follows nothing."""
    import openai

    def only_ours(request: Any) -> None:
        # The SDK adds OPENAI_ORG_ID, OPENAI_CUSTOM_HEADERS and a description of this machine on its own.
        for name in list(request.headers):
            if name.lower() not in _SENT_HEADERS:
                del request.headers[name]
        if key is not None:
            request.headers["Authorization"] = f"Bearer {key}"

    web = openai.DefaultHttpxClient(
        trust_env=False,
        follow_redirects=False,
        timeout=config.timeout,
        event_hooks={"request": [only_ours]},
    )
    # An explicit key keeps the SDK from reading OPENAI_API_KEY; retries are ours, over all endpoints.
    return openai.OpenAI(
        base_url=endpoint.url, api_key=key or "none", max_retries=0, timeout=config.timeout, http_client=web
    )


def _thinking(host: str, wanted: bool) -> dict[str, Any]:
    """How an endpoint is told whether to think aloud: Z.ai's own switch, or the chat template's."""
    if any(host == zai or host.endswith(f".{zai}") for zai in _ZAI_HOSTS):
        return {"thinking": {"type": "enabled" if wanted else "disabled"}}
    return {"chat_template_kwargs": {"enable_thinking": wanted}}


def _read_completion(completion: ChatCompletion, endpoint: Endpoint) -> Answer:
    """Text, finish reason and log-probabilities; thoughts that come apart from the text are left out."""
    # The SDK builds its objects without validation: any field of a careless server may be missing or of another type.
    choices = getattr(completion, "choices", None)
    if not isinstance(choices, list) or not choices:
        raise _malformed(endpoint)
    choice = choices[0]
    text = getattr(getattr(choice, "message", None), "content", None)
    finish = getattr(choice, "finish_reason", None)
    if text is None:
        message = "the answer has no content; with a thinking model raise vlm.max_tokens or set vlm.thinking=false"
        raise Trouble("no_content", message, again=False)
    if not isinstance(text, str):
        raise _malformed(endpoint)
    model = getattr(completion, "model", None)
    return Answer(
        text, finish if isinstance(finish, str) else None, _tokens(choice), model if isinstance(model, str) else ""
    )


def _tokens(choice: Any) -> tuple[Token, ...]:
    """Generated tokens with log-probabilities, or empty when any is missing: half a sum is no score."""
    content = getattr(getattr(choice, "logprobs", None), "content", None)
    if not isinstance(content, list):
        return ()
    pairs = [(getattr(entry, "token", None), getattr(entry, "logprob", None)) for entry in content]
    if not all(isinstance(token, str) and isinstance(score, int | float) for token, score in pairs):
        return ()
    return tuple(Token(str(token), float(score)) for token, score in pairs if score is not None)


def _timeout(endpoint: Endpoint, config: ServedVlm) -> Trouble:
    message = f"{endpoint.url} did not answer within {config.timeout:g} s (vlm.timeout)"
    return Trouble("timeout", message, again=True, ill=True)


def _unreachable(endpoint: Endpoint) -> Trouble:
    message = f"{endpoint.url} can't be reached. Start the model server or correct vlm.endpoints."
    return Trouble("unreachable", message, again=True, ill=True)


def _malformed(endpoint: Endpoint) -> Trouble:
    return Trouble("bad_answer", f"{endpoint.url} sent an answer that is not of its dialect (vlm.dialect)", again=True)


def _refused(endpoint: Endpoint, status: int) -> Trouble:
    """What an HTTP status means and what to do about it."""
    if status == 429:
        return Trouble("busy", f"{endpoint.url} is overloaded (429); lower vlm.concurrency", again=True, ill=True)
    if status >= 500:
        return Trouble("server_error", f"{endpoint.url} failed ({status}); see its log", again=True, ill=True)
    if status in (401, 403):
        message = f"{endpoint.url} refuses access ({status}); name the variable that holds the key in vlm.api_key_env"
        return Trouble("unauthorized", message, again=False)
    if status == 404:
        message = f"{endpoint.url} has no such address or model (404); check vlm.endpoints and vlm.model"
        return Trouble("not_found", message, again=False)
    if 300 <= status < 400:
        message = f"{endpoint.url} redirects elsewhere ({status}), which is not followed; put the final address in vlm.endpoints"
        return Trouble("redirected", message, again=False)
    message = f"{endpoint.url} refuses the request ({status}); check vlm.model and vlm.max_tokens, and see its log"
    return Trouble("refused", message, again=False)
