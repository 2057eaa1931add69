"""Leases that live as long as a connection: POST /api/pool/leases."""

import contextlib
import ctypes
import grp
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import unittest

from door import PATIENCE_S, DoorTest, eventually, free_port, read_answer

LEASES = "/api/pool/leases"
NOBODY = 65534
CLONE_NEWNET = 0x40000000
GIB = 1 << 30


class Held:
    """A client's connection with its lease, or what it was refused with."""

    def __init__(self, talk, body, key=None, fields=""):
        self.talk, self.lines = talk, b""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        if key is not None:
            fields += f"Authorization: Bearer {key}\r\n"
        talk.sendall(
            f"POST {LEASES} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            f"{fields}Content-Length: {len(data)}\r\n\r\n".encode() + data
        )

    def wait(self):
        """Until it is answered: the status."""
        self.head = b""
        while not self.head.endswith(b"\r\n\r\n"):
            byte = self.talk.recv(1)
            assert byte, self.head
            self.head += byte
        self.status = int(self.head.split()[1])
        if self.status == 200:
            self.first = json.loads(self.chunk())
        else:
            length = int(self.field("content-length"))
            self.error = json.loads(self.exactly(length))["error"]
        return self

    def field(self, name):
        for line in self.head.decode().split("\r\n"):
            if line.lower().startswith(name.lower() + ":"):
                return line.split(":", 1)[1].strip()
        return None

    def exactly(self, count):
        data = b""
        while len(data) < count:
            some = self.talk.recv(count - len(data))
            assert some, "it ended"
            data += some
        return data

    def chunk(self):
        """The next chunk; empty: the last one."""
        size = b""
        while not size.endswith(b"\r\n"):
            size += self.exactly(1)
        data = self.exactly(int(size, 16) + 2)
        return data[:-2]

    def last_line(self):
        """Signs of life skipped; behind it the stream ends whole."""
        while not (line := self.chunk()).strip():
            assert line, "it ended without a word"
        assert self.chunk() == b"" and self.talk.recv(1) == b""
        return json.loads(line)

    def close(self):
        self.talk.shutdown(socket.SHUT_RDWR)
        self.talk.close()

    def reset(self):
        """As a network does that has lost a connection."""
        self.talk.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self.talk.close()


class LeasesTest(DoorTest):
    def ask(self, body, talk=None, **options):
        return Held(talk or self.socket(), body, **options)

    def hold(self, body, **options):
        held = self.ask(body, **options).wait()
        self.assertEqual(held.status, 200, vars(held))
        return held

    def refused(self, body, **options):
        held = self.ask(body, **options).wait()
        self.assertNotEqual(held.status, 200, held.head)
        return held

    def wait_for_leases(self, count):
        self.assertTrue(eventually(lambda: len(self.leases()) == count), self.leases())

    def wait_for_no_backend(self, name):
        self.assertTrue(eventually(lambda: name not in self.backends()), self.backends())

    def tagged(self, tag):
        return [lease for lease in self.leases() if lease["tag"].startswith(tag)]

    def worker_of(self, tag):
        return self.tagged(tag)[0]["worker_pid"]

    def on_another_worker(self, pid, body):
        """A lease that is not that worker's, which stands still meanwhile."""
        os.kill(pid, signal.SIGSTOP)
        try:
            return self.hold(body)
        finally:
            os.kill(pid, signal.SIGCONT)


