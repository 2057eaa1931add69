"""Who may ask: keys, pages of others, names that lead here; Unix sockets and TLS."""

import http.client
import os
import pathlib
import signal
import socket
import ssl
import subprocess
import unittest

from door import DoorTest, Reply, eventually


class Access(DoorTest):
    def keys(self, text):
        path = pathlib.Path(self.dir, "keys")
        path.touch(0o600)
        path.write_text(text)
        return f'keys = "{path}"'

    def test_keys(self):
        serve = self.keys("first-secret use alice\nsecond-secret steer\n")
        self.start(models=self.model("a"), serve=serve + f'\naccess_log = "{self.dir}/access.log"')
        self.assertEqual(self.post("/m/a/x", "").status, 401)
        self.assertEqual(self.post("/m/a/x", "").fields["WWW-Authenticate"], "Bearer")
        for path in ("/livez", "/health"):
            self.assertIn(self.get(path).status, (200, 503))
            for asked in ("", '{"model":"a"}'):
                self.assertEqual(self.post(path, asked).status, 401)
                with_key = {"x-api-key": "first-secret"}
                self.assertEqual(self.post(path, asked, fields=with_key).status, 405)
                self.assertEqual(self.post(path + "?model=a", asked).status, 401)
        self.assertEqual(self.backends(), {})
        wrong = self.post("/m/a/x", "", fields={"Authorization": "Bearer wrong"})
        self.assertEqual(wrong.status, 401)
        self.assertNotIn(b"wrong", wrong.body)
        for field, value in (
            ("Authorization", "Bearer first-secret"),
            ("x-api-key", "second-secret"),
            ("api-key", "first-secret"),
        ):
            reply = self.post("/m/a/x", "", fields={field: value})
            self.assertEqual(reply.status, 200)
            self.assertFalse({"authorization", "x-api-key", "api-key"} & set(reply.json["fields"]))
        # Read again; the old one is no longer good.
        self.keys("third-secret\n")
        self.masters[0].send_signal(signal.SIGHUP)
        third = {"Authorization": "Bearer third-secret"}
        self.assertTrue(eventually(lambda: self.post("/m/a/x", "", fields=third).status == 200))
        old = {"Authorization": "Bearer first-secret"}
        self.assertTrue(eventually(lambda: self.post("/m/a/x", "", fields=old).status == 401))
        # What cannot be read is refused, and the keys of then stay.
        self.keys("no key at all, said in words\n")
        self.masters[0].send_signal(signal.SIGHUP)
        self.assertTrue(eventually(lambda: "the config is refused" in self.said()))
        self.assertEqual(self.post("/m/a/x", "", fields=third).status, 200)
        everything = self.said() + pathlib.Path(self.dir, "access.log").read_text()
        for secret in ("first-secret", "second-secret", "third-secret"):
            self.assertNotIn(secret, everything)
        self.assertIn("key=alice", everything)

    def test_pages_of_others_and_other_names(self):
        self.start(
            models=self.model("a"),
            serve='cors_origins = ["https://ours.example"]\nhosts = ["door.example"]',
        )
        for fields, status in (
            ({"Origin": "https://evil.example"}, 403),
            ({"Sec-Fetch-Site": "cross-site"}, 403),
            ({"Origin": "null"}, 403),
            ({"Origin": "https://ours.example"}, 200),
            ({"Origin": f"http://127.0.0.1:{self.port}"}, 200),
            ({"Host": "evil.example"}, 421),
            ({"Host": "door.example"}, 200),
            ({"Host": f"localhost:{self.port}"}, 200),
            ({"Host": "10.1.2.3"}, 200),
        ):
            with self.subTest(fields):
                for method, path in (("POST", "/m/a/x"), ("GET", "/v1/models")):
                    reply = self.request(method, path, "", fields)
                    self.assertEqual(reply.status, status, reply.body)
        allowed = self.post("/m/a/x", "", fields={"Origin": "https://ours.example"})
        self.assertEqual(allowed.fields["Access-Control-Allow-Origin"], "https://ours.example")
        asked = {
            "Origin": "https://ours.example",
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "authorization",
        }
        preflight = self.request("OPTIONS", "/v1/chat/completions", None, asked)
        self.assertEqual(preflight.status, 204)
        self.assertIn("POST", preflight.fields["Access-Control-Allow-Methods"])
        self.assertEqual(self.backends().keys(), {"a"})

    def test_a_foreign_page_loads_nothing(self):
        self.start(models=self.model("a"))
        self.assertEqual(
            self.post("/v1/x", '{"model":"a"}', fields={"Origin": "https://evil.example"}).status, 403
        )
        self.assertEqual(self.backends(), {})

    def test_a_unix_socket(self):
        path = f"{self.dir}/door.sock"
        self.start(
            models=self.model("a"),
            more=f'[[serve.listener]]\naddress = "unix:{path}"\nmode = "0660"\n',
        )
        self.assertEqual(os.stat(path).st_mode & 0o777, 0o660)
        talk = socket.socket(socket.AF_UNIX)
        self.addCleanup(talk.close)
        talk.connect(path)
        connection = http.client.HTTPConnection("whatever.example")
        connection.sock = talk
        connection.request("POST", "/m/a/x", "")
        self.assertEqual(connection.getresponse().status, 200)

    def test_tls(self):
        cert, key = f"{self.dir}/cert.pem", f"{self.dir}/key.pem"
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
             "-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost",
             "-keyout", key, "-out", cert],
            check=True, capture_output=True,
        )
        os.chmod(key, 0o600)
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
        self.start(
            models=self.model("a"),
            more=f'[[serve.listener]]\naddress = "127.0.0.1:{port}"\n'
            f'tls = {{ cert = "{cert}", key = "{key}" }}\n',
        )
        context = ssl.create_default_context(cafile=cert)
        connection = http.client.HTTPSConnection("localhost", port, context=context, timeout=60)
        self.addCleanup(connection.close)
        for size in (0, 100, 500_000):
            connection.request("POST", "/m/a/x", b"y" * size)
            response = connection.getresponse()
            reply = Reply(response.status, response.headers, response.read())
            self.assertEqual(reply.status, 200, reply.body)
            self.assertEqual(reply.json["fields"]["x-forwarded-proto"], "https")
        connection.request("POST", "/m/a/big?3000000", "")
        self.assertEqual(len(connection.getresponse().read()), 3_000_000)
        # Not TLS: closed, and others are served.
        with socket.create_connection(("127.0.0.1", port), timeout=60) as plain:
            plain.sendall(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
            plain.recv(100)
        connection.request("GET", "/livez")
        self.assertEqual(connection.getresponse().read(), b'{"status":"ok"}\n')


if __name__ == "__main__":
    unittest.main()
