"""The routes: HTTP to the service. Nothing of a request names a file."""

from __future__ import annotations

import logging
import re
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict
from importlib.resources import files
from typing import Annotated, Any, Literal
from urllib.parse import quote

import prometheus_client as prometheus
import uvicorn
from anyio.to_thread import current_default_thread_limiter
from fastapi import APIRouter, Depends, FastAPI, HTTPException, Path, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse

from fusion import __version__
from fusion.config import Config
from fusion.errors import ConfigError, FusionError, InputError
from fusion.records import page_dict
from fusion.service.answers import Answer
from fusion.service.archive import Conflict, Edit, Missing, Transcription, Unwritable
from fusion.service.door import COOKIE, Bounded, Connection, Door, OurDoor, OurService, admitted, watched, without_text
from fusion.service.exports import MEDIA, Format, export
from fusion.service.index import Found
from fusion.service.messages import (
    UPLOADS,
    Accepted,
    Asked,
    Corrections,
    Id,
    Inference,
    InferenceAnswer,
    Number,
    Problem,
    Submitted,
    Token,
    Undone,
    Whole,
    from_base64,
)
from fusion.service.service import Service, opened
from fusion.service.shapes import shown
from fusion.service.workers import Full

_STATUS = {Missing: 404, Conflict: 409, InputError: 422, ConfigError: 422, Full: 429, Unwritable: 503, FusionError: 502}
"""What errors for people are over HTTP; the nearest kind counts."""

CONNECTIONS = 500
"""Most connections at once, else 503: half of the files that a process may usually open."""

_PROBLEMS: dict[int | str, dict[str, Any]] = {
    "4XX": {"model": Problem, "description": "The request can't be answered."},
    "5XX": {"model": Problem, "description": "The service can't answer it now."},
}
_JSON = Whole | dict[str, Any] | list[Any]  # the whole, or a file that is JSON
_WHOLE = {"model": _JSON, "content": {media: {} for media in MEDIA}, "description": "The transcription, or a file."}
Wanted = Annotated[Format | None, Query(alias="format", description="A file of this format instead.")]
api = APIRouter(prefix="/v1", dependencies=[Depends(admitted)], responses=_PROBLEMS)
open_ = APIRouter(responses=_PROBLEMS)

# --- transcriptions ---------------------------------------------------------------------------------------------------


@api.post(
    "/transcriptions",
    status_code=201,
    response_model=None,
    openapi_extra=UPLOADS,
    responses={201: _WHOLE, 202: {"model": Accepted}},
)
def submit(
    service: OurService, submitted: Submitted, response: Response, wait: bool = True, format_: Wanted = None
) -> Any:
    """Have images or PDFs read: one is answered when it is read; several, or a slow one, with 202 and ids to ask for."""
    uploads, profile = submitted
    made = service.take(uploads, profile, wait and len(uploads) == 1)
    if len(made) > 1 or made[0].status == "waiting":
        response.status_code = 202
        return {"transcriptions": [asdict(one) for one in made]}
    if made[0].status == "failed":
        with suppress(Missing):  # another request for the same upload
            service.delete(made[0].id)
        raise HTTPException(422, made[0].problem)
    where = {"Location": f"/v1/transcriptions/{made[0].id}"}
    if format_ is not None:
        return _file(service, made[0], format_, 201, where)
    response.headers.update(where)
    return _transcription(service, made[0])


@api.get("/transcriptions")
def listed(service: OurService, limit: Annotated[int, Query(ge=1, le=1000)] = 100) -> list[Transcription]:
    """The newest uploads."""
    return service.archive.recent(limit)


@api.get("/transcriptions/{id}", response_model=None, responses={200: _WHOLE})
def transcription(service: OurService, id: Id, format_: Wanted = None) -> Any:
    """An upload with its pages: as JSON with all that is known, or as a file of some format."""
    one = service.archive.get(id)
    return _transcription(service, one) if format_ is None else _file(service, one, format_)


