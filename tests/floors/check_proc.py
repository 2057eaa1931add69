#!/usr/bin/env python3
"""Only libshm/base/proc.cpp names files below /proc; everyone else reads them through it.

Usage: check_proc.py SOURCE_ROOT. Exits 1 and names each line that spells such a path. Messages, where more
than a path stands between the quotes, may.
"""

import pathlib
import re
import sys

READER = "libshm/base/proc.cpp"
PATH = re.compile(r'"/proc[^" ]*"')
COMMENT = re.compile(r"//.*")


def check(root):
    findings, of_reader = [], 0
    for part in ("libshm", "coordinatord", "tools"):
        for path in sorted((root / part).rglob("*")):
            if path.suffix not in (".hpp", ".h", ".cpp", ".c"):
                continue
            where = str(path.relative_to(root))
            for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
                if not PATH.search(COMMENT.sub("", line)):
                    continue
                if where == READER:
                    of_reader += 1
                else:
                    findings.append(f"{where}:{number}: names a file of /proc; read it with base/proc.hpp")
    if of_reader == 0:
        findings.append(f"{READER} names none: this test looks in the wrong way")
    return findings


def main(root):
    findings = check(root)
    print("\n".join(findings) or f"only {READER} names files of /proc")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main(pathlib.Path(sys.argv[1]).resolve()))
