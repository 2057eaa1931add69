"""A model server that does as it is told, well or badly, by the path of a request.

Usage: odd_backend.py PORT|PATH NAME LOG [--load S] [--health STATUS] [--memory MIB]

Every byte it is sent goes to LOG, one line a request: NAME PID METHOD TARGET BODY. Ends by itself.
"""

import base64
import hashlib
import json
import os
import pathlib
import socket
import sys
import threading
import time

LIFETIME_S = 300


def frame(kind, body):
    """A message of a websocket, in one piece."""
    size = len(body)
    if size < 126:
        return bytes([128 | kind, size]) + body
    return bytes([128 | kind, 127]) + size.to_bytes(8, "big") + body


class Odd:
    def __init__(self, argv):
        self.place, self.name, self.log = argv[0], argv[1], argv[2]
        self.options = dict(zip(argv[3::2], argv[4::2]))
        self.lock = threading.Lock()
        self.kept = b"x" * (int(self.options.get("--memory", "0")) << 20)

    def note(self, method, target, body):
        line = f"{self.name} {os.getpid()} {method} {target} {body!r}\n"
        with self.lock, open(self.log, "a", encoding="utf-8") as log:
            log.write(line)

    def listen(self):
        if self.place.isdigit():
            return socket.create_server(("127.0.0.1", int(self.place)), backlog=256)
        return socket.create_server(self.place, family=socket.AF_UNIX, backlog=256)

    def serve(self):
        time.sleep(float(self.options.get("--load", "0")))
        listener = self.listen()
        threading.Timer(LIFETIME_S, os._exit, [0]).start()
        while True:
            client, _ = listener.accept()
            threading.Thread(target=self.talk, args=[client], daemon=True).start()

    def talk(self, client):
        if client.family == socket.AF_INET:
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with client, client.makefile("rb") as lines:
            while self.one(client, lines):
                pass

    def one(self, client, lines):
        first = lines.readline()
        if not first:
            return False
        method, target, _ = first.decode("latin-1").split()
        fields = {}
        while (line := lines.readline().strip()):
            name, value = line.split(b":", 1)
            fields[name.decode("latin-1").lower()] = value.strip().decode("latin-1")
        if target == "/health":
            status = self.options.get("--health", "200")
            client.sendall(f"HTTP/1.1 {status} X\r\nContent-Length: 2\r\n\r\nok".encode())
            return True
        if fields.get("transfer-encoding") == "chunked":
            body = b""
            while size := int(lines.readline(), 16):
                body += lines.read(size)
                lines.readline()
            lines.readline()
        else:
            body = lines.read(int(fields.get("content-length", "0")))
        self.note(method, target, body if len(body) < 4096 else b"%d bytes" % len(body))
        path, _, query = target.partition("?")
        if path.endswith("/websocket"):
            return self.websocket(client, lines, fields, query)
        act = getattr(self, "do_" + path.strip("/").split("/")[-1].replace("-", "_"), self.do_echo)
        return act(client, method, target, fields, body, query)

    def websocket(self, client, lines, fields, query):
        """Sends each message back. ?plain: is none; ?other: switches to something else;
        ?N: sends so many bytes first; ?deaf: reads nothing."""
        if query == "plain" or "upgrade" not in fields:
            return self.answer(client, json.dumps({"fields": fields}).encode())
        key = fields["sec-websocket-key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
        accept = base64.b64encode(hashlib.sha1(key.encode()).digest()).decode()
        protocol = "other" if query == "other" else "websocket"
        hello = b"hello" + b"x" * int(query) if query.isdigit() else b"hello"
        client.sendall(
            f"HTTP/1.1 101 S\r\nConnection: Upgrade\r\nUpgrade: {protocol}\r\n"
            f"Sec-WebSocket-Accept: {accept}\r\n\r\n".encode() + frame(1, hello)
        )
        if query == "deaf":
            time.sleep(LIFETIME_S)
        while head := lines.read(2):
            size = head[1] & 127
            if size > 125:
                size = int.from_bytes(lines.read(2 if size == 126 else 8), "big")
            mask = lines.read(4)
            body = bytes(byte ^ mask[i % 4] for i, byte in enumerate(lines.read(size)))
            kind = head[0] & 15
            self.note("FRAME", str(kind), body)
            client.sendall(frame(10 if kind == 9 else kind, body))
            if kind == 8:
                break
        self.note("END", "websocket", b"")
        return False

    @staticmethod
    def answer(client, body, status="200 OK", more=""):
        head = f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\n{more}"
        client.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        return True

    def do_echo(self, client, method, target, fields, body, query):
        """Whatever path: what it was sent."""
        said = {
            "name": self.name,
            "pid": os.getpid(),
            "method": method,
            "target": target,
            "fields": fields,
            "body": body.decode("utf-8", "replace") if len(body) < 1 << 16 else len(body),
        }
        text = json.dumps(said).encode()
        return self.answer(client, text if method != "HEAD" else b"")

    def do_metrics(self, client, method, target, fields, body, query):
        """The text of LOG.NAME.metrics; behind !raw the whole answer; !hang: nothing."""
        self.note("KEY", fields.get("authorization", "none"), b"")
        try:
            text = pathlib.Path(f"{self.log}.{self.name}.metrics").read_bytes()
        except FileNotFoundError:
            return self.do_echo(client, method, target, fields, body, query)
        if text.startswith(b"!hang"):
            time.sleep(LIFETIME_S)
        elif text.startswith(b"!raw"):
            client.sendall(text[4:])
        else:
            return self.answer(client, text)
        return False

    def do_stream(self, client, method, target, fields, body, query):
        """?CHUNKS,PAUSE_S: events."""
        count, pause = query.split(",")
        client.sendall(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        for i in range(int(count)):
            piece = f'data: {{"n":{i},"pid":{os.getpid()}}}\n\n'.encode()
            client.sendall(b"%x\r\n%s\r\n" % (len(piece), piece))
            time.sleep(float(pause))
        client.sendall(b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n")
        return True

    def do_big(self, client, method, target, fields, body, query):
        """?BYTES,LETTER: so many of it, with a length."""
        count, _, letter = query.partition(",")
        count, letter = int(count), (letter or "x").encode()
        client.sendall(f"HTTP/1.1 200 OK\r\nContent-Length: {count}\r\n\r\n".encode())
        while count > 0:
            count -= client.send(letter * min(count, 65536))
        return True

    def do_raw(self, client, method, target, fields, body, query):
        """The body is what it answers, byte for byte; then it closes."""
        client.sendall(body.split(b"\0", 1)[1] if b"\0" in body else body)
        return False

    def do_die(self, client, method, target, fields, body, query):
        """?AT: dies: before a byte, after the head, or in the body; or closes and lives."""
        if query == "head":
            client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n")
        elif query == "body":
            client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nabc")
        elif query == "event":
            client.sendall(
                b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
                b"Transfer-Encoding: chunked\r\n\r\n8\r\ndata: {\n\r\n"
            )
        elif query == "close":
            return False
        elif query == "once":
            marker = pathlib.Path(self.log + ".died")
            if marker.exists():
                return self.do_echo(client, method, target, fields, body, query)
            marker.touch()
        print("odd: the last line it wrote", flush=True)
        os._exit(3)

    def do_early(self, client, method, target, fields, body, query):
        return self.answer(client, b'{"error":"no"}', "403 Forbidden")

    def do_late(self, client, method, target, fields, body, query):
        """Sends a body that nobody expects, a moment after its answer; reads no further."""
        client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n")
        time.sleep(0.3)
        client.sendall(b"left")
        return True

    def do_endless(self, client, method, target, fields, body, query):
        """An answer until the end, which does not come."""
        client.sendall(b"HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\n\r\nabc")
        time.sleep(LIFETIME_S)
        return False

    def do_until_close(self, client, method, target, fields, body, query):
        client.sendall(b"HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\n\r\nuntil the end")
        return False

    def do_wait(self, client, method, target, fields, body, query):
        """?S: answers after so many seconds."""
        time.sleep(float(query))
        return self.do_echo(client, method, target, fields, body, query)


def completions(self, client, method, target, fields, body, query):
    """As an OpenAI server: plain, or a stream of `max_tokens` words with `pause` between."""
    asked = json.loads(body)
    words = asked.get("max_tokens", 3)
    if asked.get("refuse"):
        return self.answer(client, b'{"error":{"message":"too long"}}', "400 Bad Request")
    is_chat = "messages" in asked
    base = {"id": "c1", "created": 1, "model": asked["model"], "pid": os.getpid()}
    if not asked.get("stream"):
        time.sleep(asked.get("pause", 0))
        text = "word " * words
        choice = {"index": 0, "finish_reason": "stop"}
        choice |= {"message": {"role": "assistant", "content": text}} if is_chat else {"text": text}
        base |= {"object": "chat.completion" if is_chat else "text_completion", "choices": [choice]}
        base["usage"] = {"prompt_tokens": 1, "completion_tokens": words, "total_tokens": words + 1}
        return self.answer(client, json.dumps(base).encode())
    client.sendall(
        b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    base["object"] = "chat.completion.chunk" if is_chat else "text_completion"
    for i in range(words):
        choice = {"index": 0, "finish_reason": None}
        choice |= {"delta": {"content": f"w{i} "}} if is_chat else {"text": f"w{i} "}
        piece = f"data: {json.dumps(base | {'choices': [choice]})}\n\n".encode()
        client.sendall(b"%x\r\n%s\r\n" % (len(piece), piece))
        time.sleep(asked.get("pause", 0))
    client.sendall(b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n")
    return True


Odd.do_completions = completions

if __name__ == "__main__":
    Odd(sys.argv[1:]).serve()
