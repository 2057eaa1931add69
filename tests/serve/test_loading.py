"""A model that takes long to load, and clients that wait for it: MODELPOOL_TEST_LOAD_S seconds."""

import json
import os
import pathlib
import re
import sys
import unittest

from door import HERE, PATIENCE_S, DoorTest, eventually
from node import Script

LOAD_S = int(os.environ.get("MODELPOOL_TEST_LOAD_S", "25"))
COMMENTS = 1 + LOAD_S // 11  # at once, and every 10 s; each may be a moment late
SILENCE_S = 16  # a client that hears nothing for so long gives up
WORDS = 4
ASK = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": WORDS, "stream": True}

# Prints what came, and how many lines the package passed over.
STREAM = """
import OpenAI from "openai";
let comments = [];
async function watched(url, options) {
  const reply = await fetch(url, options);
  const [seen, passed] = reply.body.tee();
  (async () => {
    const decoder = new TextDecoder();
    let text = "";
    for await (const piece of seen) {
      text += decoder.decode(piece, {stream: true});
      comments = text.split("\\n").filter((line) => line.startsWith(":"));
    }
  })().catch(() => {});
  return new Response(passed, {status: reply.status, headers: reply.headers});
}
const client = new OpenAI({baseURL: process.argv[2], apiKey: "none", maxRetries: 0, fetch: watched});
let text = "";
const stream = await client.chat.completions.create(
    {model: "slow", messages: [{role: "user", content: "hi"}], max_tokens: 4, stream: true});
for await (const chunk of stream) text += chunk.choices[0]?.delta?.content ?? "";
console.log(JSON.stringify({text, comments}));
"""

# Begins COUNT streams, says that all have a head, and aborts them when a line comes.
ABORT = """
import OpenAI from "openai";
const client = new OpenAI({baseURL: process.argv[2], apiKey: "none", maxRetries: 0});
const ask = {model: "slow", messages: [{role: "user", content: "left"}], stream: true};
const streams = await Promise.all(
    Array.from({length: Number(process.argv[3])}, () => client.chat.completions.create(ask)));
console.log("begun");
await new Promise((resolve) => process.stdin.once("data", resolve));
for (const stream of streams) stream.controller.abort();
let words = 0;
for (const stream of streams) {
  try {
    for await (const chunk of stream) words += 1;
  } catch (error) {}
}
console.log(JSON.stringify({words}));
process.stdin.destroy();
"""

# A plain request, with the package's own retries.
PLAIN = """
import OpenAI from "openai";
const client = new OpenAI({baseURL: process.argv[2], apiKey: "none", maxRetries: 10});
const reply = await client.chat.completions.create(
    {model: process.argv[3], messages: [{role: "user", content: "hi"}], max_tokens: 4});
console.log(JSON.stringify({text: reply.choices[0].message.content}));
"""


class LongLoad(DoorTest):
    def begin(self):
        self.start(
            models=self.model("slow", f"--load {LOAD_S}"),
            pool='max_backends = 1\nload_timeout = "1h"',
            serve='queue_timeout = "1h"',
        )
        self.url = f"http://127.0.0.1:{self.port}/v1"

    def check(self, text, comments):
        self.assertEqual(text, "".join(f"w{i} " for i in range(WORDS)))
        self.assertGreaterEqual(len(comments), COMMENTS)
        ages = []
        for line in comments:
            # The first may come before the load has begun.
            self.assertRegex(line, r"^: (loading|waiting for a place), \d+ s")
            ages.append(int(re.search(r"\d+", line)[0]))
        self.assertEqual(ages, sorted(ages))
        self.assertGreaterEqual(ages[-1], LOAD_S - 2 * 10)
        self.assertEqual(len([line for line in self.seen() if "completions" in line]), 1)

    def test_openai_for_node_gets_its_tokens(self):
        self.begin()
        said = Script(self, "stream", STREAM, self.url).result(LOAD_S + 120)
        self.check(**said)

    def test_httpx_gets_its_tokens(self):
        import httpx

        self.begin()
        lines = []
        with httpx.Client(timeout=SILENCE_S) as client:
            with client.stream(
                "POST", f"{self.url}/chat/completions", json=ASK | {"model": "slow"}
            ) as stream:
                lines = [line.strip() for line in stream.iter_lines() if line.strip()]
        self.assertEqual(lines[-1], "data: [DONE]")
        pieces = [json.loads(line[6:]) for line in lines if line.startswith("data: {")]
        text = "".join(piece["choices"][0]["delta"]["content"] for piece in pieces)
        self.check(text, [line for line in lines if line.startswith(":")])


