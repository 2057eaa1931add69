#!/usr/bin/env python3
"""What a lease on a loaded model costs in Python: acquire + release beside an empty call.

Usage: PYTHONPATH=build/release/python overhead.py [ROUNDS]. Prints nanoseconds, the best and the
median of rounds of a million calls split over the run, all measured in turns.
"""

import statistics
import sys
import tempfile
import timeit

import modelpool
from modelpool import _modelpool

CALLS = 50_000


def main(rounds):
    with tempfile.TemporaryDirectory(dir="/dev/shm") as directory:
        pool = modelpool.Pool(dir=directory)
        pool.set(max_backends=0)
        held = pool.acquire("llama-3-8b").ready("127.0.0.1:1", external=True)
        names = {"pool": pool, "acquire": pool.acquire, "nothing": _modelpool._nothing}
        cases = {
            "empty pybind11 call": "nothing()",
            "acquire + release": "pool.acquire('llama-3-8b').release()",
            "with acquire, tag": "with pool.acquire('llama-3-8b', 30.0, tag='req-81'): pass",
        }
        times = {name: [] for name in cases}
        for _ in range(rounds):
            for name, statement in cases.items():
                seconds = timeit.timeit(statement, globals=names, number=CALLS)
                times[name].append(seconds / CALLS * 1e9)
        held.release()
        pool.close()
    empty = times["empty pybind11 call"]
    for name, measured in times.items():
        beside = statistics.median(m - e for m, e in zip(measured, empty))
        ratio = statistics.median(m / e for m, e in zip(measured, empty))
        print(
            f"{name:20}  best {min(measured):7.0f} ns  median {statistics.median(measured):7.0f} ns"
            f"  beside the empty call {beside:+7.0f} ns, {ratio:5.1f} times"
        )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 20)
