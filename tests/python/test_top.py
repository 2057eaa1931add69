"""poolctl top on a terminal: what it shows, what it answers to, and how it leaves the terminal."""

import fcntl
import os
import select
import signal
import struct
import subprocess
import termios
import threading
import time
import unittest

from support import DIES_WITH_US, PATIENCE_S, POOLCTL, PoolTest, eventually

ENTER, LEAVE = "\x1b[?1049h", "\x1b[?1049l"


class Terminal:
    """poolctl top on a pseudoterminal of its own."""

    def __init__(self, directory, every="50ms", *, rows=24, columns=120, environment=None):
        self.master, self.slave = os.openpty()
        self.resize(rows, columns)
        self.before = termios.tcgetattr(self.slave)
        self.seen = ""
        self.process = subprocess.Popen(
            [*DIES_WITH_US, POOLCTL, "--dir", directory, "top", "--every", every],
            stdin=self.slave, stdout=self.slave, stderr=self.slave,
            env={**os.environ, "TERM": "xterm", **(environment or {})},
        )

    def resize(self, rows, columns):
        fcntl.ioctl(self.slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def read_some(self, patience=0.05):
        if select.select([self.master], [], [], patience)[0]:
            self.seen += os.read(self.master, 65536).decode()

    def shows(self, condition):
        """Reads until condition(all that was written from now on)."""
        self.seen = ""
        until = time.monotonic() + PATIENCE_S
        while not condition(self.seen) and time.monotonic() < until:
            self.read_some()
        return condition(self.seen)

    def frames(self):
        return self.seen.split("\x1b[H")[1:]

    def press(self, key):
        os.write(self.master, key)

    def ended(self):
        until = time.monotonic() + PATIENCE_S
        while self.process.poll() is None and time.monotonic() < until:
            self.read_some()
        self.read_some()
        return self.process.poll()

    def close(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self.master)
        os.close(self.slave)


class Top(PoolTest):
    def top(self, *every, **options):
        terminal = Terminal(self.dir, *every, **options)
        self.addCleanup(terminal.close)
        return terminal

    def assert_given_back(self, terminal):
        self.assertEqual(termios.tcgetattr(terminal.slave), terminal.before)
        self.assertEqual(terminal.seen.count(LEAVE), 1, terminal.seen)
        self.assertTrue(terminal.seen.rindex("\x1b[?25h") > terminal.seen.rindex("\x1b[H"))

    def test_shows_busy_ones_first_and_the_least_recently_used_last(self):
        self.load_external("oldest").release()
        self.load_external("newest").release()
        held = self.load_external("busy")
        self.pool.touch("newest")
        waiting = threading.Thread(target=self.wait_for, args=["wanted"])
        terminal = self.top()
        self.assertTrue(terminal.shows(lambda text: "3 live of 3, 1 lease, 0 waiting" in text))
        self.assertTrue(terminal.shows(lambda text: text.count("\x1b[J") > 2))
        frame = terminal.frames()[1]
        places = [frame.index(name) for name in ("MODEL", "busy", "newest", "oldest")]
        self.assertEqual(places, sorted(places), frame)
        self.pool.set(when_busy="wait")
        for model in ("oldest", "newest"):
            self.pool.pin(model)
        waiting.start()
        self.assertTrue(terminal.shows(lambda text: "wanted" in text and "req-7" in text))
        held.release()
        self.assertTrue(terminal.shows(lambda text: "0 waiting" in text))
        waiting.join()

    def wait_for(self, model):
        self.pool.acquire(model, tag="req-7")._give_back()

    def test_q_and_signals_end_it_and_give_the_terminal_back(self):
        for end in ("q", signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
            with self.subTest(end):
                terminal = self.top()
                self.assertTrue(terminal.shows(lambda text: "MODEL" in text))
                self.assertIn(ENTER, terminal.seen)
                self.assertFalse(termios.tcgetattr(terminal.slave)[3] & termios.ECHO)
                if end == "q":
                    terminal.press(b"xyz\x1b[Aq")
                else:
                    terminal.process.send_signal(end)
                self.assertEqual(terminal.ended(), 0)
                self.assert_given_back(terminal)

    def test_stopped_it_gives_the_terminal_back_and_takes_it_again(self):
        terminal = self.top()
        self.assertTrue(terminal.shows(lambda text: "MODEL" in text))
        terminal.process.send_signal(signal.SIGTSTP)
        self.assertTrue(terminal.shows(lambda text: LEAVE in text))
        self.assertTrue(eventually(lambda: self.state_of(terminal.process.pid) == "T"))
        self.assertEqual(termios.tcgetattr(terminal.slave), terminal.before)
        terminal.process.send_signal(signal.SIGCONT)
        self.assertTrue(terminal.shows(lambda text: ENTER in text and "MODEL" in text))
        terminal.press(b"q")
        self.assertEqual(terminal.ended(), 0)
        self.assert_given_back(terminal)

    def state_of(self, pid):
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rsplit(")", 1)[1].split()[0]

    def test_keeps_to_the_size_of_the_terminal(self):
        for i in range(3):
            self.load_external(f"model-with-a-long-name-{i}").release()
        terminal = self.top("1h")
        self.assertTrue(terminal.shows(lambda text: "\x1b[J" in text))
        self.assertEqual(terminal.frames()[0].count("\n"), 6)  # a title, an empty line, the table
        terminal.resize(4, 20)
        terminal.process.send_signal(signal.SIGWINCH)
        self.assertTrue(terminal.shows(lambda text: "\x1b[J" in text))
        lines = terminal.frames()[0].split("\x1b[J")[0].split("\x1b[K\r\n")
        self.assertEqual(lines.pop(), "")
        self.assertEqual(len(lines), 3)
        self.assertLessEqual(max(len(line) for line in lines), 20, lines)
        terminal.resize(0, 0)  # unknown
        terminal.process.send_signal(signal.SIGWINCH)
        self.assertTrue(terminal.shows(lambda text: "model-with-a-long-name-2" in text))

    def test_ends_while_nobody_reads_the_terminal(self):
        terminal = self.top(rows=200, columns=400)
        for i in range(3):
            self.load_external("x" * 150 + str(i)).release()
        self.assertTrue(terminal.shows(lambda text: "MODEL" in text))
        termios.tcflow(terminal.slave, termios.TCOOFF)  # Ctrl-S
        self.assertTrue(eventually(lambda: self.waits_without_end(terminal.process.pid)))
        terminal.process.send_signal(signal.SIGTERM)
        self.assertTrue(eventually(lambda: terminal.process.poll() is not None))
        self.assertEqual(terminal.process.returncode, 0)
        self.assertEqual(termios.tcgetattr(terminal.slave), terminal.before)

    def waits_without_end(self, pid):
        """It is in poll(2) without a timeout: for the terminal, which takes no frame."""
        with open(f"/proc/{pid}/syscall") as syscall:
            number, *arguments = syscall.read().split()
        return number == "7" and int(arguments[2], 16) & 0xFFFFFFFF == 0xFFFFFFFF

    def test_says_that_the_pool_is_gone_on_the_terminal_that_was_given_back(self):
        terminal = self.top()
        self.assertTrue(terminal.shows(lambda text: "MODEL" in text))
        self.pool.close()
        self.stop_coordinator()
        os.remove(os.path.join(self.dir, "default"))
        self.assertEqual(terminal.ended(), 3)
        self.assertIn("unable to find pool default", terminal.seen.split(LEAVE)[1])
        self.assertEqual(termios.tcgetattr(terminal.slave), terminal.before)

    def test_prints_one_frame_where_it_cannot_draw(self):
        self.load_external("m").release()
        command = [POOLCTL, "--dir", self.dir, "top"]
        piped = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S)
        self.assertEqual((piped.returncode, piped.stderr), (0, ""))
        title = r"^pool default: 1 live of 3, 0 leases[^\n]*"
        self.assertRegex(piped.stdout, title + r"\n\nMODEL[^\n]*\nm ")
        self.assertNotIn("\x1b", piped.stdout)
        dumb = self.top(environment={"TERM": "dumb"})
        self.assertEqual(dumb.ended(), 0)
        self.assertNotIn("\x1b", dumb.seen)

    def test_refuses_what_it_cannot_do(self):
        for arguments, code, word in (
            (("-o", "json", "top"), 2, "--watch"),
            (("top", "--every", "1ms"), 2, "50ms"),
            (("top", "--every", "soon"), 2, "soon"),
            (("--pool", "none", "top"), 3, "none"),
        ):
            done = subprocess.run(
                [POOLCTL, "--dir", self.dir, *arguments],
                capture_output=True, text=True, timeout=PATIENCE_S,
            )
            self.assertEqual((done.returncode, done.stdout), (code, ""), done)
            self.assertIn(word, done.stderr)


if __name__ == "__main__":
    unittest.main()
