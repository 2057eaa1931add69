#!/usr/bin/python3
"""Under their names, a stand-in for llama-server, vllm and whisper-server.

Takes the flags that these projects document, no others, and is ready in their manner: llama-server
answers 503 until it is, the others do not listen before. It tells its log what it was asked.
"""

import argparse
import http.server
import json
import os
import pathlib
import signal
import sys
import threading

FLAGS = {
    "llama-server": "--model --alias --host --port --ctx-size --parallel --n-gpu-layers --fit"
    " --cache-ram --sse-ping-interval",
    "vllm": "--served-model-name --host --port --max-model-len --gpu-memory-utilization",
    "whisper-server": "--model --host --port --inference-path",
}
LOOKS_WHILE_LOADING = 3


def main():
    name = pathlib.Path(sys.argv[0]).name
    arguments = sys.argv[1:]
    parser = argparse.ArgumentParser(prog=name, allow_abbrev=False)
    for flag in FLAGS[name].split():
        parser.add_argument(flag)
    if name == "vllm":
        parser.add_argument("subcommand", choices=["serve"])
        parser.add_argument("model_tag")
    options = parser.parse_args(arguments)

    signal.signal(signal.SIGTERM, lambda *_: (say("SIGTERM"), os._exit(0)))
    signal.alarm(120)
    if name != "llama-server":
        Handler.looks = LOOKS_WHILE_LOADING  # loaded before it listens
    Handler.path_of_requests = getattr(options, "inference_path", None) or "/v1/chat/completions"
    Handler.model = getattr(options, "served_model_name", None)
    threading.Event().wait(0.3)
    http.server.ThreadingHTTPServer(("127.0.0.1", int(options.port)), Handler).serve_forever()


def say(text):
    print(text, flush=True)


class Handler(http.server.BaseHTTPRequestHandler):
    looks = 0

    def do_GET(self):
        Handler.looks += 1
        ready = self.looks > LOOKS_WHILE_LOADING
        self.answer(200 if ready else 503, {"status": "ok" if ready else "loading model"})

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        is_json = self.headers["Content-Type"] == "application/json"
        if self.path != self.path_of_requests:
            self.answer(404, {})
        elif self.model and json.loads(body)["model"] != self.model:
            self.answer(404, {})  # vLLM knows its models by their served names
        else:
            self.answer(200, {"is_json": is_json, "bytes": len(body)})

    def answer(self, status, json_object):
        say(f"{self.path} {status}")
        body = json.dumps(json_object).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


if __name__ == "__main__":
    main()
