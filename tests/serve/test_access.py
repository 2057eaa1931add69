"""Who may ask: keys, pages of others, names that lead here; Unix sockets and TLS."""

import contextlib
import datetime
import grp
import http.client
import os
import pathlib
import signal
import socket
import ssl
import subprocess
import unittest

from door import POOLSERVE, DoorTest, Reply, eventually, free_port

# Of `openssl ca`, which alone has dates in all versions.
AUTHORITY = """
[ca]
default_ca = own
[own]
database = {index}
new_certs_dir = {dir}
default_md = sha256
rand_serial = yes
unique_subject = no
policy = any
copy_extensions = copy
[any]
commonName = supplied
"""


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

    def test_who_is_refused_is_not_told_to_go_on(self):
        self.start(models=self.model("a"), serve=self.keys("a-secret\n"))
        key = b"x-api-key: a-secret\r\n"
        for host, fields, status in (
            (b"localhost", b"", b"401"), (b"evil.example", key, b"421"), (b"localhost", key, b"100"),
        ):  # fmt: skip
            with self.subTest(status):
                talk = self.socket()
                talk.sendall(
                    b"POST /m/a/x HTTP/1.1\r\nHost: " + host + b"\r\n" + fields
                    + b"Content-Length: 13\r\nExpect: 100-continue\r\n\r\n"
                )
                self.assertTrue(talk.recv(100).startswith(b"HTTP/1.1 " + status + b" "))

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
        cert, key = self.certificate("door")
        port = free_port()
        self.start(
            models=self.model("a"),
            more=f'[[serve.listener]]\naddress = "127.0.0.1:{port}"\n'
            f'tls = {{ cert = "{cert}", key = "{key}" }}\n',
        )
        connection = self.connect(port, cert)
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

    def certificate(self, name, of=None):
        """(certificate, key): its own authority, or of (certificate, key)."""
        cert, key = f"{self.dir}/{name}.pem", f"{self.dir}/{name}.key"
        signer = ["-CA", of[0], "-CAkey", of[1], "-addext", "basicConstraints=CA:FALSE"] if of else []
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
             "-days", "2", "-subj", f"/CN={name}", "-addext", "subjectAltName=DNS:localhost",
             "-keyout", key, "-out", cert, *signer],
            check=True, capture_output=True,
        )
        os.chmod(key, 0o600)
        return cert, key

    def dated(self, name, from_days, until_days, of=None):
        """As certificate(), valid from and until so many days from now."""
        cert, key = f"{self.dir}/{name}.pem", f"{self.dir}/{name}.key"
        index, config = pathlib.Path(self.dir, "index"), pathlib.Path(self.dir, "ca.cnf")
        index.write_text("")
        config.write_text(AUTHORITY.format(index=index, dir=self.dir))
        signer = ["-cert", of[0], "-keyfile", of[1]] if of else ["-selfsign", "-keyfile", key]
        now = datetime.datetime.now(datetime.timezone.utc)
        dates = [
            f"{now + datetime.timedelta(days=days):%Y%m%d%H%M%SZ}" for days in (from_days, until_days)
        ]
        is_authority = "FALSE" if of else "TRUE"
        for command in (
            ["req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
             "-subj", f"/CN={name}", "-addext", "subjectAltName=DNS:localhost",
             "-addext", f"basicConstraints=CA:{is_authority}", "-keyout", key, "-out", f"{cert}.csr"],
            ["ca", "-batch", "-notext", "-config", config, "-in", f"{cert}.csr", "-out", cert,
             "-startdate", dates[0], "-enddate", dates[1], *signer],
        ):  # fmt: skip
            subprocess.run(["openssl", *command], check=True, capture_output=True)
        os.chmod(key, 0o600)
        return cert, key

    def check_config(self):
        argv = [POOLSERVE, "--config", self.config, "--dir", self.dir, "--check-config"]
        return subprocess.run(argv, capture_output=True, text=True)

    def connect(self, port, cert, own=None):
        """A client that trusts `cert` (None: anything) and shows (certificate, key)."""
        context = ssl.create_default_context(cafile=cert)
        if cert is None:
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        if own:
            context.load_cert_chain(*own)
        connection = http.client.HTTPSConnection("localhost", port, context=context, timeout=60)
        self.addCleanup(connection.close)
        return connection

    @staticmethod
    def status(connection, path="/m/a/x"):
        connection.request("POST", path, "")
        response = connection.getresponse()
        response.read()
        return response.status

    def listener(self, port, cert, key, ca="", more=""):
        ca = f', client_ca = "{ca}"' if ca else ""
        tls = f'tls = {{ cert = "{cert}", key = "{key}"{ca} }}'
        return f'[[serve.listener]]\naddress = "127.0.0.1:{port}"\n{tls}\n{more}\n'

    def test_a_peer_is_who_has_a_certificate(self):
        door, ours, others = self.certificate("door"), self.certificate("ours"), self.certificate("others")
        port, other = free_port(), free_port()
        peer, foreign = self.certificate("peer", ours), self.certificate("foreign", others)
        more = self.listener(port, *door, ours[0], 'auth = "peer"')
        more += self.listener(other, *door, ours[0], 'auth = "keys"')
        self.start(models=self.model("a"), serve=self.keys("a-secret\n"), more=more)
        self.assertEqual(self.status(self.connect(port, door[0], peer)), 200)
        # One that is asked for keys needs both.
        self.assertEqual(self.status(self.connect(other, door[0], peer)), 401)
        for own in (None, foreign):
            for at in (port, other):
                with self.assertRaises((OSError, http.client.HTTPException)):
                    self.status(self.connect(at, door[0], own))
        self.assertEqual(self.post("/m/a/x", "").status, 401)

    def test_who_is_connected_already_is_no_peer(self):
        door, ours = self.certificate("door"), self.certificate("ours")
        port = free_port()
        config = {"models": self.model("a"), "serve": self.keys("a-secret\n")}
        self.start(**config, more=self.listener(port, *door))
        stranger = self.connect(port, door[0])
        self.assertEqual(self.status(stranger), 401)
        self.write_config(**config, more=self.listener(port, *door, ours[0], 'auth = "peer"'))
        self.masters[0].send_signal(signal.SIGHUP)
        peer = self.certificate("peer", ours)
        self.assertTrue(eventually(lambda: self.status(self.connect(port, door[0], peer)) == 200))
        self.assertEqual(self.status(stranger), 401)

    def test_certificates_are_read_again(self):
        door = self.certificate("door")
        port = free_port()
        self.start(models=self.model("a"), more=self.listener(port, *door))
        kept = self.connect(port, door[0])
        self.assertEqual(self.status(kept), 200)
        workers = self.workers()
        self.certificate("door")
        self.masters[0].send_signal(signal.SIGHUP)

        def is_new():
            with contextlib.suppress(ssl.SSLError):
                return self.status(self.connect(port, door[0])) == 200

        self.assertTrue(eventually(is_new))
        self.assertEqual(self.status(kept), 200)
        self.assertEqual(self.workers(), workers)

    def test_a_certificate_that_is_not_valid_is_served_and_named(self):
        ports = {}
        states = {
            "past": (-9, -5, "expired at ", "clients that check it refuse it"),
            "future": (5, 90, "is not valid before ", "clients that check it refuse it"),
            "soon": (-9, 13, "is valid until ", "; replace it, and send SIGHUP"),
            "fine": (-9, 15, "is valid until ", None),
        }
        more = ""
        for name, (begin, end, _, _) in states.items():
            ports[name] = free_port()
            more += self.listener(ports[name], *self.dated(name, begin, end), more='auth = "none"')
        self.start(models=self.model("a"), more=more)
        checked = self.check_config()
        self.assertEqual(checked.returncode, 0)
        for said in (self.said(), checked.stderr):
            warned = [line for line in said.splitlines() if "the certificate" in line]
            self.assertEqual(len(warned), 3, said)
            for name, (_, _, state, effect) in states.items():
                lines = [line for line in warned if f"{self.dir}/{name}.pem" in line]
                self.assertEqual(len(lines), 0 if effect is None else 1)
                self.assertTrue(all(state in line and effect in line for line in lines), lines)
        for name, (_, _, state, _) in states.items():
            self.assertIn(f"{self.dir}/{name}.pem: /CN={name} {state}20", checked.stdout)
            self.assertEqual(self.status(self.connect(ports[name], None)), 200)
        self.dated("fine", -9, -5)
        self.masters[0].send_signal(signal.SIGHUP)
        self.assertTrue(eventually(lambda: f"/CN=fine in {self.dir}/fine.pem expired at" in self.said()))
        self.assertEqual(self.status(self.connect(ports["fine"], None)), 200)

    def test_a_key_of_another_certificate_is_refused(self):
        door, other = self.certificate("door"), self.certificate("other")
        rsa = f"{self.dir}/rsa.key"
        subprocess.run(["openssl", "genrsa", "-out", rsa, "2048"], check=True, capture_output=True)
        port = free_port()
        config = {"models": self.model("a")}
        self.start(**config, more=self.listener(port, *door))
        for times, key in enumerate((other[1], rsa), 1):
            with self.subTest(key):
                self.write_config(**config, more=self.listener(port, door[0], key))
                checked = self.check_config()
                self.assertEqual(checked.returncode, 2)
                self.assertIn(
                    f"unable to use {key} for the listener 127.0.0.1:{port}: it is not the key of {door[0]}",
                    checked.stderr,
                )
                self.masters[0].send_signal(signal.SIGHUP)
                refused = "the config is refused, and the old one kept"
                self.assertTrue(eventually(lambda n=times: self.said().count(refused) == n))
                self.assertEqual(self.status(self.connect(port, door[0])), 200)

    def test_a_peer_whose_certificate_has_expired_is_none(self):
        door, ours = self.certificate("door"), self.certificate("ours")
        past = self.dated("past", -9, -5)
        port, other = free_port(), free_port()
        more = self.listener(port, *door, ours[0], 'auth = "peer"')
        more += self.listener(other, *door, past[0], 'auth = "peer"')
        self.start(models=self.model("a"), more=more)
        self.assertIn(f"/CN=past in {past[0]} expired at ", self.said())
        self.assertIn("and clients that it vouches for are refused", self.said())
        self.assertEqual(self.status(self.connect(port, door[0], self.dated("good", -9, 9, ours))), 200)
        for at, own in (
            (port, self.dated("old", -9, -5, ours)),
            (port, self.dated("early", 5, 9, ours)),
            (other, self.dated("of-past", -9, 9, past)),
        ):
            with self.subTest(own), self.assertRaises((OSError, http.client.HTTPException)):
                self.status(self.connect(at, door[0], own))

    def test_a_peer_that_comes_again_shows_its_certificate_again(self):
        door, ours = self.certificate("door"), self.certificate("ours")
        port, peer = free_port(), self.certificate("peer", ours)
        # One worker: no other has the session.
        self.start(
            models=self.model("a"),
            flags=["--workers", "1"],
            more=self.listener(port, *door, ours[0], 'auth = "peer"'),
        )
        for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
            context = ssl.create_default_context(cafile=door[0])
            context.load_cert_chain(*peer)
            context.minimum_version = context.maximum_version = version
            session = None
            for _ in range(3):
                with self.subTest(version), contextlib.closing(
                    context.wrap_socket(
                        socket.create_connection(("127.0.0.1", port), timeout=60),
                        server_hostname="localhost",
                        session=session,
                    )
                ) as talk:
                    talk.sendall(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
                    self.assertTrue(talk.recv(100).startswith(b"HTTP/1.1 200 "))
                    self.assertFalse(talk.session_reused)
                    session = talk.session

    def test_each_listener_has_its_own_rules(self):
        port, path = free_port(), f"{self.dir}/door.sock"
        groups = [one.gr_name for one in grp.getgrall() if one.gr_gid != os.getegid()
                  and (os.geteuid() == 0 or one.gr_gid in os.getgroups())]  # fmt: skip
        group = f'group = "{groups[0]}"\nmode = "0660"' if groups else ""
        self.start(
            models=self.model("a"),
            serve=self.keys("a-secret\n"),
            more=f'[[serve.listener]]\naddress = "127.0.0.1:{port}"\nauth = "none"\n'
            f'[[serve.listener]]\naddress = "unix:{path}"\n{group}\n',
        )
        self.assertEqual(self.post("/m/a/x", "").status, 401)
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        self.addCleanup(connection.close)
        self.assertEqual(self.status(connection), 200)
        connection = http.client.HTTPConnection("whatever.example")
        connection.sock = socket.socket(socket.AF_UNIX)
        self.addCleanup(connection.close)
        connection.sock.connect(path)
        self.assertEqual(self.status(connection), 401)
        if groups:
            self.assertEqual(os.stat(path).st_gid, grp.getgrnam(groups[0]).gr_gid)

    def test_auth_is_also_that_of_the_flag(self):
        self.write_config(models=self.model("a"), serve=self.keys("a-secret\n") + '\nauth = "none"')
        self.port = free_port()
        self.start(keep_config=True, flags=["--listen", f"0.0.0.0:{self.port}"])
        self.assertEqual(self.post("/m/a/x", "").status, 200)

    def test_proxies_are_believed_if_they_are_trusted(self):
        said = {"X-Forwarded-For": "10.9.8.7", "X-Forwarded-Proto": "https",
                "X-Forwarded-Host": "out.example"}
        for trusted, expected in (
            ("10.0.0.0/8", ("127.0.0.1", "http", f"127.0.0.1:{self.port}")),
            ("127.0.0.0/8", ("10.9.8.7, 127.0.0.1", "https", "out.example")),
        ):
            with self.subTest(trusted):
                config = {"models": self.model("a"), "serve": f'trusted_proxies = ["{trusted}"]'}
                if self.masters:
                    self.write_config(**config)
                    self.masters[0].send_signal(signal.SIGHUP)
                else:
                    self.start(**config)

                def forwarded():
                    fields = self.post("/m/a/x", "", fields=said).json["fields"]
                    return tuple(fields.get(f"x-forwarded-{name}") for name in ("for", "proto", "host"))

                self.assertTrue(eventually(lambda: forwarded() == expected), forwarded())


if __name__ == "__main__":
    unittest.main()
