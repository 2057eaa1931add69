"""The recipes for real model servers, run with stand-ins that take the documented flags only."""

import dataclasses
import importlib
import json
import os
import pathlib
import sys
import unittest

import modelpool
from serving import EXAMPLES, Server, chat
from support import PoolTest, eventually
from test_apps import call_asgi, call_wsgi

sys.path.insert(0, str(EXAMPLES))
import models  # noqa: E402

POOLSERVE = os.environ["MODELPOOL_POOLSERVE"]
RECIPES = EXAMPLES / "recipes"
FAKE = pathlib.Path(__file__).parent / "recipes" / "fake_server.py"
FORM = "multipart/form-data; boundary=xyz"


class Recipes(PoolTest):
    flags = ["--config", str(RECIPES / "pool.toml"), "--max-backends", "0"]

    def setUp(self):
        super().setUp()
        programs = pathlib.Path(self.dir, "bin")
        programs.mkdir()
        for name in ("llama-server", "vllm", "whisper-server"):
            (programs / name).symlink_to(FAKE)
        before = os.environ["PATH"]
        self.addCleanup(os.environ.__setitem__, "PATH", before)
        os.environ["PATH"] = f"{programs}{os.pathsep}{before}"
        os.environ.update(MODELPOOL_DIR=self.dir, POOL_TOML=str(RECIPES / "pool.toml"))
        self.models = {
            name: dataclasses.replace(model, log=f"{self.dir}/{name}.log")
            for name, model in models.read_models().items()
        }

    def said_by(self, name):
        return pathlib.Path(self.dir, f"{name}.log").read_text().split("\n")[:-1]

    def test_each_is_waited_for_and_stopped(self):
        for name, model in self.models.items():
            with self.subTest(name), self.pool.lease(name, load=model.load) as lease:
                backend = next(row for row in self.pool.backends() if row["model"] == name)
                self.assertEqual(backend["address"], lease.address)
                # llama-server's 503 were taken for what they are.
                looks = 3 if name.startswith("llama") else 0
                said = self.said_by(name)
                self.assertEqual(said, ["/health 503"] * looks + ["/health 200"])
        for name in self.models:
            self.pool.evict(name)
            self.assertTrue(
                eventually(lambda: name not in [row["model"] for row in self.pool.backends()])
            )
            event = [e for e in self.pool.events() if e["model"] == name][-1]
            self.assertEqual((event["kind"], event["signal"]), ("evicted", "SIGTERM"))
            self.assertEqual(self.said_by(name)[-1], "SIGTERM")

    def test_chats_and_transcriptions_reach_their_servers(self):
        form = (
            b'--xyz\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n'
            b"Content-Type: audio/x-wav\r\n\r\nRIFF\x00\xff\r\n\r\n--xy\r\n"
            b'--xyz\r\nContent-Disposition: form-data; name="model"\r\n\r\n'
            b"whisper-large-v3\r\n--xyz--\r\n"
        )
        requests = [("/v1/audio/transcriptions", form, FORM)]
        for name in ("llama-3-8b", "qwen2.5-7b"):
            # As curl -d sends it.
            kind = "application/x-www-form-urlencoded"
            requests.append(("/v1/chat/completions", json.dumps({"model": name}).encode(), kind))
        for name, caller in (("wsgi_app", call_wsgi), ("asgi_app", call_asgi)):
            sys.modules.pop(name, None)
            module = importlib.import_module(name)
            self.addCleanup(module.POOL.close)
            module.MODELS = self.models
            for path, body, kind in requests:
                reply = caller(module.application, "POST", path, body, kind)
                self.assertEqual(reply["status"], 200, reply)
                told = {"is_json": kind != FORM, "bytes": len(body)}
                self.assertEqual(json.loads(reply["body"]), told)
            for broken in (form.replace(b'"model"', b'"mode"'), b"", form[:-20]):
                path = "/v1/audio/transcriptions"
                reply = caller(module.application, "POST", path, broken, FORM)
                self.assertEqual(reply["status"], 400, reply)

    def test_poolserve_serves_them(self):
        port = modelpool.free_port()
        listen = ["--listen", f"127.0.0.1:{port}", "--workers", "2"]
        argv = [POOLSERVE, "--config", str(RECIPES / "pool.toml"), "--dir", self.dir, *listen]
        server = Server(argv, port, os.environ.copy(), f"{self.dir}/server.log")
        self.addCleanup(server.kill)
        for name in ("llama-3-8b", "qwen2.5-7b"):
            reply = chat(port, name)
            self.assertEqual((reply.status, json.loads(reply.body)["is_json"]), (200, True))
        server.stop()

    def test_the_rules_are_those_of_the_models(self):
        expected = {
            "llama-3-8b": ("10m", "15s", "3m", "7GiB"),
            "qwen2.5-7b": ("10m", "1m", "30m", "10GiB"),
            "whisper-large-v3": ("off", "15s", "2m", "4GiB"),
        }
        self.assertEqual(set(expected), set(self.models))
        for name, values in expected.items():
            settings = self.poolctl("explain", name, check=False)["settings"]
            keys = ("stall_timeout", "stop_grace", "load_timeout", "memory")
            self.assertEqual(tuple(settings[key]["value"] for key in keys), values, name)


if __name__ == "__main__":
    unittest.main()