def _transcription(service: Service, one: Transcription) -> dict[str, Any]:
    pages = [service.page(one.id, n) for n in range(1, one.page_count + 1)]
    return {**asdict(one), "text": "\n".join(page.marked for page in pages), "pages": [page_dict(p) for p in pages]}


def _file(
    service: Service, one: Transcription, format_: Format, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    """A transcription to be saved under the name of its upload (RFC 6266, with a name for old clients before it)."""
    if one.status != "done":
        raise Conflict("the transcription", f"is {one.status}", "Ask again when it is done.")
    made = export(service.sheets(one), one.name, format_)
    plain = re.sub(r"[^\x20-\x7e]", "_", made.name)
    disposition = f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(made.name)}"
    return Response(made.content, status, {**(headers or {}), "Content-Disposition": disposition}, made.media)


@api.delete("/transcriptions/{id}", status_code=204)
def delete(service: OurService, id: Id) -> None:
    """Delete an upload with everything that was made of it."""
    service.delete(id)


@api.get("/transcriptions/{id}/pages/{number}")
def page(service: OurService, id: Id, number: Number) -> dict[str, Any]:
    """A page as the review page shows it: lines, spans, readings, what to look at and why, fields, remarks."""
    one = service.archive.get(id)
    standing, decision = service.archive.standing(id, number)
    about = {name: getattr(one, name) for name in ("name", "problem", "page_count", "profile")}
    return {**about, "formats": list(Format), "decision": decision, **shown(service.understood(standing, one.profile))}


@api.get("/transcriptions/{id}/pages/{number}/picture", response_class=Response)
def picture(service: OurService, id: Id, number: Number) -> Response:
    """The photograph as displayed, JPEG."""
    return Response(service.archive.picture(id, number), media_type="image/jpeg")


@api.get("/transcriptions/{id}/pages/{number}/lines/{line}", response_class=Response)
def crop(service: OurService, id: Id, number: Number, line: Annotated[str, Path(max_length=40)]) -> Response:
    """A line cut out of the photograph, JPEG."""
    return Response(service.crop(id, number, line), media_type="image/jpeg")


@api.post("/transcriptions/{id}/pages/{number}/corrections")
def correct(service: OurService, id: Id, number: Number, body: Corrections) -> dict[str, Any]:
    """Keep what a person decided, as `human` spans; it is on the disk when this answers. 409 when the text has changed."""
    edits = [Edit(**one.model_dump()) for one in body.corrections]
    service.archive.correct(id, number, edits, body.by)
    return page(service, id, number)


@api.post("/transcriptions/{id}/pages/{number}/undo")
def undo(service: OurService, id: Id, number: Number, body: Undone) -> dict[str, Any]:
    """Take the last decision of a page back, all of one request; 409 when it is not the one that the person saw."""
    service.archive.undo(id, number, body.decision, body.by)
    return page(service, id, number)


# --- search and questions -------------------------------------------------------------------------------------------


@api.get("/search")
def search(
    service: OurService, q: Annotated[str, Query(max_length=500)], limit: Annotated[int, Query(ge=1, le=200)] = 20
) -> list[Found]:
    """Pages that hold all words of a query, the newest first; below them, pages whose candidates may hold them."""
    return service.archive.search(q, limit)


@api.post("/ask")
def ask(service: OurService, body: Asked) -> Answer:
    """Answer a question about a page, citing lines: by a model that answers, or from the page's fields."""
    one = service.archive.get(body.id)
    there = service.page(body.id, body.page)
    return service.ask(service.archive.upload(body.id), body.question, one.profile, body.page, there)


@api.post("/inference")
def inference(service: OurService, body: Inference) -> InferenceAnswer:
    """Answer a question about an image that is not kept."""
    answer = service.ask(from_base64(body.image), body.question, service.config.domain.profile)
    plain = answer.by == "transcript" or not answer.note  # a transcript stands for itself
    return InferenceAnswer(answer=answer.text if plain else f"{answer.text}\n({answer.note})")


