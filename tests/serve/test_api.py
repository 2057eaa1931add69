"""The door's own API: the pool looked at, steered, and its events followed."""

import contextlib
import http.client
import json
import os
import pathlib
import resource
import signal
import socket
import struct
import subprocess
import threading
import time
import unittest

from door import PATIENCE_S, POOLCTL, DoorTest, descriptors, eventually, read_all

VIEWERS = 1000
# What moves between two looks: ages, and what the coordinator measures.
MOVES = ("scans", "meters", "measured_bytes", "peak_bytes")
JSON = {"Content-Type": "application/json"}


def still(value):
    """A look without its ages and counters."""
    if isinstance(value, list):
        return [still(one) for one in value]
    if not isinstance(value, dict):
        return value
    return {
        key: None if key.endswith("_ms") or key in MOVES or key == "text" else still(one)
        for key, one in value.items()
    }


class ApiTest(DoorTest):
    def order(self, call, body, fields=None, timeout=PATIENCE_S):
        text = body if isinstance(body, (bytes, str)) else json.dumps(body)
        fields = JSON | (fields or {})
        return self.request("POST", f"/api/pool/{call}", text, fields, timeout)

    def look(self, what):
        reply = self.get(f"/api/pool/{what}")
        self.assertEqual(reply.status, 200, reply.body)
        return reply.json

    def loaded(self, model="a"):
        self.assertEqual(self.order("load", {"model": model}).status, 200)

    def setting(self, name, model="a"):
        return self.ctl("explain", model)["settings"][name]["value"]


