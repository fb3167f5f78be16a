"""Digests of many images: sequences and sets of text, kept as numbers."""

import hashlib

import numpy as np

from rcnn.data.digests import Digests, DigestSet, pack_digests, short_digests, unpack_digests

FULL = [hashlib.blake2b(bytes([number]), digest_size=16).hexdigest() for number in range(40)]
SHORT = ["0" * 16, "f" * 16, *(digest[:16] for digest in FULL)]


def test_a_sequence_is_as_one_of_text() -> None:
    found = Digests.of(SHORT)
    assert list(found) == SHORT
    assert list(found[3:7]) == SHORT[3:7]
    assert found.numbers.nbytes == 8 * len(SHORT)
    assert found == Digests.of(SHORT)
    assert found != Digests.of(SHORT[1:])


def test_a_set_is_as_one_of_text() -> None:
    one, other = SHORT[:30], SHORT[20:]
    mine, theirs = DigestSet.of([*one, one[0]]), DigestSet.of(other)
    assert mine == set(one)
    assert sorted(mine) == sorted(one)
    assert mine | theirs == set(one) | set(other)
    assert mine & theirs == set(one) & set(other)
    assert mine - theirs == set(one) - set(other)
    assert mine | set(other) == set(SHORT)
    assert [digest in mine for digest in SHORT] == [digest in one for digest in SHORT]
    assert mine.holds(Digests.of(SHORT)).tolist() == [digest in one for digest in SHORT]
    assert not DigestSet().holds(Digests.of(SHORT)).any()
    assert 5 not in mine


def test_the_first_half_of_a_digest_is_the_short_one() -> None:
    values = np.frombuffer(bytes.fromhex("".join(FULL)), np.uint8).reshape(-1, 16)
    assert list(Digests(short_digests(values))) == [digest[:16] for digest in FULL]


def test_packed_digests_are_those_of_earlier_runs() -> None:
    assert pack_digests(["0" * 15 + "1", "0" * 16]) == "AAAAAAAAAAAAAAAAAAAAAQ=="
    assert unpack_digests(pack_digests(SHORT)) == set(SHORT)
