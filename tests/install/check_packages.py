#!/usr/bin/env python3
"""What tools/demo, tools/check and tools/bench install covers what they configure and run.

    check_packages.py SOURCE_DIR

Every find_package, find_program, find_path, find_library, pkg_check_modules, shebang and import
that is not Python's own has a Debian package in PACKAGES, and that package is in the list of each
command that needs it (tools/lib/setup.sh). The demo's configuration is run, to see that it asks for nothing
but that. A new one fails here until it has its package.
"""

import ast
import json
import pathlib
import re
import subprocess
import sys
import tempfile

ESSENTIAL = "essential"  # of every Debian
BOOST = "Boost"  # libboost-dev, or another version where Debian's default is too old

# What is looked for, by kind and name -> the package that brings it.
PACKAGES = {
    ("package", "benchmark"): "libbenchmark-dev",
    ("package", "Boost"): BOOST,
    ("package", "CLI11"): "libcli11-dev",
    ("package", "GTest"): "libgmock-dev",
    ("package", "nlohmann_json"): "nlohmann-json3-dev",
    ("package", "OpenSSL"): "libssl-dev",
    ("package", "PkgConfig"): "pkg-config",
    ("package", "Python3"): "python3",
    ("package", "spdlog"): "libspdlog-dev",
    ("package", "Threads"): "g++",
    ("package", "tl-expected"): "libexpected-dev",
    ("package", "tomlplusplus"): "libtomlplusplus-dev",
    ("package", "yaml-cpp"): "libyaml-cpp-dev",
    ("module", "cpp-httplib"): "libcpp-httplib-dev",
    ("module", "hiredis"): "libhiredis-dev",
    ("module", "libsystemd"): "libsystemd-dev",
    ("module", "openssl"): "libssl-dev",
    ("module", "prometheus-cpp-core"): "prometheus-cpp-dev",
    ("module", "python3"): "python3-dev",
    ("path", "pybind11/pybind11.h"): "pybind11-dev",
    ("program", "help2man"): "help2man",
    ("program", "patch"): "patch",
    ("program", "python3"): "python3",
    ("shebang", "bash"): ESSENTIAL,
    ("shebang", "make"): ESSENTIAL,  # debian/rules: where packages are made
    ("shebang", "python3"): "python3",
    ("shebang", "sh"): ESSENTIAL,
    ("import", "aiohttp"): "python3-aiohttp",
    ("import", "gunicorn"): "gunicorn",
    ("import", "h11"): "uvicorn",  # by its dependencies
    ("import", "httpx"): "python3-httpx",
    ("import", "jsonschema"): "python3-jsonschema",
    ("import", "matplotlib"): "python3-matplotlib",
    ("import", "prometheus_client"): "python3-prometheus-client",
    ("import", "requests"): "python3-requests",
    ("import", "websockets"): "python3-websockets",
}
OURS = {"modelpool", "columns"}  # find_package, import; tools/lib/columns.py
# CMake lists that no command but bench turns on.
BENCH_ONLY = {("package", "benchmark"), ("module", "hiredis"), ("import", "matplotlib")}
# Without these the Python package or the manual pages are not built, which the demo and bench do
# not need.
OPTIONAL = {("path", "pybind11/pybind11.h"), ("module", "python3"), ("program", "help2man")}
# Modules of the tests' own, on a path that the test sets.
HELPERS = {"models", "serving", "support", "test_apps", "test_servers", "wsgi_app"}


def tracked(source):
    """What git knows; without git, as in an unpacked archive, what is no build."""
    listed = subprocess.run(["git", "-C", source, "ls-files", "-z"], stdout=subprocess.PIPE)
    if listed.returncode == 0:
        return [name for name in listed.stdout.decode().split("\0") if name]
    files = (path.relative_to(source) for path in source.rglob("*") if path.is_file())
    return [str(path) for path in files if path.parts[0] not in ("build", ".git")]


def found_in_cmake(text):
    """(kind, name) of everything that CMake looks for."""
    text = re.sub(r"#.*", "", text)
    for name in re.findall(r"find_(?:package|dependency)\(\s*([\w+-]+)", text):
        yield "package", name
    for kind, variable, words in re.findall(
        r"find_(program|path|library|file)\(\s*(\w+)\s+([^)]*)\)", text
    ):
        yield kind, [word for word in words.split() if word != "NAMES"][0]
    for words in re.findall(r"pkg_(?:check_modules|search_module)\(\s*\w+([^)]*)\)", text):
        for word in words.split():
            if not word.isupper():
                yield "module", re.split("[<>=]", word)[0]