class Aborts(DoorTest):
    def test_openai_for_node_that_aborts_while_a_model_loads_frees_its_wait(self):
        self.start(models=self.model("slow", f"--load {PATIENCE_S * 2}"), pool="max_backends = 1")
        script = Script(self, "abort", ABORT, f"http://127.0.0.1:{self.port}/v1", "64")  # more than one worker takes
        self.assertEqual(script.process.stdout.readline(), "begun\n")
        # One worker loads, and the other waits in the pool's line.
        self.assertTrue(eventually(lambda: self.ctl("waiters")))
        backend = self.backends()["slow"]
        self.assertEqual(backend["state"], "starting")
        self.assertEqual(script.process.poll(), None)
        script.process.stdin.write("now\n")
        script.process.stdin.flush()
        self.assertTrue(eventually(lambda: not self.ctl("waiters")))
        self.assertEqual(script.result(), {"words": 0})
        self.assertEqual(self.backends()["slow"]["pid"], backend["pid"])
        self.assertEqual(self.backends()["slow"]["state"], "starting")
        self.assertEqual(self.leases(), [])


class Retries(DoorTest):
    def statuses(self):
        lines = pathlib.Path(self.dir, "access.log").read_text().splitlines()
        return [row["status"] for row in map(json.loads, lines) if "completions" in row["path"]]

    def start_with_log(self, **config):
        log = f'access_log = "{self.dir}/access.log"\naccess_log_format = "json"'
        self.start(serve=log, **config)
        self.url = f"http://127.0.0.1:{self.port}/v1"

    def test_openai_for_node_asks_again_when_a_load_has_failed(self):
        server = f"{sys.executable} {HERE}/odd_backend.py {{port}} late {self.log}"
        once = f"mkdir {self.dir}/failed 2>/dev/null && exit 7; exec {server}"
        self.start_with_log(
            models=f'[models.late]\ncommand = ["sh", "-c", """{once}"""]\n',
            pool='max_backends = 1\nload_cooldown = "2s"',
        )
        said = Script(self, "again_503", PLAIN, self.url, "late").result()
        self.assertEqual(said, {"text": "word " * 4})
        statuses = self.statuses()
        self.assertEqual((statuses[0], statuses[-1]), (503, 200), statuses)

    def test_openai_for_node_asks_again_when_the_line_is_full(self):
        self.start_with_log(
            models="".join(self.model(name) for name in "abc"),
            pool='max_backends = 1\nwhen_busy = "wait"\nmax_waiters = 1',
        )
        for name in "cba":  # what a load takes is known then
            self.assertEqual(self.post(f"/m/{name}/x", "").status, 200)
        busy, waits = self.socket(), self.socket()
        busy.sendall(b"POST /m/a/wait?4 HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n")
        self.assertTrue(eventually(self.leases))
        waits.sendall(b"POST /m/b/x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n")
        self.assertTrue(eventually(lambda: self.ctl("waiters")))
        said = Script(self, "again_429", PLAIN, self.url, "c").result()
        self.assertEqual(said, {"text": "word " * 4})
        statuses = self.statuses()
        self.assertEqual((statuses[0], statuses[-1]), (429, 200), statuses)


if __name__ == "__main__":
    unittest.main()
