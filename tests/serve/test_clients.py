"""Clients that nobody here wrote: curl, requests, httpx, aiohttp, ab, wrk, h2load, and OpenAI's own
for Node."""

import asyncio
import json
import pathlib
import subprocess
import unittest

from door import DoorTest, eventually
from node import Script

ASK = {"model": "a", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 4}


class Clients(DoorTest):
    def setUp(self):
        super().setUp()
        self.start(models=self.model("a", "--load 2") + self.model("b", "--load 2"))
        self.url = f"http://127.0.0.1:{self.port}"

    def test_curl(self):
        done = subprocess.run(
            ["curl", "-sSN", "--fail", f"{self.url}/v1/chat/completions", "-d",
             json.dumps(ASK | {"stream": True})],
            capture_output=True, text=True, check=True,
        )
        self.assertTrue(done.stdout.startswith(": loading"))
        self.assertTrue(done.stdout.endswith("data: [DONE]\n\n"))
        big = pathlib.Path(self.dir, "big")
        big.write_bytes(b"z" * (3 << 20))
        done = subprocess.run(  # with Expect: 100-continue
            ["curl", "-sS", "--fail", f"{self.url}/m/a/x", "--data-binary", f"@{big}"],
            capture_output=True, text=True, check=True,
        )
        self.assertEqual(json.loads(done.stdout)["body"], 3 << 20)
        done = subprocess.run(
            ["curl", "-sS", "--fail", f"{self.url}/v1/audio", "-F", "model=a", "-F", f"file=@{big}"],
            capture_output=True, text=True, check=True,
        )
        self.assertEqual(json.loads(done.stdout)["name"], "a")

    def test_requests(self):
        import requests

        with requests.Session() as session:
            for _ in range(3):
                reply = session.post(f"{self.url}/v1/chat/completions", json=ASK)
                self.assertEqual(reply.json()["choices"][0]["message"]["content"], "word " * 4)
            stream = session.post(
                f"{self.url}/v1/chat/completions", json=ASK | {"stream": True}, stream=True
            )
            lines = [line for line in stream.iter_lines() if line]
            self.assertEqual(lines[-1], b"data: [DONE]")
            files = {"file": ("x.wav", b"q" * 100_000)}
            reply = session.post(f"{self.url}/v1/audio", files=files, data={"model": "a"})
            self.assertEqual(reply.json()["name"], "a")

    def test_httpx(self):
        import httpx

        with httpx.Client(timeout=60) as client:
            reply = client.post(f"{self.url}/v1/chat/completions", json=ASK)
            self.assertEqual(reply.status_code, 200)
            with client.stream(
                "POST", f"{self.url}/v1/chat/completions", json=ASK | {"stream": True}
            ) as stream:
                self.assertEqual([line for line in stream.iter_lines() if line.strip()][-1].strip(),
                                 "data: [DONE]")

    def test_aiohttp(self):
        import aiohttp

        async def ask():
            async with aiohttp.ClientSession() as session:
                async def one(model):
                    async with session.post(
                        f"{self.url}/v1/chat/completions", json=ASK | {"model": model, "stream": True}
                    ) as reply:
                        return (await reply.read()).endswith(b"data: [DONE]\n\n")

                return await asyncio.gather(*(one("ab"[i % 2]) for i in range(20)))

        self.assertEqual(asyncio.run(ask()), [True] * 20)

    def test_ab(self):
        self.post("/m/a/x", "")
        done = subprocess.run(
            ["ab", "-q", "-k", "-n", "500", "-c", "20", f"{self.url}/m/a/x"],
            capture_output=True, text=True, check=True,
        )
        self.assertIn("Complete requests:      500", done.stdout)
        self.assertIn("Failed requests:        0", done.stdout)

    def test_wrk(self):
        self.post("/m/a/x", "")
        done = subprocess.run(
            ["wrk", "-t", "2", "-c", "50", "-d", "1s", f"{self.url}/m/a/x"],
            capture_output=True, text=True, check=True,
        )
        self.assertRegex(done.stdout, r"[1-9]\d* requests in ")
        # It says so where some failed.
        self.assertNotIn("Non-2xx", done.stdout)
        self.assertNotIn("Socket errors", done.stdout)

    def test_h2load(self):
        self.post("/m/a/x", "")
        asked = pathlib.Path(self.dir, "asked")
        asked.write_text(json.dumps(ASK))
        done = subprocess.run(
            ["h2load", "--h1", "-n", "500", "-c", "20", "-d", asked, f"{self.url}/v1/chat/completions"],
            capture_output=True, text=True, check=True,
        )
        self.assertIn(" 500 succeeded, 0 failed, 0 errored, 0 timeout", done.stdout)
        self.assertIn("status codes: 500 2xx, ", done.stdout)

    def test_openai_for_node(self):
        said = Script(self, "ask", NODE, f"{self.url}/v1").result()
        self.assertEqual(said, {"plain": "word word word word ", "stream": "w0 w1 w2 w3 ",
                                "aborted": True, "missing": 404, "models": ["a", "b"]})
        self.assertTrue(eventually(lambda: not self.leases()))


NODE = """
import OpenAI from "openai";
const client = new OpenAI({baseURL: process.argv[2], apiKey: "none", maxRetries: 2});
const messages = [{role: "user", content: "hi"}];
const said = {};
let text = "";
for await (const chunk of await client.chat.completions.create(
    {model: "a", messages, max_tokens: 4, stream: true})) {
  text += chunk.choices[0]?.delta?.content ?? "";
}
said.stream = text;
const plain = await client.chat.completions.create({model: "b", messages, max_tokens: 4});
said.plain = plain.choices[0].message.content;
const long = await client.chat.completions.create(
    {model: "a", messages, max_tokens: 10000, stream: true, pause: 0.02});
said.aborted = false;
for await (const chunk of long) {
  long.controller.abort();
  said.aborted = true;
  break;
}
try {
  await client.chat.completions.create({model: "none", messages});
} catch (error) {
  said.missing = error.status;
}
said.models = (await client.models.list()).data.map((one) => one.id);
console.log(JSON.stringify({plain: said.plain, stream: said.stream, aborted: said.aborted,
                            missing: said.missing, models: said.models}));
"""

if __name__ == "__main__":
    unittest.main()