# --- around it --------------------------------------------------------------------------------------------------------


@open_.post("/v1/session", status_code=204)
def session(door: OurDoor, request: Request, response: Response, body: Token) -> None:
    """Trade the token for a cookie, so that the review page can show pictures."""
    cookie = door.cookie(body.token)
    if cookie is None:
        raise HTTPException(401, "The token is wrong.")
    secure = request.url.scheme == "https"
    response.set_cookie(COOKIE, cookie, httponly=True, samesite="strict", secure=secure)


@open_.get("/health")
def health() -> dict[Literal["status"], str]:
    """Whether the process answers."""
    return {"status": "ok"}


@open_.get("/ready", responses={503: {"description": "Not yet."}})
def ready(service: OurService, response: Response) -> dict[Literal["ready"], bool]:
    """Whether an engine has loaded its models."""
    response.status_code = 200 if service.workers.ready else 503
    return {"ready": service.workers.ready}


@open_.get("/metrics", dependencies=[Depends(admitted)], response_class=Response)
def metrics(service: OurService) -> Response:
    """Figures for Prometheus."""
    return Response(prometheus.generate_latest(service.registry), media_type=prometheus.CONTENT_TYPE_LATEST)


_MEDIA = {".html": "text/html", ".js": "text/javascript", ".css": "text/css"}


def _web(name: str) -> Callable[[], Response]:
    content = (files("fusion.service") / "web" / name).read_bytes()
    media = f"{_MEDIA[name[name.index('.') :]]}; charset=utf-8"
    return lambda: Response(content, media_type=media)


for _path in ("/", "/search", "/review/{id}"):
    open_.add_api_route(_path, _web("page.html"), include_in_schema=False)
for _part in ("page.css", "page.js", "base.js", "archive.js", "review.js", "decide.js"):
    open_.add_api_route(f"/{_part}", _web(_part), include_in_schema=False)


# --- the application --------------------------------------------------------------------------------------------------


def application(service: Service, door: Door) -> FastAPI:
    """The routes over a service and its door."""

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
    )
    app.state.service, app.state.door = service, door
    app.include_router(api)
    app.include_router(open_)
    for kind, status in _STATUS.items():
        app.add_exception_handler(kind, _told(status))
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(Exception, _broken)
    app.add_middleware(Bounded, most=int(service.config.serve.max_upload_mb * 1e6))
    app.middleware("http")(watched)  # around it, so that it counts what came too late
    return app


def _told(status: int) -> Callable[[Request, Exception], Response]:
    def tell(_: Request, error: Exception) -> Response:
        headers = {"Retry-After": str(error.retry_after)} if isinstance(error, Full) else None
        return JSONResponse({"detail": str(error)}, status, headers)

    return tell


def _invalid(_: Request, error: Exception) -> Response:
    """What is wrong with a request and where, without quoting it: a value may be no JSON."""
    assert isinstance(error, RequestValidationError)
    told = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors())
    return JSONResponse({"detail": told.encode("utf-8", "backslashreplace").decode()}, 422)


def _broken(_: Request, error: Exception) -> Response:
    return JSONResponse({"detail": f"A fault of the service ({type(error).__name__}): see its log."}, 500)


def run(config: Config) -> None:
    """Serve until interrupted.

    Raises:
        ConfigError: the configuration can't be served.
    """
    door = Door(config)
    logging.getLogger("uvicorn.error").addFilter(without_text)
    with opened(config) as service:
        app = application(service, door)
        uvicorn.run(
            app,
            host=config.serve.host,
            port=config.serve.port,
            limit_concurrency=CONNECTIONS,
            access_log=False,
            log_level="warning",
            http=Connection,
            ws="none",
        )
