"""Bodies, models by every way of naming them, errors in OpenAI's shape, connections kept."""

import contextlib
import json
import os
import pathlib
import select
import signal
import subprocess
import sys
import unittest
import urllib.parse

from door import HERE, DoorTest, eventually, free_port, read_all, read_answer


class Requests(DoorTest):
    def setUp(self):
        super().setUp()
        models = self.model("a", more='aliases = ["gpt-4o", "ein/zwei:Q4"]') + self.model("b")
        self.start(models=models, serve='body_memory = "64KiB"\nbody_limit = "1MiB"')

    def test_models_and_health(self):
        listed = self.get("/v1/models").json
        self.assertEqual(listed["object"], "list")
        self.assertEqual([one["id"] for one in listed["data"]], ["a", "b"])
        self.assertEqual(listed["data"][0]["state"], "unloaded")
        self.post("/m/a/x", "")
        self.assertEqual(self.get("/v1/models/a").json["state"], "ready")
        self.assertEqual(self.get("/v1/models/nothing").status, 404)
        self.assertEqual(self.get("/livez").status, 200)
        self.assertTrue(eventually(lambda: self.get("/health").status == 200))
        self.assertEqual(self.get("/nothing").status, 404)
        head = self.request("HEAD", "/v1/models")
        self.assertEqual((head.status, head.body), (200, b""))

    def test_the_model_is_named_by_body_query_path_and_form(self):
        form = (
            '--X\r\nContent-Disposition: form-data; name="file"; filename="model"\r\n\r\nmodel\r\n'
            '--X\r\nContent-Disposition: form-data; name="model"\r\n\r\ngpt-4o\r\n--X--\r\n'
        )
        for path, body, fields, target in (
            ("/v1/x", '{"x":{"model":"b"},"model":"a"}', {}, "/v1/x"),
            ("/v1/x", '{"mod\\u0065l":"\\u0061"}', {}, "/v1/x"),
            ("/v1/x?model=a&y=1", "nothing", {}, "/v1/x?model=a&y=1"),
            ("/m/a/v1/x?y=1", "nothing", {}, "/v1/x?y=1"),
            ("/m/ein%2Fzwei%3AQ4/v1/x", "nothing", {}, "/v1/x"),
            ("/v1/audio", form, {"Content-Type": "multipart/form-data; boundary=X"}, "/v1/audio"),
        ):
            with self.subTest(path=path, body=body):
                reply = self.post(path, body, fields=fields)
                self.assertEqual(reply.status, 200, reply.body)
                self.assertEqual(reply.json["name"], "a")
                self.assertEqual(reply.json["target"], target)
                self.assertEqual(reply.fields["X-Modelpool-Model"], "a")

    def test_an_aliass_value_is_replaced_and_nothing_else(self):
        body = ' {"x": "gpt-4o", "model" :  "gpt-4o" ,"y":"\\u00e9"} '
        self.assertEqual(self.post("/v1/x", body).json["body"], body.replace('"gpt-4o" ,', '"a" ,'))
        body = '{"model":"a",  "z": 1e5}'
        self.assertEqual(self.post("/v1/x", body).json["body"], body)
        self.assertEqual(self.get("/v1/x?y=1&model=gpt-4o").json["target"], "/v1/x?y=1&model=a")

    def test_an_alias_and_its_name_are_one_model_wherever_they_stand(self):
        self.assertEqual(self.post("/m/gpt-4o/x", '{"model":"a"}').json["name"], "a")
        self.assertEqual(self.post("/x?model=a", '{"model":"gpt-4o"}').json["name"], "a")
        self.assertEqual(self.get("/v1/models/gpt-4o").json["id"], "a")

    def test_errors(self):
        for path, body, fields, status, words in (
            ("/v1/x", '{"messages":[]}', {}, 400, "model"),
            ("/v1/x", '{"model":"a","model":"b"}', {}, 400, "model"),
            ("/v1/x?model=b", '{"model":"a"}', {}, 400, "model"),
            ("/v1/x", '{"model":7}', {}, 400, "model"),
            ("/v1/x", '{"model":"a"', {}, 400, "JSON"),
            ("/v1/x", '\ufeff{"model":"a"}', {}, 400, ""),
            ("/v1/x", '{"model":"a"}'.encode("utf-16"), {}, 400, ""),
            ("/v1/x", '{"model":"gpt-4"}', {}, 404, "gpt-4o"),
            ("/v1/x", '{"model":"a"}', {"Content-Encoding": "gzip"}, 415, ""),
            ("/v1/x", "x" * (2 << 20), {}, 413, "body_limit"),
            ("/v1/x", '{"model":"a"}', {"Expect": "more"}, 417, ""),
        ):
            with self.subTest(body=body[:40]):
                if isinstance(body, str):
                    body = body.encode()
                reply = self.post(path, body, fields=fields)
                self.assertEqual(reply.status, status, reply.body)
                self.assertIn(words, reply.message)
                self.assertEqual(
                    set(reply.json["error"]), {"message", "type", "code", "param"}
                )
        # Coded, but named elsewhere: passed on as it is.
        coded = self.post("/m/a/x", b"\x1f\x8b", fields={"Content-Encoding": "gzip"})
        self.assertEqual(coded.json["fields"]["content-encoding"], "gzip")

    def test_bodies_of_any_size_arrive_whole(self):
        for size in (0, 1, 16383, 16384, 65536, 200_000, 1_000_000):
            with self.subTest(size):
                text = os.urandom(size // 2).hex().encode() if size > 1 else b"x" * size
                reply = self.post("/v1/x?model=a", text)
                self.assertEqual(reply.status, 200, reply.body)
                said = reply.json["body"]
                self.assertEqual(said if isinstance(said, int) else said.encode(),
                                 len(text) if isinstance(said, int) else text)
        answer = self.post("/m/a/big?3000000", "")
        self.assertEqual(len(answer.body), 3_000_000)

    def test_a_larger_body_is_passed_on_as_it_comes(self):
        self.post("/m/a/x", "")
        large = b"y" * (3 << 20)
        self.assertEqual(self.post("/m/a/x", large).json["body"], len(large))
        talk = self.socket()
        talk.sendall(b"POST /m/a/x HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n")
        for i in range(0, len(large), 100_000):
            piece = large[i : i + 100_000]
            talk.sendall(b"%x\r\n%s\r\n" % (len(piece), piece))
        talk.sendall(b"0\r\n\r\n")
        self.assertEqual(json.loads(read_answer(talk)[1])["body"], len(large))

    def test_what_streams_is_passed_on_byte_for_byte(self):
        self.post("/m/a/x", "")
        form = (
            b'--X\r\nContent-Disposition: form-data; name="model"\r\n\r\ngpt-4o\r\n--X--\r\n'
            + b"e" * (2 << 20)
        )
        fields = {"Content-Type": "multipart/form-data; boundary=X"}
        reply = self.post("/m/gpt-4o/x", form, fields=fields)
        self.assertEqual((reply.status, reply.json["body"]), (200, len(form)))
        large = b'{"model":"gpt-4o","x":"' + b"y" * (2 << 20) + b'"}'
        reply = self.post("/m/gpt-4o/x", large, fields={"Content-Type": "application/json"})
        self.assertEqual((reply.status, reply.json["body"]), (200, len(large)))

    def test_a_bad_chunk_of_what_streams_is_refused(self):
        self.post("/m/a/x", "")
        talk = self.socket()
        talk.sendall(b"POST /m/a/x HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n")
        piece = b"y" * (2 << 20)
        talk.sendall(b"%x\r\n%s\r\n" % (len(piece), piece))
        self.assertTrue(eventually(self.leases))
        talk.sendall(b"no size\r\n" + b"z" * 40_000)
        self.assertIn(b" 400 ", read_all(talk))
        self.assertTrue(eventually(lambda: not self.leases()))

    def test_a_connection_is_not_used_again_where_something_may_be_left_in_it(self):
        self.post("/m/a/x", "")
        post = b"POST /m/a/x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n"
        # A body behind an answer to HEAD; a body that the backend did not read.
        head = b"HEAD /m/a/late HTTP/1.1\r\nHost: localhost\r\n\r\n"
        unread = b"GET /m/a/health HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\n\r\nleft"
        for first in (head, unread):
            with self.subTest(first):
                talk = self.socket()  # one connection: one worker
                talk.sendall(first)
                answer = b""
                while b"\r\n\r\n" not in answer:
                    answer += talk.recv(1)
                if first is unread:
                    self.assertEqual(talk.recv(2), b"ok")
                talk.sendall(post)
                head_of_second, body = read_answer(talk)
                self.assertIn(b" 200 ", head_of_second)
                self.assertEqual(json.loads(body)["method"], "POST")

    def test_interim_answers_are_passed_over_and_counted(self):
        self.post("/m/a/x", "")
        early, last = b"HTTP/1.1 103 Early Hints\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx"
        self.assertEqual(self.post("/m/a/raw", b"x\0" + early * 2 + last).body, b"x")
        self.assertEqual(self.post("/m/a/raw", b"x\0" + early * 50 + last).status, 502)
        other = b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n"
        self.assertEqual(self.post("/m/a/raw", b"x\0" + other + last).status, 502)

    def test_what_streams_is_not_sent_twice(self):
        self.post("/m/a/x", "")
        self.assertEqual(self.post("/m/a/die?once", b"y" * (3 << 20)).status, 502)
        self.assertEqual(sum("/die?once" in line for line in self.seen()), 1)

    def test_an_answer_that_is_cut_does_not_look_whole(self):
        self.post("/m/a/x", "")
        talk = self.socket()
        talk.sendall(b"POST /m/a/die?body HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n")
        self.assertFalse(read_all(talk).endswith(b"0\r\n\r\n"))

    def test_an_answer_of_no_length_that_is_cut_is_reset(self):
        """To HTTP/1.0, where an end is the end of the answer."""
        self.post("/m/a/x", "")
        for query, ends_in in (("body", None), ("event", ConnectionResetError)):
            with self.subTest(query):
                talk = self.socket()
                talk.sendall(f"POST /m/a/die?{query} HTTP/1.0\r\nContent-Length: 0\r\n\r\n".encode())
                try:
                    while talk.recv(1000):
                        pass
                    end = None
                except ConnectionResetError:
                    end = ConnectionResetError
                self.assertEqual(end, ends_in)

    def test_chunks_and_expect(self):
        talk = self.socket()
        talk.sendall(
            b"POST /v1/x HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\n"
            b"Content-Length: 13\r\n\r\n"
        )
        self.assertEqual(talk.recv(100), b"HTTP/1.1 100 Continue\r\n\r\n")
        talk.sendall(b'{"model":"a"}')
        self.assertIn(b" 200 ", read_answer(talk)[0])
        # One that is too long hears so before it is sent.
        talk.sendall(
            b"POST /v1/x HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\n"
            b"Content-Length: 99999999\r\n\r\n"
        )
        self.assertIn(b" 413 ", read_answer(talk)[0])

    def test_requests_behind_each_other(self):
        one = b'POST /v1/x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 13\r\n\r\n{"model":"a"}'
        talk = self.socket()
        talk.sendall(one * 3 + one.replace(b"localhost\r\n", b"localhost\r\nConnection: close\r\n"))
        answers = read_all(talk)
        self.assertEqual(answers.count(b"HTTP/1.1 200 OK"), 4)

    def test_old_clients_and_old_backends(self):
        talk = self.socket()
        talk.sendall(b"GET /m/a/stream?2,0 HTTP/1.0\r\n\r\n")
        answer = read_all(talk)
        self.assertNotIn(b"chunked", answer.lower())
        self.assertTrue(answer.endswith(b"data: [DONE]\n\n"), answer)
        reply = self.post("/m/a/until-close", "")
        self.assertEqual(reply.body, b"until the end")

    def test_an_early_answer_is_passed_on(self):
        self.assertEqual(self.post("/m/a/early", b"x" * 300_000).status, 403)

    def test_the_tag_is_the_request_id(self):
        talk = self.socket()
        talk.sendall(
            b"POST /m/a/wait?2 HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n"
            b"X-Request-Id: 123e4567-e89b-12d3-a456-426614174000\r\n\r\n"
        )
        self.assertTrue(eventually(self.leases))
        self.assertEqual(self.leases()[0]["tag"], "123e4567e89b12d3a45642661417400")
        self.assertIn(b"X-Request-Id: 123e4567-e89b-12d3-a456-426614174000", read_answer(talk)[0])


def is_read(talk):
    """Has the other end of a connection within this host read all that was sent?"""
    ends = {talk.getsockname()[1], talk.getpeername()[1]}
    queued = 0
    for line in pathlib.Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if {int(end.rsplit(":", 1)[1], 16) for end in fields[1:3]} == ends:
            queued += sum(int(bytes_, 16) for bytes_ in fields[4].split(":"))
    return queued == 0


class Bodies(DoorTest):
    def test_one_is_let_go_once_the_answer_has_begun(self):
        self.start(models=self.model("a"), serve='bodies_memory = "1MiB"')
        self.post("/m/a/x", "")
        talks = []
        for _ in range(3):  # two of them in one worker
            talk = self.socket()
            talk.sendall(b"POST /m/a/stream?30,0.1 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
                         b"Content-Length: 700000\r\n\r\n" + b"y" * 700_000)
            self.assertTrue(talk.recv(1))
            talks.append(talk)
        for talk in talks:
            self.assertTrue(read_all(talk).endswith(b"0\r\n\r\n"))


    def test_sizes_are_told_as_they_are(self):
        self.start(models=self.model("a"), serve='body_limit = "1KiB"')
        reply = self.post("/v1/x", "x" * 2000)
        self.assertEqual(reply.status, 413)
        self.assertIn("larger than body_limit, 1KiB;", reply.message)

    def hold(self, bytes_):
        """A connection that has sent so much of a body, and not all."""
        talk = self.socket()
        talk.sendall(
            f"POST /v1/x HTTP/1.1\r\nHost: localhost\r\nContent-Length: {bytes_ + 1}\r\n"
            "Expect: 100-continue\r\n\r\n".encode()
        )
        self.assertIn(b" 100 ", talk.recv(100))
        talk.sendall(b"x" * bytes_)
        self.assertTrue(eventually(lambda: is_read(talk)))
        return talk

    def test_bodies_of_others_fill_the_room(self):
        for serve, size in (('bodies_memory = "1MiB"\nbody_limit = "1MiB"', 700_000),
                            ('bodies_disk = "4MiB"\nbody_limit = "4MiB"', 3_000_000)):
            with self.subTest(serve):
                # A door has two workers: one of four bodies has company.
                self.start(models=self.model("a"), serve=serve, flags=["--workers", "1"])
                self.assertEqual(self.post("/v1/x?model=a", b"y" * (size + 4000)).status, 200)
                held = self.hold(size)
                reply = eventually(lambda: self.refused(size))
                self.assertIn(serve.split(" ")[0], reply.message)
                self.assertEqual(reply.fields["Retry-After"], "1")
                held.close()
                self.assertTrue(eventually(
                    lambda: self.post("/v1/x?model=a", b"y" * size).status == 200))
                self.masters[0].send_signal(signal.SIGTERM)
                self.masters.pop(0).wait()

    def refused(self, size):
        reply = self.post("/v1/x?model=a", b"y" * size)
        return reply if reply.status == 503 else None

    def test_one_alone_fits_up_to_the_limit_and_streams_beyond(self):
        self.start(models=self.model("a"), serve='bodies_disk = "2MiB"\nbody_limit = "2MiB"')
        for size in (2 << 20, (2 << 20) + 1, 5_000_000):
            self.assertEqual(self.post("/m/a/x", b"y" * size).status, 200, size)
        talk = self.socket()
        talk.sendall(b"POST /v1/x HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n")
        with contextlib.suppress(ConnectionError):
            for _ in range(3):
                talk.sendall(b"100000\r\n" + b"y" * (1 << 20) + b"\r\n")
        self.assertIn(b" 413 ", read_answer(talk)[0])


class Models(DoorTest):
    """What a config says of a model."""

    def test_names_are_what_people_write(self):
        names = ("ein Modell", "Qwen/Qwen3-8B-GGUF:Q4_K_M", "großes 模型", "50%+?#&")
        command = f"{sys.executable} {HERE}/odd_backend.py {{port}} odd {self.log}"
        self.start(models="".join(f'[models."{name}"]\ncommand = "{command}"\n' for name in names),
                   pool="max_backends = 4")
        self.assertEqual([one["id"] for one in self.get("/v1/models").json["data"]], sorted(names))
        for name in names:
            coded = urllib.parse.quote(name, safe="")
            pids = set()
            for path, body, target in (
                ("/v1/x", json.dumps({"model": name}), "/v1/x"),
                ("/v1/x", json.dumps({"model": name}, ensure_ascii=False).encode(), "/v1/x"),
                (f"/v1/x?model={coded}", "", f"/v1/x?model={coded}"),
                (f"/m/{coded}/v1/y?z", "", "/v1/y?z"),
            ):
                with self.subTest(name, path=path):
                    reply = self.post(path, body)
                    self.assertEqual(reply.status, 200, reply.body)
                    self.assertEqual(reply.json["target"], target)
                    told = reply.fields["X-Modelpool-Model"]
                    self.assertEqual(told.encode("latin-1").decode(), name)
                    pids.add(reply.json["pid"])
            self.assertEqual(len(pids), 1)
        self.assertEqual(self.backends().keys(), set(names))

    def test_folder_log_and_key_of_a_backend(self):
        folder = pathlib.Path(self.dir, "folder")
        folder.mkdir()
        more = 'cwd = "folder"\nlog = "own.log"\nbackend_key = "${DOOR_TEST_KEY}"'
        self.start(models=self.model("a", more=more), env={"DOOR_TEST_KEY": "its-own"})
        said = self.post("/m/a/x", "", fields={"x-api-key": "a-client-s"}).json
        self.assertEqual(said["fields"]["authorization"], "Bearer its-own")
        self.assertEqual(os.readlink(f"/proc/{said['pid']}/cwd"), str(folder))
        self.assertEqual(self.post("/m/a/die", "").status, 502)
        self.assertIn("odd: the last line it wrote", pathlib.Path(self.dir, "own.log").read_text())

    def test_the_access_log_goes_to_stderr_as_json(self):
        self.start(models=self.model("a"), serve='access_log = "-"\naccess_log_format = "json"')
        self.post("/m/a/x?secret", "12345", fields={"X-Request-Id": "mine"})

        def lines():
            found = [json.loads(line) for line in self.said().splitlines() if line[:1] == "{"]
            return [line for line in found if line["request_id"] == "mine"]

        self.assertTrue(eventually(lines))
        line = lines()[0]
        self.assertEqual(
            [line[key] for key in ("client", "method", "path", "status", "model", "in_bytes", "end")],
            ["127.0.0.1", "POST", "/m/a/x", 200, "a", 5, None],
        )
        for key in ("wait_ms", "first_byte_ms", "total_ms", "out_bytes"):
            self.assertGreaterEqual(line[key], 0)


class Connections(DoorTest):
    """How long they are kept, and how many."""

    LOOK = b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n"

    def test_an_idle_one_is_closed(self):
        self.start(models=self.model("a"), serve='keepalive_timeout = "200ms"')
        talk = self.socket()
        for _ in range(2):
            talk.sendall(self.LOOK)
            self.assertIn(b" 200 ", read_answer(talk)[0])
        self.assertEqual(talk.recv(1), b"")

    def test_there_are_as_many_as_is_said(self):
        self.start(models=self.model("a"), serve="max_connections = 2", flags=["--workers", "1"])
        first, second = self.socket(), self.socket()
        for talk in (first, second):
            talk.sendall(self.LOOK)
            self.assertIn(b" 200 ", read_answer(talk)[0])
        third = self.socket()
        third.sendall(self.LOOK)
        self.assertEqual(select.select([third], [], [], 0.5)[0], [])
        first.close()
        self.assertIn(b" 200 ", read_answer(third)[0])

    def test_old_workers_cut_what_takes_too_long(self):
        self.start(models=self.model("a"), serve='drain_timeout_serve = "300ms"')
        old = self.workers()
        talk = self.socket()
        talk.sendall(b"POST /m/a/endless HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n")
        self.assertIn(b" 200 ", talk.recv(100))
        text = pathlib.Path(self.config).read_text()
        pathlib.Path(self.config).write_text(text.replace("workers = 2", "workers = 1"))
        self.masters[0].send_signal(signal.SIGHUP)
        self.assertFalse(read_all(talk).endswith(b"0\r\n\r\n"))
        self.assertTrue(eventually(lambda: not set(old) & set(self.workers())))
        self.assertTrue(eventually(lambda: not self.leases()))
        self.assertEqual(self.post("/m/a/x", "").status, 200)


class Loading(DoorTest):
    def test_failures_say_why(self):
        broken = '[models."none"]\ncommand = "/no/such/program --port {port}"\n'
        ends = '[models."ends"]\ncommand = ["sh", "-c", "echo it is broken >&2; exit 7", "{port}"]\n'
        self.start(models=broken + ends + self.model("a"))
        for name, words in (("none", "/no/such/program"), ("ends", "it is broken")):
            with self.subTest(name):
                reply = self.post("/v1/x", {"model": name})
                self.assertEqual(reply.status, 503)
                self.assertIn(words, reply.message)
                self.assertGreater(int(reply.fields["Retry-After"]), 0)
                if name == "ends":
                    self.assertIn("exit status 7", reply.message)
                again = self.post("/v1/x", {"model": name})
                self.assertEqual(again.json["error"]["code"], "cooling_down")
                self.assertGreater(int(again.fields["Retry-After"]), 0)
        self.assertEqual(self.post("/v1/x", {"model": "a"}).status, 200)

    def test_how_it_ended_is_said_however_soon_it_was(self):
        ends = '[models."{}"]\ncommand = ["sh", "-c", "echo no weights; exit 3", "{{port}}"]\n'
        self.start(models="".join(ends.format(name) for name in "abcdefgh"))
        for name in "abcdefgh":
            self.assertIn("(exit status 3)", self.post(f"/m/{name}/x", "").message)

    def test_what_ready_means(self):
        models = (
            self.model("knows-it-not", "--health 404")
            + self.model("by-tcp", more='ready = "tcp"')
            + self.model("by-path", more='ready = "GET /health"')
        )
        self.start(models=models, pool="max_backends = 3")
        for name in ("knows-it-not", "by-tcp", "by-path"):
            self.assertEqual(self.post("/v1/x", {"model": name}).status, 200)

    def test_one_load_serves_all_who_wait(self):
        self.start(models=self.model("a", "--load 1"))
        talks = [self.socket() for _ in range(20)]
        for talk in talks:
            talk.sendall(b"POST /m/a/x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n")
        pids = {json.loads(read_answer(talk)[1])["pid"] for talk in talks}
        self.assertEqual(len(pids), 1)

    def test_room_is_made(self):
        self.start(models="".join(self.model(name) for name in "abc"))
        for name in "abcabc":
            self.assertEqual(self.post("/v1/x", {"model": name}).json["name"], name)
        self.assertLessEqual(len(self.backends()), 2)

    def test_models_are_loaded_at_the_start_in_order(self):
        models = "".join(self.model(name, more=more) for name, more in
                         (("b", "preload = true"), ("a", "preload = true"), ("c", "")))
        self.start(models=models, pool="max_backends = 3")
        self.assertTrue(eventually(
            lambda: [row["state"] for row in self.backends().values()] == ["ready", "ready"]))
        rows = self.backends()
        self.assertEqual(rows.keys(), {"a", "b"})
        self.assertGreater(rows["b"]["ready_ms"], rows["a"]["ready_ms"])
        self.assertTrue(eventually(lambda: not self.leases()))

    def test_no_place_in_time(self):
        self.start(
            models=self.model("a") + self.model("b"),
            pool='max_backends = 1\nwhen_busy = "wait"',
            serve='queue_timeout = "1s"',
        )
        talk = self.socket()
        talk.sendall(b"POST /m/a/wait?30 HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n")
        self.assertTrue(eventually(self.leases))
        self.assertEqual(self.post("/v1/x", {"model": "b"}).status, 504)


class External(DoorTest):
    """Servers that somebody else runs: an address without a command."""

    def test_one_that_runs_is_asked_and_one_that_does_not_is_said(self):
        port = free_port()
        command = [sys.executable, f"{HERE}/odd_backend.py", str(port), "ext", self.log]
        server = subprocess.Popen(command)
        self.addCleanup(server.wait)
        self.addCleanup(server.kill)
        models = f'[models.ext]\naddress = "127.0.0.1:{port}"\n'
        models += f'[models.absent]\naddress = "127.0.0.1:{free_port()}"\n'
        self.start(models=models)
        reply = self.post("/v1/x", {"model": "ext"})
        self.assertEqual((reply.status, reply.json["name"]), (200, "ext"))
        reply = self.post("/v1/x", {"model": "absent"})
        self.assertEqual(reply.status, 503, reply.body)
        self.assertIn("nothing answers at 127.0.0.1:", reply.message)
        self.assertEqual(self.post("/v1/x", {"model": "absent"}).status, 503)
        self.assertIsNone(server.poll())


if __name__ == "__main__":
    unittest.main()
