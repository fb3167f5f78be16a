"""Hours of mixed use, in which everything is ended at random and every promise is checked.

    python -m benchmarks.soak --out runs/soak --minutes 120 --seed 0

Trainings, predictions, evaluations, conversions and exports run as commands and are ended by SIGKILL, SIGTERM
or SIGINT, one to three times each; then the same command, or ``--resume``, has to lead to what was written
without interruption: weights, states and metrics bit for bit, tables and pictures byte for byte. Two that
write to one folder are tried, too, and the page is ended while somebody corrects: what it acknowledged has to
be there when it is opened again. Beside them one process lives on and does the same work again and again. No
process, hidden, partial or temporary file and no shared memory may be left over, and the memory of the
process that lives on may not grow.

OUT/log.txt has a line for each round, OUT/summary.json what was done and found, rewritten after each round. A
find does not end the soak; its folder is kept in OUT/kept. Round N of a seed is always the same, but for the
moment at which a signal arrives. On a machine that others use, give it a /dev/shm of its own::

    unshare --mount sh -c 'mount -t tmpfs none /dev/shm; python -m benchmarks.soak --out runs/soak'
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from benchmarks.soak_cases import write_data
from benchmarks.soak_resident import Resident, grown
from benchmarks.soak_rounds import ROUNDS, Round, Workplace
from benchmarks.soak_traces import shared_memory
from rcnn.io.atomic import write_atomically


@dataclass
class Record:
    """What was done and found so far; written after each round."""

    out: Path
    seed: int
    resident: Resident
    began: float
    rounds: Counter[str]
    seconds: Counter[str]
    signals: Counter[str]
    slowest: dict[str, float]
    finds: list[dict[str, Any]]
    lock: threading.Lock

    def add(self, done: Round, seconds: float) -> None:
        """Note a round, and say so."""
        with self.lock:
            self.rounds[done.kind] += 1
            self.seconds[done.kind] += seconds
            for ended in done.ended:
                if ended.killed:
                    self.signals[f"{ended.killed.name} to {done.kind}"] += 1
                    if ended.answers:
                        longest = max(self.slowest.get(ended.killed.name, 0.0), round(ended.seconds, 2))
                        self.slowest[ended.killed.name] = longest
            self.finds += [
                {"round": done.number, "kind": done.kind, "what": done.what, "find": f} for f in done.finds
            ]
            said = "; ".join(done.finds) or "as it should be"
            self.say(f"round {done.number}, {seconds:.0f} s: {done.kind} ({done.what}): {said}")
            self.write()

    def say(self, text: str) -> None:
        """A line on standard output and in the log."""
        line = f"{datetime.now():%H:%M:%S} {text}"
        print(line, flush=True)
        with (self.out / "log.txt").open("a", encoding="utf-8", errors="backslashreplace") as log:
            log.write(line + "\n")

    def write(self) -> None:
        """Write the summary."""
        content = {
            "seed": self.seed,
            "minutes": round((time.monotonic() - self.began) / 60, 1),
            "rounds": dict(self.rounds),
            "seconds per round": {k: round(self.seconds[k] / n, 1) for k, n in self.rounds.items()},
            "signals": dict(self.signals),
            "slowest answer to a signal, seconds": self.slowest,
            "the process that lives on": self.resident.memory(),
            "finds": self.finds,
        }
        write_atomically(self.out / "summary.json", json.dumps(content, indent=1).encode())


def soak(
    out: Path, minutes: float, *, seed: int = 0, lanes: int = 2, kinds: Sequence[str] = tuple(ROUNDS)
) -> Path:
    """Do rounds for some minutes, several at a time.

    Args:
        out: a folder that does not exist.
        minutes: after which no round begins; at least one of each kind is done.
        seed: of everything random.
        lanes: rounds at a time.
        kinds: keys of :data:`ROUNDS`; each round is one of them.

    Returns:
        ``summary.json``.
    """
    out = out.resolve()
    out.mkdir(parents=True)
    before = shared_memory()
    write_data(out / "data", seed)
    environment = {
        **os.environ, "OMP_NUM_THREADS": "1", "RCNN_CACHE": str(out / "cache"), "TERM": "dumb",
        "PYTHONPATH": os.pathsep.join(p for p in (str(Path(__file__).parents[1]), *sys.path) if p),
    }  # fmt: skip
    resident = Resident(out, environment)
    place = Workplace(out, seed, environment, resident)
    record = Record(
        out, seed, resident, time.monotonic(), Counter(), Counter(), Counter(), {}, [], threading.Lock()
    )
    numbers = iter(range(10**9))
    deadline = time.monotonic() + 60 * minutes

    def lane() -> None:
        while True:
            with record.lock:
                number = next(numbers)
            if number >= len(kinds) and time.monotonic() > deadline:
                return
            one_round(place, record, number, kinds)

    with ThreadPoolExecutor(lanes) as lanes_of_rounds:
        for future in [lanes_of_rounds.submit(lane) for _ in range(lanes)]:
            future.result()
    resident.close()
    at_the_end = grown(resident.memory())
    at_the_end += [f"left in /dev/shm: {name}" for name in sorted(shared_memory() - before)]
    record.finds += [{"round": None, "kind": "end", "what": "", "find": find} for find in at_the_end]
    record.write()
    record.say(f"{sum(record.rounds.values())} rounds, {len(record.finds)} finds")
    return out / "summary.json"


def one_round(place: Workplace, record: Record, number: int, kinds: Sequence[str]) -> None:
    """Do a round in a folder of its own, which stays if something was found."""
    rng = random.Random(f"{place.seed} {number}")
    kind = kinds[number] if number < len(kinds) else rng.choice(kinds)
    folder = place.out / "rounds" / f"{number:05}-{kind}"
    folder.mkdir(parents=True)
    done, began = Round(number, kind, rng, folder), time.monotonic()
    deed: Callable[[Workplace, Round], None] = ROUNDS[kind]
    try:
        deed(place, done)
    except Exception:
        done.finds.append(f"the soak itself failed: {traceback.format_exc()[-1500:]}")
    if done.finds:
        (place.out / "kept").mkdir(exist_ok=True)
        folder.rename(place.out / "kept" / folder.name)
    else:
        shutil.rmtree(folder)
    record.add(done, time.monotonic() - began)


def main() -> None:
    """Soak, and exit with 1 if something was found."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=120)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--lanes", type=int, default=2, help="rounds at a time")
    options = parser.parse_args()
    file = soak(options.out, options.minutes, seed=options.seed, lanes=options.lanes)
    sys.exit(bool(json.loads(file.read_text(encoding="utf-8"))["finds"]))


if __name__ == "__main__":
    main()
