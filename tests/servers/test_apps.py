"""The example applications by themselves: every refusal has its status, and leaves nothing."""

import asyncio
import importlib
import io
import json
import os
import sys
import unittest

import modelpool
from serving import EXAMPLES, ServerTest
from support import eventually

sys.path.insert(0, str(EXAMPLES))
import models  # noqa: E402


class Applications(ServerTest):
    """Each test runs against both, called as a server would."""

    def setUp(self):
        super().setUp()
        toml = self.pool_toml.read_text()
        toml += '[models.broken]\ncommand = ["false"]\n'
        toml += '[models.absent]\ncommand = ["/nowhere/llama-server"]\n'
        self.pool_toml.write_text(toml)
        self.addCleanup(setattr, models, "WAIT", models.WAIT)
        models.WAIT = 0.05
        os.environ.update(MODELPOOL_DIR=self.dir, POOL_TOML=str(self.pool_toml))
        self.callers = []
        for name, caller in (("wsgi_app", call_wsgi), ("asgi_app", call_asgi)):
            sys.modules.pop(name, None)
            module = importlib.import_module(name)
            self.addCleanup(module.POOL.close)
            self.callers.append(lambda *a, m=module, c=caller: c(m.application, *a))

    def ask(self, body, path="/v1/chat/completions", method="POST"):
        """The answers of both, which are the same but for what happened in between."""
        body = body if isinstance(body, bytes) else json.dumps(body).encode()
        return [caller(method, path, body) for caller in self.callers]

    def test_unknown_models_and_bodies_that_are_none(self):
        for body, status in (
            ({"model": "nobody"}, 404),
            ({"model": None}, 404),
            ({"model": ["one"]}, 404),
            ({}, 400),
            ([], 400),
            (b"", 400),
            (b"\xff\xfe", 400),
            (b"{" * 100, 400),
        ):
            for reply in self.ask(body):
                self.assertEqual(reply["status"], status, body)
                self.assertEqual(json.loads(reply["body"])["error"]["code"], status)
        for reply in self.ask(b"", path="/v2", method="GET"):
            self.assertEqual(reply["status"], 404)

    def test_an_answer_whole_and_in_chunks(self):
        for stream in (False, True):
            for reply in self.ask({"model": "one", "stream": stream}):
                self.assertEqual(reply["status"], 200)
                self.assertIn(b"word7", reply["body"])
                self.assertEqual(len(reply["chunks"]) > 3, stream)
                self.assertIn("x-request-id", reply["headers"])
        self.assertEqual(self.pool.leases(), [])

    def test_nobody_judges(self):
        # Settings, but no room and no coordinator to make it.
        self.pool.limit = 1
        self.load_external("resident").release()
        self.coordinator.kill()
        self.coordinator.wait()
        for reply in self.ask({"model": "one"}):
            self.assertEqual((reply["status"], reply["headers"]["retry-after"]), (503, "1"))
            self.assertIn(b"start coordinatord", reply["body"])

    def test_no_place_in_time(self):
        ticket = self.pool.acquire("one")
        for reply in self.ask({"model": "one"}):
            self.assertEqual(reply["status"], 504)
        ticket._give_back()
        self.assertEqual(self.pool.waiters(), [])

    def test_a_program_that_ends_or_does_not_exist(self):
        self.pool.set(load_cooldown="60s..60s")
        # Whoever asks second finds the model cooling down.
        first, second = self.ask({"model": "broken"})
        self.assertIn(first["status"], (500, 503))
        self.assertEqual(second["status"], 503)
        self.assertTrue(1 <= int(second["headers"]["retry-after"]) <= 60)
        self.assertIn(b"ended before it was ready", first["body"] + second["body"])
        first, second = self.ask({"model": "absent"})
        self.assertEqual((first["status"], second["status"]), (503, 503))
        self.assertIn(b"/nowhere/llama-server", second["body"])
        self.assertTrue(eventually(lambda: not self.pool.backends()))

    def test_which_error_is_which_status(self):
        statuses = {
            "Timeout": 504, "QueueFull": 503, "TableFull": 503, "AllPinned": 503,
            "CoolingDown": 503, "LoadFailed": 503, "NoCoordinator": 503, "LeaseLost": 502,
            "Replaced": 503, "Invalid": 500,
        }  # fmt: skip
        for name, status in statuses.items():
            refused = models.refused(getattr(modelpool, name)("why"))
            self.assertEqual((refused.status, "why" in str(refused)), (status, True), name)
            self.assertEqual("Retry-After" in dict(refused.headers), status == 503, name)
        self.assertEqual(models.refused(ConnectionRefusedError("x")).status, 502)
        cooling = modelpool.CoolingDown("why")
        cooling.retry_after = 2.1
        self.assertEqual(dict(models.refused(cooling).headers)["Retry-After"], "3")

    def test_tags_are_what_the_pool_takes(self):
        self.assertEqual(models.tag_of("req-81"), "req-81")
        self.assertEqual(models.tag_of("a\nb " + "x" * 100), "ab" + "x" * 29)
        for empty in (None, "", "\n", "é"):
            self.assertRegex(models.tag_of(empty), "^req-[0-9a-f]{12}$")


def call_wsgi(application, method, path, body, kind="application/json"):
    reply = {}

    def start_response(status, headers):
        reply["status"] = int(status.split()[0])
        reply["headers"] = {name.lower(): value for name, value in headers}

    environ = {
        "REQUEST_METHOD": method,
        "PATH_INFO": path,
        "CONTENT_LENGTH": str(len(body)),
        "CONTENT_TYPE": kind,
        "wsgi.input": io.BytesIO(body),
    }
    answer = application(environ, start_response)
    try:
        reply["chunks"] = list(answer)
    finally:
        getattr(answer, "close", lambda: None)()
    reply["body"] = b"".join(reply["chunks"])
    return reply


def call_asgi(application, method, path, body, kind="application/json"):
    async def main():
        reply = {"chunks": []}
        asked = False

        async def receive():
            nonlocal asked
            if asked:
                await asyncio.sleep(3600)
            asked = True
            return {"type": "http.request", "body": body}

        async def send(message):
            if message["type"] == "http.response.start":
                reply["status"] = message["status"]
                headers = message["headers"]
                reply["headers"] = {n.decode(): v.decode() for n, v in headers}
            elif message["body"]:
                reply["chunks"].append(message["body"])

        headers = [(b"content-type", kind.encode())]
        scope = {"type": "http", "method": method, "path": path, "headers": headers}
        await application(scope, receive, send)
        reply["body"] = b"".join(reply["chunks"])
        return reply

    return asyncio.run(main())


if __name__ == "__main__":
    unittest.main()