class Looks(ApiTest):
    def test_each_is_what_poolctl_prints(self):
        self.start(models=self.model("a") + self.model("b", more='aliases = ["bee"]'))
        self.loaded()
        talk = self.socket()
        talk.sendall(b"POST /m/a/stream?600,0.1 HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n")
        self.assertTrue(eventually(self.leases))
        for what in ("status", "list", "leases", "waiters", "workers"):
            with self.subTest(what):
                reply = self.get(f"/api/pool/{what}")
                self.assertEqual(reply.fields["Content-Type"], "application/json")
                self.assertEqual(still(reply.json), still(self.ctl(what)))
        for model in ("a", "b", "nobody", "Qwen/Qwen3:Q4"):
            self.assertEqual(still(self.look(f"explain/{model}")), still(self.ctl("explain", model)))
        self.assertEqual(self.look("explain/bee")["model"], "b")
        self.assertEqual(self.look("explain/%62")["model"], "b")
        # To the byte, where nothing in it moves.
        argv = [POOLCTL, "--dir", self.dir, "-o", "json", "events"]
        for query, flags in (
            ("", []),
            ("?since=2", ["--since", "2"]),
            ("?count=1", ["--count", "1"]),
            ("?since=1&count=1", ["--since", "1", "--count", "1"]),
            ("?model=a&kind=loaded", ["--model", "a", "--kind", "loaded"]),
            ("?model=b", ["--model", "b"]),
            ("?since=1h", ["--since", "1h"]),
        ):
            reply = self.get(f"/api/pool/events{query}")
            if reply.body:
                self.assertEqual(reply.fields["Content-Type"], "application/x-ndjson")
            printed = subprocess.run(argv + flags, capture_output=True, check=True).stdout
            self.assertEqual(reply.body, printed, query)

    def meters_of_the_pool(self):
        """But for those that count HTTP requests themselves."""
        meters = self.ctl("status")["meters"]
        return [one for one in meters if not one["name"].startswith("modelpool_http_")]

    def test_looking_is_no_use(self):
        log = f"{self.dir}/access.log"
        self.start(models=self.model("a"), serve=f'access_log = "{log}"')
        self.loaded()
        before = self.backends()["a"]["idle_ms"]
        self.assertTrue(eventually(lambda: self.backends()["a"]["idle_ms"] > before + 50))
        meters = self.meters_of_the_pool()
        paths = [f"/api/pool/{what}" for what in ("status", "list", "events", "explain/a")]
        for path in (*paths, "/running", "/api/ps"):
            self.assertEqual(self.get(path).status, 200)
        self.assertGreater(self.backends()["a"]["idle_ms"], before + 50)
        self.assertEqual(self.meters_of_the_pool(), meters)
        self.assertIn("path=/api/pool/explain/a status=200", pathlib.Path(log).read_text())

    def test_head_says_what_get_would(self):
        self.start(models=self.model("a"))
        for path in ("/api/pool/waiters", "/api/pool/explain/a", "/running", "/api/ps", "/api/pool/no"):
            with self.subTest(path):
                get, head = self.get(path), self.request("HEAD", path)
                self.assertEqual((head.status, head.body), (get.status, b""))
                self.assertEqual(head.fields["Content-Type"], get.fields["Content-Type"])
        head = self.request("HEAD", "/api/pool/events?follow=1")
        self.assertEqual((head.status, head.body), (200, b""))
        self.assertEqual(head.fields["Content-Type"], "text/event-stream")

    def test_other_methods_and_other_paths(self):
        self.start(models=self.model("a"))
        for method, path, allowed in (
            ("POST", "/api/pool/list", "GET, HEAD"), ("DELETE", "/api/pool/explain/a", "GET, HEAD"),
            ("PUT", "/running", "GET, HEAD"), ("GET", "/api/pool/evict", "POST"),
            ("HEAD", "/api/pool/load", "POST"), ("POST", "/livez", "GET, HEAD"),
        ):  # fmt: skip
            with self.subTest(path):
                reply = self.request(method, path, '{"model": "a"}', JSON)
                self.assertEqual((reply.status, reply.fields["Allow"]), (405, allowed))
        for method in ("GET", "POST", "DELETE"):
            reply = self.request(method, "/api/pool/x?model=a", "{}", JSON)
            self.assertEqual(reply.status, 404)
            self.assertIn("explain/NAME", reply.message)
        self.assertEqual(self.backends(), {})

    def test_names_of_strangers_are_text(self):
        name = '<script>"</script>\\ ä'
        command = f'command = ["python3", "-c", {json.dumps("import time; time.sleep(600)")}]'
        models = f"[models.{json.dumps(name)}]\n{command}\naddress = \"127.0.0.1:1\"\nready = \"tcp\"\n"
        self.start(models=models)
        for hostile in (name, 'x"},{"', "\x7f\n", "x" * 300, "\U0001f600"):
            for call, more in (("pin", {}), ("load", {"timeout": "1ms"})):
                reply = self.order(call, {"model": hostile} | more)
                self.assertIn(reply.status, (400, 404, 504), reply.body)
                self.assertIn("error", reply.json)
        quoted = "%3Cscript%3E%22%3C/script%3E%5C%20%C3%A4"
        self.assertEqual(self.look(f"explain/{quoted}")["model"], name)
        self.assertTrue(eventually(lambda: name in self.backends()))
        self.assertEqual([row["model"] for row in self.look("list")], [name])
        for query in ("%00", "%ff", "a%0ab"):
            self.assertEqual(self.get(f"/api/pool/explain/{query}").status, 400)

    def test_what_other_servers_front_ends_read(self):
        self.start(models=self.model("a") + self.model("b") + self.model("c", "--load 60"),
                   pool='max_backends = 3\nidle_timeout = "90s"')  # fmt: skip
        self.assertEqual(self.get("/running").json, {"running": []})
        self.assertEqual(self.get("/api/ps").json, {"models": []})
        self.loaded("a")
        self.loaded("b")
        self.assertEqual(self.order("pin", {"model": "b"}).status, 200)
        self.assertEqual(self.order("load", {"model": "c", "timeout": "1ms"}).status, 504)
        address = self.backends()["a"]["address"]
        running = self.get("/running").json["running"]
        self.assertEqual([row["model"] for row in running], ["a", "b"])
        self.assertEqual(
            running[0],
            {"model": "a", "state": "ready", "cmd": "", "proxy": f"http://{address}", "ttl": 90,
             "name": "", "description": ""},
        )  # fmt: skip
        first, second = self.get("/api/ps").json["models"]
        self.assertEqual([first["name"], second["model"]], ["b", "a"])
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        later = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 100))
        self.assertTrue(now < second["expires_at"] < later, second)
        self.assertGreater(first["expires_at"], "2200-")
        self.assertIsInstance(second["digest"], str)
        self.assertEqual(second["details"]["families"], None)
        self.assertEqual(second["details"]["family"], "")
        self.assertTrue(
            eventually(lambda: self.get("/api/ps").json["models"][1].get("size", 0) > 0),
            "measured by the coordinator",
        )


