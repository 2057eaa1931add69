"""What poolserve adds to a request, what it takes a second, and what a connection costs it: beside
nginx, on the same core, before the same backend.

Load programs are C++ (door_load, door_backend); this starts and ends what stands before them.
nginx runs with a config and a prefix of its own. All of it is in a directory of its own, on
loopback, and gone when this ends. JSON on stdout.
"""

import argparse
import contextlib
import json
import os
import pathlib
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

PATIENCE_S = 60
FILES_PER_STREAM = 2  # of a worker: the client's and the backend's
SPARE_FILES = 100
KILLED_STREAMS = 64
ENDS = 20
ENDS_STREAMS = 200
UPGRADE_S = 11  # until the old workers may end, and then it says
SETTLED = "the new program's workers serve"
ENDS_SECONDS = 60  # as long as the streams are; what is done to the door takes less

NGINX = """
daemon off;
worker_processes 1;
worker_rlimit_nofile {files};
pid {dir}/nginx.pid;
error_log {dir}/nginx.log crit;
{user}
events {{ worker_connections {files}; }}
http {{
  access_log off;
  client_body_temp_path {dir}/1;
  proxy_temp_path {dir}/2;
  fastcgi_temp_path {dir}/3;
  uwsgi_temp_path {dir}/4;
  scgi_temp_path {dir}/5;
  keepalive_requests 1000000000;
  upstream backend {{
    server {address};
    keepalive 64;
    keepalive_requests 1000000000;
  }}
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    location / {{
      proxy_pass http://backend;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_buffering off;
    }}
  }}
}}
"""

POOL = """
[pool]
max_backends = 1
busy_timeout = "off"
[serve]
workers = {workers}
max_connections = 10100
{listen}
[models."bench"]
command = "taskset -c {core} {backend} {{port}}"
log = "{folder}/backend.log"
"""


def eventually(what, condition):
    until = time.monotonic() + PATIENCE_S
    while not (found := condition()):
        if time.monotonic() > until:
            raise RuntimeError(f"{what} did not come about")
        time.sleep(0.02)
    return found


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return taken.getsockname()[1]


def answers(port, path="/livez"):
    with contextlib.suppress(OSError):
        with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S) as talk:
            talk.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            return talk.recv(100).startswith(b"HTTP/1.1 200")


def children(pid):
    return [int(child) for child in
            pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]  # fmt: skip


def started(argv, log, core):
    """A process that ends with this one, on one core."""
    return subprocess.Popen(
        ["setpriv", "--pdeathsig", "TERM", "taskset", "-c", str(core), *argv],
        stdin=subprocess.DEVNULL, stdout=log, stderr=log,
    )  # fmt: skip


def is_worker(pid):
    with contextlib.suppress(OSError):
        return b"poolserve: worker" in pathlib.Path(f"/proc/{pid}/cmdline").read_bytes()
    return False


def maps_of(pid):
    with contextlib.suppress(OSError):
        return pathlib.Path(f"/proc/{pid}/maps").read_text()
    return ""


