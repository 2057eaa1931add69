#!/usr/bin/env python3
"""Comments and prose keep to 100 columns, as clang-format keeps the code of C++.

Usage: columns.py BASE FILE... Exits 1 and names each line that does not, of those that differ from BASE.
Tables, code and addresses of the web may be longer.
"""

import pathlib
import re
import subprocess
import sys

COLUMNS = 100
CPP = {".cpp", ".hpp", ".h", ".c", ".def"}
HASH = {".py", ".sh", ".cmake", ".toml", ""}  # "": programs of the shell and of Python
WHOLE = re.compile(r"https?://|# (fmt|noqa|type):|NOLINT|shellcheck ")  # cannot be broken


def is_bound(path, line, in_code):
    """Is this line a comment or prose that could be broken?"""
    if WHOLE.search(line):
        return False
    if path.suffix == ".md":
        return not in_code and not line.lstrip().startswith("|")
    if path.suffix in CPP:
        return bool(re.search(r"(^|\s)//", line) or re.match(r"\s*/?\*", line))
    if path.suffix in HASH or path.name == "CMakeLists.txt":
        return bool(re.search(r"(^|\s)# ", line))
    return False


def too_long(path, text):
    """The numbers of the lines that are too long."""
    found, in_code = set(), False
    for number, line in enumerate(text.splitlines(), 1):
        if path.suffix == ".md" and line.lstrip().startswith("```"):
            in_code = not in_code
        elif len(line) > COLUMNS and is_bound(path, line, in_code):
            found.add(number)
    return found


def changed(base, path):
    """The numbers of the lines that are not in BASE."""
    diff = subprocess.run(["git", "diff", "-U0", base, "--", path], capture_output=True, text=True,
                          check=True).stdout
    tracked = subprocess.run(["git", "ls-files", "--error-unmatch", path], capture_output=True)
    if tracked.returncode != 0:
        return range(1, sys.maxsize)
    lines = set()
    for start, count in re.findall(r"^@@ \S+ \+(\d+)(?:,(\d+))? @@", diff, re.MULTILINE):
        lines.update(range(int(start), int(start) + int(count or 1)))
    return lines


def main(base, names):
    findings = []
    for path in map(pathlib.Path, names):
        try:
            long = too_long(path, path.read_text(encoding="utf-8"))
        except UnicodeDecodeError:
            continue
        if not long:
            continue
        lines = changed(base, path)
        findings += [f"{path}:{number}: more than {COLUMNS} columns" for number in sorted(long)
                     if number in lines]
    print("\n".join(findings), end="\n" if findings else "")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
