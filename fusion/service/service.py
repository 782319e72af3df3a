"""The story of the service: uploads come in, engines read them, the archive keeps them, people ask and correct.

Knows no HTTP.
"""

from __future__ import annotations

import json
import logging
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from concurrent.futures import wait as futures_wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, TypeVar

import cv2
import prometheus_client as prometheus

from fusion import __version__
from fusion.config import Config, load_config
from fusion.domain import open_profile
from fusion.engine import require_answers
from fusion.errors import ConfigError, FusionError, InputError, ReaderError
from fusion.output.crops import at_most, crop_line, photo_scale
from fusion.page import Page
from fusion.service.answers import Answer, without_model
from fusion.service.archive import Archive, Missing, Transcription, Unwritable
from fusion.service.exports import Sheet, decoded
from fusion.service.workers import Ask, Call, Done, Read, Workers

PAUSES = (1.0, 10.0)
"""Seconds between tries to put a reading into an archive that can't be written."""
EVERY = 60.0
"""Seconds between looks at what must be deleted."""
_log = logging.getLogger(__name__)
T = TypeVar("T")


@dataclass
class Service:
    """What the routes need: configuration, archive, engines and figures."""

    config: Config
    archive: Archive
    workers: Workers
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
        self._reading: dict[str, Future[Transcription]] = {}
        """By id, uploads that are read or in the queue; whoever changes it holds `_taking`."""
        self._profiles = lru_cache(16)(lambda name: open_profile(self.configured(name).domain))
        self._decoded = lru_cache(2)(lambda id_, number: decoded(self.archive.picture(id_, number)))

    def configured(self, profile: str) -> Config:
        """The configuration with a profile. ConfigError: there is none of this name."""
        return load_config(self.config, [f"domain.profile={json.dumps(profile)}"])

    def take(self, uploads: list[tuple[str, bytes]], profile: str | None, wait: bool) -> list[Transcription]:
        """Keep uploads and have them read; Full when there is no room for all that must be."""
        config = self.configured(profile or self.config.domain.profile)
        read_so = (config.domain.profile, f"{__version__} {config.hash}")
        with self._taking:
            self.workers.room(self.archive.unread([upload for _, upload in uploads], *read_so))
            made = self.archive.add(uploads, *read_so)
            futures = {one.id: self._read_once(one) for one in made if one.status == "waiting"}
        ended = futures_wait(futures.values(), self.config.serve.wait if wait else 0).done
        # What has ended is told as it ended: another request for the same upload may have deleted it by now.
        known = {id_: future.result() for id_, future in futures.items() if future in ended and not future.exception()}
        return [known.get(one.id) or self.archive.get(one.id) for one in made]

    def ask(self, upload: bytes, question: str, profile: str, number: int = 1, page: Page | None = None) -> Answer:
        """Ask about a page of an upload; without `page`, its first page is read. Full: there is no room."""
        try:
            if page is not None:
                require_answers(self.config)
            done = self._have_done(Ask(upload, question, profile, number, page))
        except (ConfigError, ReaderError) as error:  # no model is configured, or it took its engine along
            if page is None:
                raise
            return without_model(page, question, error)
        if done.answer is None:
            raise InputError("image", "can't be read", done.problem)
        return done.answer

    def delete(self, id_: str) -> None:
        """Delete an upload with everything that was made of it."""
        self.archive.delete(id_)
        self._decoded.cache_clear()

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
            for n in range(1, one.page_count + 1)
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

    def read(self, one: Transcription) -> None:
        """Have an upload read, if it is not about to be: whatever happens, the archive knows its end."""
        with self._taking:
            self._read_once(one)

    def _read_once(self, one: Transcription) -> Future[Transcription]:
        if one.id not in self._reading:
            self._reading[one.id] = self.workers.submit(lambda call: self._read(one, call))
        return self._reading[one.id]

    def _read(self, one: Transcription, call: Call) -> Transcription:
        start = time.perf_counter()
        done = Done(problem=f"{one.name}: could not be read. This is a fault of the service: see its log.")
        try:
            done = call(Read(_persistent(lambda: self.archive.begin(one.id)), one.name, one.profile))
        except FusionError as error:
            done = Done(problem=str(error))
        finally:
            self._finish(one, done)
        self.pages.inc(len(done.pages))
        self.reading.observe(time.perf_counter() - start)
        return self.archive.get(one.id)

    def _finish(self, one: Transcription, done: Done) -> None:
        try:
            _persistent(lambda: self.archive.finish(one.id, done.pages, done.problem))
        except (Unwritable, ValueError) as error:
            self.archive.finish(one.id, (), f"{one.name}: was read and could not be kept ({error}). Upload it again.")
        finally:
            with self._taking:
                del self._reading[one.id]

    def _have_done(self, job: Ask) -> Done:
        """Have an engine do what is not kept; Full when there is no room."""
        with self._taking:
            self.workers.room(1)
            future = self.workers.submit(lambda call: call(job))
        return future.result()  # the queue and every job in it end in time


def _persistent(change: Callable[[], T]) -> T:
    """Try a change of the archive a few times: whoever writes to it ends, and a disk is given room."""
    for pause in PAUSES:
        try:
            return change()
        except Unwritable as error:
            _log.warning("%s", error)
            time.sleep(pause)
    return change()


def _check(config: Config) -> None:
    """Refuse what would outlive a deletion. ConfigError: readings would be kept elsewhere too."""
    kept = [("store.folder", config.store.folder), ("vlm.cache", getattr(config.vlm, "cache", None))]
    for key, value in kept:
        if value is not None:
            way = "Leave it out: the archive reads no upload twice."
            raise ConfigError(key, "would keep what the service is told to delete", way)


@contextmanager
def opened(config: Config) -> Iterator[Service]:
    """A service with its archive and engines, which end with it. Goes on with what an earlier one has not read.

    Raises:
        ConfigError: the configuration can't be served.
    """
    _check(config)
    archive = Archive(config.serve.archive)
    archive.give_up()
    service = Service(config, archive, Workers(config))
    ended = threading.Event()
    threading.Thread(target=_keep, args=(archive, config.serve.keep_days, ended), daemon=True).start()
    for id_ in archive.waiting():
        service.read(archive.get(id_))
    try:
        yield service
    finally:
        ended.set()
        service.workers.close()


def _keep(archive: Archive, days: float | None, ended: threading.Event) -> None:
    """Delete what is too old, and empty the log of what a deletion had to leave there, every minute."""
    while True:
        try:
            if days is not None:
                archive.expire(days)
            if not archive.wipe():
                _log.warning("deleted text may still stand in the write-ahead log: another program reads the archive")
        except (sqlite3.Error, FusionError) as error:
            _log.error("deleting what is too old has failed (%s); it is tried again", type(error).__name__)
        if ended.wait(EVERY):
            return
