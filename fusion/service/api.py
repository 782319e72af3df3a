"""The routes: HTTP to archive, engines and answers.

Nothing of a request names a file. Logs hold the route, an id, the status and the time it took; never text or images.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import logging
import os
import re
import threading
import time
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from importlib.resources import files
from ipaddress import ip_address
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

import cv2
import prometheus_client as prometheus
from anyio.to_thread import current_default_thread_limiter
from fastapi import APIRouter, Depends, FastAPI, HTTPException, Path, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError
from starlette.datastructures import UploadFile

from fusion.config import Config, load_config
from fusion.domain import open_profile
from fusion.engine import require_answers
from fusion.errors import ConfigError, FusionError, InputError
from fusion.output.crops import at_most, crop_line, photo_scale
from fusion.page import Page
from fusion.records import page_dict
from fusion.service.answers import Answer, cited, from_fields
from fusion.service.archive import Archive, Conflict, Edit, Found, Missing, Transcription, Unwritable
from fusion.service.exports import Format, Sheet, decoded, export
from fusion.service.shapes import shown
from fusion.service.workers import Ask, Call, Done, Full, Read, Workers

COOKIE = "fusion"
SHORTEST_TOKEN = 16
_STATUS = {Missing: 404, Conflict: 409, InputError: 422, ConfigError: 422, Full: 429, Unwritable: 503}
"""What errors for people are over HTTP; a reader that fails is 502."""
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
_log = logging.getLogger(__name__)

Id = Annotated[str, Path(pattern="^[0-9a-f]{32}$", description="Id of a transcription.")]
Number = Annotated[int, Path(ge=1, le=10_000, description="Number of the page, from 1.")]
Word = Annotated[str, StringConstraints(max_length=200)]
Question = Annotated[str, StringConstraints(min_length=1, max_length=2000)]


class Body(BaseModel):
    """Base of every request: unknown keys are errors."""

    model_config = ConfigDict(extra="forbid")


class Submission(Body):
    """An image or a PDF, base64."""

    image: str
    name: Word = "image"
    profile: Word | None = None


class Question_(Body):
    """A question about a page of the archive."""

    id: Annotated[str, StringConstraints(pattern="^[0-9a-f]{32}$")]
    question: Question
    page: Annotated[int, Field(ge=1, le=10_000)] = 1


class Inference(BaseModel):
    """An image, base64, and a question about it."""

    image: str
    question: Question


class Corrected(Body):
    """What a person decided about one stretch: code points `start` to `end` of a line, where they saw `old`."""

    line: Word
    start: Annotated[int, Field(ge=0, le=1_000_000)]
    end: Annotated[int, Field(ge=0, le=1_000_000)]
    old: Annotated[str, StringConstraints(max_length=10_000)]
    text: Annotated[str, StringConstraints(max_length=10_000)]


class Corrections(Body):
    """What one person decided at once: all of it is kept, or nothing."""

    by: Annotated[str, StringConstraints(max_length=100, pattern=r"^[^\x00-\x1f]*$")] = "unnamed"
    corrections: Annotated[list[Corrected], Field(min_length=1, max_length=1000)]


class Who(Body):
    """Who takes something back."""

    by: Annotated[str, StringConstraints(max_length=100, pattern=r"^[^\x00-\x1f]*$")] = "unnamed"


class Token(Body):
    """The token, to be kept in a cookie."""

    token: Word


class InferenceAnswer(BaseModel):
    """What the article's script prints."""

    answer: str


