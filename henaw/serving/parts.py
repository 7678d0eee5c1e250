"""A large request answered in parts, on cores that are idle; what is said of a row is the same."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from itertools import pairwise
from typing import TypeVar

import numpy as np

from henaw.model.answers import Answers
from henaw.model.clock import Clock
from henaw.serving.csv_rows import Scored
from henaw.serving.fast import answer_rows, in_reply, rows_as_json
from henaw.serving.schema import Rows

P = TypeVar("P")
R = TypeVar("R")

_PART_ROWS = 256  # fewer are not worth another thread


class Helpers:
    """Threads that help with a large request where no other request has them."""

    def __init__(self, number: int) -> None:
        """``number`` of threads; none are needed."""
        self.number = number
        self._threads = ThreadPoolExecutor(max(1, number), thread_name_prefix="henaw-helper")
        self._idle = threading.Semaphore(number)

    def each(self, work: Callable[[P], R], parts: Sequence[P]) -> list[R]:
        """The results of ``work``, which releases the interpreter's lock for most of its time, in the order of parts.

        What it raises is raised when all threads have ended.
        """
        found: dict[int, R] = {}
        left = iter(range(len(parts)))  # shared: to take the next one is a single step of the interpreter

        def go() -> None:
            for place in left:
                found[place] = work(parts[place])

        def help_out() -> None:
            try:
                go()
            finally:
                self._idle.release()

        helping: list[Future[None]] = []
        while len(helping) < len(parts) - 1 and self._idle.acquire(blocking=False):
            helping.append(self._threads.submit(help_out))
        try:
            go()
        finally:
            wait(helping)
        for future in helping:
            future.result()
        return [found[place] for place in range(len(parts))]


def helpers_for(workers: int) -> Helpers:
    """As many as there are cores for each of ``workers`` processes, besides the one that a request is worked on."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return Helpers(max(0, cores // workers - 1))


def score(clock: Clock, rows: Rows, helpers: Helpers) -> Scored:
    """The reply to a request's rows.

    Raises:
        ValueError: an answer is not finite.
    """

    def answered(part: Rows) -> tuple[Answers, str]:
        answers = answer_rows(clock, part)
        return answers, rows_as_json(answers)

    count = min(helpers.number + 1, -(-len(rows) // _PART_ROWS))
    found = [answered(rows)] if count < 2 else helpers.each(answered, _parts(rows, count))

    def gaps() -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        return np.concatenate([answers.numbers["age_gap_years"][~answers.abstains] for answers, _ in found])

    return Scored(
        in_reply([text for _, text in found]),
        [status for answers, _ in found for status in answers.status],
        [flags for answers, _ in found for flags in answers.flags],
        gaps,
    )


def _parts(rows: Rows, count: int) -> list[Rows]:
    ends = [len(rows) * part // count for part in range(count + 1)]
    return [
        Rows(rows.biomarkers[start:end], rows.sex[start:end], rows.age[start:end], rows.coverage)
        for start, end in pairwise(ends)
    ]