class Models(LeasesTest):
    def test_a_model_is_loaded_and_stays_while_its_lease_is_held(self):
        self.start(models=self.model("a") + self.model("b", more='aliases = ["bee"]'),
                   pool="max_backends = 1")
        held = self.hold({"model": "bee", "tag": "mine"})
        self.assertEqual(held.first["model"], "b")
        self.assertEqual(held.first["lease"], "mine")
        self.assertEqual(held.first["address"], self.backends()["b"]["address"])
        self.assertEqual(held.field("Content-Type"), "application/x-ndjson")
        self.assertEqual(held.field("X-Modelpool-Model"), "b")
        self.assertIsNotNone(held.field("X-Modelpool-Wait-Ms"))
        row = self.backends()["b"]
        self.assertEqual(held.field("X-Modelpool-Backend"), f"{row['slot']}.{row['generation']}")
        lease = self.leases()[0]
        self.assertEqual((lease["model"], lease["tag"]), ("b", "mine"))
        self.assertIn(lease["worker_pid"], self.workers())
        # The address is the backend's own.
        host, port = held.first["address"].rsplit(":", 1)
        with socket.create_connection((host, int(port)), timeout=PATIENCE_S) as talk:
            talk.sendall(b"GET /x HTTP/1.1\r\nContent-Length: 0\r\n\r\n")
            self.assertIn(b'"name": "b"', read_answer(talk)[1])
        # Somebody else waits for the one place, and has it only when it is given up.
        other = self.ask({"model": "a", "tag": "other", "timeout": "1m"})
        self.assertTrue(eventually(lambda: self.ctl("waiters")))
        self.assertEqual(self.backends()["b"]["in_flight"], 1)
        held.close()
        self.assertEqual(other.wait().status, 200)
        self.assertEqual([row["tag"] for row in self.leases()], ["other"])

    def test_limits_of_requests_do_not_count(self):
        self.start(pool='busy_timeout = "1s"\nstall_timeout = "1s"\nfirst_byte_timeout = "1s"\n'
                        'on_overdue = "cancel, 1s, kill"')
        held = self.hold({"model": "a"})
        # What they do to a request that holds as long.
        self.assertEqual(self.post("/m/b/wait?30", "").status, 503)
        before = self.leases()[0]
        self.assertTrue(eventually(lambda: self.leases()[0]["age_ms"] > before["age_ms"] + 3000))
        self.assertIsNone(self.leases()[0]["limit_ms"])
        self.assertIsNone(self.leases()[0]["cancelled_ms"])
        held.close()
        self.wait_for_leases(0)
        self.assertNotIn("killed", [event["kind"] for event in self.events() if event["model"] == "a"])

    def test_the_lease_ends_with_its_connection(self):
        self.start()
        for end in (Held.close, Held.reset):
            held = self.hold({"model": "a"})
            end(held)
            self.wait_for_leases(0)
        # Half of it: as for a request, who closes its side has left.
        held = self.hold({"model": "a"})
        held.talk.shutdown(socket.SHUT_WR)
        self.wait_for_leases(0)
        # What it sends meanwhile is nothing, and hides no end.
        held = self.hold({"model": "a"})
        for _ in range(64):
            held.talk.sendall(b"x" * 4096)
        self.assertEqual(len(self.leases()), 1)
        held.close()
        self.wait_for_leases(0)
        self.assertEqual(self.backends()["a"]["in_flight"], 0)

    def test_the_lease_ends_when_its_client_is_killed(self):
        self.start()
        code = ("import http.client, sys; c = http.client.HTTPConnection('127.0.0.1', "
                f"{self.port}); c.request('POST', '{LEASES}', '{{\"model\": \"a\"}}', "
                "{'Content-Type': 'application/json'}); r = c.getresponse(); "
                "print(r.readline(), flush=True); sys.stdin.read()")
        client = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE,
                                  stdout=subprocess.PIPE)
        self.addCleanup(client.stdout.close)
        self.addCleanup(client.stdin.close)
        self.addCleanup(client.wait)
        self.addCleanup(client.kill)
        self.assertIn(b'"model"', client.stdout.readline())
        self.wait_for_leases(1)
        client.kill()
        self.wait_for_leases(0)

    def test_a_killed_worker_ends_its_leases_and_no_others(self):
        self.start(models=self.model("a"))
        held = [self.hold({"model": "a", "tag": f"t{i}"}) for i in range(8)]
        victim = self.worker_of("t0")
        cut = {row["tag"] for row in self.leases() if row["worker_pid"] == victim}
        os.kill(victim, signal.SIGKILL)
        self.wait_for_leases(8 - len(cut))
        self.assertFalse(cut & {row["tag"] for row in self.leases()})
        for i, one in enumerate(held):
            if f"t{i}" in cut:
                with contextlib.suppress(ConnectionResetError):
                    self.assertEqual(one.talk.recv(100), b"")  # and no last chunk
            else:
                one.close()
        self.wait_for_leases(0)
        self.assertEqual(self.backends()["a"]["state"], "ready")

    def test_a_forced_end_is_told(self):
        self.start()
        held = self.hold({"model": "a"})
        self.ctl("evict", "--force", "a")
        end = held.last_line()["error"]
        self.assertEqual(end["code"], "lease_lost")
        self.assertIn("requested", end["message"])
        self.assertEqual(self.leases(), [])

    def test_a_backend_that_dies_is_told(self):
        self.start()
        held = self.hold({"model": "a"})
        os.kill(self.backends()["a"]["pid"], signal.SIGKILL)
        self.assertEqual(held.last_line()["error"]["code"], "lease_lost")

    def test_what_requests_are_refused_for_leases_are(self):
        models = self.model("a") + self.model("b") + '[models."bad"]\ncommand = "false {port}"\n'
        self.start(models=models, pool="max_backends = 1\nmax_waiters = 1")
        held = self.refused({"model": "c"})
        self.assertEqual((held.status, held.error["code"]), (404, "model_not_found"))
        # The connection stays: another may be asked for on it.
        again = Held(held.talk, {"model": "bad"}).wait()
        self.assertEqual(again.status, 503)
        self.assertIn(again.error["code"], ("load_failed", "cooling_down"))  # by who saw it first
        again = Held(held.talk, {"model": "bad"}).wait()
        self.assertEqual((again.status, again.error["code"]), (503, "cooling_down"))
        self.assertIsNotNone(again.field("Retry-After"))
        self.assertEqual(Held(held.talk, {"model": "a"}).wait().status, 200)
        late = self.refused({"model": "b", "timeout": "500ms"})
        self.assertEqual((late.status, late.error["code"]), (504, "timeout"))
        waits = self.ask({"model": "b", "timeout": "off"})
        self.assertTrue(eventually(lambda: self.ctl("waiters")))
        full = self.refused({"name": "x", "memory": 1})
        self.assertEqual((full.status, full.error["code"]), (429, "queue_full"))
        self.assertIsNotNone(full.field("Retry-After"))
        # One that leaves waits no more.
        waits.talk.close()
        self.assertTrue(eventually(lambda: not self.ctl("waiters")))