@dataclass
class Service:
    """What the routes need: configuration, archive, engines, token and figures."""

    config: Config
    archive: Archive
    workers: Workers
    token: str | None
    registry: prometheus.CollectorRegistry = field(default_factory=prometheus.CollectorRegistry)

    def __post_init__(self) -> None:
        figure: dict[str, Any] = {"registry": self.registry}
        self.requests = prometheus.Counter("fusion_requests", "Requests.", ["route", "status"], **figure)
        self.seconds = prometheus.Histogram("fusion_request_seconds", "Time to answer.", ["route"], **figure)
        self.reading = prometheus.Histogram("fusion_reading_seconds", "Time to read an upload.", **figure)
        self.pages = prometheus.Counter("fusion_pages", "Pages read.", **figure)
        waiting = prometheus.Gauge("fusion_waiting", "Pieces of work that wait for an engine.", **figure)
        waiting.set_function(lambda: self.workers.waiting)
        self._taking = threading.Lock()
        self._profiles = lru_cache(16)(lambda name: open_profile(self.configured(name).domain))
        self._decoded = lru_cache(2)(lambda id_, number: decoded(self.archive.picture(id_, number)))

    def configured(self, profile: str) -> Config:
        """The configuration with a profile. ConfigError: there is none of this name."""
        return load_config(self.config, [f"domain.profile={json.dumps(profile)}"])

    def take(self, uploads: list[tuple[str, bytes]], profile: str | None, wait: bool) -> list[Transcription]:
        """Keep uploads and have them read; Full when there is no room for all of them."""
        config = self.configured(profile or self.config.domain.profile)
        with self._taking:
            self.workers.room(len(uploads))
            made = [self.archive.add(name, upload, config.domain.profile, config.hash) for name, upload in uploads]
            futures = [self.workers.submit(self._reading(one)) for one in made if one.status == "waiting"]
        for future in futures if wait else ():
            try:
                future.result(self.config.serve.wait)
            except TimeoutError:
                break
        return [self.archive.get(one.id) for one in made]

    def resume(self) -> None:
        """Read what an earlier process has taken and not read."""
        for id_ in self.archive.waiting():
            self.workers.submit(self._reading(self.archive.get(id_)))

    def ask(self, upload: bytes, question: str, profile: str, number: int = 1, page: Page | None = None) -> Answer:
        """Ask the model; where none answers, the fields of the page."""
        failure = ""
        try:
            require_answers(self.config)
            done = self._have_done(Ask(upload, question, profile, number, page))
            if done.answer:
                return Answer(done.answer, cited(page, done.answer) if page is not None else (), "model")
            failure = done.problem
        except ConfigError:
            failure = "No model that answers is configured."
        if page is None:
            done = self._have_done(Read(upload, "image", profile))
            if not done.pages:
                raise InputError("image", "can't be read", done.problem)
            page = done.pages[0][0]
        answer = from_fields(page, question)
        note = " ".join(part for part in (f"Answered from the fields of the page. {failure}", answer.note) if part)
        return Answer(answer.text, answer.lines, answer.by, note)

    def page(self, id_: str, number: int) -> Page:
        """A page as it stands, understood by its profile."""
        return self.understood(self.archive.page(id_, number), self.archive.get(id_).profile)

    def understood(self, page: Page, profile: str) -> Page:
        """A page with fields and remarks about its text as it stands; what nobody edited has them."""
        edited = any(span.source == "human" for line in page.lines for span in line.spans)
        return self._profiles(profile).understand(page) if edited else page

    def sheets(self, one: Transcription) -> list[Sheet]:
        """All pages of a transcription, to be exported."""
        return [
            Sheet(self.page(one.id, n), self.archive.page(one.id, n, as_read=True), self.archive.picture(one.id, n))
            for n in range(1, one.pages + 1)
        ]

    def crop(self, id_: str, number: int, line: str) -> bytes:
        """A line cut out, JPEG."""
        page = self.archive.page(id_, number)
        found = next((one for one in page.lines if one.id == line), None)
        if found is None:
            raise Missing(f"line {line}", "is not on the page", "Load the page again.")
        photo = self._decoded(id_, number)
        crop = crop_line(photo, found.polygon, photo_scale(photo, page))
        if not crop.size:
            raise Missing(f"line {line}", "has no area", "Look at the whole page.")
        return bytes(cv2.imencode(".jpg", at_most(crop, 1400, 260)[:, :, ::-1])[1])

    def _reading(self, one: Transcription) -> Callable[[Call], None]:
        """The work of reading one upload: whatever happens, the archive knows its end."""

        def read(call: Call) -> None:
            start = time.perf_counter()
            try:
                done = call(Read(self.archive.upload(one.id), one.name, one.profile))
            except Missing:
                return  # deleted before it was read
            except FusionError as error:
                done = Done(problem=str(error))
            self.archive.finish(one.id, done.pages, done.problem)
            self.pages.inc(len(done.pages))
            self.reading.observe(time.perf_counter() - start)

        return read

    def _have_done(self, job: Ask | Read) -> Done:
        """Have an engine do what is not kept; Full when there is no room."""
        found: list[Done] = []
        with self._taking:
            self.workers.room(1)
            future = self.workers.submit(lambda call: found.append(call(job)))
        future.result(self.config.serve.timeout * 2)
        return found[0]


