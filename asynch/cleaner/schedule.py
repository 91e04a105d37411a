"""When the cleaner does what: APScheduler runs each duty of the leader, never two of a kind at once."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from time import monotonic
from typing import Protocol

from apscheduler.schedulers.background import BackgroundScheduler

from asynch import db, metrics
from asynch.cleaner.expire import expire
from asynch.cleaner.fold import fold
from asynch.cleaner.leader import Leader
from asynch.cleaner.lose import lose
from asynch.cleaner.notice import notice
from asynch.cleaner.purge import forget, purge
from asynch.cleaner.retry import retry
from asynch.cleaner.terms import Terms
from asynch.cleaner.unanswered import unanswered
from asynch.cleaner.unneeded import unneeded
from asynch.cleaner.unsent import unsent
from asynch.errors import DatabaseDown
from asynch.storage import Storage

logger = logging.getLogger(__name__)

#: What an interrupted put left in the store goes after a day: no put takes that long.
_LEFT_BEHIND_S = 86_400.0
_SWEEP_EVERY_S = 3600.0
#: Batches in a row before a duty waits for its next turn.
_BATCHES = 50
#: What a batch takes beyond this it waited for a store, and not the database for it.
_MOST_REST_S = 1.0


class Stop(Protocol):
    """An Event of threads or of processes."""

    def is_set(self) -> bool:
        """Whether to stop."""

    def wait(self, timeout: float) -> bool:
        """Sleep, unless it is time to stop."""


def in_turns(duty: Callable[[], int], stop: Stop) -> Iterator[int]:
    """What each batch of a duty did, until there is nothing left: it rests as long as it worked.

    So whatever there is to clean, half of the time the database is left to those who claim.
    """
    while not stop.is_set():
        began = monotonic()
        done = duty()
        if done:
            stop.wait(min(monotonic() - began, _MOST_REST_S))
        yield done
        if not done:
            return


class Cleaner:
    """The duties of one process, done while it leads."""

    def __init__(self, pool: db.Pool, leader: Leader, terms: Terms, storage: Storage) -> None:
        self._leader = leader
        self._stop = threading.Event()
        # It warns when a duty is still at work at its next turn, which is how one long purge looks.
        logging.getLogger("apscheduler").setLevel(logging.ERROR)
        threads = {"default": {"type": "threadpool", "max_workers": 4}}
        self._scheduler = BackgroundScheduler(timezone="UTC", executors=threads)
        often, seldom = 1.0, terms.interval_s
        self._every(often, "retry", partial(retry, pool, terms))
        self._every(often, "expire", partial(expire, pool, terms))
        self._every(often, "notice", partial(notice, pool, terms))
        self._every(seldom, "lose", partial(lose, pool, terms, storage))
        self._every(seldom, "purge", partial(purge, pool, terms, storage, self._stop.is_set))
        self._every(seldom, "forget", partial(forget, pool, terms))
        self._every(often, "unanswered", partial(unanswered, pool, terms))
        self._every(seldom, "unneeded", partial(unneeded, pool, terms, storage))
        self._every(seldom, "unsent", partial(unsent, pool, terms))
        self._every(often, "fold", partial(fold, pool, terms))
        self._every(_SWEEP_EVERY_S, "sweep", partial(storage.sweep, _LEFT_BEHIND_S))

    def _every(self, seconds: float, name: str, duty: Callable[[], int]) -> None:
        self._scheduler.add_job(
            self._do,
            "interval",
            args=(name, duty),
            seconds=seconds,
            id=name,
            max_instances=1,
            coalesce=True,
            misfire_grace_time=None,
        )

    def _do(self, name: str, duty: Callable[[], int]) -> None:
        try:
            if not self._leads():
                return
            for done in islice(in_turns(duty, self._stop), _BATCHES):
                metrics.CLEANED.labels(name).inc(done)
                metrics.CLEANER_RUN.labels(name).set_to_current_time()
                if done:
                    logger.info("cleaned", extra={"duty": name, "rows": done})
                if not self._leads():
                    return
        except (DatabaseDown, db.Error) as exc:
            logger.warning("cleaner failed, will retry", extra={"duty": name, "error": str(exc)})
        except Exception:
            logger.exception("cleaner failed", extra={"duty": name})

    def _leads(self) -> bool:
        leads = self._leader.leads()
        metrics.CLEANER_LEADS.set(leads)
        return leads

    def start(self) -> None:
        """Begin; the first pass comes after each duty's interval."""
        self._scheduler.start()

    def stop(self) -> None:
        """Begin nothing more and give up leadership; a duty that waits for a slow store is not waited for."""
        self._stop.set()
        self._scheduler.shutdown(wait=False)
        self._leader.close()
        metrics.CLEANER_LEADS.set(0)