class Tenants(LeasesTest):
    def test_a_tenant_has_a_place_and_bytes_until_its_connection_ends(self):
        self.start(models=self.model("a", more="[[model]]\nmatch = 'a'\nmemory = '4GiB'"),
                   pool='max_memory = "10GiB"')
        held = self.hold({"name": "comfy ui", "memory": "9GiB", "tag": "mine"})
        first = {"model": "comfy ui", "address": None, "lease": "mine", "devices": []}
        self.assertEqual(held.first, first)
        row = self.backends()["comfy ui"]
        self.assertEqual((row["state"], row["size_bytes"], row["pid"]), ("ready", 9 * GIB, None))
        self.assertEqual(row["in_flight"], 1)
        self.assertEqual(self.leases()[0]["tag"], "mine")
        # The bytes are taken, for models too.
        late = self.refused({"model": "a", "timeout": "500ms"})
        self.assertEqual(late.status, 504)
        late = self.refused({"name": "other", "memory": 2 * GIB, "timeout": "0s"})
        self.assertEqual((late.status, late.error["code"]), (504, "timeout"))
        small = self.hold({"name": "small", "memory": GIB})
        too_much = self.refused({"name": "other", "memory": "11GiB"})
        self.assertEqual((too_much.status, too_much.error["code"]), (503, "too_large"))
        waits = self.ask({"model": "a", "timeout": "1m"})
        self.assertTrue(eventually(lambda: self.ctl("waiters")))
        held.close()
        self.assertEqual(waits.wait().status, 200)
        self.wait_for_no_backend("comfy ui")
        small.close()
        self.wait_for_no_backend("small")

    def test_room_is_made_for_a_tenant(self):
        self.start(pool="max_backends = 2\nidle_timeout = 'off'")
        for name in "ab":
            self.assertEqual(self.post(f"/m/{name}/x", "").status, 200)
        held = self.hold({"name": "tenant", "memory": 5})
        self.assertEqual(len(self.backends()), 2)
        self.assertIn("tenant", self.backends())
        # And for another, but none of a place that is held.
        other = self.hold({"name": "other"})
        self.assertEqual(set(self.backends()), {"tenant", "other"})
        self.assertEqual(self.refused({"model": "a", "timeout": "1s"}).status, 504)
        self.assertEqual(set(self.backends()), {"tenant", "other"})
        held.close()
        self.assertEqual(self.post("/m/a/x", "").status, 200)
        self.assertEqual(set(self.backends()), {"a", "other"})
        other.close()

    def test_a_tenants_group_is_kept_apart(self):
        self.start(more='[[model]]\nmatch = "a"\ngroups = ["heavy"]')
        self.assertEqual(self.post("/m/a/x", "").status, 200)
        self.assertEqual(self.post("/m/b/x", "").status, 200)
        held = self.hold({"name": "tenant", "group": "heavy"})
        self.assertEqual(set(self.backends()), {"b", "tenant"})
        self.assertEqual(self.refused({"model": "a", "timeout": "1s"}).status, 504)
        held.close()
        self.assertEqual(self.post("/m/a/x", "").status, 200)

    def test_a_tenant_is_put_on_devices(self):
        self.start(pool='gpu_memory = { "GPU-1" = "10GiB", "GPU-2" = "20GiB" }',
                   models=self.model("a", more='[[model]]\nmatch = "a"\ndevices = 1\ngpu_memory = "10GiB"'))
        held = self.hold({"name": "tenant", "devices": 1, "gpu_memory": "15GiB"})
        self.assertEqual(held.first["devices"], ["GPU-2"])
        other = self.hold({"model": "a"})
        late = self.refused({"name": "other", "gpu_memory": "6GiB", "timeout": "500ms"})
        self.assertEqual(late.status, 504)
        held.close()
        other.close()
        held = self.hold({"name": "tenant", "devices": 2, "gpu_memory": "1GiB"})
        self.assertEqual(held.first["devices"], ["GPU-1", "GPU-2"])

    def test_rules_for_backends_do_not_touch_a_tenant(self):
        self.start(pool='max_backends = 1\nwhen_busy = "force"\nbusy_timeout = "1s"\n'
                        'stall_timeout = "1s"\nprobe = "tcp"\nprobe_interval = "100ms"\n'
                        'probe_failures = 1\nparallel = 1\nkeep = 1\ndrain_timeout = "200ms"',
                   models=self.model("a"), more='[[model]]\nmatch = "*"\npinned = true')
        held = self.hold({"name": "tenant"})
        late = self.refused({"model": "a", "timeout": "3s"})
        self.assertIn(late.error["code"], ("timeout", "all_pinned"))
        self.assertEqual(self.backends()["tenant"]["state"], "ready")
        self.assertEqual(len(self.leases()), 1)
        held.close()
        self.wait_for_no_backend("tenant")

    def test_a_killed_worker_frees_the_place(self):
        self.start(models=self.model("a"), pool="max_backends = 1")
        self.hold({"name": "tenant", "memory": "1GiB", "tag": "t"})
        os.kill(self.worker_of("t"), signal.SIGKILL)
        self.wait_for_no_backend("tenant")
        self.assertEqual(self.post("/m/a/x", "").status, 200)

    def test_a_name_is_one_tenants(self):
        self.start()
        held = self.hold({"name": "tenant"})
        for body in ({"name": "tenant"}, {"name": "tenant", "id": "x"}):
            self.assertEqual(self.refused(body).error["code"], "name_in_use")
        self.assertEqual(self.refused({"name": "a"}).error["code"], "name_in_use")
        self.assertEqual(self.refused({"model": "tenant"}).status, 404)
        self.assertEqual(self.post("/m/tenant/x", "").status, 404)
        held.close()
        # At once: what is left of the one before is waited for, also where its end was not seen.
        for _ in range(5):
            held = self.hold({"name": "tenant", "tag": "t"})
            worker = self.worker_of("t")
            os.kill(worker, signal.SIGSTOP)
            held.close()
            again = self.ask({"name": "tenant"})
            self.assertEqual(self.get("/livez").status, 200)  # by the other one, which has both
            os.kill(worker, signal.SIGCONT)
            self.assertEqual(again.wait().status, 200)
            again.close()
        # Neither does it have that of another program's model.
        subprocess.run([os.environ["MODELPOOL_POOLCTL"], "--dir", self.dir, "lease", "theirs",
                        "--start", f"{sys.executable} {pathlib.Path(__file__).parent}/odd_backend.py"
                        f" {{port}} theirs {self.log}", "--", "true"], check=True)
        self.assertEqual(self.refused({"name": "theirs"}).error["code"], "name_in_use")
        self.assertEqual(self.backends()["theirs"]["state"], "ready")

    def test_a_model_that_comes_by_its_name_has_nothing_of_its_place(self):
        master = self.start(models=self.model("a"))
        held = self.hold({"name": "tenant"})
        self.write_config(models=self.model("a") + self.model("tenant"))
        master.send_signal(signal.SIGHUP)
        order = {"Content-Type": "application/json"}
        for ask in (  # until both workers know it
            lambda: self.post("/m/tenant/x", "").message,
            lambda: self.post("/api/pool/load", {"model": "tenant"}, fields=order).message,
            lambda: self.refused({"model": "tenant"}).error["message"],
        ):
            for _ in range(2):
                self.assertTrue(eventually(lambda: "a tenant has this name" in ask()))
        self.assertEqual(self.post("/m/tenant/x", "").status, 404)
        # Nor does one of them keep it: the model is loaded as soon as it is free.
        held.close()
        self.wait_for_no_backend("tenant")
        self.assertEqual(self.post("/m/tenant/x", "").json["name"], "tenant")

    def test_a_forced_end_is_told(self):
        self.start()
        held = self.hold({"name": "tenant"})
        self.ctl("evict", "--force", "tenant")
        self.assertEqual(held.last_line()["error"]["code"], "lease_lost")
        self.wait_for_no_backend("tenant")

    def test_many_come_and_go(self):
        self.start(pool="max_backends = 3", models=self.model("a"))
        most, failures = [0], []

        def use(number):
            for i in range(5):
                try:
                    held = Held(socket.create_connection(("127.0.0.1", self.port), PATIENCE_S),
                                {"name": f"n{number}", "timeout": "1m"} | ({"id": "i"} if number % 2 else {}))
                    assert held.wait().status == 200, held.error
                    most[0] = max(most[0], len(self.backends()))
                    (held.close if i % 3 else held.reset)()
                except Exception as error:  # noqa: BLE001: told below
                    failures.append(error)

        users = [threading.Thread(target=use, args=[i]) for i in range(6)]
        for user in users:
            user.start()
        for user in users:
            user.join()
        self.assertEqual(failures, [])
        self.assertLessEqual(most[0], 3)
        self.assertTrue(eventually(lambda: not self.backends() and not self.leases()))


