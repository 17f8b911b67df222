"""Work done ahead in threads on items that may come slowly: in order, and nothing waits unseen."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from enum import Enum
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


class Pause(Enum):
    """Stands between items: the source has none at hand, the next one may take for ever."""

    PAUSE = "pause"


PAUSE = Pause.PAUSE


def flow(
    function: Callable[[T], R], items: Iterator[T | Pause], *, threads: int = 2, ahead: int = 4
) -> Iterator[R | Pause]:
    """Map a function over items in threads.

    Args:
        function: Called in a thread; what it raises is raised here, when its item's turn comes.
        items: Taken one by one, at most ``ahead`` before their results are asked for.
        threads: How many work at once.
        ahead: Results that wait at most, so that memory stays bounded.

    Yields:
        The results in the order of the items. At a pause all that are under way, then the pause.
    """
    executor = ThreadPoolExecutor(threads, thread_name_prefix="flow")
    waiting: deque[Future[R]] = deque()
    try:
        for item in items:
            if isinstance(item, Pause):
                while waiting:
                    yield waiting.popleft().result()
                yield item
                continue
            waiting.append(executor.submit(function, item))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        executor.shutdown(wait=True, cancel_futures=True)