class Door:
    """poolserve with a pool of its own and one model, loaded."""

    def __init__(self, options, folder, workers, core, tls=False):
        self.folder, self.options = folder, options
        os.mkdir(folder, 0o700)
        self.port = free_port()
        listen = f'listen = ["127.0.0.1:{self.port}"]\n'
        if tls:
            self.tls_port = free_port()
            make_certificate(folder)
            listen += (f'[[serve.listener]]\naddress = "127.0.0.1:{self.tls_port}"\n'
                       f'tls = {{ cert = "{folder}/cert.pem", key = "{folder}/key.pem" }}\n')  # fmt: skip
        backend = f"{options.bin}/bench_door_backend"
        pathlib.Path(f"{folder}/pool.toml").write_text(
            POOL.format(workers=workers, listen=listen, core=options.load_core, backend=backend,
                        folder=folder)
        )
        self.core = core
        self.begin()
        try:
            eventually("an answer of poolserve", lambda: answers(self.port))
            if not answers(self.port, "/m/bench/"):
                raise RuntimeError("poolserve does not load its model")
        except RuntimeError as error:
            self.stop()
            raise RuntimeError(f"{error}: {pathlib.Path(folder, 'log').read_text()}") from None

    def begin(self):
        with open(f"{self.folder}/log", "a") as log:
            self.process = started(
                [f"{self.options.bin}/poolserve", "--config", f"{self.folder}/pool.toml",
                 "--dir", self.folder, "--on-exit", "stop"], log, self.core,
            )  # fmt: skip

    def reload(self):
        """With another number of workers, so that all of them are new ones."""
        config = pathlib.Path(self.folder, "pool.toml")
        text = config.read_text()
        count = 3 if "workers = 2" in text else 2
        config.write_text(text.replace(f"workers = {5 - count}", f"workers = {count}"))
        self.signal_until(signal.SIGHUP, "serving pool")

    def upgrade(self):
        """To the same program; the next one waits until this one is settled."""
        self.signal_until(signal.SIGUSR2, SETTLED)

    def signal_until(self, number, said):
        log = pathlib.Path(f"{self.folder}/log")
        before = log.read_text().count(said)
        self.process.send_signal(number)
        eventually(said, lambda: log.read_text().count(said) > before)

    def kill_master(self):
        count = len(self.workers())
        self.process.kill()
        self.process.wait()
        self.begin()
        eventually("the next poolserve's workers", lambda: len(self.workers()) == count)

    def workers_left(self):
        """Those of other poolserves of this pool, once they had time to finish."""
        with contextlib.suppress(RuntimeError):
            eventually("their end", lambda: self.all_workers() == sorted(self.workers()))
        return len(self.all_workers()) - len(self.workers())

    def all_workers(self):
        """By the segment that they have mapped."""
        return [pid for pid in sorted(int(entry.name) for entry in pathlib.Path("/proc").iterdir()
                                      if entry.name.isdigit())
                if is_worker(pid) and self.folder in maps_of(pid)]  # fmt: skip

    def kill_coordinator(self):
        before = self.coordinator()
        os.kill(before, signal.SIGKILL)
        eventually("another coordinator", lambda: self.coordinator() not in (None, 0, before))
        time.sleep(1.1)  # one that serves for less is started again later and later

    def coordinator(self):
        return json.loads(self.ctl("-o", "json", "status").stdout)["coordinator"]["pid"]

    def ctl(self, *argv):
        return subprocess.run(
            [f"{self.options.bin}/poolctl", "--dir", self.folder, *argv],
            capture_output=True, text=True, check=False,
        )  # fmt: skip

    def backend(self):
        (row,) = json.loads(self.ctl("-o", "json", "list").stdout)
        return row

    def workers(self):
        return [pid for pid in children(self.process.pid) if is_worker(pid)]

    def target(self, name="door", tls=False):
        return f"{name}={self.tls_port if tls else self.port}:{self.workers()[0]}"

    def stop(self):
        self.process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(PATIENCE_S)
        self.process.kill()
        self.process.wait()
        self.ctl("remove", "--stop")


class Nginx:
    def __init__(self, folder, address, core):
        os.mkdir(folder, 0o700)
        self.port = free_port()
        user = "user root;" if os.geteuid() == 0 else ""
        files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        pathlib.Path(f"{folder}/nginx.conf").write_text(
            NGINX.format(dir=folder, user=user, files=files, address=address, port=self.port)
        )
        program = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
        with open(f"{folder}/log", "w") as log:
            self.process = started(
                [program, "-p", folder, "-c", f"{folder}/nginx.conf", "-e", f"{folder}/nginx.log"],
                log, core,
            )  # fmt: skip
        eventually("an answer of nginx", lambda: answers(self.port))

    def target(self):
        (worker,) = children(self.process.pid)
        return f"nginx={self.port}:{worker}"

    def stop(self):
        self.process.terminate()
        self.process.wait()


def make_certificate(folder):
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
         "-nodes", "-days", "2", "-subj", "/CN=localhost", "-keyout", f"{folder}/key.pem",
         "-out", f"{folder}/cert.pem"],
        check=True, capture_output=True,
    )  # fmt: skip
    os.chmod(f"{folder}/key.pem", 0o600)