class Ids(LeasesTest):
    KEYS = "key-one use one\nkey-two use two\n"

    def start_with_keys(self, **config):
        keys = pathlib.Path(self.dir, "keys")
        keys.write_text(self.KEYS)
        keys.chmod(0o600)
        return self.start(serve=f'keys = "{keys}"', **config)

    def test_who_was_cut_has_its_place_again_before_those_who_wait(self):
        self.start(models=self.model("a"), pool="max_backends = 1")
        for body in ({"name": "tenant", "id": "x", "tag": "t"}, {"model": "a", "id": "x", "tag": "t"}):
            held = self.hold(body)
            life = held.field("X-Modelpool-Backend")
            waits = self.ask({"name": "other", "timeout": "1m"})
            self.assertTrue(eventually(lambda: self.ctl("waiters")))
            for _ in range(3):
                held.reset()
                held = self.hold(body)
                self.assertEqual(held.field("X-Modelpool-Backend"), life)
            self.assertEqual(len(self.ctl("waiters")), 1)
            # The one before is told by nobody, and is over.
            self.wait_for_leases(1)
            held.close()
            self.assertEqual(waits.wait().status, 200)
            waits.close()
            self.wait_for_leases(0)

    def test_another_worker_gives_the_place_as_well(self):
        self.start(models=self.model("a"), pool="max_backends = 1")
        for name in ({"name": "tenant"}, {"model": "a"}):
            with self.subTest(name):
                first = self.hold(name | {"id": "x", "tag": "t1"})
                life = first.field("X-Modelpool-Backend")
                former = self.worker_of("t1")
                held = self.on_another_worker(former, name | {"id": "x", "tag": "t2"})
                self.assertEqual(held.field("X-Modelpool-Backend"), life)
                self.assertEqual(first.last_line()["error"]["code"], "taken_over")
                self.wait_for_leases(1)
                self.assertNotEqual(self.worker_of("t2"), former)
                # After a cut that the former one has not noticed, too.
                held.reset()
                former = self.worker_of("t2")
                held = self.on_another_worker(former, name | {"id": "x", "tag": "t3"})
                self.assertEqual(held.field("X-Modelpool-Backend"), life)
                self.wait_for_leases(1)
                self.assertNotEqual(self.worker_of("t3"), former)
                held.close()
                self.wait_for_leases(0)
                if "name" in name:
                    self.wait_for_no_backend("tenant")

    def test_the_last_connection_has_it_wherever_the_others_were(self):
        self.start(models=self.model("a"))
        for name in ({"name": "tenant"}, {"model": "a"}):
            first = self.hold(name | {"id": "x", "tag": "t1"})
            one = self.worker_of("t1")
            os.kill(one, signal.SIGSTOP)
            second = self.hold(name | {"id": "x", "tag": "t2"})
            other = self.worker_of("t2")
            # Back in the first, which has hardly seen yet that it was left.
            os.kill(other, signal.SIGSTOP)
            third = self.ask(name | {"id": "x", "tag": "t3"})
            os.kill(one, signal.SIGCONT)
            self.assertEqual(third.wait().status, 200)
            os.kill(other, signal.SIGCONT)
            for former in (first, second):
                self.assertEqual(former.last_line()["error"]["code"], "taken_over")
            self.wait_for_leases(1)
            self.assertTrue(self.tagged("t3"))
            third.close()
            self.wait_for_leases(0)

    def test_a_place_outlives_its_worker_for_a_moment(self):
        self.start(models=self.model("a"))
        held = self.hold({"name": "tenant", "id": "x", "tag": "t"})
        life = held.field("X-Modelpool-Backend")
        os.kill(self.worker_of("t"), signal.SIGKILL)
        self.assertTrue(eventually(lambda: not self.leases()))
        held = self.hold({"name": "tenant", "id": "x", "tag": "t"})
        self.assertEqual(held.field("X-Modelpool-Backend"), life)
        # And for a moment only.
        os.kill(self.worker_of("t"), signal.SIGKILL)
        self.wait_for_no_backend("tenant")

    def test_who_does_not_come_back_loses_it(self):
        self.start()
        held = self.hold({"name": "tenant", "id": "x"})
        began = time.monotonic()
        held.reset()
        self.wait_for_no_backend("tenant")
        self.assertGreaterEqual(time.monotonic() - began, 9)

    def test_an_end_in_order_is_none_to_come_back_from(self):
        self.start(models=self.model("a"))
        limits = []
        for end in (Held.close, Held.reset):
            end(self.hold({"name": "tenant", "id": "x"}))
            self.wait_for_no_backend("tenant")
            ends = [event for event in self.events() if event["model"] == "tenant"]
            limits.append([event["limit_ms"] for event in ends if event["kind"] == "evicted"][-1])
        # Both are over at once when the lease ends; one that was cut ended later.
        self.assertEqual(limits, [0, 0])

    def test_an_id_is_its_keys_alone(self):
        self.start_with_keys(models=self.model("a"))
        self.assertEqual(self.refused({"model": "a"}).status, 401)
        for name in ({"name": "tenant"}, {"model": "a"}):
            held = self.hold(name | {"id": "x"}, key="key-one")
            other = self.refused(name | {"id": "x"}, key="key-two")
            self.assertEqual((other.status, other.error["code"]), (409, "id_in_use"))
            held.reset()
            other = self.refused(name | {"id": "x"}, key="key-two")
            self.assertEqual((other.status, other.error["code"]), (409, "id_in_use"))
            held = self.hold(name | {"id": "x"}, key="key-one")
            held.close()
            # Over, it is anybody's.
            self.wait_for_leases(0)
            held = self.hold(name | {"id": "x"}, key="key-two")
            held.close()
            self.wait_for_leases(0)
        said = json.dumps([self.ctl("leases"), self.events()]) + self.said()
        self.assertNotIn("key-one", said)

    def test_what_another_asks_never_passes_for_its_successor(self):
        """Anybody may see the end of a tag by which a lease with an id is found again."""
        self.start_with_keys(models=self.model("a"))
        held = self.hold({"model": "a", "id": "x", "tag": "mine"}, key="key-one")
        tag = held.first["lease"].replace("mine", "evil")
        worker = self.worker_of("mine")
        os.kill(worker, signal.SIGSTOP)  # the others are another's
        other = self.hold({"model": "a", "tag": tag}, key="key-two")
        talk = self.socket()
        talk.sendall(b"POST /m/a/wait?300 HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n"
                     b"x-api-key: key-two\r\nX-Request-Id: %s\r\n\r\n" % tag.encode())
        self.assertTrue(eventually(lambda: len(self.tagged("evil")) == 2))
        os.kill(worker, signal.SIGCONT)
        # It looks for one of the same id every second.
        before = self.tagged("mine")[0]["age_ms"]
        self.assertTrue(eventually(lambda: not (mine := self.tagged("mine"))
                                   or mine[0]["age_ms"] > before + 3000))
        self.assertEqual(len(self.tagged("mine")), 1)
        self.assertEqual(other.first["lease"], tag[:-1])
        held.reset()
        self.hold({"model": "a", "id": "x"}, key="key-one")

    def test_who_waited_behind_it_never_passes_for_its_successor(self):
        """All of one worker wait as one: the place that its client gave up has another's tag."""
        self.start(models=self.model("a"), more='[[model]]\nmatch = "a"\nparallel = 2')
        held = self.hold({"model": "a", "id": "x", "tag": "mine"})
        worker = self.worker_of("mine")
        os.kill(worker, signal.SIGSTOP)  # the others are another's
        full = self.hold({"model": "a", "tag": "full"})
        again = self.ask({"model": "a", "id": "x", "tag": "again", "timeout": "1m"})
        self.assertTrue(eventually(lambda: self.ctl("waiters")))
        talk = self.socket()
        talk.sendall(b"POST /m/a/wait?300 HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n"
                     b"X-Request-Id: other\r\n\r\n")
        self.assertEqual(self.get("/livez").status, 200)  # so it stands there
        again.close()
        self.assertEqual(self.get("/livez").status, 200)
        full.close()
        self.assertTrue(eventually(lambda: self.tagged("other")), self.leases())
        os.kill(worker, signal.SIGCONT)
        before = self.tagged("mine")[0]["age_ms"]
        self.assertTrue(eventually(lambda: not (mine := self.tagged("mine"))
                                   or mine[0]["age_ms"] > before + 3000))
        self.assertEqual(len(self.tagged("mine")), 1)
        held.close()

    def test_of_two_at_once_one_has_it(self):
        self.start(models=self.model("a"))
        for name in ({"name": "tenant"}, {"model": "a"}):
            for _ in range(5):
                both = [self.ask(name | {"id": "x"}) for _ in range(4)]
                for one in both:
                    self.assertEqual(one.wait().status, 200, vars(one))
                self.wait_for_leases(1)
                # The others are told.
                told = []
                for one in both:
                    one.talk.settimeout(0.01)
                    with contextlib.suppress(TimeoutError):
                        told.append(one.last_line()["error"]["code"])
                    one.talk.settimeout(PATIENCE_S)
                self.assertEqual(told, ["taken_over"] * 3)
                for one in both:
                    one.talk.close()
                self.wait_for_leases(0)

    def test_a_parallel_model_is_handed_over_as_it_is(self):
        self.write_config(models=self.model("a"), more='[[model]]\nmatch = "a"\nparallel = 1')
        text = pathlib.Path(self.config).read_text().replace("workers = 2", "workers = 1")
        pathlib.Path(self.config).write_text(text)
        self.start(keep_config=True)
        held = self.hold({"model": "a", "id": "x"})
        waits = self.ask({"model": "a", "timeout": "1m"})
        self.assertTrue(eventually(lambda: self.ctl("waiters")))
        held.reset()
        held = self.hold({"model": "a", "id": "x"})
        self.assertEqual(self.backends()["a"]["in_flight"], 1)
        held.close()
        self.assertEqual(waits.wait().status, 200)


