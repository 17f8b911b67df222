"""Prefetching in threads, with results in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from enum import Enum
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


class Pause(Enum):
    """A marker between items: results before it must not wait for items after it."""

    PAUSE = "pause"

    @property
    def scan(self) -> None:
        """There is no scan in it."""


PAUSE = Pause.PAUSE


def prefetch(
    function: Callable[[T], R],
    items: Iterable[T],
    *,
    threads: int = 2,
    ahead: int = 4,
    must_finish: bool = False,
) -> Iterator[R]:
    """Map a function over items in threads, ahead of the requested result.

    Args:
        function: Called in a thread; an exception is raised here when its item's turn comes. A
            ``Pause`` among the items is passed to it in this thread, after all results before it
            have been returned: a source that may block sends one when it has nothing available.
        items: Taken one by one, at most ``ahead`` before their results are asked for.
        threads: How many work at once; 0 calls the function here, as its result is asked for.
        ahead: Results that wait at most, so that memory stays bounded.
        must_finish: Whether to wait for calls that have begun when the iterator is closed early.
            By default they are abandoned: a store may not answer.

    Yields:
        The results in the order of the items.
    """
    if not threads:
        yield from map(function, items)
        return
    executor = ThreadPoolExecutor(threads, thread_name_prefix="prefetch")
    waiting: deque[Future[R]] = deque()
    is_done = False
    try:
        for item in items:
            if isinstance(item, Pause):
                while waiting:
                    yield waiting.popleft().result()
                yield function(item)
                continue
            waiting.append(executor.submit(function, item))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
        is_done = True
    finally:
        executor.shutdown(wait=is_done or must_finish, cancel_futures=True)
