"""Websockets through the door: clients that nobody here wrote, pressure, and every end."""

import asyncio
import contextlib
import json
import os
import pathlib
import signal
import socket
import struct
import subprocess
import time
import unittest

from door import DoorTest, eventually, read_all
from node import Script, write_script

HANDSHAKE = (
    "GET /m/{model}/websocket{query} HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\n"
    "Upgrade: {protocol}\r\nSec-WebSocket-Version: 13\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


HELLO = b"\x81\x05hello"


def masked(body, kind=1):
    """A client's short message; its mask is zero, so it is what it says."""
    return bytes([128 | kind, 128 | len(body), 0, 0, 0, 0]) + body


class Websockets(DoorTest):
    def opened(self, query="", model="a", protocol="websocket", more=b""):
        """A connection, what was answered, and what the backend said first."""
        talk = self.socket()
        head = HANDSHAKE.format(model=model, query=query, protocol=protocol)
        talk.sendall(head.encode() + more)
        data = b""
        while b"\r\n\r\n" not in data:
            some = talk.recv(65536)
            if not some:
                break
            data += some
        head, _, rest = data.partition(b"\r\n\r\n")
        return talk, head, rest

    def start(self, serve="", **how):
        return super().start(serve=f'{serve}\naccess_log = "{self.dir}/access.log"', **how)

    def logged(self):
        """The requests that are over."""
        return pathlib.Path(self.dir, "access.log").read_text()

    def said_by(self, kind):
        return [line for line in self.seen() if f" {kind} " in line]

    def test_aiohttp(self):
        import aiohttp

        self.start(models=self.model("a", "--load 1"))

        async def ask():
            url = f"http://127.0.0.1:{self.port}/m/a/websocket"
            async with aiohttp.ClientSession() as session, session.ws_connect(url) as talk:
                self.assertEqual(await talk.receive_str(), "hello")
                for text in ("one", "x" * 100_000):
                    await talk.send_str(text)
                    self.assertEqual(await talk.receive_str(), text)
                await talk.ping()
                await talk.close()
                self.assertEqual(talk.close_code, 1000)

        asyncio.run(ask())
        self.assertTrue(eventually(lambda: not self.leases()))
        self.assertIn("status=101", self.logged())

    def test_the_websockets_of_debian(self):
        try:
            import websockets
        except ImportError:
            self.skipTest("python3-websockets is not installed")
        self.start(models=self.model("a"))

        async def ask():
            url = f"ws://127.0.0.1:{self.port}/m/a/websocket?70000"
            async with websockets.connect(url, max_size=None) as talk:
                self.assertEqual(len(await talk.recv()), 70_005)
                await asyncio.gather(*[talk.send(f"{i}" * 1000) for i in range(50)])
                for i in range(50):
                    self.assertEqual(await talk.recv(), f"{i}" * 1000)

        asyncio.run(ask())
        self.assertTrue(eventually(lambda: not self.leases()))

    def start_of_node(self):
        """A backend whose websockets are those of npm's ws; the address of one."""
        server = write_script(self, "ws", "server", SERVER)
        self.start(models=f'[models."a"]\ncommand = "node {server} {{port}}"\n')
        return f"ws://127.0.0.1:{self.port}/m/a/any"

    def test_ws_of_npm(self):
        url = self.start_of_node()
        for deflates in (True, False):
            with self.subTest(deflates=deflates):
                said = Script(self, "client", CLIENT, url, json.dumps(deflates), package="ws").result()
                self.assertEqual(said["extensions"], "permessage-deflate" if deflates else "")
                self.assertEqual(said["protocol"], "chat")
                self.assertEqual(said["echoes"], [True] * 6)
                self.assertEqual((said["pong"], said["ping"]), ("are you there", "and you"))
                self.assertEqual(said["closed"], [[4001, "enough"], [4002, "of you"]])
                self.assertTrue(eventually(lambda: not self.leases()))
        self.assertEqual(self.logged().count("status=101"), 4)

    def test_the_websocket_that_node_has_itself(self):
        flags = ["--experimental-websocket"]  # which it needs before 22
        try:
            has_one = subprocess.run(
                ["node", *flags, "-e", "new WebSocket('ws://x').onerror = () => 0"], capture_output=True
            )
        except FileNotFoundError:
            self.skipTest("there is no node")
        if has_one.returncode != 0:
            self.skipTest("this node has no websocket of its own")
        url = self.start_of_node()
        said = Script(self, "own", OWN, url, package="ws", flags=flags).result()
        self.assertEqual(said["extensions"], "permessage-deflate")
        self.assertEqual(said["protocol"], "chat")
        self.assertEqual(said["echoes"], [True] * 4)
        self.assertEqual(said["closed"], [[4001, "enough"], [4002, "of you"]])
        self.assertTrue(eventually(lambda: not self.leases()))
        self.assertEqual(self.logged().count("status=101"), 2)

    def test_what_comes_with_the_request_is_the_first_message(self):
        self.start(models=self.model("a"))
        talk, head, rest = self.opened(more=masked(b"early"))
        self.assertIn(b" 101 ", head)
        self.assertIn(b"X-Modelpool-Model: a", head)
        while b"early" not in rest:
            rest += talk.recv(1000)

    def test_a_backend_that_switches_to_nothing_answers_as_ever(self):
        self.start(models=self.model("a"))
        talk, head, _ = self.opened("?plain")
        self.assertIn(b" 200 ", head)
        self.assertNotIn(b"Upgrade", head)
        talk.sendall(b"GET /m/a/x HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        self.assertIn(b" 200 ", read_all(talk))

    def test_no_other_protocol_goes_through(self):
        self.start(models=self.model("a"))
        _, head, _ = self.opened(protocol="h2c")
        self.assertIn(b" 200 ", head)
        self.assertNotIn(b"upgrade", self.get("/m/a/websocket").body.lower())
        _, head, _ = self.opened("?other")
        self.assertIn(b" 502 ", head)

    def test_a_page_of_another_site_gets_none(self):
        self.start(models=self.model("a"))
        talk = self.socket()
        head = HANDSHAKE.format(model="a", query="", protocol="websocket")
        talk.sendall(head.replace("\r\n\r\n", "\r\nOrigin: http://evil.example\r\n\r\n").encode())
        self.assertTrue(talk.recv(1000).startswith(b"HTTP/1.1 403"))
        self.assertEqual(self.seen(), [])

    def test_the_client_leaves_behind_its_last_word(self):
        self.start(models=self.model("a"))
        talk, _, seen = self.opened()
        while HELLO not in seen:  # what is not read makes a reset of a close
            seen += talk.recv(1000)
        self.assertEqual(len(self.leases()), 1)
        talk.sendall(masked(b"the last"))
        talk.close()
        self.assertTrue(eventually(lambda: "the last" in "".join(self.said_by("FRAME"))))
        self.assertTrue(eventually(lambda: not self.leases()))

    def test_a_client_that_breaks_is_noticed_while_the_backend_reads_nothing(self):
        """One that closes is not: the kernel tells of that behind all that it has sent."""
        self.start(models=self.model("a"))
        talk, _, _ = self.opened("?deaf")
        talk.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        talk.settimeout(0.5)
        with contextlib.suppress(TimeoutError):
            while True:
                talk.sendall(masked(b"x" * 125) * 500)
        talk.close()
        self.assertTrue(eventually(lambda: not self.leases()))

    def test_the_backend_ends(self):
        self.start(models=self.model("a"))
        talk, _, _ = self.opened()
        os.kill(self.backends()["a"]["pid"], signal.SIGKILL)
        self.assertIn(read_all(talk), (b"", HELLO))
        self.assertTrue(eventually(lambda: not self.leases()))

    def test_who_reads_nothing_holds_little_and_is_given_up(self):
        self.start(models=self.model("a"), serve='client_timeout = "2s"')
        talk = self.socket()
        talk.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        head = HANDSHAKE.format(model="a", query=f"?{64 << 20}", protocol="websocket")
        talk.sendall(head.encode())
        self.assertTrue(eventually(lambda: self.leases()))
        held = [self.resident_kib(pid) for pid in self.workers()]
        self.assertLess(max(held), 40_000)
        self.assertTrue(eventually(lambda: not self.leases()))
        self.assertTrue(eventually(lambda: "client_timeout" in self.logged()))

    @staticmethod
    def resident_kib(pid):
        with open(f"/proc/{pid}/status") as status:
            return next(int(line.split()[1]) for line in status if line.startswith("VmRSS"))

    def test_an_idle_one_ends_and_its_backend_lives(self):
        self.start(models=self.model("a"), serve='tunnel_idle = "1s"')
        talk, _, _ = self.opened()
        pid = self.backends()["a"]["pid"]
        self.assertIn(read_all(talk), (b"", HELLO))
        self.assertTrue(eventually(lambda: "tunnel_idle" in self.logged()))
        self.assertEqual(self.backends()["a"]["pid"], pid)

    def test_a_client_that_thinks_makes_no_backend_look_stalled(self):
        self.start(models=self.model("a"), pool='max_backends = 2\nstall_timeout = "2s"')
        talk, _, seen = self.opened()
        time.sleep(5)  # the time is what is tested
        talk.sendall(masked(b"at last"))
        while b"at last" not in seen:
            seen += talk.recv(1000)
        talk.sendall(masked(b"x" * 100)[:50])  # now it is the backend's turn
        read_all(talk)
        self.assertTrue(eventually(lambda: "the request was ended" in self.logged()))
        self.assertIn("stall", self.logged())

    def test_a_request_that_is_ended_says_whose_doing_it_was(self):
        self.start(models=self.model("a"), pool='max_backends = 2\nbusy_timeout = "2s"')
        talk, _, _ = self.opened()
        self.assertIn(read_all(talk), (b"", HELLO))
        self.assertTrue(eventually(lambda: "the request was ended" in self.logged()))


# Sends back what it is sent, and asks for a pong; at "leave" it leaves.
SERVER = """
import {createServer} from "node:http";
import {WebSocketServer} from "ws";
const http = createServer((request, answer) => answer.end("{}"));
const server = new WebSocketServer({server: http, perMessageDeflate: {threshold: 0},
                                    handleProtocols: (offered) => [...offered][0]});
server.on("connection", (talk) => {
  talk.send("hello");
  talk.ping("and you");
  talk.on("message", (data, binary) => {
    if (data.toString() === "leave") talk.close(4002, "of you");
    else talk.send(data, {binary});
  });
});
http.listen(Number(process.argv[2]), "127.0.0.1");
setTimeout(process.exit, 300_000);
"""

# Both clients: each message as it was sent, a mebibyte that does not compress, both ways to close.
CLIENT = """
import {randomBytes} from "node:crypto";
import WebSocket from "ws";
const [url, deflates] = process.argv.slice(2);
function open() {
  const talk = new WebSocket(url, ["chat", "other"], {perMessageDeflate: JSON.parse(deflates)});
  const heard = [], waiting = [];
  talk.on("message", (data, binary) => {
    const one = [data, binary];
    waiting.length ? waiting.shift()(one) : heard.push(one);
  });
  talk.next = () => heard.length ? heard.shift() : new Promise((take) => waiting.push(take));
  talk.tells = (what) => new Promise((take) => talk.once(what, (...said) => take(said)));
  talk.pinged = talk.tells("ping");
  return talk;
}
const talk = open();
const said = {echoes: [], closed: []};
async function hears(wanted, wantsBinary) {
  const [data, binary] = await talk.next();
  said.echoes.push(data.equals(Buffer.from(wanted)) && binary === wantsBinary);
}
await hears("hello", false);
said.extensions = talk.extensions;
said.protocol = talk.protocol;
const big = randomBytes(1 << 20);
for (const one of ["für 5 €", "", big, big.toString("hex")]) {
  talk.send(one);
  await hears(one, one === big);
}
talk.send("in ", {fin: false});
talk.send("pieces", {fin: true});
await hears("in pieces", false);
const pong = talk.tells("pong");
talk.ping("are you there");
said.pong = (await pong)[0].toString();
said.ping = (await talk.pinged)[0].toString();
async function closed(talk) {
  const [code, reason] = await talk.tells("close");
  said.closed.push([code, reason.toString()]);
}
talk.close(4001, "enough");
await closed(talk);
const other = open();
await other.next();
other.send("leave");
await closed(other);
console.log(JSON.stringify(said));
"""

OWN = """
import {randomBytes} from "node:crypto";
function open() {
  const talk = new WebSocket(process.argv[2], ["chat", "other"]);
  talk.binaryType = "arraybuffer";
  const heard = [], waiting = [];
  talk.onmessage = ({data}) => waiting.length ? waiting.shift()(data) : heard.push(data);
  talk.next = () => heard.length ? heard.shift() : new Promise((take) => waiting.push(take));
  return talk;
}
const talk = open();
const said = {echoes: [], closed: []};
said.echoes.push(await talk.next() === "hello");
said.extensions = talk.extensions;
said.protocol = talk.protocol;
const big = randomBytes(1 << 20);
talk.send("für 5 €");
said.echoes.push(await talk.next() === "für 5 €");
talk.send(big);
said.echoes.push(big.equals(Buffer.from(await talk.next())));
talk.send(big.toString("hex"));
said.echoes.push(await talk.next() === big.toString("hex"));
function closed(talk) {
  return new Promise((take) => {
    talk.onclose = ({code, reason}) => take(said.closed.push([code, reason]));
  });
}
const first = closed(talk);
talk.close(4001, "enough");
await first;
const other = open();
await other.next();
const second = closed(other);
other.send("leave");
await second;
console.log(JSON.stringify(said));
"""


if __name__ == "__main__":
    unittest.main()
