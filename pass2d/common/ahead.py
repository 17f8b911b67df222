"""Work done ahead in threads, handed out in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def computed_ahead(
    function: Callable[[T], R], items: Iterable[T], *, threads: int = 2, ahead: int = 4
) -> Iterator[R]:
    """Map a function over items in threads, some items ahead of the one that is asked for.

    Args:
        function: Called in a thread; what it raises is raised here, when its item's turn comes.
        items: Taken one by one, at most ``ahead`` before their results are asked for.
        threads: How many work at once.
        ahead: Results that wait at most, so that memory stays bounded.

    Yields:
        The results in the order of the items.
    """
    source = iter(items)
    executor = ThreadPoolExecutor(threads, thread_name_prefix="ahead")
    is_done = False
    try:
        waiting: deque[Future[R]] = deque(
            executor.submit(function, item) for item in islice(source, ahead)
        )
        while waiting:
            result = waiting.popleft().result()
            waiting.extend(executor.submit(function, item) for item in islice(source, 1))
            yield result
        is_done = True
    finally:
        # Left early, by Ctrl-C: threads may wait for a store that does not answer.
        executor.shutdown(wait=is_done, cancel_futures=True)
