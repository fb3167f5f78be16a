"""Matching and sampling: worked cases, brute force, shortages."""

import pytest
import torch
from torch.testing import assert_close

from rcnn.ops.matching import ANCHORS, PROPOSALS, fold_seeds, match, match_chunks, random_keys, sample


def match_slowly(overlap, high, low, keep_best):
    """Faster R-CNN §3.1.2, in plain Python."""
    index, labels = [], []
    for a in range(overlap.shape[1]):
        column = overlap[:, a].tolist()
        best = max(column)
        index.append(column.index(best))
        labels.append(1 if best >= high else 0 if best < low else -1)
    if keep_best:
        for row in overlap.tolist():
            for a, value in enumerate(row):
                if value == max(row) and value > 0:
                    labels[a] = 1
    return index, labels


@pytest.mark.parametrize("keep_best", [True, False])
@pytest.mark.parametrize(("high", "low"), [(0.75, 0.25), (0.5, 0.5)])
def test_match_equals_the_loop(keep_best, high, low):
    draw = torch.Generator().manual_seed(0)
    for count in (1, 2, 7):
        # Eighths: ties and values on the thresholds occur, and are exact.
        overlap = (torch.rand((count, 60), generator=draw) * 8).round() / 8
        index, labels = match(overlap, high, low, keep_best)
        expected_index, expected_labels = match_slowly(overlap, high, low, keep_best)
        assert labels.tolist() == expected_labels
        chosen = overlap[index, torch.arange(60)]
        assert_close(chosen, overlap[torch.tensor(expected_index), torch.arange(60)])


@pytest.mark.parametrize("keep_best", [True, False])
def test_overlaps_in_parts_match_as_a_whole(keep_best):
    draw = torch.Generator().manual_seed(1)
    overlap = (torch.rand((9, 80), generator=draw) * 8).round() / 8
    for size in (1, 4, 9, 20):
        index, labels = match_chunks(overlap.split(size), torch.zeros(80), 0.75, 0.25, keep_best)
        expected_index, expected_labels = match(overlap, 0.75, 0.25, keep_best)
        assert labels.tolist() == expected_labels.tolist()
        assert_close(overlap[index, torch.arange(80)], overlap[expected_index, torch.arange(80)])
        best, _ = overlap.max(0)
        assert_close(overlap[index, torch.arange(80)], best)


def test_match_of_a_worked_case():
    overlap = torch.tensor([[0.8, 0.7, 0.5, 0.2, 0.0], [0.1, 0.0, 0.4, 0.25, 0.0]])
    index, labels = match(overlap, 0.7, 0.3, keep_best=False)
    assert labels.tolist() == [1, 1, -1, 0, 0]  # 0.7 itself is positive
    assert index[:4].tolist() == [0, 0, 0, 1]
    assert match(overlap, 0.7, 0.3, keep_best=True)[1].tolist() == [1, 1, 1, 0, 0]


def test_the_best_of_a_poorly_covered_object_is_positive_with_its_ties():
    overlap = torch.tensor([[0.2, 0.2, 0.1]])
    assert match(overlap, 0.7, 0.3, keep_best=True)[1].tolist() == [1, 1, 0]


def test_an_object_that_nothing_overlaps_claims_nothing():
    assert match(torch.zeros((1, 3)), 0.7, 0.3, keep_best=True)[1].tolist() == [0, 0, 0]


def test_without_objects_all_are_negative():
    index, labels = match(torch.zeros((0, 4)), 0.7, 0.3, keep_best=True)
    assert index.tolist() == labels.tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize("truths", [0, 3])
@pytest.mark.parametrize("keep_best", [True, False])
def test_without_candidates(truths, keep_best):
    index, labels = match(torch.zeros((truths, 0)), 0.7, 0.3, keep_best)
    assert index.shape == labels.shape == (0,)


