#!/usr/bin/env python3
"""Which files clang-tidy is to look at, a path a line: those of FILE... that are compiled, and for a
header the source of its name.

Usage: compiled.py BUILD_DIR FILE... Writes BUILD_DIR/once/compile_commands.json: each source once,
though some are compiled several times.
"""

import json
import os
import pathlib
import sys


def main(build, files):
    entries = {}
    for entry in json.loads((build / "compile_commands.json").read_text()):
        path = os.path.relpath(entry["file"])
        # The library over other words has the same files.
        if path not in entries or "MODELPOOL_WORDS" in entries[path]["command"]:
            entries[path] = entry
    (build / "once").mkdir(exist_ok=True)
    (build / "once/compile_commands.json").write_text(json.dumps(list(entries.values())))
    wanted = {str(pathlib.Path(file).with_suffix(".cpp")) for file in files}
    print("\n".join(sorted(path for path in wanted if path in entries)))


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]), sys.argv[2:])
