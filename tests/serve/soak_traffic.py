"""Clients of a soak: threads that ask a door for models in every way, well and badly.

Usage: soak_traffic.py PORT SEED MODEL... It prints a line of JSON for each thing that a client did,
and ends when its input does: what still runs then is cut a moment later.

A request carries an id, MODEL.PROCESS.NUMBER, that its backend writes down: whoever kills clients,
workers and backends finds there which backend saw what.
"""

import contextlib
import http.client
import itertools
import json
import os
import random
import socket
import struct
import sys
import threading

THREADS = 6
PAUSE_S = 0.03  # between two acts, on average
GRACE_S = 1.0  # to end by itself
HUNG_S = 30  # without a byte: nothing here takes as long
CHUNK_BYTES = 20_000
UPLOAD_BYTES = 300_000  # more than body_memory of the soak
STREAMED_BYTES = 5_000_000  # more than its body_limit
# What may be answered to a good request while everything is killed: no place, no backend, no time.
GOOD = {200, 408, 429, 502, 503, 504}
BAD_HEADS = [
    "GET /livez HTTP/1.1\r\n\r\n",
    "GET /livez HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n",
    "POST /m/a/x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabc",
    "POST /m/a/x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\n"
    "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "POST /m/a/x HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nno\r\n",
    "what is this\r\n\r\n",
    "GET /" + "x" * 40_000 + " HTTP/1.1\r\nHost: localhost\r\n\r\n",
]
WEIGHTS = {
    "echo": 20,
    "kept_connection": 8,
    "completion": 10,
    "stream": 14,
    "stream_of_path": 8,
    "big_body": 6,
    "chunked_upload": 4,
    "streamed_upload": 1,
    "slow_reader": 3,
    "leave_in_the_middle": 8,
    "leave_at_once": 8,
    "abort_upload": 5,
    "bad_request": 6,
    "say_nothing": 3,
    "half_a_head": 2,
    "unknown_model": 4,
    "model_that_fails": 1,
    "own_page": 5,
    "backend_that_dies": 1,
}


class Wrong(Exception):
    """kind, text: a promise that was broken."""


