#!/usr/bin/env python3
"""A new config, and those who are connected since before."""

import json
import pathlib
import signal
import subprocess
import unittest

from door import DoorTest, eventually, free_port, read_answer


class Reload(DoorTest):
    def ask(self, talk, path, key):
        """On a connection that stays: (status, what the backend says)."""
        talk.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nx-api-key: {key}\r\n\r\n".encode())
        head, body = read_answer(talk)
        return int(head.split()[1]), json.loads(body)

    def load_anew(self, name, *, key, workers, more=""):
        """SIGHUP for a config in which a's backend has that name and nobody has another key."""
        keys = pathlib.Path(self.dir, "keys")
        keys.touch(0o600)
        keys.write_text(f"{key}\n")
        self.write_config(
            models=self.model("a").replace(f" a {self.log}", f" {name} {self.log}"),
            serve=f'keys = "{keys}"',
            more=more,
        )
        config = pathlib.Path(self.config)
        config.write_text(config.read_text().replace("workers = 2", f"workers = {workers}"))
        if not self.masters:
            return self.start(keep_config=True)
        before, life = self.said().count("it ends when idle"), self.life_of_a()
        self.masters[0].send_signal(signal.SIGHUP)
        # Then all of them know.
        self.assertTrue(eventually(lambda: self.said().count("it ends when idle") > before))
        self.assertTrue(eventually(lambda: self.life_of_a() != life))

    def life_of_a(self):
        return self.backends().get("a", {}).get("generation")

    def test_old_connections_are_served_by_the_new_config(self):
        self.load_anew("first", key="key-1", workers=2)
        talks = [self.socket() for _ in range(4)]
        for talk in talks:
            status, said = self.ask(talk, "/m/a/x", "key-1")
            self.assertEqual((status, said["name"]), (200, "first"))
        # With other workers, and then in place.
        for name, key, workers in (("second", "key-2", 3), ("third", "key-3", 3)):
            with self.subTest(name):
                self.load_anew(name, key=key, workers=workers)
                status, said = self.ask(talks.pop(), "/m/a/x", key)
                self.assertEqual((status, said["name"]), (200, name))
                new = self.get("/m/a/x", fields={"x-api-key": key})
                self.assertEqual(new.json["pid"], said["pid"])
                self.assertEqual(self.ask(talks.pop(), "/m/a/x", "key-1")[0], 401)

    def test_a_certificate_may_go_with_its_listener(self):
        pem = pathlib.Path(self.dir, "door.pem")
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
             "-nodes", "-subj", "/CN=localhost", "-keyout", pem, "-out", f"{pem}.cert"],
            check=True, capture_output=True,
        )  # fmt: skip
        pem.write_text(pem.read_text() + pathlib.Path(f"{pem}.cert").read_text())
        tls = f'tls = {{ cert = "{pem}", key = "{pem}" }}'
        listener = f'[[serve.listener]]\naddress = "127.0.0.1:{free_port()}"\n{tls}'
        self.load_anew("first", key="key-1", workers=2, more=listener)
        talk = self.socket()
        self.assertEqual(self.ask(talk, "/m/a/x", "key-1")[0], 200)
        pem.unlink()
        self.load_anew("second", key="key-2", workers=2)
        self.assertEqual(self.ask(talk, "/m/a/x", "key-1")[0], 401)


if __name__ == "__main__":
    unittest.main()
