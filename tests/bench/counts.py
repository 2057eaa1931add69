"""Counts what operations cost: instructions, loads, stores and the cache lines they write, exactly.

Runs bench_counts under valgrind's lackey, which prints every instruction and every access to memory.
An operation is what stands between two stores to its marks. Each is done a hundred times; its cost
is that of most of the later times, the steady state, and a note says how the others differed: once
in a clock tick a last-used cell is written.

Memory is the segment, the stack, or private: all else of the process. Lines are 64 bytes, and
counted when written. An exchange counts as two loads and a store, which is how valgrind sees it. It
reads the clock by a system call: the instructions of the vDSO are missing, in the floor as well.

No cache line of the segment may be written by two processes: exit code 1 if one is, at any time.
JSON on stdout. Exit code 77, and nothing but a note, where there is no valgrind.
"""

import argparse
import collections
import json
import shutil
import subprocess
import sys
import tempfile

LINE_BYTES = 64
STACK_BYTES = 64 * 1024  # no operation uses more
WARM_UP = 10  # times that may do things for the first time
KEYS = (
    "instructions",
    "segment_loads", "segment_stores", "segment_lines",
    "private_loads", "private_stores", "private_lines",
    "stack_loads", "stack_stores",
)  # fmt: skip


def trace(program, folder):
    """(what the program says about itself, the path of the trace)"""
    path = f"{folder}/trace"
    finished = subprocess.run(
        ["valgrind", "--tool=lackey", "--trace-mem=yes", f"--log-file={path}", program],
        stdout=subprocess.PIPE,
        check=True,
    )
    return json.loads(finished.stdout), path


def accesses_between_marks(about, path):
    """For each time of each operation: (its number, [(kind, address, bytes)])."""
    marks = range(about["marks"], about["last_mark"] + 8, 8)
    number, accesses = None, []
    with open(path) as file:
        for line in file:
            # "I  04001234,3", or S, L, M (load and store) after a space; all else is valgrind's.
            kind = line[:2].strip()
            if kind not in ("I", "L", "S", "M") or line[2] != " ":
                continue
            if number is None and kind != "S":
                continue
            address, size = line[3:].split(",")
            address = int(address, 16)
            if kind == "S" and address in marks:
                if address < about["last_mark"]:
                    number, accesses = (address - about["marks"]) // 8, []
                elif number is not None:
                    yield number, accesses
                    number = None
            elif number is not None:
                accesses.append((kind, address, int(size)))


def cost(accesses, about, stack):
    """({key: count}, the segment's lines that were written)"""
    counts = dict.fromkeys(KEYS, 0)
    lines = {"segment": set(), "private": set(), "stack": set()}
    for kind, address, size in accesses:
        if kind == "I":
            counts["instructions"] += 1
            continue
        if 0 <= address - about["segment"] < about["segment_bytes"]:
            where = "segment"
        elif stack - STACK_BYTES <= address < stack:
            where = "stack"
        else:
            where = "private"
        if kind != "S":
            counts[where + "_loads"] += 1
        if kind != "L":
            counts[where + "_stores"] += 1
            last = (address + size - 1) // LINE_BYTES
            lines[where].update(range(address // LINE_BYTES, last + 1))
    counts["instructions"] -= 1  # the one that stores the last mark
    counts["segment_lines"] = len(lines["segment"])
    counts["private_lines"] = len(lines["private"])
    return counts, lines["segment"]


def steady_state(name, costs):
    """(the cost that most of the later times had, how the others differed, in words)"""
    kinds = collections.Counter(tuple(costs[i].values()) for i in range(WARM_UP, len(costs)))
    (most, times), *others = kinds.most_common()
    result = {"name": name, **dict(zip(KEYS, most)), "samples": times}
    notes = []
    for other, seldom in others:
        more = [f"{b - a:+d} {key}" for key, a, b in zip(KEYS, most, other) if a != b]
        notes.append(f"{name}: {seldom} of {len(costs) - WARM_UP} times {', '.join(more)}")
    return result, notes


def report(about, path):
    costs = collections.defaultdict(list)
    written = collections.defaultdict(set)  # lines of the segment, by process
    for number, accesses in accesses_between_marks(about, path):
        operation = about["operations"][number]
        counts, lines = cost(accesses, about, operation["stack"])
        costs[operation["name"]].append(counts)
        written[operation["process"]] |= lines
    wanted = {operation["name"]: about["times"] for operation in about["operations"]}
    if {name: len(of_one) for name, of_one in costs.items()} != wanted:
        raise RuntimeError(f"the trace has {({n: len(c) for n, c in costs.items()})}, not {wanted}")

    results, notes = [], []
    for name, of_one in costs.items():
        result, differences = steady_state(name, of_one)
        results.append(result)
        notes += differences
    first, second = written.values()
    both = first & second
    notes.append(f"two processes on one backend wrote {len(first)} and {len(second)} lines of the"
                 f" segment, {len(both)} of them both")  # fmt: skip
    notes += [f"written by both: line at {line * LINE_BYTES - about['segment']:#x}" for line in both]
    results.append({"name": "written_by_both_processes", "segment_lines": len(both)})
    return {"benchmark": "counts", "results": results, "notes": notes}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--program", required=True, help="bench_counts")
    options = parser.parse_args()
    if shutil.which("valgrind") is None:
        print(json.dumps({"benchmark": "counts", "results": [], "notes": ["valgrind is not installed"]}))
        sys.exit(77)
    with tempfile.TemporaryDirectory(prefix="modelpool-counts-") as folder:
        found = report(*trace(options.program, folder))
    print(json.dumps(found, indent=1))
    sys.exit(1 if found["results"][-1]["segment_lines"] else 0)


if __name__ == "__main__":
    main()