class Ends(LeasesTest):
    def test_new_workers_leave_it_and_have_the_place_when_its_client_comes_again(self):
        master = self.start(models=self.model("a"))
        held = self.hold({"name": "tenant", "id": "x", "tag": "t"})
        life = held.field("X-Modelpool-Backend")

        def change_workers():
            text = pathlib.Path(self.config).read_text().replace("workers = 2", "workers = 3")
            pathlib.Path(self.config).write_text(text)
            master.send_signal(signal.SIGHUP)

        # A reload that wants other workers; an upgrade.
        for change in (change_workers, lambda: master.send_signal(signal.SIGUSR2)):
            old = self.worker_of("t")
            before = set(self.workers())
            change()
            # Those that held nothing are gone, and the one goes on.
            self.assertTrue(eventually(lambda: len(set(self.workers()) - before) == 3
                                       and set(self.workers()) & before == {old}))
            self.assertEqual(self.worker_of("t"), old)
            held.reset()
            held = self.hold({"name": "tenant", "id": "x", "tag": "t"})
            self.assertEqual(held.field("X-Modelpool-Backend"), life)
            self.assertTrue(eventually(lambda: old not in self.workers()))
            self.wait_for_leases(1)
            self.assertNotEqual(self.worker_of("t"), old)

    def test_the_end_of_the_door_waits_for_it_as_for_a_request(self):
        master = self.start(models=self.model("a"), serve='shutdown_timeout = "off"')
        held = self.hold({"model": "a", "tag": "t"})
        master.send_signal(signal.SIGTERM)
        self.assertTrue(eventually(lambda: len(self.workers()) == 1))
        self.assertEqual(len(self.leases()), 1)
        held.close()
        master.wait(PATIENCE_S)
        self.assertEqual(self.leases(), [])

    def test_the_end_of_the_door_cuts_it_when_its_time_is_over(self):
        master = self.start(models=self.model("a"), serve='shutdown_timeout = "1s"')
        held = self.hold({"name": "tenant"})
        master.send_signal(signal.SIGTERM)
        master.wait(PATIENCE_S)
        self.assertEqual(held.talk.recv(100), b"")
        self.wait_for_no_backend("tenant")


