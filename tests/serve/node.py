"""Scripts for Node with OpenAI's own package, which npm brings; skipped where it cannot."""

import fcntl
import json
import os
import pathlib
import shutil
import subprocess

OPENAI = "openai@7.59.0"


def has_openai(folder):
    """One test installs it for all, into a folder of the build."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if (folder / "node_modules/openai").is_dir():
            return True
        return bool(shutil.which("npm")) and subprocess.run(
            ["npm", "install", "--omit=optional", "--no-fund", "--no-audit", OPENAI],
            cwd=folder, capture_output=True, timeout=300,
        ).returncode == 0  # fmt: skip


class Script:
    """A module that runs with `arguments`; it prints one line of JSON."""

    def __init__(self, test, name, text, *arguments):
        folder = pathlib.Path(os.environ.get("MODELPOOL_NODE_DIR") or test.dir, "openai")
        if not has_openai(folder):
            test.skipTest("npm has no openai package for us")
        (folder / f"{name}.mjs").write_text(text)
        self.test = test
        self.process = subprocess.Popen(
            ["node", f"{name}.mjs", *arguments],
            cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        test.addCleanup(self.end)

    def end(self):
        self.process.kill()
        self.process.communicate()

    def result(self, timeout=120):
        out, error = self.process.communicate(timeout=timeout)
        self.test.assertEqual(self.process.returncode, 0, out + error)
        return json.loads(out.splitlines()[-1])