def _service(request: Request) -> Service:
    service = request.app.state.service
    assert isinstance(service, Service)
    return service


Ours = Annotated[Service, Depends(_service)]


def _cookie(token: str) -> str:
    return hmac.new(token.encode(), b"the review page", hashlib.sha256).hexdigest()


def _admitted(request: Request, service: Ours) -> None:
    """Whether the request bears the token, in its header or as the cookie that the review page got for it."""
    if service.token is None:
        return
    scheme, _, given = request.headers.get("Authorization", "").partition(" ")
    bears = scheme.lower() == "bearer" and hmac.compare_digest(given.strip().encode(), service.token.encode())
    cookie = request.cookies.get(COOKIE, "")
    if not (bears or hmac.compare_digest(cookie.encode(), _cookie(service.token).encode())):
        raise HTTPException(401, "The token is missing or wrong.", {"WWW-Authenticate": "Bearer"})


api = APIRouter(prefix="/v1", dependencies=[Depends(_admitted)])
open_ = APIRouter()

# --- transcriptions ---------------------------------------------------------------------------------------------------


async def _submitted(request: Request) -> tuple[list[tuple[str, bytes]], str | None]:
    """Uploads and profile of a request: files of a form, or base64 in JSON."""
    if request.headers.get("Content-Type", "").startswith("multipart/form-data"):
        async with request.form(max_files=100, max_fields=10) as form:
            sent = [part for _, part in form.multi_items() if isinstance(part, UploadFile)]
            uploads = [(_name(part.filename), await part.read()) for part in sent]
            profile = form.get("profile")
        given = profile if isinstance(profile, str) and profile else None
    else:
        try:
            body = Submission.model_validate_json(await request.body())
        except ValidationError as error:
            raise RequestValidationError(error.errors(include_url=False)) from error
        uploads, given = [(_name(body.name), _decoded(body.image))], body.profile
    if not uploads or not all(content for _, content in uploads):
        raise InputError("request", "holds no file, or an empty one", "Send a form with files, or JSON with `image`.")
    return uploads, given


def _name(name: str | None) -> str:
    """What a sender calls a file: a label, never a path."""
    last = re.split(r"[/\\]", name or "")[-1]
    return re.sub(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]", "", last)[-200:] or "image"


def _decoded(image: str) -> bytes:
    """Base64, with or without the head of a data URI."""
    head, comma, rest = image.partition(",")
    try:
        return base64.b64decode(rest if comma and head.startswith("data:") else image, validate=True)
    except (binascii.Error, ValueError) as error:
        raise InputError("image", "is not base64", "Encode the bytes of an image file.") from error


_FORM = {"type": "object", "properties": {"file": {"type": "array", "items": {"type": "string", "format": "binary"}}}}
_FORM["properties"] |= {"profile": {"type": "string"}}  # type: ignore[operator]
_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {"schema": _FORM},
            "application/json": {"schema": Submission.model_json_schema()},
        },
    }
}
Submitted = Annotated[tuple[list[tuple[str, bytes]], str | None], Depends(_submitted)]


