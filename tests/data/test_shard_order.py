"""The order of a data set in shards: all images once, from shard to shard, by seed and position alone."""

import threading
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from rcnn.data import loader, shard_blocks
from rcnn.data.augment import Augment
from rcnn.data.convert import convert
from rcnn.data.dataset import Dataset
from rcnn.data.formats import parquet_shards, webdataset_writer
from rcnn.data.formats.open import open_data
from rcnn.data.formats.parquet_reader import RowGroup
from rcnn.data.formats.tar_places import TarBlock
from rcnn.data.geometry import TrainingSample
from rcnn.data.loader import POSITIONS_AHEAD, Batches, training_batches
from rcnn.data.shard_blocks import BLOCKS_KEPT, Block, fetched, forget_blocks, read_ahead
from rcnn.data.shard_order import OPEN_SHARDS, ShardOrders, mixed, shards_of
from rcnn.transform import Transform
from tiny import tiny_shapes

SHARDS = np.repeat(np.arange(20), 7)[np.random.default_rng(5).permutation(140)][:101]


def test_an_epoch_has_every_image_once_and_goes_from_shard_to_shard() -> None:
    orders = ShardOrders(SHARDS, (3, 0))
    for epoch in range(6):
        found = orders[epoch]
        assert sorted(found.order.tolist()) == list(range(len(SHARDS)))
        first, seen = 0, []
        for end in found.ends.tolist():
            open_now = sorted(set(SHARDS[found.order[first:end]].tolist()))
            assert len(open_now) <= OPEN_SHARDS
            seen += open_now
            first = end
        assert sorted(seen) == sorted(set(SHARDS.tolist())), "each shard in one group of open ones"
        assert 0 <= found.offset < 1
    assert orders[0].order.tolist() != orders[1].order.tolist()


def test_the_order_is_a_function_of_seed_and_epoch() -> None:
    one, other = ShardOrders(SHARDS, (3, 0)), ShardOrders(SHARDS, (3, 0))
    late = other[5].order.tolist()  # before any other: a run that is resumed
    assert [one[epoch].order.tolist() for epoch in range(6)][5] == late
    assert ShardOrders(SHARDS, (4, 0))[5].order.tolist() != late


def test_an_image_nearby_is_of_an_open_shard() -> None:
    found, rng = mixed(SHARDS, np.random.default_rng(0)), np.random.default_rng(1)
    first = 0
    for end in found.ends.tolist():
        near = {found.near(place, rng) for place in range(first, end) for _ in range(9)}
        assert near <= set(found.order[first:end].tolist())
        assert len(near) > 1
        first = end