class Silence(LeasesTest):
    def test_signs_of_life_come_and_a_client_that_vanishes_is_noticed(self):
        """Its network goes, so that no FIN comes: the door's side of a pair of interfaces."""
        ours = os.open("/proc/self/ns/net", os.O_RDONLY)
        self.addCleanup(os.close, ours)
        libc = ctypes.CDLL(None, use_errno=True)

        def enter(namespace):
            if libc.setns(namespace, CLONE_NEWNET) != 0:
                raise OSError(ctypes.get_errno(), "setns")

        def new_namespace():
            if libc.unshare(CLONE_NEWNET) != 0:
                self.skipTest("this process may not make network namespaces")
            made = os.open("/proc/self/ns/net", os.O_RDONLY)
            self.addCleanup(os.close, made)
            return made

        def ip(*words):
            subprocess.run(["ip", *words], check=True)

        if shutil.which("ip") is None:
            self.skipTest("there is no ip (iproute2)")
        self.addCleanup(enter, ours)
        theirs = new_namespace()
        doors = new_namespace()
        ip("link", "set", "lo", "up")
        port = free_port()
        # A pool's programs are found by PID: only the network is another.
        master = self.start(models=self.model("a"), pool="max_backends = 1",
                            more=f'[[serve.listener]]\naddress = "0.0.0.0:{port}"\nauth = "none"')
        enter(theirs)
        ip("link", "add", "v0", "type", "veth", "peer", "name", "v1", "netns", str(master.pid))
        ip("address", "add", "10.99.0.2/24", "dev", "v0")
        ip("link", "set", "v0", "up")
        enter(doors)
        ip("address", "add", "10.99.0.1/24", "dev", "v1")
        ip("link", "set", "v1", "up")
        enter(theirs)
        talk = socket.create_connection(("10.99.0.1", port), timeout=PATIENCE_S)
        self.addCleanup(talk.close)
        held = Held(talk, {"name": "tenant"}).wait()
        self.assertEqual(held.status, 200)
        began = time.monotonic()
        for _ in range(2):
            self.assertEqual(held.chunk(), b"\n")
        self.assertGreaterEqual(time.monotonic() - began, 28)
        # One that only waits, to which nothing is sent, vanishes as well.
        waiting = socket.create_connection(("10.99.0.1", port), timeout=PATIENCE_S)
        self.addCleanup(waiting.close)
        Held(waiting, {"model": "a", "timeout": "10m"})
        enter(doors)
        self.assertTrue(eventually(lambda: self.ctl("waiters")))
        ip("link", "set", "v1", "down")
        self.wait_for_no_backend("tenant")
        self.assertTrue(eventually(lambda: not self.ctl("waiters") and not self.leases()))