@api.post("/transcriptions", status_code=201, openapi_extra=_BODY, responses={202: {}, 429: {}})
def submit(service: Ours, submitted: Submitted, response: Response, wait: bool = True) -> Any:
    """Have images or PDFs read: one is answered when it is read; several, or a slow one, with 202 and ids to ask for."""
    uploads, profile = submitted
    made = service.take(uploads, profile, wait and len(uploads) == 1)
    if len(made) > 1 or made[0].status == "waiting":
        response.status_code = 202
        return {"transcriptions": [asdict(one) for one in made]}
    if made[0].status == "failed":
        service.archive.delete(made[0].id)
        raise HTTPException(422, made[0].problem)
    response.headers["Location"] = f"/v1/transcriptions/{made[0].id}"
    return _transcription(service, made[0])


@api.get("/transcriptions")
def listed(service: Ours, limit: Annotated[int, Query(ge=1, le=1000)] = 100) -> list[Transcription]:
    """The newest uploads."""
    return service.archive.recent(limit)


@api.get("/transcriptions/{id}", response_model=None)
def transcription(
    service: Ours, id: Id, format: Annotated[Format | None, Query(description="A file instead.")] = None
) -> Any:
    """An upload with its pages: as JSON with all that is known, or as a file of some format."""
    one = service.archive.get(id)
    if format is None:
        return _transcription(service, one)
    if one.status != "done":
        raise Conflict("the transcription", f"is {one.status}", "Ask again when it is done.")
    content, media, name = export(service.sheets(one), format.value)
    return Response(content, media_type=media, headers={"Content-Disposition": f'attachment; filename="{name}"'})


def _transcription(service: Service, one: Transcription) -> dict[str, Any]:
    pages = [service.page(one.id, n) for n in range(1, one.pages + 1)]
    return {**asdict(one), "text": "\n".join(page.marked for page in pages), "pages": [page_dict(p) for p in pages]}


@api.delete("/transcriptions/{id}", status_code=204)
def delete(service: Ours, id: Id) -> None:
    """Delete an upload with everything that was made of it."""
    service.archive.delete(id)


@api.get("/transcriptions/{id}/pages/{number}")
def page(service: Ours, id: Id, number: Number) -> dict[str, Any]:
    """A page as the review page shows it: lines, spans, readings, what to look at and why, fields, remarks."""
    return _shown(service, service.archive.get(id), service.archive.page(id, number))


def _shown(service: Service, one: Transcription, page: Page) -> dict[str, Any]:
    about = {"name": one.name, "pages": one.pages, "profile": one.profile, "formats": list(Format)}
    return {**about, **shown(service.understood(page, one.profile))}


@api.get("/transcriptions/{id}/pages/{number}/picture", response_class=Response)
def picture(service: Ours, id: Id, number: Number) -> Response:
    """The photograph as displayed, JPEG."""
    return Response(service.archive.picture(id, number), media_type="image/jpeg")


@api.get("/transcriptions/{id}/pages/{number}/lines/{line}", response_class=Response)
def crop(service: Ours, id: Id, number: Number, line: Annotated[str, Path(max_length=40)]) -> Response:
    """A line cut out of the photograph, JPEG."""
    return Response(service.crop(id, number, line), media_type="image/jpeg")


@api.post("/transcriptions/{id}/pages/{number}/corrections")
def correct(service: Ours, id: Id, number: Number, body: Corrections) -> dict[str, Any]:
    """Keep what a person decided, as `human` spans; it is on the disk when this answers. 409 when the text has changed."""
    edits = [Edit(**one.model_dump()) for one in body.corrections]
    made = service.archive.correct(id, number, edits, body.by.strip() or "unnamed")
    return _shown(service, service.archive.get(id), made)


@api.post("/transcriptions/{id}/pages/{number}/undo")
def undo(service: Ours, id: Id, number: Number, body: Who) -> dict[str, Any]:
    """Take the last correction of a page back."""
    made = service.archive.undo(id, number, body.by.strip() or "unnamed")
    return _shown(service, service.archive.get(id), made)


# --- search and questions -------------------------------------------------------------------------------------------


@api.get("/search")
def search(
    service: Ours, q: Annotated[str, Query(max_length=500)], limit: Annotated[int, Query(ge=1, le=200)] = 20
) -> list[Found]:
    """Pages that hold all words of a query, the newest first; below them, pages whose candidates may hold them."""
    return service.archive.search(q, limit)


