"""How late others end a request that hangs: php-fpm (request_terminate_timeout), uWSGI (harakiri)
and gunicorn (timeout, sync workers), each with a timeout of 2 s.

A sample is the time from the deadline until the worker process is gone, seen at its pidfd. The
deadline counts from the first byte of the answer: by then the request runs, so the sample is the
least the peer was late. All of them end a worker that sleeps with the first signal; no program here
can see when that signal was sent.

Several instances of each peer run at once, each with one worker and one hung request at a time,
begun at a random moment: a peer's tick is shared by its workers, so two in one instance would not
be independent. Everything listens on Unix sockets in a directory of its own; servers and directory
are gone when this ends. JSON on stdout; a peer that is not installed is left out with a note.
"""

import argparse
import contextlib
import json
import math
import os
import random
import re
import select
import shutil
import signal
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import threading
import time

LIMIT_S = 2
INSTANCES = 6
PATIENCE_S = 60

# The same request for all: say who serves it, then hang.
PHP_APP = """<?php
echo "pid=", getmypid(), "\\n";
flush();
while (true) usleep(50000);
"""
WSGI_APP = """
import os, time
def application(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    yield b"pid=%d\\n" % os.getpid()
    while True:
        time.sleep(0.05)
"""
BURNER = "import os, sys\nwhile os.getppid() == int(sys.argv[1]): sum(range(100000))"


def http_request():
    return b"GET / HTTP/1.0\r\nHost: bench\r\n\r\n"


def fastcgi_request(script):
    """One FCGI_BEGIN_REQUEST, the parameters, and two empty ends."""

    def record(kind, content):
        return struct.pack("!BBHHBx", 1, kind, 1, len(content), 0) + content

    def pair(name, value):
        return struct.pack("!BB", len(name), len(value)) + name.encode() + value.encode()

    parameters = b"".join(
        pair(name, value)
        for name, value in {
            "REQUEST_METHOD": "GET",
            "SCRIPT_FILENAME": script,
            "SCRIPT_NAME": "/hang.php",
            "SERVER_PROTOCOL": "HTTP/1.0",
        }.items()
    )
    begin = record(1, struct.pack("!HB5x", 1, 0))
    return begin + record(4, parameters) + record(4, b"") + record(5, b"")


class PhpFpm:
    name = "php-fpm"
    setting = "request_terminate_timeout"

    @staticmethod
    def program():
        for version in ("8.2", "8.3", "8.4", ""):
            for folder in ("/usr/sbin/", "/usr/bin/"):
                if os.access(f"{folder}php-fpm{version}", os.X_OK):
                    return f"{folder}php-fpm{version}"
        return None

    @staticmethod
    def argv(program, folder):
        with open(f"{folder}/hang.php", "w") as file:
            file.write(PHP_APP)
        with open(f"{folder}/fpm.conf", "w") as file:
            file.write(
                f"[global]\nerror_log = {folder}/log\ndaemonize = no\n"
                f"[bench]\nlisten = {folder}/socket\npm = static\npm.max_children = 1\n"
                f"request_terminate_timeout = {LIMIT_S}s\n"
                "php_admin_value[output_buffering] = 0\n"
            )
            if os.geteuid() == 0:
                file.write("user = root\ngroup = root\n")
        as_root = ["--allow-to-run-as-root"] if os.geteuid() == 0 else []
        return [program, "--nodaemonize", "--fpm-config", f"{folder}/fpm.conf", *as_root]

    @staticmethod
    def request(folder):
        return fastcgi_request(f"{folder}/hang.php")


class Uwsgi:
    name = "uWSGI"
    setting = "harakiri"

    @staticmethod
    def program():
        return shutil.which("uwsgi")

    @staticmethod
    def argv(program, folder):
        with open(f"{folder}/app.py", "w") as file:
            file.write(WSGI_APP)
        return [
            program, "--plugin", "python3", "--http-socket", f"{folder}/socket", "--master",
            "--processes", "1", "--harakiri", str(LIMIT_S), "--wsgi-file", f"{folder}/app.py",
            "--die-on-term", "--need-app",
        ]  # fmt: skip

    @staticmethod
    def request(_folder):
        return http_request()


class Gunicorn:
    name = "gunicorn"
    setting = "timeout"

    @staticmethod
    def program():
        return shutil.which("gunicorn")

    @staticmethod
    def argv(program, folder):
        with open(f"{folder}/app.py", "w") as file:
            file.write(WSGI_APP)
        return [
            program, "--bind", f"unix:{folder}/socket", "--workers", "1", "--worker-class", "sync",
            "--timeout", str(LIMIT_S), "--chdir", folder, "app:application",
        ]  # fmt: skip

    @staticmethod
    def request(_folder):
        return http_request()


