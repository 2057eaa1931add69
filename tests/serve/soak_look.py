"""What a soak sees of its processes, from outside: who there is, what they hold open, what they keep."""

import collections
import contextlib
import os
import pathlib
import re

HELD_PORT = "a port that is held"  # the name by which free_port() keeps others from it

Seen = collections.namedtuple("Seen", "pid parent start state argv")


def read(path):
    with contextlib.suppress(OSError), open(path, "rb") as file:
        return file.read()
    return b""


def see(pid):
    """None: there is no such process."""
    # After the command, which may hold blanks and parentheses.
    fields = read(f"/proc/{pid}/stat").rpartition(b") ")[2].split()
    if len(fields) < 20:
        return None
    argv = read(f"/proc/{pid}/cmdline").strip(b"\0").decode(errors="replace").split("\0")
    return Seen(int(pid), int(fields[1]), int(fields[19]), fields[0].decode(), argv)


def all_below(root):
    """Those that descend from it, zombies too."""
    children = collections.defaultdict(list)
    for name in filter(str.isdigit, os.listdir("/proc")):
        if seen := see(name):
            children[seen.parent].append(seen)
    found = list(children[root])
    for seen in found:
        found += children[seen.pid]
    return found


def lives(seen):
    now = see(seen.pid)
    return now is not None and now.start == seen.start and now.state not in "ZX"


def held_ports():
    """Sockets that are nothing but the name of a port, by their inode."""
    rows = (line.split() for line in read("/proc/net/unix").decode(errors="replace").splitlines())
    return {row[6] for row in rows if row[7:9] == ["@modelpool", "port"]}


def open_files(pid):
    with contextlib.suppress(OSError):
        for entry in os.scandir(f"/proc/{pid}/fd"):
            with contextlib.suppress(OSError):
                yield os.readlink(entry.path)


def descriptors(pid):
    """How many of each kind it has open."""
    ports = held_ports()
    kinds = collections.Counter()
    for link in open_files(pid):
        inode = re.match(r"socket:\[(\d+)\]", link)
        kinds[HELD_PORT if inode and inode[1] in ports else re.sub(r"\d+", "N", link)] += 1
    return kinds


def deleted(pid, folder):
    """Files below a folder that have no name any more and are still open or mapped."""
    mapped = read(f"/proc/{pid}/maps").decode(errors="replace").splitlines()
    files = [*open_files(pid), *(line[line.find("/") :] for line in mapped if "/" in line)]
    return [file for file in files if file.startswith(folder) and file.endswith(" (deleted)")]


def anonymous_kib(pid):
    """None: it is gone."""
    found = re.search(rb"RssAnon:\s+(\d+) kB", read(f"/proc/{pid}/status"))
    return int(found[1]) if found else None


def names_below(folder):
    root = pathlib.Path(folder)
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if not path.is_dir())


def bytes_below(folder, but):
    total = 0
    for name in names_below(folder):
        with contextlib.suppress(OSError):
            total += os.lstat(f"{folder}/{name}").st_blocks * 512 if name != but else 0
    return total
