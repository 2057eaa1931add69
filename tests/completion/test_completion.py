"""What bash, zsh and fish make of a line that is not yet finished, typed at their own terminals."""

import contextlib
import os
import pathlib
import pty
import select
import signal
import subprocess
import time
import unittest

from support import COORDINATORD, PATIENCE_S, POOLCTL, PoolTest

SCRIPTS = pathlib.Path(os.environ["MODELPOOL_COMPLETION"])
HOSTILE = ["two words", "a:b/c", "x$(touch x)", "it's", "büro"]


class Shell:
    """One at a terminal of its own, with the completion loaded."""

    def __init__(self, argv, home, setup):
        env = {
            "HOME": home,
            "TERM": "xterm",
            "LANG": "C.UTF-8",
            "PATH": ":".join(
                [str(pathlib.Path(POOLCTL).parent), str(pathlib.Path(COORDINATORD).parent)]
                + ["/usr/bin:/bin"]
            ),
        }
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.chdir(home)
            os.execvpe(argv[0], argv, env)
        self.seen = ""
        self.type(setup + "printf '%s-is-%s\\n' shell there\n")
        self.read_to("shell-is-there")

    def close(self):
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        os.close(self.fd)

    def type(self, text):
        os.write(self.fd, text.encode())

    def read_to(self, text):
        until = time.monotonic() + PATIENCE_S
        while text not in self.seen:
            left = until - time.monotonic()
            if left <= 0 or not select.select([self.fd], [], [], left)[0]:
                raise AssertionError(f"no {text!r} in {self.seen!r}")
            self.seen += os.read(self.fd, 65536).decode(errors="replace")

    def words(self, line):
        """Those of the line after the TAB that ends it."""
        self.seen = ""
        self.type(line + "\t")
        # Shown by the shell itself, as it reads them.
        self.type("\x01printf '<%s>\\n' \x05 over\n")
        self.read_to("<over>")
        shown = self.seen[self.seen.index("<poolctl>") :]
        return [one.strip("\r\n")[1:-1] for one in shown.splitlines() if one.startswith("<")][:-1]


class Completion(PoolTest):
    def setUp(self):
        super().setUp()
        home = pathlib.Path(self.dir, "home")
        home.mkdir()
        (home / "some-file").touch()
        (home / "folder").mkdir()
        self.home = str(home)

    def load_hostile(self):
        for name in HOSTILE:
            self.pool.acquire(name).ready("127.0.0.1:1", external=True).release()

    def poolctl_complete(self, *words):
        argv = [POOLCTL, "complete", "--dir", self.dir, *words]
        kind, *lines = subprocess.run(
            argv, capture_output=True, text=True, check=True
        ).stdout.splitlines()
        return kind, [line.split("\t")[0] for line in lines]

    def check_lines(self, argv, setup):
        self.load_hostile()
        there = ["poolctl", "--dir", self.dir]
        start = f"poolctl --dir {self.dir} "
        with contextlib.closing(Shell(argv, self.home, setup)) as shell:
            for typed, want in (
                ("expl", ["explain"]),
                ("events --fol", ["events", "--follow"]),
                ("events --kind load_f", ["events", "--kind", "load_failed"]),
                ("why two", ["why", "two words"]),
                ("why a:", ["why", "a:b/c"]),
                ("why it", ["why", "it's"]),
                ("why b", ["why", "büro"]),
                ("why x", ["why", "x$(touch x)"]),
                ("dump --file some", ["dump", "--file", "some-file"]),
                ("set idle-timeo", ["set", "idle-timeout="]),
                ("wait m --state rea", ["wait", "m", "--state", "ready"]),
                ("run x -- /usr/bin/printe", ["run", "x", "--", "/usr/bin/printenv"]),
            ):
                self.assertEqual(shell.words(start + typed), there + want)
            self.assertFalse(pathlib.Path(self.home, "x").exists(), "a name was executed")

    def test_bash(self):
        setup = f". /usr/share/bash-completion/bash_completion; . {SCRIPTS}/modelpool.bash\n"
        self.check_lines(["bash", "--norc", "--noprofile", "-i"], setup)

    def test_zsh(self):
        setup = f"fpath=({SCRIPTS} $fpath); autoload -U compinit; compinit -u -D; bindkey -e\n"
        self.check_lines(["zsh", "-f", "-i"], setup)

    def test_fish(self):
        setup = f"source {SCRIPTS}/modelpool.fish\n"
        self.check_lines(["fish", "--no-config", "--private", "-i"], setup)

    def test_what_may_stand_where(self):
        self.load_hostile()
        for words, kind, some, others in (
            ([""], "words", {"status", "run", "explain"}, {"complete", "--pool"}),
            (["-"], "words", {"--pool", "--output", "--help"}, {"--follow"}),
            (["events", "--"], "words", {"--follow", "--kind", "--pool"}, {"--force"}),
            (["-o", ""], "words", {"table", "json"}, set()),
            (["evict", ""], "words", set(HOSTILE), set()),
            (["evict", "m", ""], "words", set(), {"two words"}),
            (["evict", "--force", ""], "words", {"it's"}, set()),
            (["evict", "--timeout", "5s", ""], "words", {"it's"}, set()),
            (["--dir=/nowhere", "evict", ""], "words", set(), {"it's"}),
            (["set", "max-backends=1", ""], "words", {"idle-timeout="}, set()),
            (["lease", "m", "--log", ""], "files", set(), set()),
            (["--dir", ""], "directories", set(), set()),
            (["run", "x", "--", ""], "command", set(), set()),
            (["run", "x", "--", "evict", ""], "command", set(), set()),
            (["nonsense", ""], "words", set(), {"status"}),
            (["evict", "--nonsense", ""], "words", set(), {"it's"}),
        ):
            with self.subTest(words):
                found_kind, found = self.poolctl_complete(*words)
                self.assertEqual(found_kind, kind)
                self.assertLessEqual(some, set(found))
                self.assertFalse(others & set(found))

    def test_every_command_of_the_help_is_offered(self):
        shown = subprocess.run([POOLCTL, "--help"], capture_output=True, text=True, check=True)
        listed = shown.stdout.split("Subcommands:\n")[1].split("\n\n")[0]
        names = [line.split()[0] for line in listed.splitlines() if line[2:3].isalpha()]
        self.assertEqual(sorted(self.poolctl_complete("")[1]), sorted(names))


if __name__ == "__main__":
    unittest.main()