PEERS = (PhpFpm, Uwsgi, Gunicorn)


class Server:
    """One instance, in a session and directory of its own. It ends when this program does."""

    def __init__(self, peer, folder):
        self.peer = peer
        self.folder = folder
        os.mkdir(folder)
        self.output = open(f"{folder}/output", "w")
        self.process = subprocess.Popen(
            ["setpriv", "--pdeathsig", "TERM", *peer.argv(peer.program(), folder)],
            stdin=subprocess.DEVNULL, stdout=self.output, stderr=subprocess.STDOUT,
            start_new_session=True,
        )  # fmt: skip

    def stop(self):
        self.process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(5)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.output.close()

    def connect(self):
        until = time.monotonic() + PATIENCE_S
        while True:
            client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            client.settimeout(PATIENCE_S)
            try:
                client.connect(f"{self.folder}/socket")
                return client
            except OSError:
                client.close()
                if self.process.poll() is not None or time.monotonic() > until:
                    with open(f"{self.folder}/output") as output:
                        raise RuntimeError(f"no {self.peer.name}: {output.read()[-2000:]}") from None
                time.sleep(0.05)

    def sample_ms(self):
        """Sends a request that hangs. How long past the timeout its worker was gone."""
        with self.connect() as client:
            client.sendall(self.peer.request(self.folder))
            answer = b""
            while not (found := re.search(rb"pid=(\d+)\n", answer)):
                part = client.recv(4096)
                if not part:
                    raise RuntimeError(f"{self.peer.name} did not serve: {answer[-500:]}")
                answer += part
            began = time.monotonic()
            pidfd = os.pidfd_open(int(found[1]))
            try:
                if not select.select([pidfd], [], [], PATIENCE_S)[0]:
                    raise RuntimeError(f"{self.peer.name} did not end a hung request")
                return (time.monotonic() - began - LIMIT_S) * 1000
            finally:
                os.close(pidfd)


@contextlib.contextmanager
def full_load():
    """Twice as many spinning processes as there are CPUs."""
    burners = [
        subprocess.Popen([sys.executable, "-c", BURNER, str(os.getpid())])
        for _ in range(2 * os.cpu_count())
    ]
    try:
        yield
    finally:
        for burner in burners:
            burner.kill()
            burner.wait()


def measure(servers, samples_each):
    """Samples of all servers, taken at the same time: {peer's name: [ms]}."""
    found = {server.peer.name: [] for server in servers}
    errors = []

    def take(server):
        try:
            for _ in range(samples_each):
                time.sleep(random.uniform(0, 1))  # anywhere between two ticks
                found[server.peer.name].append(server.sample_ms())
        except (OSError, RuntimeError) as error:
            errors.append(error)

    threads = [threading.Thread(target=take, args=(server,)) for server in servers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return found


def summary(name, samples):
    samples = sorted(samples)
    return {
        "name": name,
        "median": statistics.median(samples),
        "p99": samples[math.ceil(0.99 * len(samples)) - 1],
        "min": samples[0],
        "max": samples[-1],
        "samples": len(samples),
    }


def main():
    arguments = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    arguments.add_argument("--samples", type=int, default=24, help="of each peer under each load")
    wanted = arguments.parse_args().samples
    if wanted < 1:
        arguments.error("--samples needs a number above 0")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that what follows is cleaned up

    report = {"benchmark": "peers", "unit": "ms", "limit_ms": LIMIT_S * 1000, "notes": []}
    results = report["results"] = []
    installed = []
    for peer in PEERS:
        if peer.program():
            installed.append(peer)
        else:
            report["notes"].append(f"{peer.name} is not installed: not measured")
    instances = min(INSTANCES, wanted)
    with tempfile.TemporaryDirectory(prefix="modelpool-peers-") as folder, \
            contextlib.ExitStack() as stack:  # fmt: skip
        servers = []
        for peer in installed:
            for i in range(instances):
                servers.append(Server(peer, f"{folder}/{peer.name}-{i}"))
                stack.callback(servers[-1].stop)
        for load, under in (("light", contextlib.nullcontext()), ("full", full_load())):
            print(f"peers: {load} load, {wanted} samples each", file=sys.stderr)
            with under:
                found = measure(servers, math.ceil(wanted / instances))
            results += [summary(f"{peer}/{load}", samples) for peer, samples in found.items()]
    json.dump(report, sys.stdout, indent=1)
    print()


if __name__ == "__main__":
    main()
