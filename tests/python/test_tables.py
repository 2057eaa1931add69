"""poolctl's tables on terminals of usual widths: nothing that matters is cut."""

import fcntl
import os
import pty
import struct
import subprocess
import termios
import unittest

import modelpool
from support import POOLCTL, PoolTest

LONG_NAME = "qwen2.5-coder-32b-instruct-q4_k_m"


def on_terminal(columns, argv):
    """(exit code, text) of a program whose output is a terminal of so many columns."""
    master, slave = pty.openpty()
    try:
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
        process = subprocess.Popen(argv, stdin=slave, stdout=slave, stderr=slave)
        os.close(slave)
        text = b""
        while True:
            try:
                chunk = os.read(master, 65536)
            except OSError:  # EIO: nobody has it open any more
                break
            text += chunk
        return process.wait(), text.decode().replace("\r\n", "\n")
    finally:
        os.close(master)


class Tables(PoolTest):
    flags = ["--max-backends", "5"]

    def show(self, columns, *command):
        code, text = on_terminal(columns, [POOLCTL, "--dir", self.dir, *command])
        self.assertEqual(code, 0, text)
        for line in text.splitlines():
            self.assertLessEqual(len(line), columns, text)
        return text

    def load(self, model, port, **options):
        self.pool.acquire(model).ready(f"127.0.0.1:{port}", external=True, **options).release()

    def test_list_at_80_columns_keeps_the_port_and_no_empty_column(self):
        self.load(LONG_NAME, 43210)
        self.load("tiny", 51234)
        text = self.show(80, "list")
        self.assertIn("127.0.0.1:43210", text)
        self.assertIn("127.0.0.1:51234", text)
        self.assertIn(LONG_NAME[:15], text)
        heading = text.splitlines()[0].split()
        self.assertNotIn("SIZE", heading)  # of none is it known
        for needed in ("MODEL", "STATE", "PID", "LEASES", "BUSY", "IDLE", "ADDRESS"):
            self.assertIn(needed, [*heading, "PID", "BUSY"])

    def test_list_at_80_columns_with_everything_in_it(self):
        self.load(LONG_NAME, 43210, size_bytes=7 << 30, pinned=True, label="gpu0")
        with self.pool.acquire(LONG_NAME):
            text = self.show(80, "list")
        self.assertIn(":43210", text)
        self.assertIn("pinned", text)
        self.assertIn("external", self.show(132, "list"))

    def test_list_on_a_wide_terminal_and_in_a_pipe_has_every_column(self):
        self.load("tiny", 51234)
        names = "MODEL STATE PID LEASES BUSY IDLE READY SIZE PEAK ADDRESS NOTES".split()
        self.assertEqual(self.show(132, "list").splitlines()[0].split(), names)
        piped = subprocess.run(
            [POOLCTL, "--dir", self.dir, "list"], stdout=subprocess.PIPE, text=True, check=True
        )
        self.assertEqual(piped.stdout.splitlines()[0].split(), names)

    def test_every_table_fits_40_columns_and_more(self):
        self.load(LONG_NAME, 43210, size_bytes=7 << 30, pinned=True, label="gpu0")
        with self.pool.acquire(LONG_NAME, tag="a-rather-long-tag-of-31-bytes-x"):
            for columns in (40, 60, 80, 100, 132):
                for table in ("list", "workers", "leases", "waiters", "set"):
                    self.show(columns, table)


if __name__ == "__main__":
    unittest.main()