class Orders(ApiTest):
    def test_each_is_seen_in_poolctl(self):
        self.start(models=self.model("a", more='aliases = ["eh"]') + self.model("b"))
        loaded = self.order("load", {"model": "eh", "timeout": "1m"}).json
        row = self.backends()["a"]
        self.assertGreaterEqual(loaded.pop("took_ms"), 0)
        self.assertEqual(
            loaded,
            {"model": "a", "address": row["address"], "pid": row["pid"], "loaded_here": True},
        )
        self.assertFalse(self.order("load", {"model": "a"}).json["loaded_here"])
        self.assertEqual(self.leases(), [])
        self.assertEqual(self.order("pin", {"model": "eh"}).json, {"model": "a", "pinned": True})
        self.assertTrue(self.backends()["a"]["pinned"])
        self.assertEqual(self.order("unpin", {"model": "a"}).json, {"model": "a", "pinned": False})
        self.assertFalse(self.backends()["a"]["pinned"])
        values = {"idle_timeout": "2h", "max-backends": 3, "pinned": False}
        done = self.order("set", values)
        self.assertEqual(done.json["set"], {"idle_timeout": "2h", "max-backends": "3", "pinned": "false"})
        self.assertEqual(self.setting("idle_timeout"), "2h")
        self.assertEqual(self.ctl("status")["max_backends"], 3)
        gone = self.order("evict", {"model": "eh"}).json
        self.assertGreaterEqual(gone.pop("took_ms"), 0)
        self.assertEqual(
            gone, {"model": "a", "gone": True, "pid": row["pid"], "generation": row["generation"]}
        )
        self.assertEqual(self.backends(), {})
        self.loaded("b")
        asked = self.order("evict", {"model": "b", "timeout": "0"}).json
        self.assertFalse(asked["gone"])
        self.assertTrue(eventually(lambda: not self.backends()))

    def test_what_is_in_use_stays_unless_it_is_forced(self):
        self.start(models=self.model("a"), pool='max_backends = 2\ndrain_timeout = "100ms"')
        self.loaded()
        talk = self.socket()
        talk.sendall(b"POST /m/a/stream?600,0.1 HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n")
        self.assertTrue(eventually(self.leases))
        reply = self.order("evict", {"model": "a"})
        self.assertEqual((reply.status, reply.json["error"]["code"]), (409, "in_use"))
        self.assertEqual(self.backends()["a"]["state"], "ready")
        self.assertTrue(self.order("evict", {"model": "a", "force": True}).json["gone"])
        self.assertEqual(self.backends(), {})

    def test_what_is_wrong_is_named(self):
        rule = '[[model]]\nmatch = "b"\npinned = true\n'
        self.start(models=self.model("a") + self.model("b"), more=rule)
        self.loaded("b")
        for call, body, status, code in (
            ("pin", {"model": "a"}, 404, "not_loaded"),
            ("unpin", {"model": "aa"}, 404, "model_not_found"),
            ("evict", {"model": "a"}, 404, "not_loaded"),
            ("evict", {"model": "nobody"}, 404, "model_not_found"),
            ("load", {"model": "aa"}, 404, "model_not_found"),
            ("unpin", {"model": "b"}, 409, "pinned_by_settings"),
            ("set", {"colour": "red"}, 400, "invalid"),
            ("set", {"idle_timeout": "soon"}, 400, "invalid"),
            ("set", {"idle_timeout": "1h", "idle-timeout": "2h"}, 400, "invalid"),
            ("set", {"idle_timeout": {}}, 400, "bad_request"),
            ("pin", {"model": "a\n"}, 400, "invalid"),
            ("pin", "model=a", 400, "invalid_json"),
            ("pin", "[" * 60000, 400, "invalid_json"),
            ("pin", {"model": "a", "now": 1}, 400, "bad_request"),
        ):
            with self.subTest(call=call, body=str(body)[:60]):
                reply = self.order(call, body)
                self.assertEqual((reply.status, reply.json["error"]["code"]), (status, code), reply.body)
        self.assertIn("colour", self.order("set", {"colour": "red"}).message)
        self.assertIn('"now"', self.order("pin", {"model": "a", "now": 1}).message)
        self.assertEqual(self.setting("idle_timeout"), "off", "all or none")

    def test_bodies_are_json_and_small(self):
        self.start(models=self.model("a"))
        self.loaded()
        pin = json.dumps({"model": "a"})
        for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""):
            self.assertEqual(self.order("pin", pin, {"Content-Type": kind}).status, 415)
        exact = pin + " " * (64 * 1024 - len(pin))
        self.assertEqual(self.order("pin", exact + " ").status, 413)
        chunks = iter([exact.encode(), b" "])
        self.assertEqual(self.request("POST", "/api/pool/pin", chunks, JSON).status, 413)
        self.assertFalse(self.backends()["a"]["pinned"])
        self.assertEqual(self.order("pin", exact).status, 200)
        talk = self.socket()
        talk.sendall(
            b"POST /api/pool/unpin HTTP/1.1\r\nHost: a.localhost\r\nHost: localhost\r\n\r\n"
        )
        self.assertIn(b" 400 ", talk.recv(100))
        # Half of an order is none.
        talk = self.socket()
        head = b"POST /api/pool/unpin HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        talk.sendall(head + b"Content-Length: 100\r\nExpect: 100-continue\r\n\r\n")
        self.assertIn(b" 100 ", talk.recv(100))
        talk.sendall(pin.encode())
        talk.shutdown(socket.SHUT_WR)
        self.assertEqual(read_all(talk), b"")
        self.assertTrue(self.backends()["a"]["pinned"])

    def test_keys_say_who_may_steer(self):
        keys = pathlib.Path(self.dir, "keys")
        keys.touch(0o600)
        keys.write_text("the-user use\nthe-boss steer\n")
        self.start(models=self.model("a"), serve=f'keys = "{keys}"')
        use, steer = {"x-api-key": "the-user"}, {"Authorization": "Bearer the-boss"}
        for fields, looks, orders in (({}, 401, 401), ({"api-key": "x"}, 401, 401),
                                      (use, 200, 403), (steer, 200, 200)):  # fmt: skip
            with self.subTest(fields):
                for path in ("/api/pool/status", "/running", "/api/ps"):
                    self.assertEqual(self.get(path, fields=fields).status, looks)
                self.assertEqual(self.order("load", {"model": "a"}, fields).status, orders)
                self.assertEqual(self.order("set", {"keep": 0}, fields).status, orders)

    def test_a_page_of_others_changes_nothing_and_sees_nothing(self):
        self.start(models=self.model("a"))
        page = {"Origin": "https://evil.example"}
        self.assertEqual(self.order("load", {"model": "a"}, page).status, 403)
        self.assertEqual(self.get("/api/pool/list", fields=page).status, 403)
        self.assertEqual(self.get("/api/pool/events?follow=1", fields=page).status, 403)
        self.assertEqual(self.backends(), {})

    def test_who_leaves_waits_for_nothing(self):
        log = pathlib.Path(self.dir, "access.log")
        self.start(models=self.model("a", "--load 60"), serve=f'access_log = "{log}"')
        body = b'{"model": "a"}'
        talk = self.socket()
        talk.sendall(
            b"POST /api/pool/load HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b"Content-Length: %d\r\n\r\n%s" % (len(body), body)
        )
        self.assertTrue(eventually(lambda: self.backends().get("a", {}).get("state") == "starting"))
        talk.close()
        self.assertTrue(eventually(lambda: 'end="the client left"' in log.read_text()))
        done = self.order("evict", {"model": "a"})
        self.assertEqual((done.status, done.json.get("gone")), (200, True), "it was being loaded")

    def test_without_a_coordinator_nothing_is_said_to_be_done(self):
        master = self.start(models=self.model("a"))
        self.loaded()
        master.kill()
        master.wait()
        os.kill(self.ctl("status")["coordinator"]["pid"], signal.SIGKILL)
        reply = self.order("evict", {"model": "a"})
        self.assertEqual((reply.status, reply.json["error"]["code"]), (503, "no_coordinator"))
        self.assertTrue(self.backends()["a"]["evict_requested"])
        self.assertFalse(self.look("status")["coordinator"]["alive"])


