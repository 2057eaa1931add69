#!/usr/bin/env python3
"""What users read is complete by itself.

    check_public_text.py SOURCE_DIR

Headers, bindings, examples and service files name no file that is not installed with them, and each
promise they cite by number (P6) is explained in the same file, for Go in the package: "P6: ...".
"""

import pathlib
import re
import sys

PUBLIC = (
    "libshm/include/modelpool/*",
    "libshm/bindings/go/*.go",
    "libshm/bindings/python/modelpool/*",
    "libshm/bindings/README.md",
    "coordinatord/service/**/*",
    "tools/examples/**/*",
)
FILE = re.compile(r"(?<![\w./])(\w+\.(?:hpp|cpp|h))\b")
INCLUDE = re.compile(r"^\s*#\s*include\b.*$", re.MULTILINE)  # install.* builds against those


def main(source):
    files = {path for pattern in PUBLIC for path in source.glob(pattern) if path.is_file()}
    files = {path for path in files if not path.name.endswith("_test.go")}
    installed = {path.name for path in (source / "libshm/include/modelpool").iterdir()}
    installed |= {path.name for path in files}
    findings = []
    cited = 0
    go_package = "".join(path.read_text() for path in files if path.suffix == ".go")
    for path in sorted(files):
        text = path.read_text()
        explained = go_package if path.suffix == ".go" else text
        where = path.relative_to(source)
        for number in sorted(set(re.findall(r"\bP(\d+)\b", text)), key=int):
            cited += 1
            if not re.search(rf"\bP{number}: \w", explained):
                findings.append(f"{where}: P{number} is not explained; write P{number}: what it says")
        if path.suffix in (".hpp", ".h"):
            for name in sorted(set(FILE.findall(INCLUDE.sub("", text))) - installed):
                findings.append(f"{where}: refers to {name}, which is not installed")
    if len(files) < 25 or cited < 10:
        findings.append(f"{len(files)} files, {cited} promises: this test looks in the wrong way")
    print("\n".join(findings) or f"{len(files)} files, {cited} cited promises")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main(pathlib.Path(sys.argv[1]).resolve()))
