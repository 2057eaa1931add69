#!/usr/bin/env python3
"""Every program runs in run_program: an exception of a library is a message there, not an abort.

Usage: check_mains.py SOURCE_ROOT. Exits 1 and names each main() that does not.
"""

import pathlib
import re
import sys


def main(root):
    found = {}
    for part in ("coordinatord", "tools"):
        for path in (root / part).rglob("*.cpp"):
            body = re.search(r"^int main\(.*?\) \{$(.*?)^\}$", path.read_text(), re.S | re.M)
            if body:
                found[str(path.relative_to(root))] = "run_program(" in body[1]
    findings = [f"{path}: main() does not call run_program" for path in found if not found[path]]
    if len(found) < 4:
        findings.append(f"only {len(found)} programs found: this test looks in the wrong way")
    print("\n".join(findings) or f"{len(found)} programs, all of them in run_program")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main(pathlib.Path(sys.argv[1]).resolve()))
