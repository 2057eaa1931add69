"""Scripts for Node with packages that npm brings; skipped where it cannot."""

import fcntl
import json
import os
import pathlib
import shutil
import subprocess

PACKAGES = {"axe-core": "axe-core@4.14.1", "openai": "openai@7.59.0", "ws": "ws@8.23.0"}


def has_package(folder, package):
    """One test installs it for all, into a folder of the build."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if (folder / "node_modules" / package).is_dir():
            return True
        return bool(shutil.which("npm")) and subprocess.run(
            ["npm", "install", "--omit=optional", "--no-fund", "--no-audit", PACKAGES[package]],
            cwd=folder, capture_output=True, timeout=300,
        ).returncode == 0  # fmt: skip


def folder_with(test, package):
    folder = pathlib.Path(os.environ.get("MODELPOOL_NODE_DIR") or test.dir, package)
    if not has_package(folder, package):
        test.skipTest(f"npm has no {package} package for us")
    return folder


def write_script(test, package, name, text):
    """The path of a module that may import the package."""
    path = folder_with(test, package) / f"{name}.mjs"
    path.write_text(text)
    return path


class Script:
    """A module that runs with `arguments`; it prints one line of JSON."""

    def __init__(self, test, name, text, *arguments, package="openai", flags=()):
        path = write_script(test, package, name, text)
        self.test = test
        self.process = subprocess.Popen(
            ["node", *flags, path.name, *arguments], cwd=path.parent,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        test.addCleanup(self.end)

    def end(self):
        self.process.kill()
        self.process.communicate()

    def result(self, timeout=120):
        out, error = self.process.communicate(timeout=timeout)
        self.test.assertEqual(self.process.returncode, 0, out + error)
        return json.loads(out.splitlines()[-1])