class Client(threading.Thread):
    def __init__(self, traffic, seed):
        super().__init__(daemon=True)
        self.traffic, self.dice = traffic, random.Random(seed)
        self.has_ended = False  # as it should

    def run(self):
        while not self.traffic.is_over.is_set():
            act = self.dice.choices(list(WEIGHTS), WEIGHTS.values())[0]
            self.model = self.dice.choices(self.traffic.models, self.traffic.weights)[0]
            self.id, self.pid = f"{self.model}.{os.getpid()}.{next(self.traffic.numbers)}", None
            said = {"act": act, "id": self.id}
            try:
                said["end"] = getattr(self, act)()
            except Wrong as wrong:
                said |= {"end": "wrong", "wrong": [wrong.args[0], f"{act} {self.id}: {wrong.args[1]}"]}
            except TimeoutError:
                said |= {"end": "hung", "wrong": ["hung", f"{act} {self.id}: nothing for {HUNG_S} s"]}
            except (OSError, http.client.HTTPException, ValueError) as error:
                said["end"] = type(error).__name__
            self.traffic.say(said | {"pid": self.pid})
            self.traffic.is_over.wait(self.dice.expovariate(1 / PAUSE_S))
        self.has_ended = True

    # --- How they ask ---

    @contextlib.contextmanager
    def socket(self):
        with socket.create_connection(("127.0.0.1", self.traffic.port), timeout=HUNG_S) as talk:
            with self.traffic.known(talk):
                yield talk

    @contextlib.contextmanager
    def connection(self):
        with self.socket() as talk:
            connection = http.client.HTTPConnection("localhost")
            connection.sock, connection.auto_open = talk, 0
            self.talk = talk  # which the connection forgets when the answer is its last
            yield connection

    def head(self, target, length):
        return (
            f"POST {target} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n".encode()
        )

    def target(self, what="echo"):
        return f"/m/{self.model}/{what}?id={self.id}"

    def asked(self, **more):
        return json.dumps({"model": self.model, "user": self.id} | more)

    # --- What they make of an answer ---

    def take_head(self, response, allowed=frozenset(GOOD)):
        if response.status not in allowed:
            raise Wrong("refused", f"{response.status} {response.read(300)!r}")
        model = response.headers.get("X-Modelpool-Model", self.model)
        if model != self.model:
            raise Wrong("model", f"the answer is said to be of {model}")
        return response.status == 200

    def take_pid(self, pid):
        if self.pid not in (None, pid):
            raise Wrong("twice", f"one answer is of backends {self.pid} and {pid}")
        self.pid = pid

    def take_echo(self, response):
        if self.take_head(response):
            seen = json.loads(response.read())
            self.take_pid(seen["pid"])
            if seen["name"] != self.model:
                raise Wrong("model", f"{seen['name']} answered")
        else:
            response.read()
        return response.status

    def events(self, response):
        """Those of a stream; an error that the door tells in it is its last."""
        for line in iter(response.readline, b""):
            if line.startswith(b"data: {"):
                event = json.loads(line[6:])
                if "error" in event:
                    return
                self.take_pid(event["pid"])
                yield event

    # --- What they do ---

    def echo(self):
        with self.connection() as connection:
            connection.request("POST", self.target(), b"x" * self.dice.randrange(2000))
            return self.take_echo(connection.getresponse())

    def kept_connection(self):
        with self.connection() as connection:
            for number in range(self.dice.randrange(2, 6)):
                self.pid = None
                connection.request("POST", self.target() + f"-{number}", b"x")
                response = connection.getresponse()
                self.take_echo(response)
                if response.will_close:
                    break
        self.pid = None  # each has an id of its own
        return "kept"

    def completion(self):
        with self.connection() as connection:
            connection.request("POST", "/v1/chat/completions", self.asked(messages=[], pause=0.02))
            response = connection.getresponse()
            if self.take_head(response):
                self.take_pid(json.loads(response.read())["pid"])
            return response.status

    def ask_for_stream(self, connection):
        words, pause = self.dice.randrange(3, 40), self.dice.uniform(0, 0.04)
        body = self.asked(messages=[], stream=True, max_tokens=words, pause=pause)
        connection.request("POST", "/v1/chat/completions", body)
        return connection.getresponse(), words

    def stream(self):
        with self.connection() as connection:
            response, words = self.ask_for_stream(connection)
            if not self.take_head(response):
                return response.status
            said = [event["choices"][0]["delta"]["content"] for event in self.events(response)]
            if said != [f"w{i} " for i in range(len(said))]:
                raise Wrong("twice", f"{said}")
            return "whole" if len(said) == words else "cut"

    def stream_of_path(self):
        with self.connection() as connection:
            body = json.dumps({"id": self.id})
            connection.request("POST", f"/m/{self.model}/stream?{self.dice.randrange(40)},0.01", body)
            response = connection.getresponse()
            if not self.take_head(response):
                return response.status
            numbers = [event["n"] for event in self.events(response)]
            if numbers != list(range(len(numbers))):
                raise Wrong("twice", f"{numbers}")
            return "stream"

    def big_body(self):
        with self.connection() as connection:
            pad = "x" * self.dice.randrange(UPLOAD_BYTES, 5 * UPLOAD_BYTES)
            connection.request("POST", f"/v1/echo?id={self.id}", self.asked(pad=pad))
            return self.take_echo(connection.getresponse())

    def pieces(self, count):
        for _ in range(0, count, CHUNK_BYTES):
            yield b"x" * CHUNK_BYTES

    def chunked_upload(self):
        with self.connection() as connection:
            connection.request("POST", self.target(), self.pieces(UPLOAD_BYTES), encode_chunked=True)
            return self.take_echo(connection.getresponse())

    def streamed_upload(self):
        """Larger than what is kept: it is on its way to the backend while it still comes."""
        with self.connection() as connection:
            length = {"Content-Length": str(STREAMED_BYTES)}
            connection.request("POST", self.target(), self.pieces(STREAMED_BYTES), length)
            return self.take_echo(connection.getresponse())

    def slow_reader(self):
        with self.connection() as connection:
            connection.request("GET", f"/m/{self.model}/big?{self.dice.randrange(8_000_000)}")
            response = connection.getresponse()
            if not self.take_head(response):
                return response.status
            for _ in range(self.dice.randrange(40)):
                if not response.read(50_000) or self.traffic.is_over.wait(0.05):
                    break
            return "left"

    def leave_in_the_middle(self):
        with self.connection() as connection:
            response, _ = self.ask_for_stream(connection)
            response.readline()
            if self.dice.random() < 0.5:  # as one that crashes: by a reset
                self.talk.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            return "left"

    def leave_at_once(self):
        with self.socket() as talk:
            talk.sendall(self.head(self.target(), 1) + b"x")
            self.traffic.is_over.wait(self.dice.uniform(0, 0.1))
            return "left"

    def abort_upload(self):
        with self.socket() as talk:
            count = self.dice.randrange(UPLOAD_BYTES)
            talk.sendall(self.head(self.target(), UPLOAD_BYTES) + b"x" * count)
            self.traffic.is_over.wait(self.dice.uniform(0, 0.1))
            return "left"

    def bad_request(self):
        with self.socket() as talk:
            talk.sendall(self.dice.choice(BAD_HEADS).encode())
            head = b""
            while b"\r\n\r\n" not in head and (some := talk.recv(4096)):
                head += some
            if head and head.split()[1] not in (b"400", b"414", b"431"):
                raise Wrong("refused", f"not for what it is: {head[:300]!r}")
            return "refused" if head else "cut"

    def say_nothing(self):
        with self.socket():
            self.traffic.is_over.wait(self.dice.uniform(0, 3))
            return "left"

    def half_a_head(self):
        with self.socket() as talk:
            talk.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: local")
            self.traffic.is_over.wait(self.dice.uniform(0, 3))
            return "left"

    def unknown_model(self):
        with self.connection() as connection:
            body = self.asked(model="no such", pad="x" * self.dice.randrange(200_000))
            connection.request("POST", "/v1/completions", body)
            response = connection.getresponse()
            self.take_head(response, {404})
            response.read()
            return response.status

    def model_that_fails(self):
        with self.connection() as connection:
            connection.request("POST", "/m/fails/x", b"")
            response = connection.getresponse()
            self.model = "fails"
            self.take_head(response, GOOD - {200})
            response.read()
            return response.status

    def own_page(self):
        with self.connection() as connection:
            connection.request("GET", self.dice.choice(["/livez", "/health", "/v1/models"]))
            response = connection.getresponse()
            self.take_head(response)
            response.read()
            return response.status

    def backend_that_dies(self):
        with self.connection() as connection:
            how = self.dice.choice(["now", "head", "body", "close"])
            connection.request("POST", f"/m/{self.model}/die?{how}", json.dumps({"id": self.id}))
            response = connection.getresponse()
            self.take_head(response)
            response.read()
            return response.status


class Traffic:
    def __init__(self, port, seed, models):
        self.port, self.models = port, models
        self.weights = [2 ** -rank for rank in range(len(models))]  # some are asked for more
        self.numbers = itertools.count()
        self.is_over = threading.Event()
        self.talks, self.lock = set(), threading.Lock()
        self.clients = [Client(self, f"{seed}.{i}") for i in range(THREADS)]

    def say(self, said):
        with self.lock:
            print(json.dumps(said), flush=True)

    @contextlib.contextmanager
    def known(self, talk):
        with self.lock:
            self.talks.add(talk)
        try:
            yield
        finally:
            with self.lock:
                self.talks.discard(talk)

    def run(self):
        for client in self.clients:
            client.start()
        sys.stdin.read()
        self.is_over.set()
        for client in self.clients:
            client.join(GRACE_S / THREADS)
        with self.lock:
            for talk in self.talks:
                with contextlib.suppress(OSError):
                    talk.shutdown(socket.SHUT_RDWR)
        for client in self.clients:
            client.join()
        return 0 if all(client.has_ended for client in self.clients) else 1


if __name__ == "__main__":
    sys.exit(Traffic(int(sys.argv[1]), sys.argv[2], sys.argv[3:]).run())