def found_in_script(path):
    with open(path, "rb") as file:
        first = file.readline()
    shebang = re.match(rb"#! *(?:/usr/bin/env +)?(\S+)", first)
    if shebang:
        yield "shebang", pathlib.PurePath(shebang[1].decode()).name
    if path.suffix != ".py" and not (shebang and b"python" in shebang[1]):
        return
    beside = {other.stem for other in path.parent.iterdir()}
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names = [node.module]
        for name in {name.split(".")[0] for name in names}:
            if name not in sys.stdlib_module_names | beside | OURS | HELPERS:
                yield "import", name


def lists(source):
    """{name: packages} of tools/lib/setup.sh."""
    names = ("build_packages", "test_packages", "bench_packages")
    script = '. "$1/tools/lib/setup.sh"; for n in "${@:2}"; do l="$n[@]"; echo "$n" "${!l}"; done'
    printed = subprocess.run(
        ["bash", "-c", script, "bash", source, *names],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    found = {}
    for line in printed.stdout.splitlines():
        name, *packages = line.split()
        found[name] = {re.sub(r"libboost[\d.]*-dev", BOOST, package) for package in packages}
    return found


def installed_by(source, command, of):
    """The packages that a command installs, by what it says in its need_packages line."""
    text = (source / "tools" / command).read_text()
    (line,) = re.findall(r"^ *need_packages (.*)$", text, re.MULTILINE)
    return set().union(*(of[name] for name in re.findall(r"\w+_packages", line)))


def demo_configures(source):
    """(files, found): what CMake reads of ours when the demo configures, and what it looks for."""
    (options,) = re.findall(
        r"^ *configure release *(.*)$", (source / "tools/demo").read_text(), re.MULTILINE
    )
    with tempfile.TemporaryDirectory() as build:
        trace = pathlib.Path(build, "trace")
        done = subprocess.run(
            ["cmake", "--preset", "release", *options.split(), "-B", f"{build}/build"]
            + ["--trace", "--trace-format=json-v1", f"--trace-redirect={trace}"],
            cwd=source,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        if done.returncode != 0:
            sys.exit(done.stdout)
        files, found = set(), set()
        with open(trace) as lines:
            next(lines)  # the version of the format
            for line in lines:
                call = json.loads(line)
                file = pathlib.Path(call["file"])
                if not file.is_relative_to(source) or file.is_relative_to(source / "build"):
                    continue
                files.add(str(file.relative_to(source)))
                found.update(found_in_cmake(f"{call['cmd']}({' '.join(call['args'])})"))
    return files, found


def problems(source):
    of = lists(source)
    commands = {name: installed_by(source, name, of) for name in ("demo", "check", "bench")}

    def check(where, needed, command):
        if needed in BENCH_ONLY:
            command = "bench"
        if needed[0] == "package" and needed[1] in OURS:
            return
        package = PACKAGES.get(needed)
        kind, name = needed
        if package is None:
            yield f"{where}: {kind} {name} has no Debian package in {pathlib.Path(__file__).name}"
        elif package != ESSENTIAL and package not in commands[command]:
            yield f"{where}: {kind} {name} needs {package}, which tools/{command} does not install"

    configured, asked = demo_configures(source)
    yield from (f"tools/demo configures {file}" for file in configured if file.startswith("tests/"))
    if ("package", "CLI11") not in asked:
        yield "no trace of what tools/demo configures: this test looks in the wrong way"
    for needed in asked - OPTIONAL:
        yield from check("tools/demo", needed, "demo")

    seen = 0
    for name in tracked(source):
        path = source / name
        is_cmake = path.name == "CMakeLists.txt" or ".cmake" in path.suffixes
        is_script = path.suffix in (".py", "") and path.is_file()
        found = list(found_in_cmake(path.read_text()) if is_cmake else ())
        if is_script and not path.is_symlink():
            found += found_in_script(path)
        command = "demo" if name in ("tools/demo", "tools/lib/demo_run.sh") else "check"
        for needed in found:
            seen += 1
            yield from check(name, needed, command)
            if is_cmake and needed not in OPTIONAL:
                yield from check(name, needed, "bench")
        # A test that skips for want of a package says so with these words.
        if name.startswith("tests/") and path != pathlib.Path(__file__).resolve():
            text = path.read_bytes().decode(errors="replace")
            for package in re.findall(r"\(Debian package: ([\w.+-]+)\)", text):
                if package not in commands["check"]:
                    yield f"{name}: {package}, which tools/check does not install"
    if seen < 40:
        yield f"only {seen} requirements were found: this test looks in the wrong way"


def main():
    source = pathlib.Path(sys.argv[1]).resolve()
    found = sorted(set(problems(source)))
    print("\n".join(found) or "every requirement has its package")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
