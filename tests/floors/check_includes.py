#!/usr/bin/env python3
"""A file includes only from floors below its own, and within a floor in no circle.

Usage: check_includes.py SOURCE_ROOT. Exits 1 and names each include that goes up, each circle, each
file that stands on no floor, and each "include" of a file that is not there.
"""

import pathlib
import re
import sys

# Bottom up.
FLOORS = ["base", "segment", "policy", "protocol", "rows", "explain", "pool", "json", "bindings"]
# What applications include, all in one folder, where nothing private is included: the floor from
# which on the library does, too. (Options of a pool are those of protocols.)
PUBLIC = {"result": "base", "settings": "base", "snapshot": "protocol", "pool": "protocol",
          "json": "json", "modelpool": "bindings"}
# Beside each other, above the library.
PROGRAMS = ["coordinatord", "tools"]
# Beside each other, between: what the judge decides, which poolctl asks for as well, and the pool's
# file, which poolserve reads as well.
BETWEEN = [("coordinatord", "judge"), ("coordinatord", "config")]

# Users of the library: held to its public headers, the pool's file, and each other.
USERS = [("tools", "serve"), ("tools", "metrics")]

INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]', re.MULTILINE)


def is_public(where):
    return where.parts[1:3] == ("include", "modelpool")


def floor_of(where):
    """The rank of a file, or None; of a program its name, of a folder between its two."""
    if where.parts[:2] in BETWEEN:
        return where.parts[:2]
    if where.parts[0] in PROGRAMS:
        return where.parts[0]
    if is_public(where):
        name = PUBLIC.get(where.stem)
    else:
        name = where.parts[1]
    return FLOORS.index(name) if name in FLOORS else None


def may_include(mine, other):
    if mine == other:
        return True
    if isinstance(mine, str):
        return not isinstance(other, str)
    if isinstance(mine, tuple):
        return isinstance(other, int)
    return isinstance(other, int) and other <= mine


def may_user_include(other):
    is_near = other.parts[:2] in (*USERS, ("coordinatord", "config"))
    return is_near or is_public(other)


def resolve(root, path, included):
    """The file of ours that an #include in `path` names, or None."""
    for folder in (path.parent, root / "libshm/include", root / "libshm", root / "libshm/bindings",
                   root / "coordinatord", root / "tools", root / "tools/serve"):
        candidate = (folder / included).resolve()
        if candidate.is_file() and candidate.is_relative_to(root):
            return candidate
    return None


def circle(edges):
    """One circle of units that include each other, or None."""
    done, path = set(), []

    def visit(unit):
        if unit in path:
            return path[path.index(unit):] + [unit]
        if unit in done:
            return None
        path.append(unit)
        for other in sorted(edges.get(unit, ())):
            if found := visit(other):
                return found
        path.pop()
        done.add(unit)
        return None

    return next((found for unit in sorted(edges) if (found := visit(unit))), None)


def check(root):
    findings, edges = [], {}
    files = [path for part in ["libshm", *PROGRAMS] for path in sorted((root / part).rglob("*"))
             if path.suffix in (".hpp", ".h", ".cpp", ".c")]
    for path in files:
        where = path.relative_to(root)
        mine = floor_of(where)
        if mine is None:
            findings.append(f"{where}: on no floor; add it to {pathlib.Path(__file__).name}")
            continue
        # A .hpp and the .cpp of its name are one unit.
        unit = str(where.with_suffix(""))
        for bracket, included in INCLUDE.findall(path.read_text(encoding="utf-8")):
            header = resolve(root, path, included)
            if header is None:
                if bracket == '"':
                    findings.append(f'{where}: "{included}" is no file of ours; write <{included}>')
                continue
            other = header.relative_to(root)
            if is_public(where) and not is_public(other):
                findings.append(f"{where}: includes {included}, which is not installed")
            elif where.parts[:2] in USERS and not may_user_include(other):
                findings.append(f"{where}: includes {included}, which applications do not have")
            elif not may_include(mine, floor_of(other)):
                findings.append(f"{where}: includes {included}, which stands above or beside it")
            if (included_unit := str(other.with_suffix(""))) != unit:
                edges.setdefault(unit, set()).add(included_unit)
    if found := circle(edges):
        findings.append("include each other: " + " -> ".join(found))
    return findings, len(files)


def main(root):
    findings, count = check(root)
    print("\n".join(findings) or f"{count} files, every include goes down")
    return 1 if findings or count == 0 else 0


if __name__ == "__main__":
    sys.exit(main(pathlib.Path(sys.argv[1]).resolve()))