def test_images_are_mixed_among_shards() -> None:
    found = mixed(np.repeat(np.arange(8), 50), np.random.default_rng(0))
    changes = np.diff(found.order[: found.ends[0]] // 50) != 0
    assert changes.mean() > 0.6, "three of four neighbours are of another shard"


@pytest.fixture(params=["parquet", "webdataset"])
def shards(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Dataset:
    if request.param == "parquet":
        pytest.importorskip("pyarrow", reason="needs the extra bulk")
    monkeypatch.setattr(parquet_shards, "SHARD_ROWS", 3)
    monkeypatch.setattr(webdataset_writer, "SHARD_SAMPLES", 3)
    convert(tiny_shapes(26).write(tmp_path / "files"), tmp_path / "shards", to=request.param)
    return open_data(tmp_path / "shards")


def batches(data: Dataset, start: int = 0, workers: int = 0, process: tuple[int, int] = (0, 1)) -> list[str]:
    """Ten batches of four, as text: images and truths."""
    made = training_batches(
        data, Augment(crop=64, copy_paste=1.0), Transform(), batch_size=4, seed=7, start=start,
        workers=workers, process=process,
    )  # fmt: skip
    return [" ".join(map(shown, next(made))) for _ in range(10)]


def shown(sample: TrainingSample) -> str:
    return f"{sample.image_id} {float(sample.image.double().sum()):.6f} {sample.targets.boxes.tolist()}"


def test_batches_of_shards_are_a_function_of_their_number(shards: Dataset) -> None:
    some = shards.subset([*range(20), 25, 22])
    whole = batches(some)
    assert batches(some, start=4)[:6] == whole[4:]
    assert batches(some, workers=1) == whole
    parts = [batches(some, process=(rank, 2)) for rank in range(2)]
    assert [" ".join(pair) for pair in zip(*parts, strict=True)] == whole
    ids = [record.image_id for record in some.records]
    order = [some.records[i].image_id for i in made_of(some)]
    assert sorted(order) == sorted(ids)


def made_of(data: Dataset) -> list[int]:
    made = Batches(data, Augment(crop=64, repeat=0.0), Transform(), 7, 4, 0, 4)
    return [made.index(position) for position in range(len(data))]


@pytest.fixture
def reads(shards: Dataset, monkeypatch: pytest.MonkeyPatch) -> list[tuple[Block, str]]:
    """The blocks that are read, each with the name of the thread."""
    found: list[tuple[Block, str]] = []

    def counted(block: Block) -> object:
        found.append((block, threading.current_thread().name))
        return plain(block)

    kind = RowGroup if shards.format == "parquet shards" else TarBlock
    plain = kind.read
    monkeypatch.setattr(kind, "read", counted)
    forget_blocks()
    return found


def test_each_shard_is_read_about_once_per_epoch(shards: Dataset, reads: list[tuple[Block, str]]) -> None:
    made = Batches(shards, Augment(crop=64, repeat=0.0), Transform(), 7, 4, 0, 4)
    for position in range(len(shards)):
        made.sample(position)
    blocks = [block for block, _ in reads]
    assert len(blocks) == len(set(blocks)) == 9, "the number of shards"


def test_what_a_later_image_needs_is_read_ahead(shards: Dataset, reads: list[tuple[Block, str]]) -> None:
    made = Batches(shards, Augment(crop=64, repeat=0.0), Transform(), 7, 4, 0, 4)
    parts = shards_of(shards.records)
    assert parts is not None
    order = parts[[made.index(position) for position in range(len(shards) + POSITIONS_AHEAD)]]
    now = next(p for p in range(len(shards)) if order[p] != order[p + POSITIONS_AHEAD])
    made.sample(now)
    end = time.monotonic() + 10
    while len(reads) < 2:
        assert time.monotonic() < end
        time.sleep(0.001)
    threads = sorted(thread for _, thread in reads)
    assert [name.startswith("shards") for name in threads] == [False, True]
    made.sample(now + POSITIONS_AHEAD)
    assert len(reads) <= 3, "what it needed was there; the third is what it has read ahead"
    assert [thread for _, thread in reads if not thread.startswith("shards")] == [threads[0]]


@pytest.mark.parametrize("shards", ["webdataset"], indirect=True)
def test_no_image_waits_for_its_shard(
    shards: Dataset, reads: list[tuple[Block, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fewer shards are kept than there are, and epochs go through them in other orders."""
    monkeypatch.setattr(loader, "POSITIONS_AHEAD", 2)
    monkeypatch.setattr(shard_blocks, "BLOCKS_KEPT", 5)
    made = Batches(shards, Augment(crop=64, repeat=0.0), Transform(), 7, 4, 0, 4)
    for position in range(80):
        made.sample(position)
        reader = shard_blocks._kept.reader
        assert reader is not None
        reader.submit(int).result()  # it has done what was asked before
        if position == 2:
            reads.clear()
    assert len(reads) > 20
    assert all(thread.startswith("shards") for _, thread in reads)


class Wrong(Block):
    """A block that cannot be read, twice."""

    def __init__(self) -> None:
        self.tries = 0

    def read(self) -> str:
        self.tries += 1
        if self.tries < 3:
            raise ValueError(f"try {self.tries}")
        return "content"


def test_an_error_of_reading_ahead_is_raised_where_the_block_is_used() -> None:
    block = Wrong()
    read_ahead(block)
    end = time.monotonic() + 10
    while block.tries == 0:
        assert time.monotonic() < end
        time.sleep(0.001)
    with pytest.raises(ValueError, match="try"):
        fetched(block)
    while block.tries < 3:
        try:
            assert fetched(block) == "content"
        except ValueError:
            assert block.tries < 3
    assert fetched(block) == "content"
    assert block.tries == 3


@dataclass(frozen=True)
class Number(Block):
    """A block with its number in it."""

    number: int

    def read(self) -> list[int]:
        return [self.number]


def test_only_the_last_blocks_are_kept() -> None:
    forget_blocks()
    first = fetched(Number(0))
    assert fetched(Number(0)) is first
    for number in range(1, BLOCKS_KEPT):
        read_ahead(Number(number))
    assert fetched(Number(0)) is first, "it is as late as the others"
    for number in range(BLOCKS_KEPT, 2 * BLOCKS_KEPT):
        assert fetched(Number(number)) == [number]
    assert fetched(Number(0)) is not first


def test_objects_are_those_of_the_records(shards: Dataset) -> None:
    some = shards.subset([7, 3, 3, 20])
    quick, plain = some.objects, some.mapped(lambda record: record).objects
    for name in quick.__dataclass_fields__:
        np.testing.assert_array_equal(getattr(quick, name), getattr(plain, name), err_msg=name)


def test_files_have_no_shards(tmp_path: Path) -> None:
    assert shards_of(open_data(tiny_shapes(2).write(tmp_path)).records) is None