class Foreign(LeasesTest):
    """Another user, in a PID namespace of its own, by a Unix socket."""

    CODE = """
import os, socket, sys
talk = socket.socket(socket.AF_UNIX)
talk.connect(sys.argv[1])
body = sys.argv[2].encode()
talk.sendall(b"POST /api/pool/leases HTTP/1.1\\r\\nContent-Type: application/json\\r\\n"
             b"Host: localhost\\r\\nContent-Length: %d\\r\\n\\r\\n%s" % (len(body), body))
lines = talk.makefile("rb")
print(lines.readline().split()[1].decode(), os.getpid(), os.getuid(), flush=True)
while line := lines.readline():
    if b"{" in line:
        print(line.decode(), end="", flush=True)
"""

    NAMESPACE = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]

    def open_to_others(self, mode, more=""):
        """A door's socket outside of the pool's directory, which is its owner's alone."""
        place = f"/tmp/modelpool-door-{os.getpid()}"
        os.mkdir(place, 0o755)
        self.addCleanup(shutil.rmtree, place, ignore_errors=True)
        path = f"{place}/door.sock"
        self.start(models=self.model("a"),
                   more=f'[[serve.listener]]\naddress = "unix:{path}"\nmode = "{mode}"\n{more}')
        return path

    @staticmethod
    def as_user(uid, gid):
        return ["setpriv", f"--reuid={uid}", f"--regid={gid}", "--clear-groups"]

    def stranger(self, prefix, path, body):
        if subprocess.run([*prefix, "true"], capture_output=True).returncode != 0:
            self.skipTest("this process may not make PID namespaces or become another user")
        client = subprocess.Popen(
            [*prefix, sys.executable, "-c", self.CODE, path, json.dumps(body)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd="/",
        )  # fmt: skip
        self.addCleanup(client.communicate)
        self.addCleanup(client.kill)
        return client

    def test_a_stranger_has_a_lease(self):
        prefix = [*self.NAMESPACE, *self.as_user(NOBODY, NOBODY)]
        path = self.open_to_others("0666")
        body = {"name": "tenant", "memory": "1GiB", "id": "x", "tag": "t"}
        client = self.stranger(prefix, path, body)
        status, pid, uid = client.stdout.readline().split()
        self.assertEqual((status, uid), ("200", str(NOBODY)))
        self.assertLess(int(pid), 10)
        self.assertIsNone(json.loads(client.stdout.readline())["address"])
        self.assertEqual(self.backends()["tenant"]["size_bytes"], GIB)
        # The same id of another user is another's; so is that of who comes by TCP.
        talk = socket.socket(socket.AF_UNIX)
        self.addCleanup(talk.close)
        talk.connect(path)
        for one in (talk, None):
            self.assertEqual(self.refused(body, talk=one).error["code"], "id_in_use")
        # Its first process, not the one that made the namespace.
        inside = pathlib.Path(f"/proc/{client.pid}/task/{client.pid}/children").read_text()
        os.kill(int(inside), signal.SIGKILL)
        self.wait_for_no_backend("tenant")

    def test_a_user_and_a_namespace_each_by_itself(self):
        path = self.open_to_others("0666")
        for number, prefix in enumerate((self.as_user(NOBODY, NOBODY), self.NAMESPACE)):
            for body in ({"name": f"tenant {number}"}, {"model": "a"}):
                client = self.stranger(prefix, path, body)
                self.assertEqual(client.stdout.readline().split()[0], "200")
                self.assertEqual(json.loads(client.stdout.readline())["model"], [*body.values()][0])
                self.wait_for_leases(1)
                client.kill()  # of a namespace all
                self.wait_for_leases(0)
            self.wait_for_no_backend(f"tenant {number}")

    def test_a_socket_of_a_group_is_its_members_alone(self):
        group = grp.getgrgid(NOBODY).gr_name
        path = self.open_to_others("0660", f'group = "{group}"')
        member = self.stranger(self.as_user(NOBODY - 1, NOBODY), path, {"name": "tenant"})
        self.assertEqual(member.stdout.readline().split()[::2], ["200", str(NOBODY - 1)])
        # A user whose number is that of the group, and who is none of it.
        other = self.stranger(self.as_user(NOBODY, NOBODY - 1), path, {"name": "other"})
        _, error = other.communicate(timeout=PATIENCE_S)
        self.assertIn("PermissionError", error)
        self.assertEqual(set(self.backends()), {"tenant"})
        member.kill()
        self.wait_for_no_backend("tenant")


class Hostile(LeasesTest):
    def test_bad_wishes_are_refused_by_what_is_wrong(self):
        self.start(models=self.model("a"))
        deep = b'{"model": "a", "tag": ' + b"[" * 30000 + b"]" * 30000 + b"}"
        for body, word in [
            (b"", "JSON"), (b"{", "JSON"), (b"null", "object"), (b"[]", "object"), (b'"a"', "object"),
            (deep, "levels"), (b'{"model": "a\xff"}', "JSON"), (b'\xef\xbb\xbf{"model": "a"}', "BOM"),
            ({}, "neither"), ({"memory": 5}, "neither"), ({"model": "a", "name": "x"}, "either"),
            (b'{"model": "a", "model": "a"}', "twice"), (b'{"name": "x", "name": "y"}', "twice"),
            ({"model": 5}, "model"), ({"model": ""}, "model"), ({"model": None}, "model"),
            ({"name": ["x"]}, "name"), ({"name": "x" * 256}, "name"), ({"name": "x\ny"}, "name"),
            ({"model": "a", "memory": 5}, "memory"), ({"name": "x", "memory": -1}, "memory"),
            ({"name": "x", "memory": 1.5}, "memory"), ({"name": "x", "memory": "lots"}, "memory"),
            ({"name": "x", "memory": 2**63}, "memory"), ({"name": "x", "memory": 10**40}, "memory"),
            ({"name": "x", "memory": "9999999999999GiB"}, "memory"),
            ({"name": "x", "memory": {}}, "memory"), ({"model": "a", "group": "g"}, "group"),
            ({"name": "x", "devices": -1}, "devices"), ({"name": "x", "devices": "two"}, "devices"),
            ({"name": "x", "devices": 99}, "devices"), ({"name": "x", "devices": 2**40}, "devices"),
            ({"name": "x", "group": "a,b"}, "group"), ({"name": "x", "gpu_memory": -1}, "gpu_memory"), ({"name": "x", "memory": True}, "memory"),
            ({"model": "a", "timeout": 5}, "timeout"), ({"model": "a", "timeout": "-5s"}, "timeout"),
            ({"model": "a", "timeout": "soon"}, "timeout"), ({"model": "a", "tag": 1}, "tag"),
            ({"model": "a", "tag": "x" * 32}, "tag"), ({"model": "a", "tag": "a\x00b"}, "tag"),
            ({"model": "a", "id": 7}, "id"), ({"model": "a", "id": "x" * 256}, "id"),
            ({"model": "a", "id": ""}, "id"), ({"model": "a", "memroy": 1}, "memroy"),
        ]:  # fmt: skip
            with self.subTest(body if len(body) < 100 else len(body)):
                held = self.refused(body)
                self.assertEqual(held.status, 400, held.error)
                self.assertIn(word, held.error["message"])
        self.assertEqual((self.leases(), self.ctl("waiters")), ([], []))

    def test_only_json_of_64_kib_is_read(self):
        self.start(models=self.model("a"))
        body = b'{"model": "a"}'
        for fields in ({}, {"Content-Type": "text/plain"}, {"Content-Type": "application/jsonx"},
                       {"Content-Type": "application/json", "Content-Encoding": "gzip"}):  # fmt: skip
            answer = self.request("POST", LEASES, body, fields)
            self.assertEqual(answer.status, 415, answer.body)
        self.assertEqual(self.refused(body + b" " * (64 * 1024)).status, 413)
        talk = self.socket()
        talk.sendall(f"POST {LEASES} HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n"
                     "Content-Type: Application/JSON; charset=utf-8\r\n\r\n".encode())
        with contextlib.suppress(OSError):  # it is told before it has said all
            for _ in range(20):
                talk.sendall(b"1000\r\n" + b" " * 4096 + b"\r\n")
        self.assertIn(b" 413 ", read_answer(talk)[0])
        held = self.hold(body + b" " * (64 * 1024 - len(body)))
        held.close()
        # Other words of the type; a client of HTTP/1.0, whose answer ends with the connection.
        talk = self.socket()
        talk.sendall(f"POST {LEASES} HTTP/1.0\r\nContent-Length: 14\r\n"
                     "Content-Type: Application/JSON; charset=utf-8\r\n\r\n".encode() + body)
        answer = b""
        while not answer.endswith(b"}\n"):
            answer += talk.recv(1000)
        self.assertEqual(json.loads(answer.split(b"\r\n\r\n")[1])["model"], "a")
        self.assertNotIn(b"chunked", answer)
        # To look at it is `poolctl leases`.
        self.assertEqual(self.get(LEASES).status, 200)

    def test_a_page_of_another_site_gets_none(self):
        self.start(models=self.model("a"))
        fields = {"Content-Type": "application/json", "Origin": "https://evil.example"}
        self.assertEqual(self.request("POST", LEASES, '{"model": "a"}', fields).status, 403)
        self.assertEqual(self.leases(), [])

    def test_a_client_that_leaves_at_any_point_leaves_nothing(self):
        self.start(models=self.model("a"), pool="max_backends = 1")
        body = b'{"name": "tenant", "id": "x"}'
        whole = (f"POST {LEASES} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                 f"Content-Length: {len(body)}\r\n\r\n".encode() + body)  # fmt: skip
        for cut in [*range(1, len(whole), 23), len(whole) - 1, len(whole)]:
            talk = self.socket()
            talk.sendall(whole[:cut])
            talk.close()
        self.assertTrue(eventually(lambda: not self.backends() and not self.leases()))
        self.assertEqual(self.post("/m/a/x", "").status, 200)


if __name__ == "__main__":
    unittest.main()