class Viewer:
    """One who follows the events."""

    def __init__(self, test, query="", fields=None, receive_bytes=None, port=None):
        self.talk, self.response = socket.socket(), None
        test.addCleanup(self.close)
        self.talk.settimeout(PATIENCE_S)
        if receive_bytes:
            self.talk.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        self.talk.connect(("127.0.0.1", port or test.port))
        lines = "".join(f"{name}: {value}\r\n" for name, value in (fields or {}).items())
        path = f"/api/pool/events?follow=1{query}"
        self.talk.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n{lines}\r\n".encode())

    def open(self):
        if self.response is None:
            self.response = http.client.HTTPResponse(self.talk, method="GET")
            self.response.begin()
        return self.response

    def close(self):
        if self.response is not None:
            self.response.close()  # it has the socket too
        self.talk.close()

    def line(self):
        return self.open().readline().decode()

    def next(self):
        """{"id", "data", "event"} of the next one; None at the end. Comments are skipped."""
        found = {}
        until = time.monotonic() + PATIENCE_S
        while line := self.line():
            assert time.monotonic() < until, "signs of life and nothing else"
            if line == "\n" and found:
                found["data"] = json.loads(found["data"])
                found["id"] = int(found["id"])
                return found
            name, value = line.rstrip("\n").split(":", 1)
            if name:
                found[name] = value[1:]
        return None


