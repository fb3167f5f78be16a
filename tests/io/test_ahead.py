"""Work done ahead of its turn: in order, bounded, and without losing what is ready."""

import threading
import time
from collections.abc import Iterator

import pytest

from rcnn.io.ahead import ahead, working_threads
from rcnn.io.reading import Reading, current_reading, reading_as


def test_results_come_in_order_and_few_items_are_taken_before_their_turn() -> None:
    taken: list[int] = []

    def items() -> Iterator[int]:
        for i in range(40):
            taken.append(i)
            yield i

    def work(i: int) -> int:
        time.sleep(0.001 * (i % 5))  # later ones are often ready first
        return i * i

    with working_threads(3) as pool:
        for i, result in enumerate(ahead(pool, work, items(), 4)):
            assert result == i * i
            assert len(taken) - i <= 5
    assert taken == list(range(40))


def test_items_are_worked_on_while_the_caller_is_busy() -> None:
    begun = threading.Barrier(3, timeout=10)
    with working_threads(2) as pool:
        # Two threads and the caller meet: the second item is worked on before the first result is asked for.
        results = ahead(pool, lambda i: begun.wait() if i < 2 else i, range(3), 2)
        other = threading.Thread(target=begun.wait)
        other.start()
        assert len(list(results)) == 3
        other.join()


def test_the_least_is_begun_even_if_the_first_is_ready_at_once() -> None:
    begun = [threading.Event() for _ in range(5)]

    def work(i: int) -> int:
        begun[i].set()
        return i

    with working_threads(1) as pool:
        for i, result in enumerate(ahead(pool, work, range(5), 2, least=2)):
            assert result == i
            for following in begun[i : i + 3]:
                assert following.wait(10), "nothing is worked on while the caller uses a result"


def test_one_is_made_of_another() -> None:
    with working_threads(1) as pool:
        doubled = ahead(pool, lambda i: 2 * i, range(10), 2)
        assert list(ahead(pool, lambda i: i + 1, doubled, 2)) == [2 * i + 1 for i in range(10)]


def test_an_error_comes_in_its_turn() -> None:
    def work(i: int) -> int:
        if i == 2:
            raise ValueError("two")
        return i

    with working_threads(2) as pool:
        results = ahead(pool, work, range(9), 3)
        assert [next(results), next(results)] == [0, 1]
        with pytest.raises(ValueError, match="two"):
            next(results)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError("full")])
def test_what_is_ready_is_not_lost_if_items_end_by_an_error(error: BaseException) -> None:
    ready = threading.Semaphore(0)

    def items() -> Iterator[int]:
        yield from range(3)
        for _ in range(3):
            ready.acquire()
        raise error

    def work(i: int) -> int:
        time.sleep(0.02)
        return i

    found = []

    def collect() -> None:
        with working_threads(3) as pool:
            for result in ahead(pool, work, items(), 5):
                found.append(result)

    def release() -> None:
        time.sleep(0.3)
        ready.release(3)

    other = threading.Thread(target=release)
    other.start()
    with pytest.raises(type(error)):
        collect()
    other.join()
    assert found == [0, 1, 2]


def test_at_the_end_what_has_begun_is_finished_and_nothing_else_is_begun() -> None:
    begun: list[int] = []
    finished: list[int] = []
    first = threading.Event()

    def work(i: int) -> None:
        begun.append(i)
        first.set()
        time.sleep(0.1)
        finished.append(i)

    def stop() -> Iterator[int]:
        yield from range(4)
        first.wait()
        raise KeyboardInterrupt

    def run() -> None:
        with working_threads(1) as pool:
            list(ahead(pool, work, stop(), 9))

    with pytest.raises(KeyboardInterrupt):
        run()
    assert begun == finished == [0]


def test_threads_have_the_reading_of_the_caller() -> None:
    with reading_as(Reading(plane="max")), working_threads(1) as pool:
        (found,) = ahead(pool, lambda _: current_reading(), range(1), 1)
    assert found.plane == "max"
