"""Work that threads do before its turn comes, in a bounded amount, with results in order.

Decoding, drawing and compressing release Python's lock, so that a few threads read the next images and write
the last ones while a network computes on those in between.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

from rcnn.io.reading import reader_threads

MAX_THREADS = 4  # that read and write images while the network computes

Item = TypeVar("Item")
Result = TypeVar("Result")


@contextmanager
def working_threads(count: int) -> Iterator[ThreadPoolExecutor]:
    """Threads for :func:`ahead`; at the end what has begun is finished, and nothing else is begun."""
    pool = reader_threads(count)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def ahead(
    pool: Executor, work: Callable[[Item], Result], items: Iterable[Item], depth: int, least: int = 0
) -> Iterator[Result]:
    """What ``work`` makes of each item, in order, while further items are being worked on.

    ``items`` are taken by the caller's thread, so one such iterator can be made of another. If taking one
    fails, or is interrupted, results that are ready come before the error.

    Args:
        pool: the threads.
        work: what they do.
        items: what with.
        depth: the most items that are being worked on, or wait for their turn, when a result is returned.
        least: the fewest such items, as long as there are more. Where items cost nothing to take, as many as
            ``depth``: else nothing may be worked on while the caller uses a result that was ready at once.
    """
    waiting: deque[Future[Result]] = deque()
    iterator = iter(items)
    while True:
        try:
            item = next(iterator)
        except StopIteration:
            break
        except BaseException:
            while waiting and waiting[0].done():
                yield waiting.popleft().result()
            raise
        waiting.append(pool.submit(work, item))
        if len(waiting) > depth or (len(waiting) > least and waiting[0].done()):
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()