class Follow(ApiTest):
    def begin(self, **config):
        """Until all serve, and no event comes by itself any more."""
        master = self.start(**config)
        self.assertTrue(eventually(lambda: "serving pool default: " in self.said()))
        self.assertTrue(eventually(lambda: "settings_changed" in [one["kind"] for one in self.events()]))
        return master

    def last(self):
        return self.events()[-1]["seq"]

    def make_event(self):
        """Another settings_changed."""
        self.made = getattr(self, "made", 0) + 1
        self.assertEqual(self.order("set", {"idle_timeout": f"{1000 + self.made % 7}s"}).status, 200)

    def test_events_come_as_they_happen(self):
        self.begin(models=self.model("a"))
        viewer = Viewer(self)
        fields = viewer.open().headers
        self.assertEqual(fields["Content-Type"], "text/event-stream")
        self.assertEqual(fields["Cache-Control"], "no-cache")
        known = [viewer.next() for _ in self.events()]
        self.assertEqual([one["data"] for one in known], self.events())
        self.loaded()
        loaded = viewer.next()
        self.assertEqual(loaded["data"], self.events()[-1])
        self.assertEqual((loaded["data"]["kind"], loaded["data"]["model"]), ("loaded", "a"))
        self.assertEqual(loaded["id"], loaded["data"]["seq"])
        self.assertEqual(self.order("evict", {"model": "a"}).status, 200)
        self.assertEqual(viewer.next()["data"]["kind"], "evicted")

    def test_who_comes_again_goes_on_behind_what_it_had(self):
        self.begin(models=self.model("a"))
        self.loaded()
        had = self.last()
        self.assertEqual(self.order("evict", {"model": "a"}).status, 200)
        again = Viewer(self, fields={"Last-Event-ID": had})
        self.assertEqual(again.next()["id"], had + 1)
        since = Viewer(self, f"&since={had}")
        self.assertEqual(since.next()["id"], had)
        # Not yet given: of an earlier pool. All of this one is new.
        earlier = Viewer(self, fields={"Last-Event-ID": 10**9})
        self.assertEqual(earlier.next()["id"], 1)

    def test_only_what_it_wants(self):
        self.begin(models=self.model("a") + self.model("b", more='aliases = ["bee"]'))
        of_b = Viewer(self, "&model=bee")
        loads = Viewer(self, "&kind=loaded&kind=load_failed&count=2")
        self.loaded("a")
        self.loaded("b")
        self.assertEqual(of_b.next()["data"]["model"], "b")
        self.assertEqual([loads.next()["data"]["model"] for _ in "ab"], ["a", "b"])
        self.assertIsNone(loads.next(), "it has its count")

    def test_http_1_0_is_followed_until_the_end(self):
        self.begin(models=self.model("a"))
        talk = self.socket()
        talk.sendall(b"GET /api/pool/events?follow=1&count=1 HTTP/1.0\r\nHost: localhost\r\n\r\n")
        head, _, body = read_all(talk).partition(b"\r\n\r\n")
        self.assertNotIn(b"chunked", head.lower())
        self.assertTrue(body.startswith(b"id: 1\ndata: {"), body)
        self.assertTrue(body.endswith(b"}\n\n"))

    def test_a_viewer_of_quiet_gets_signs_of_life(self):
        self.begin(models=self.model("a"))
        viewer = Viewer(self, f"&since={self.last() + 1}")
        self.assertEqual(viewer.line(), ": alive\n")

    def test_what_the_ring_forgot_is_counted(self):
        self.begin(models=self.model("a"), more="[capacity]\nevents = 16\n")
        viewer = Viewer(self)
        while viewer.next()["id"] < 40:
            self.make_event()
        oldest = self.events()[0]["seq"]
        lagged = Viewer(self, "&since=3").next()
        self.assertEqual(lagged["event"], "lagged")
        self.assertEqual(lagged["data"]["first"], 3)
        self.assertEqual(lagged["data"]["lost"], lagged["data"]["last"] - 2)
        self.assertGreaterEqual(lagged["data"]["last"], oldest - 1)
        self.assertEqual(lagged["id"], lagged["data"]["last"])

    def test_who_does_not_read_loses_and_holds_up_nobody(self):
        self.begin(models=self.model("a"), more="[capacity]\nevents = 16\n")
        first = self.last() + 1
        slow = Viewer(self, f"&since={first}", receive_bytes=4096)
        quick = Viewer(self, f"&since={first}")
        total = 1500
        for number in range(total):
            self.make_event()
            self.assertEqual(quick.next()["id"], first + number)
        seen, lost = [], 0
        while not seen or seen[-1] < first + total - 1:
            one = slow.next()
            if one.get("event") == "lagged":
                lost += one["data"]["lost"]
                self.assertEqual(one["data"]["first"], seen[-1] + 1)
            else:
                seen.append(one["id"])
        self.assertGreater(lost, 0)
        self.assertEqual(len(seen) + lost, total)
        self.assertEqual(seen, sorted(set(seen)))

    def resident_bytes(self):
        return sum(
            int(pathlib.Path(f"/proc/{pid}/statm").read_text().split()[1]) * resource.getpagesize()
            for pid in self.workers()
        )

    def test_a_thousand_viewers(self):
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, soft + VIEWERS + 100), hard))
        self.addCleanup(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        self.begin(models=self.model("a"))
        self.loaded()
        files, attached = descriptors(self.workers()), self.ctl("workers")
        since = self.last() + 1
        for one in [Viewer(self, f"&since={since}") for _ in range(4)]:
            one.open()
            one.close()
        self.assertTrue(eventually(lambda: descriptors(self.workers()) <= files))
        files = descriptors(self.workers())  # without what was just closing
        memory = self.resident_bytes()
        viewers = [Viewer(self, f"&since={since}") for _ in range(VIEWERS)]
        for viewer in viewers:
            self.assertEqual(viewer.open().status, 200)
        self.assertEqual(len(self.ctl("workers")), len(attached), "a viewer is no worker")
        self.assertEqual(self.leases(), [])
        self.assertGreaterEqual(descriptors(self.workers()), files + VIEWERS)
        self.assertEqual(self.order("evict", {"model": "a"}).status, 200)
        for viewer in viewers:
            self.assertEqual(viewer.next()["data"]["kind"], "evicted")
        self.assertLess((self.resident_bytes() - memory) / VIEWERS, 32 * 1024)
        # Some in order, some with a reset.
        for number, viewer in enumerate(viewers):
            if number % 2:
                off = struct.pack("ii", 1, 0)
                viewer.talk.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, off)
            viewer.close()
        self.assertTrue(eventually(lambda: descriptors(self.workers()) <= files))

    def test_viewers_vanish_while_events_come(self):
        self.begin(models=self.model("a"))
        files = descriptors(self.workers())
        ends = threading.Event()

        def come_and_go():
            while not ends.is_set():
                viewer = Viewer(self)
                with contextlib.suppress(OSError):
                    viewer.talk.recv(100)
                viewer.talk.close()

        threads = [threading.Thread(target=come_and_go) for _ in range(4)]
        for thread in threads:
            thread.start()
        try:
            for _ in range(100):
                self.make_event()
        finally:
            ends.set()
            for thread in threads:
                thread.join()
        self.assertTrue(eventually(lambda: descriptors(self.workers()) <= files))
        self.assertEqual(Viewer(self).next()["id"], 1)

    def test_the_door_ends_and_its_viewers_come_to_an_end(self):
        master = self.begin(models=self.model("a"))
        viewers = [Viewer(self, f"&since={self.last() + 1}") for _ in range(8)]
        for viewer in viewers:
            viewer.open()
        master.send_signal(signal.SIGTERM)
        for viewer in viewers:
            self.assertIsNone(viewer.next(), "with the last chunk")
        self.assertEqual(master.wait(PATIENCE_S), 0)

    def test_workers_that_retire_send_their_viewers_to_the_new_ones(self):
        master = self.begin(models=self.model("a"))
        old = self.workers()
        viewer = Viewer(self)
        had = viewer.next()["id"]
        config = pathlib.Path(self.config)
        config.write_text(config.read_text().replace("workers = 2", "workers = 3"))
        master.send_signal(signal.SIGHUP)
        while one := viewer.next():
            had = one["id"]
        self.assertTrue(eventually(lambda: set(self.workers()).isdisjoint(old)))
        self.assertEqual(len(self.workers()), 3)
        self.loaded()
        again = Viewer(self, fields={"Last-Event-ID": had})
        while one := again.next():
            if one["data"]["kind"] == "loaded":
                break
        self.assertIsNotNone(one)

    def test_another_pool_of_that_name_is_followed_from_its_beginning(self):
        # Its worker moves on by itself once the old one is gone.
        self.begin(models=self.model("a"))
        viewer = Viewer(self)
        for _ in self.events():
            viewer.next()
        for _ in range(3):
            self.make_event()
            viewer.next()
        uuid = self.ctl("status")["uuid"]
        os.unlink(self.ctl("status")["path"])
        self.assertTrue(eventually(lambda: (self.ctl("status") or {}).get("uuid") not in (uuid, None)))
        self.assertTrue(eventually(lambda: self.get("/api/pool/status").json.get("uuid") != uuid))
        self.assertEqual(viewer.next()["id"], 1)


if __name__ == "__main__":
    unittest.main()
