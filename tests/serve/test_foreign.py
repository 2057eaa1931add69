"""Servers at an address that is not theirs: no request for a model reaches what is another's."""

import contextlib
import json
import socket
import subprocess
import sys
import unittest

from door import HERE, POOLCTL, DoorTest, eventually, free_port, read_answer


class Foreign(DoorTest):
    def setUp(self):
        super().setUp()
        self.place = free_port()

    def at_the_place(self, name, command=None):
        command = command or f"{sys.executable} {HERE}/odd_backend.py {self.place} {name} {self.log}"
        return f'[models."{name}"]\ncommand = "{command}"\naddress = "127.0.0.1:{self.place}"\n'

    def somebody_is_there(self):
        with contextlib.suppress(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", self.place)).close()
            return True

    def asked(self, name):
        return [line for line in self.seen() if f"/of_{name}" in line]

    def test_two_models_of_one_address_are_asked_each_for_its_own(self):
        self.start(models=self.at_the_place("a") + self.at_the_place("b"), pool="max_backends = 1")
        talks = [self.socket() for _ in range(12)]  # of both workers, which keep theirs to backends
        for name in "abab":
            for talk in talks:
                talk.sendall(f"POST /m/{name}/of_{name} HTTP/1.1\r\nHost: localhost\r\n"
                             "Content-Length: 0\r\n\r\n".encode())
            for talk in talks:
                head, body = read_answer(talk)
                self.assertIn(b" 200 ", head, body)
                self.assertEqual(json.loads(body)["name"], name)
        for line in self.seen():
            self.assertIn(f"/of_{line[0]} ", line)

    def check_that_b_is_not_loaded(self, words):
        reply = self.post("/m/b/of_b", "")
        self.assertEqual(reply.status, 503, reply.body)
        self.assertRegex(reply.message, words)
        self.assertEqual(self.asked("b"), [])

    def test_one_that_finds_its_address_taken_is_not_loaded(self):
        self.start(models=self.at_the_place("a") + self.at_the_place("b"))
        self.assertEqual(self.post("/m/a/of_a", "").json["name"], "a")
        self.check_that_b_is_not_loaded("Address already in use|listens process")
        self.assertEqual(self.post("/m/a/of_a", "").json["name"], "a")

    def test_the_server_of_another_model_does_not_answer_for_one_that_is_silent(self):
        silent = self.at_the_place("b", "sleep 300")
        self.start(models=self.at_the_place("a") + silent, pool='max_backends = 2\nload_timeout = "2s"')
        self.assertEqual(self.post("/m/a/of_a", "").json["name"], "a")
        self.check_that_b_is_not_loaded("load_timeout")
        self.assertEqual(self.post("/m/a/of_a", "").json["name"], "a")

    def test_a_server_that_is_nobody_s_does_not_answer_for_one_that_is_silent(self):
        command = [sys.executable, f"{HERE}/odd_backend.py", str(self.place), "stranger", self.log]
        stranger = subprocess.Popen(command)
        self.addCleanup(stranger.wait)
        self.addCleanup(stranger.kill)
        self.assertTrue(eventually(self.somebody_is_there))
        self.start(models=self.at_the_place("b", "sleep 300"), pool='load_timeout = "2s"')
        self.check_that_b_is_not_loaded("load_timeout")
        # It was asked whether it is ready, and nothing else.
        self.assertIsNone(stranger.poll())
        self.assertEqual(self.seen(), [])

    def test_a_tenant_of_a_models_name_gets_no_request(self):
        self.start(models=self.at_the_place("a") + self.at_the_place("b"))
        command = [sys.executable, f"{HERE}/odd_backend.py", str(self.place), "tenant", self.log]
        argv = [POOLCTL, "--dir", self.dir, "run", "b", "--", *command]
        tenant = subprocess.Popen(argv)
        self.addCleanup(tenant.wait)
        self.addCleanup(tenant.terminate)
        self.assertTrue(eventually(self.somebody_is_there))
        reply = self.post("/m/b/of_b", "")
        self.assertEqual(reply.status, 404, reply.body)
        self.assertRegex(reply.message, f"a tenant has this name, process .* {tenant.pid} has run")
        self.assertEqual(self.seen(), [])
        tenant.terminate()
        tenant.wait()
        self.assertEqual(self.post("/m/b/of_b", "").json["name"], "b")


if __name__ == "__main__":
    unittest.main()
