"""A model server that is killed at a chosen point of a request, once.

Usage: mortal_backend.py PORT LOG

The file LOG.point names the point; it is taken away just before the death, so that the next life
answers. LOG gets a line "PID asked" for each request that came whole. The path says what is
answered: /plain, /chunks, or /v1/chat/completions with events. The answer to ?keep and ?close is
none that it dies of; behind the second it ends the connection.
"""

import os
import select
import signal
import socket
import sys
import threading

LIFETIME_S = 300

# Points of a request. Of its head and body so many bytes are read; -1 is all but the last.
UNTAKEN, TAKEN, UNREAD = "untaken", "taken", "unread"  # no accept; nothing waited for; nothing read
REQUEST = [UNTAKEN, TAKEN, UNREAD, "head 1", "head 20", "head -1", "head all",
           "body 1", "body half", "body -1", "body all"]  # fmt: skip


def answer_parts(kind, pid):
    """(name, bytes) of what is answered, piece by piece; each piece ends at a point of its own."""
    who = f'"pid":"{pid:07d}"'
    parts = [("first byte", b"H"), ("half of the version", b"TTP/"), ("the status", b"1.1 200"),
             ("the status line", b" OK\r\n"), ("half a field", b"Content-Ty")]  # fmt: skip
    if kind == "plain":
        body = f'{{"model":"m",{who}}}'.encode()
        fields = b"pe: application/json\r\nContent-Length: %d\r\n\r" % len(body)
        return [*parts, ("all of the head but a byte", fields), ("the head", b"\n"),
                ("a byte of the body", body[:1]), ("half the body", body[1:9]),
                ("all of the body but a byte", body[9:-1]), ("the body", body[-1:])]  # fmt: skip
    events = kind == "events"
    texts = [f"data: {{{who},\"choices\":[]}}\n\n" if events else f"{{{who}}}" for _ in range(2)]
    fields = b"pe: %s\r\nTransfer-Encoding: chunked\r\n\r"
    parts += [("all of the head but a byte", fields % (b"text/event-stream" if events else b"x/y")),
              ("the head", b"\n")]  # fmt: skip
    for number, text in enumerate(texts):
        of = f" of chunk {number}"
        size = b"%02x" % len(text)
        parts += [("half the size" + of, size[:1]), ("the size" + of, size[1:] + b"\r\n"),
                  ("half" + of, text[:8].encode()), ("the text" + of, text[8:].encode()),
                  ("half the end" + of, b"\r"), ("all" + of, b"\n")]  # fmt: skip
    return [*parts, ("half of the last chunk", b"0"), ("no trailer", b"\r\n"), ("everything", b"\r\n")]


class Mortal:
    def __init__(self, port, log):
        self.log = log
        self.listener = socket.create_server(("127.0.0.1", port), backlog=64)

    def point(self):
        try:
            with open(self.log + ".point", encoding="utf-8") as file:
                return file.read()
        except FileNotFoundError:
            return ""

    def die_at(self, point):
        if self.point() == point:
            os.unlink(self.log + ".point")
            os.kill(os.getpid(), signal.SIGKILL)

    def note(self, what):
        with open(self.log, "a", encoding="utf-8") as log:
            log.write(f"{os.getpid()} {what}\n")

    def serve(self):
        threading.Timer(LIFETIME_S, os._exit, [0]).start()
        while True:
            select.select([self.listener], [], [])
            self.die_at(UNTAKEN)
            client, _ = self.listener.accept()
            self.die_at(TAKEN)
            threading.Thread(target=self.talk, args=[client], daemon=True).start()

    def talk(self, client):
        with client:
            while self.one(client):
                pass

    def one(self, client):
        select.select([client], [], [])
        self.die_at(UNREAD)
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            byte = client.recv(1)
            if not byte:
                return False
            head += byte
            self.die_at(f"head {len(head)}")
            if head.endswith(b"\r\n\r"):
                self.die_at("head -1")
        self.die_at("head all")
        target = head.split(b" ", 2)[1].decode()
        if target == "/health":
            client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
            return True
        self.read_body(client, self.length(head))
        self.note("asked")
        self.die_at("body all")
        path, _, query = target.partition("?")
        kind = "events" if path.endswith("/completions") else path.strip("/")
        return self.answer(client, kind, query)

    @staticmethod
    def length(head):
        for line in head.lower().split(b"\r\n"):
            if line.startswith(b"content-length:"):
                return int(line.split(b":")[1])
        return 0

    def read_body(self, client, length):
        stops = {1: "body 1", length // 2: "body half", length - 1: "body -1"} if length else {}
        read = 0
        for stop in [*sorted(stops), length]:
            while read < stop:
                some = client.recv(stop - read)
                if not some:
                    os._exit(1)  # a request that is cut: whoever sees this life end wonders
                read += len(some)
            if stop in stops:
                self.die_at(stops[stop])

    def answer(self, client, kind, query):
        for name, part in answer_parts(kind, os.getpid()):
            if query == "close" and name == "the status line":
                part += b"Connection: close\r\n"
            client.sendall(part)
            if not query:
                self.die_at(name)
        return query != "close"


if __name__ == "__main__":
    Mortal(int(sys.argv[1]), sys.argv[2]).serve()