@api.post("/ask")
def ask(service: Ours, body: Question_) -> Answer:
    """Answer a question about a page, citing lines: by a model that answers, or from the page's fields."""
    one = service.archive.get(body.id)
    there = service.page(body.id, body.page)
    return service.ask(service.archive.upload(body.id), body.question, one.profile, body.page, there)


@api.post("/inference")
def inference(service: Ours, body: Inference) -> InferenceAnswer:
    """Answer a question about an image that is not kept."""
    answer = service.ask(_decoded(body.image), body.question, service.config.domain.profile)
    return InferenceAnswer(answer=f"{answer.text}\n({answer.note})" if answer.note else answer.text)


# --- around it --------------------------------------------------------------------------------------------------------


@open_.post("/v1/session", status_code=204)
def session(service: Ours, request: Request, response: Response, body: Token) -> None:
    """Trade the token for a cookie, so that the review page can show pictures."""
    if service.token is None:
        return
    if not hmac.compare_digest(body.token.encode(), service.token.encode()):
        raise HTTPException(401, "The token is wrong.")
    secure = request.url.scheme == "https"
    response.set_cookie(COOKIE, _cookie(service.token), httponly=True, samesite="strict", secure=secure)


@open_.get("/health")
def health() -> dict[Literal["status"], str]:
    """Whether the process answers."""
    return {"status": "ok"}


@open_.get("/ready", responses={503: {}})
def ready(service: Ours, response: Response) -> dict[Literal["ready"], bool]:
    """Whether an engine has loaded its models."""
    response.status_code = 200 if service.workers.ready else 503
    return {"ready": service.workers.ready}


@open_.get("/metrics", dependencies=[Depends(_admitted)], response_class=Response)
def metrics(service: Ours) -> Response:
    """Figures for Prometheus."""
    return Response(prometheus.generate_latest(service.registry), media_type=prometheus.CONTENT_TYPE_LATEST)


def _file(name: str, media: str) -> Callable[[], Response]:
    content = (files("fusion.service") / "web" / name).read_bytes()
    return lambda: Response(content, media_type=media)


for _path in ("/", "/search", "/review/{id}"):
    open_.add_api_route(_path, _file("page.html", "text/html; charset=utf-8"), include_in_schema=False)
open_.add_api_route("/page.js", _file("page.js", "text/javascript; charset=utf-8"), include_in_schema=False)
open_.add_api_route("/page.css", _file("page.css", "text/css; charset=utf-8"), include_in_schema=False)


# --- the application --------------------------------------------------------------------------------------------------


def application(service: Service) -> FastAPI:
    """The routes over a service."""
    from fusion import __version__

    @asynccontextmanager
    async def with_threads(_: FastAPI) -> AsyncIterator[None]:
        serve = service.config.serve  # as many as may wait for an engine, and those that need none
        current_default_thread_limiter().total_tokens = serve.workers + serve.queue + 40
        yield

    app = FastAPI(
        title="fusion",
        lifespan=with_threads,
        version=__version__,
        docs_url=None,  # its pages load scripts from elsewhere
        redoc_url=None,
        max_body_size=int(service.config.serve.max_upload_mb * 1e6),
    )
    app.state.service = service
    app.include_router(api)
    app.include_router(open_)
    for kind, status in _STATUS.items():
        app.add_exception_handler(kind, _told(status))
    app.add_exception_handler(FusionError, _told(502))
    app.add_exception_handler(RequestValidationError, _invalid)
    app.middleware("http")(_watched)
    return app


def _told(status: int) -> Callable[[Request, Exception], Response]:
    def tell(_: Request, error: Exception) -> Response:
        headers = {"Retry-After": str(error.retry_after)} if isinstance(error, Full) else None
        return JSONResponse({"detail": str(error)}, status, headers)

    return tell


def _invalid(_: Request, error: Exception) -> Response:
    """What is wrong with a request and where, without quoting it: a value may be no JSON."""
    assert isinstance(error, RequestValidationError)
    told = [{"loc": [str(part) for part in one["loc"]], "msg": str(one["msg"])} for one in error.errors()]
    return Response(json.dumps({"detail": told}), 422, media_type="application/json")


