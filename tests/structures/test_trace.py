"""Watching a computation: only where asked for, and each thread its own."""

import threading

from rcnn.structures.trace import Trace, watched, watching


def computed() -> None:
    if (trace := watched()) is not None:
        trace.note("stage", "Paper §1", value=3)


def test_nobody_watches_unless_asked() -> None:
    assert watched() is None
    computed()
    assert watched() is None


def test_a_note_says_where_it_comes_from() -> None:
    with watching() as trace:
        computed()
    (note,) = trace.notes
    assert (note.stage, note.paper, note.values) == ("stage", "Paper §1", {"value": 3})
    assert note.code is computed.__code__
    assert watched() is None


def test_the_innermost_watcher_sees_it() -> None:
    with watching() as outer:
        with watching() as inner:
            computed()
        computed()
    assert [len(trace.notes) for trace in (outer, inner)] == [1, 1]


def test_watching_ends_with_an_error() -> None:
    try:
        with watching():
            raise KeyError
    except KeyError:
        assert watched() is None


def test_a_thread_watches_its_own_computation_only() -> None:
    seen: list[Trace | None] = []
    with watching() as trace:
        thread = threading.Thread(target=lambda: (computed(), seen.append(watched())))
        thread.start()
        thread.join()
    assert seen == [None]
    assert trace.notes == []