@pytest.mark.parametrize(
    ("positives", "negatives", "expected", "why"),
    [
        (100, 1000, (64, 192), "enough of both"),
        (10, 1000, (10, 246), "negatives fill up for missing positives"),
        (100, 50, (64, 50), "positives do not fill up for missing negatives"),
        (0, 1000, (0, 256), "no positive at all"),
        (0, 0, (0, 0), "nothing"),
    ],
)
def test_sample_counts(positives, negatives, expected, why):
    labels = torch.cat([torch.ones(positives), torch.zeros(negatives), torch.full((30,), -1)]).long()
    labels = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))]
    drawn = sample(labels[None], keys_of([1], len(labels)), 256, 0.25)
    positive, negative = (drawn.index[drawn.chosen & which] for which in (drawn.positive, ~drawn.positive))
    assert (len(positive), len(negative)) == expected, why
    assert (labels[positive] == 1).all()
    assert (labels[negative] == 0).all()
    assert len(set(positive.tolist())) == len(positive)
    assert len(set(negative.tolist())) == len(negative)


def keys_of(seeds, count, stream=ANCHORS):
    return random_keys(fold_seeds(seeds), torch.arange(count), stream)


def test_sample_follows_its_seed():
    labels = torch.tensor([[1, 0] * 200])

    def drawn(seed, stream=ANCHORS):
        return sample(labels, keys_of([seed], 400, stream), 64, 0.5).index.tolist()

    assert drawn(3) == drawn(3)
    assert drawn(3) != drawn(4)
    assert drawn(3) != drawn(3 + 2**32)
    assert drawn(3) != drawn(3, PROPOSALS)


def test_images_of_a_batch_are_sampled_as_alone():
    labels = torch.randint(-1, 2, (3, 500), generator=torch.Generator().manual_seed(0))
    together = sample(labels, keys_of([7, 8, 9], 500), 64, 0.25)
    for i, seed in enumerate((7, 8, 9)):
        alone = sample(labels[i : i + 1], keys_of([seed], 500), 64, 0.25)
        for name in ("index", "positive", "chosen"):
            assert torch.equal(getattr(together, name)[i], getattr(alone, name)[0])


def test_sample_is_fair():
    labels, counts = torch.zeros((600, 20), dtype=torch.int64), torch.zeros(20)
    drawn = sample(labels, keys_of(range(600), 20), 5, 0.5)
    counts.index_add_(0, drawn.index[drawn.chosen], torch.ones(3000))
    # 150 each; binomial standard deviation 10.6.
    assert counts.min() > 105
    assert counts.max() < 195


def test_keys_are_different_and_whole_numbers_of_a_worked_case():
    """Computed once more in Python's own integers, which have no width."""

    def mixed(x):
        x = ((x ^ (x >> 16)) * 0x21F0AAAD) % 2**32
        x = ((x ^ (x >> 15)) * 0x735A2D97) % 2**32
        return x ^ (x >> 15)

    seed, stream = 5 * 2**32 + 77, PROPOSALS
    folded = mixed(mixed(77) ^ 5)
    own = mixed((folded + stream * 0x3C6EF372) % 2**32)
    expected = [(mixed(mixed(i) ^ own) >> 1) * 2**32 + i for i in range(1000)]
    assert keys_of([seed], 1000, stream)[0].tolist() == expected
    many = keys_of([1], 300_000)[0]
    assert len(many.unique()) == 300_000
    assert many.min() >= 0
    # Uniform: each of 64 equal parts has 4688 of them, with a binomial standard deviation of 68.
    parts = torch.bincount(many >> 57, minlength=64)
    assert parts.min() > 4688 - 5 * 68
    assert parts.max() < 4688 + 5 * 68


@pytest.mark.parametrize("keep_best", [True, False])
def test_a_batch_is_matched_as_its_images_are(keep_best):
    draw = torch.Generator().manual_seed(2)
    overlap = (torch.rand((3, 5, 60), generator=draw) * 8).round() / 8
    overlap[1, 2:] = -1  # no true boxes
    overlap[2] = -1
    index, labels = match(overlap, 0.75, 0.25, keep_best)
    for i, count in enumerate((5, 2, 0)):
        own_index, own_labels = match(overlap[i, :count], 0.75, 0.25, keep_best)
        assert torch.equal(index[i], own_index)
        assert torch.equal(labels[i], own_labels)