async def _watched(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
    """Every request: refused where another site's page sends it, counted, timed, logged without its content."""
    service = _service(request)
    start = time.perf_counter()
    response = await call_next(request) if _is_ours(request, service) else JSONResponse({"detail": "Foreign."}, 403)
    route = getattr(request.scope.get("route"), "path", "none")
    spent = time.perf_counter() - start
    response.headers.update(_HEADERS)
    service.requests.labels(route, response.status_code).inc()
    service.seconds.labels(route).observe(spent)
    id_ = request.path_params.get("id", "-")
    shown_id = id_ if re.fullmatch("[0-9a-f]{32}", str(id_)) else "-"
    _log.info("%s %s %s %d %.3f s", request.method, route, shown_id, response.status_code, spent)
    return response


def _is_ours(request: Request, service: Service) -> bool:
    """Whether no page of another site sends it: by its origin, and without a token by the name it calls us."""
    host = request.headers.get("Host", "")
    origin = request.headers.get("Origin")
    if origin is not None and urlsplit(origin).netloc != host:
        return False
    return service.token is not None or is_loopback(urlsplit(f"//{host}").hostname or "")


def is_loopback(host: str) -> bool:
    """Whether a name or address is this machine's own."""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def token_of(config: Config) -> str | None:
    """The token that requests must bear.

    Raises:
        ConfigError: there must be one and is none, or it is too short to be one.
    """
    name, host = config.serve.token_env, config.serve.host
    token = os.environ.get(name, "") if name is not None else None
    if token is None and not is_loopback(host):
        way = "Set serve.token_env to the name of a variable that holds a long random token."
        raise ConfigError("serve.host", f"{host} is beyond this machine, and no token is asked for", way)
    if token is not None and len(token) < SHORTEST_TOKEN:
        way = f"Put {SHORTEST_TOKEN} random characters or more into it: openssl rand -hex 32."
        raise ConfigError("serve.token_env", f"{name} holds no token that is long enough", way)
    return token


def check(config: Config) -> None:
    """Refuse what would outlive a deletion. ConfigError: readings would be kept elsewhere too."""
    kept = [("store.folder", config.store.folder), ("vlm.cache", getattr(config.vlm, "cache", None))]
    for key, value in kept:
        if value is not None:
            way = "Leave it out: the archive reads no upload twice."
            raise ConfigError(key, "would keep what the service is told to delete", way)


@contextmanager
def opened(config: Config) -> Iterator[FastAPI]:
    """The service with its archive and engines, which end with it.

    Raises:
        ConfigError: the configuration can't be served.
    """
    check(config)
    token = token_of(config)
    archive = Archive(config.serve.archive)
    workers = Workers(config)
    ended = threading.Event()
    service = Service(config, archive, workers, token)
    service.resume()
    keeper = threading.Thread(target=_keep, args=(archive, config.serve.keep_days, ended), daemon=True)
    keeper.start()
    try:
        yield application(service)
    finally:
        ended.set()
        workers.close()


def _keep(archive: Archive, days: float | None, ended: threading.Event) -> None:
    """Delete what is too old, every hour."""
    while days is not None:
        archive.expire(days)
        if ended.wait(3600):
            return


def _without_text(record: logging.LogRecord) -> bool:
    """Of an unexpected error only its kind and place: its message may quote a page."""
    if record.exc_info and record.exc_info[0] is not None:
        place = traceback.extract_tb(record.exc_info[2])[-1]
        record.msg = f"unexpected {record.exc_info[0].__name__} in {place.name}, row {place.lineno}"
        record.args, record.exc_info = None, None
    return True


def run(config: Config) -> None:
    """Serve until interrupted."""
    import uvicorn

    logging.getLogger("uvicorn.error").addFilter(_without_text)
    with opened(config) as app:
        uvicorn.run(app, host=config.serve.host, port=config.serve.port, access_log=False, log_level="warning")