class Bench:
    def __init__(self, options, folder):
        self.options, self.folder = options, folder
        self.results, self.notes = [], []
        self.doors = 0

    def say(self, text):
        print(f"serve: {text}", file=sys.stderr)

    @contextlib.contextmanager
    def door(self, **how):
        self.doors += 1
        door = Door(self.options, f"{self.folder}/{self.doors}", core=self.options.door_core, **how)
        try:
            yield door
        finally:
            door.stop()

    def load_argv(self, what, targets, *flags):
        argv = ["taskset", "-c", str(self.options.load_core),
                f"{self.options.bin}/bench_door_load", "--measure", what]  # fmt: skip
        for target in targets:
            argv += ["--to", target]
        return argv + [str(flag) for flag in flags]

    def load(self, what, targets, *flags):
        done = subprocess.run(
            self.load_argv(what, targets, *flags), capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            raise RuntimeError(f"{what}: {done.stderr}")
        self.results += json.loads(done.stdout)["results"]

    def beside_nginx(self):
        quick = self.options.quick
        with self.door(workers=1) as door, contextlib.ExitStack() as stack:
            address = door.backend()["address"]
            nginx = Nginx(f"{self.folder}/nginx", address, self.options.door_core)
            stack.callback(nginx.stop)
            straight = f"straight={address.rsplit(':', 1)[1]}:0"
            targets = [straight, nginx.target(), door.target()]
            self.say("small answers, one after the other")
            self.load("latency", targets, "--count", 500 if quick else 10000)
            self.say("small answers, as many as go")
            self.load("rate", targets[1:], "--count", 16, "--seconds", 0.3 if quick else 2,
                      "--rounds", 2 if quick else 5)  # fmt: skip
            self.say("400 streams x 20 chunks/s")
            self.load("streams", targets, "--count", 400, "--rate", 20,
                      "--seconds", 1 if quick else 5, "--rounds", 1 if quick else 3)  # fmt: skip

    def memory(self):
        """In a worker that has done nothing else."""
        files = resource.getrlimit(resource.RLIMIT_NOFILE)[0] - SPARE_FILES
        streams = min(200 if self.options.quick else 2000, files // FILES_PER_STREAM)
        seconds = 8 if self.options.quick else 15
        for tls in (False, True):
            self.say(f"{streams} streams x 2 chunks/s{', TLS' if tls else ''}")
            with self.door(workers=1, tls=tls) as door:
                self.load("streams", [door.target(tls=tls)], "--count", streams, "--rate", 2,
                          "--seconds", seconds, "--memory", *(["--tls"] if tls else []))  # fmt: skip
        idle = min(1000 if self.options.quick else 10_000, files)
        self.say(f"{idle} idle connections")
        with self.door(workers=1) as door:
            self.load("idle", [door.target()], "--count", idle)

    def streams(self, door, count, seconds):
        """A load that goes on."""
        load = subprocess.Popen(
            self.load_argv("streams", [door.target()], "--count", count, "--rate", 5,
                           "--seconds", seconds),
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        if load.stderr.readline() != "up\n":
            raise RuntimeError(load.communicate()[1])
        return load

    def ends(self):
        """Reload, kill -9 of the master and of the coordinator, one after the other."""
        times = 2 if self.options.quick else ENDS
        count = 20 if self.options.quick else ENDS_STREAMS
        seconds = 20 if self.options.quick else ENDS_SECONDS
        for name in ("reload", "upgrade", "kill_master", "kill_coordinator"):
            self.say(f"{name} {times} times under {count} streams")
            with self.door(workers=2) as door:
                before = door.backend()
                load = self.streams(door, count, seconds + times * UPGRADE_S * (name == "upgrade"))
                with Asking(door.port) as asking:
                    for _ in range(times):
                        getattr(door, name)()
                    if load.poll() is not None:
                        raise RuntimeError(f"{name}: the streams were over before it was done")
                    cut = cut_of(load)
                after = door.backend()
                seen = {
                    "workers_left": door.workers_left(),
                    "streams_cut": cut,
                    "loads": int(before["generation"] != after["generation"]),
                    "backends_ended": int(before["pid"] != after["pid"]),
                    "refused": asking.refused,
                }
                self.results += [{"name": f"{name}/{what}", "median": value, "unit": "in all",
                                  "samples": times} for what, value in seen.items()]  # fmt: skip
                self.results.append({"name": f"{name}/longest_refusal", "median": asking.longest_s,
                                     "unit": "s", "samples": asking.asked})  # fmt: skip

    def kills(self):
        """kill -9 of the worker that has most."""
        seen = {"streams_of_killed": [], "others_cut": [], "loads": [], "backends_ended": []}
        self.say(f"kill -9 of 1 of 4 workers under {KILLED_STREAMS} streams")
        for _ in range(1 if self.options.quick else 5):
            with self.door(workers=4) as door:
                before = door.backend()
                load = self.streams(door, KILLED_STREAMS, seconds=5)
                held = {pid: connections_at(pid, door.port) for pid in door.workers()}
                victim = max(held, key=held.get)
                os.kill(victim, signal.SIGKILL)
                cut = cut_of(load)
                if not answers(door.port, "/m/bench/"):
                    raise RuntimeError("no answer after a worker was killed")
                after = door.backend()
                ended = before["pid"] != after["pid"]
                seen["streams_of_killed"].append(held[victim])
                seen["others_cut"].append(cut - held[victim])
                seen["loads"].append(int(before["generation"] != after["generation"]))
                seen["backends_ended"].append(int(ended))
        for name, values in seen.items():
            self.results.append({"name": f"kill/{name}", "median": max(values), "unit": "most",
                                 "samples": len(values)})  # fmt: skip


def cut_of(load):
    """How many streams were, when all are over."""
    results = json.loads(load.communicate()[0])["results"]
    (cut,) = [one["median"] for one in results if one["name"].startswith("streams_cut/")]
    return cut


class Asking:
    """Asks for a small answer again and again, each time on a connection of its own."""

    def __init__(self, port):
        self.port, self.asked, self.refused, self.longest_s = port, 0, 0, 0.0
        self.over = threading.Event()
        self.thread = threading.Thread(target=self.ask)

    def ask(self):
        answered = time.monotonic()
        while not self.over.wait(0.02):
            self.asked += 1
            if answers(self.port, "/m/bench/"):
                answered = time.monotonic()
            else:
                self.refused += 1
                self.longest_s = max(self.longest_s, time.monotonic() - answered)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.over.set()
        self.thread.join()


def connections_at(pid, port):
    """How many clients a process has that came to this port."""
    ours = set()
    with open("/proc/net/tcp") as table:
        next(table)
        for line in table:
            _, local, _, state, *more = line.split()
            if int(local.split(":")[1], 16) == port and state == "01":
                ours.add(f"socket:[{more[5]}]")
    found = 0
    for entry in os.scandir(f"/proc/{pid}/fd"):
        with contextlib.suppress(OSError):
            found += os.readlink(entry.path) in ours
    return found


def main():
    arguments = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    arguments.add_argument("--bin", required=True, help="directory of the built programs")
    arguments.add_argument("--quick", action="store_true")
    arguments.add_argument("--only", choices=("nginx", "memory", "kills", "ends"), action="append")
    options = arguments.parse_args()
    options.bin = os.path.abspath(options.bin)
    cores = sorted(os.sched_getaffinity(0))
    options.load_core, options.door_core = cores[0], cores[-1]
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that what follows is cleaned up

    with tempfile.TemporaryDirectory(prefix="modelpool-serve-", dir="/dev/shm") as folder:
        bench = Bench(options, folder)
        parts = {"nginx": bench.beside_nginx, "memory": bench.memory, "kills": bench.kills,
                 "ends": bench.ends}  # fmt: skip
        for name, part in parts.items():
            if not options.only or name in options.only:
                part()
    load = os.getloadavg()[0]
    bench.notes.append(f"{len(cores)} CPUs; load average at the end {load:.2f}")
    json.dump({"benchmark": "serve", "unit": "us", "results": bench.results,
               "notes": bench.notes}, sys.stdout, indent=1)  # fmt: skip
    print()


if __name__ == "__main__":
    main()
