#!/usr/bin/env python3
"""A file includes only from floors below its own, or from its floor what is listed before it.

Usage: check_includes.py SOURCE_ROOT. Exits 1 and names each include that goes up, and each file
that stands on no floor.
"""

import pathlib
import re
import sys

# Bottom up; one line is one floor. A .hpp and the .cpp of its name stand together.
FLOORS = {
    "libshm": [
        ["result", "text", "time", "settings", "process"],
        ["layout", "event_json"],
        ["robust_mutex", "segment", "worker", "leases"],
        ["registry", "spawn", "admission", "snapshot"],
        ["pool"],
        ["table_json"],
        # The bindings: C, then Python.
        ["modelpool", "handles", "wait_fd", "api", "values", "lease", "waits", "module"],
    ],
    "coordinatord": [
        ["decide", "thread"],
        ["log", "record", "watch", "groups", "enforce"],
        ["notify", "config", "options", "loop"],
        ["main"],
    ],
}
# Who may include from whom. Inside tools a command includes what it likes.
BELOW = {"libshm": [], "coordinatord": ["libshm"], "tools": ["libshm"]}

INCLUDE = re.compile(r'^\s*#\s*include\s*[<"]([^>"]+)[>"]', re.MULTILINE)


def ranks(part):
    return {name: rank for rank, name in enumerate(sum(FLOORS.get(part, []), []))}


def resolve(root, path, included):
    """The file of ours that an #include in `path` names, or None."""
    for folder in (path.parent, root / "libshm/include", root / "libshm/src", root / "coordinatord",
                   root / "tools"):
        candidate = (folder / included).resolve()
        if candidate.is_file() and candidate.is_relative_to(root):
            return candidate
    return None


def main(root):
    findings = []
    count = 0
    for part, below in BELOW.items():
        rank = ranks(part)
        for path in sorted((root / part).rglob("*")):
            if path.suffix not in (".hpp", ".h", ".cpp"):
                continue
            count += 1
            where = path.relative_to(root)
            if rank and path.stem not in rank:
                findings.append(f"{where}: on no floor; add it to FLOORS in {__file__}")
                continue
            for included in INCLUDE.findall(path.read_text(encoding="utf-8")):
                header = resolve(root, path, included)
                if header is None:
                    continue
                other = header.relative_to(root).parts[0]
                if other != part and other not in below:
                    findings.append(f"{where}: {part} may not include {included} of {other}")
                elif other == part and rank and rank.get(header.stem, -1) > rank[path.stem]:
                    findings.append(f"{where}: includes {included}, which stands above it")
    print("\n".join(findings) or f"{count} files, every include goes down")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main(pathlib.Path(sys.argv[1]).resolve()))
