#!/usr/bin/env python3
"""A stand-in for llama-server: GET /health, POST /v1/chat/completions with and without streaming.

A request may say how it behaves: {"fake": {"delay_s": 0.01, "hang_after": 3}} waits before each
token, and never sends another after the third.
"""

import argparse
import http.server
import json
import os
import signal
import time


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.answer(200 if self.path == "/health" else 404, {"status": "ok"})

    def do_POST(self):
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path != "/v1/chat/completions":
            self.answer(404, {"error": {"message": "no such path"}})
        elif request.get("stream"):
            self.stream(request)
        else:
            text = "".join(self.tokens(request))
            message = {"role": "assistant", "content": text}
            self.answer(200, self.completion(request, "chat.completion", {"message": message}))

    def stream(self, request):
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for token in self.tokens(request):
            delta = {"delta": {"content": token}}
            event = self.completion(request, "chat.completion.chunk", delta)
            self.send_chunk(f"data: {json.dumps(event)}\n\n".encode())
        self.send_chunk(b"data: [DONE]\n\n")
        self.send_chunk(b"")

    def tokens(self, request):
        fake = request.get("fake", {})
        for i in range(request.get("max_tokens", 8)):
            while i == fake.get("hang_after"):
                time.sleep(60)
            time.sleep(fake.get("delay_s", 0.005))
            yield f"word{i} "

    def completion(self, request, kind, choice):
        choices = [{"index": 0, **choice}]
        return {"object": kind, "model": request["model"], "pid": os.getpid(), "choices": choices}

    def send_chunk(self, data):
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))

    def answer(self, status, json_object):
        body = json.dumps(json_object).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


class Server(http.server.ThreadingHTTPServer):
    request_queue_size = 128

    def handle_error(self, request, client_address):
        pass  # clients leave


def main():
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--port", type=int, required=True)
    arguments.add_argument("--load-time", type=float, default=0, help="seconds until it answers")
    arguments.add_argument("--max-lifetime", type=int, default=600, help="seconds; it ends then")
    options = arguments.parse_args()
    signal.alarm(options.max_lifetime)
    time.sleep(options.load_time)
    Server(("127.0.0.1", options.port), Handler).serve_forever()


if __name__ == "__main__":
    main()
