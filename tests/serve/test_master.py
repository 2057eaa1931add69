#!/usr/bin/env python3
"""poolserve's first process: sockets, workers, the coordinator, a new config, the end."""

import contextlib
import fcntl
import json
import os
import pathlib
import re
import resource
import signal
import socket
import stat
import subprocess
import unittest

import modelpool
from poolserve import (
    COORDINATORD, POOLSERVE, Asking, Door, DoorTest, ask, free_port, lives, status_of, title,
)  # fmt: skip
from support import DIES_WITH_US, PATIENCE_S, eventually, processes_with


# Rows of the pool, so that a test can leave none for workers.
ROWS = 9
CAPACITY = f"[capacity]\nworkers = {ROWS}"
KILL_AFTER_S = 5  # past shutdown_timeout
CHANGE_MAX_S = 10  # for workers to take a new config


def is_refused(address):
    host, port = address.rsplit(":", 1)
    with contextlib.suppress(TimeoutError):
        try:
            socket.create_connection((host, int(port)), timeout=1).close()
        except ConnectionRefusedError:
            return True
    return False


def cpu_seconds(pid):
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Start(DoorTest):
    def test_it_serves_and_starts_a_coordinator(self):
        door = self.start()
        self.assertTrue(ask(door.addresses[0]))
        self.assertEqual(len(door.workers()), 2)
        self.assertEqual(title(door.pid), "poolserve: master")
        self.assertTrue(self.coordinator()["alive"])
        self.assertEqual(
            stat.S_IMODE(os.stat(f"{self.dir}/default.door").st_mode), 0o600
        )
        door.signal(signal.SIGUSR1)
        for pid in door.workers():
            door.wait_for_log(f"worker pid {pid}: serves")
        # The coordinator belongs to nobody's terminal.
        self.assertEqual(os.getsid(self.coordinator()["pid"]), self.coordinator()["pid"])

    def test_an_address_in_use_is_refused_before_anything_starts(self):
        with socket.create_server(("127.0.0.1", 0)) as other:
            port = other.getsockname()[1]
            door = self.launch("--listen", f"127.0.0.1:{port}")
            self.assertEqual(door.wait(), 1)
        self.assertIn(f"unable to listen on 127.0.0.1:{port}: it is taken by", door.log())
        self.assertIn(f"(pid {os.getpid()})", door.log())
        self.assertFalse(os.path.exists(f"{self.dir}/default"))

    def test_a_second_one_is_refused_with_the_pid_of_the_first(self):
        first = self.start()
        second = self.launch()
        self.assertEqual(second.wait(), 1)
        self.assertIn(f"poolserve (pid {first.pid}) serves it", second.log())
        self.assertTrue(ask(first.addresses[0]))

    def test_all_workers_dying_at_the_start_is_an_error(self):
        # One row, which the first process has: no worker can attach.
        with self.config.open("a") as config:
            config.write("[capacity]\nworkers = 1\n")
        door = self.launch()
        self.assertEqual(door.wait(), 1)
        self.assertIn("every worker ended", door.log())

    def test_a_bad_config_is_wrong_usage(self):
        self.config.write_text("[serve]\nlistne = []\n")
        door = self.launch()
        self.assertEqual(door.wait(), 2)
        self.assertIn("pool.toml:2", door.log())

    def test_check_config_says_what_would_be_served(self):
        door = self.launch("--check-config")
        self.assertEqual(door.wait(), 0)
        self.assertIn(f"{self.config}: ok", door.log())
        self.assertIn("tiny", door.log())
        self.assertFalse(os.path.exists(f"{self.dir}/default"))

    def test_what_the_config_names_is_read_before_anything_starts(self):
        bad = pathlib.Path(self.dir, "bad")
        bad.write_text("no key at all, said in words\n")
        bad.chmod(0o600)
        tls = f'[[serve.listener]]\naddress = "[::1]:0"\ntls = {{ cert = "{bad}", key = "{bad}" }}'
        for serve, said in (
            (f'keys = "{bad}"', f"unable to read the keys of {bad}: line 1: "),
            (tls, f"unable to read {bad} for the listener [::1]:0"),
            ('access_log = "none/access.log"', "unable to open the access log "),
            ('access_log = "."', "unable to open the access log "),
        ):
            for flags in (["--check-config"], []):
                with self.subTest(serve, flags=flags):
                    self.write_config(serve=serve)
                    door = self.launch(*flags)
                    self.assertEqual(door.wait(), 2)
                    self.assertIn(f"poolserve: {said}", door.log())
                    self.assertEqual(door.log().count("unable to"), 1)
                    self.assertFalse(os.path.exists(f"{self.dir}/default"))
        self.write_config(serve='access_log = "access.log"')
        self.assertEqual(self.launch("--check-config").wait(), 0)
        self.assertFalse(os.path.exists(f"{self.dir}/access.log"))
        self.start()
        self.assertTrue(os.path.exists(f"{self.dir}/access.log"))

    def test_a_file_of_another_server_is_imported(self):
        source = pathlib.Path(self.dir, "swap.yaml")
        source.write_text("models:\n  tiny:\n    cmd: llama-server --port ${PORT}\n    ttl: 60\n")
        done = subprocess.run([POOLSERVE, "import", source], capture_output=True, text=True)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.config.write_text(done.stdout)
        door = self.launch("--check-config")
        self.assertEqual(door.wait(), 0)
        self.assertIn("tiny", door.log())
        missing = subprocess.run([POOLSERVE, "import", "/no.yaml"], capture_output=True, text=True)
        self.assertNotEqual(missing.returncode, 0)
        self.assertIn("poolserve: unable to read /no.yaml", missing.stderr)

    def test_help_of_import_is_its_own(self):
        done = subprocess.run([POOLSERVE, "import", "--help"], capture_output=True, text=True)
        self.assertIn("Usage: poolserve import ", done.stdout)
        self.assertNotIn("SIGHUP", done.stdout)

    def test_tables_of_a_new_pool_have_room_for_all_connections(self):
        self.write_config(serve="max_connections = 4000")
        self.start()
        command = self.command_of_coordinator()
        self.assertEqual(command[command.index("--leases") + 1], "3000")
        self.assertNotIn("--max-memory", command)

    def test_what_capacity_says_goes_before(self):
        with self.config.open("a") as config:
            config.write("[capacity]\nleases = 2000\n")
        self.start()
        self.assertNotIn("--leases", self.command_of_coordinator())

    def test_a_folder_of_models_needs_no_config(self):
        folder = pathlib.Path(self.dir, "models")
        folder.mkdir()
        for name in ("one", "two"):
            folder.joinpath(f"{name}.gguf").touch()
        arguments = ["--models-dir", str(folder), "--server", "true"]
        door = Door(self, *arguments, "--listen", "127.0.0.1:0", "--workers", "2")
        door.wait_for_log("serving pool default: 2 models on 127.0.0.1:")
        self.assertIn("--max-memory", self.command_of_coordinator())
        door.signal(signal.SIGTERM)
        self.assertEqual(door.wait(), 0)
        # With a config that names more of them.
        door = self.launch(*arguments).wait_for_log("serving pool default: 3 models on")

    def test_a_model_of_both_is_refused(self):
        pathlib.Path(self.dir, "tiny.gguf").touch()
        door = self.launch("--models-dir", self.dir, "--server", "true")
        self.assertEqual(door.wait(), 2)
        self.assertIn("tiny", door.log())

    def test_wrong_usage_is_explained(self):
        for arguments, said in (
            ([], "no models are given; add --config FILE or --models-dir DIR"),
            (["--config", "x", "--workers", "0"], "a number from 1 to 256"),
            (["--config", "x", "--on-exit", "die"], "leave or stop"),
            (["--config", "x", "--pool", "a/b"], "a name is up to 64"),
            (["--config", "x", "--server", "y"], "it belongs to --models-dir"),
            (["--confog", "x"], "see poolserve --help"),
            (["--config", f"{self.dir}/none"], "none"),
        ):
            with self.subTest(arguments):
                door = Door(self, *arguments)
                self.assertEqual(door.wait(), 1 if said == "none" else 2)
                self.assertIn(said, door.log())
                self.assertIn("poolserve: unable to", door.log())


class UnixSockets(DoorTest):
    def setUp(self):
        super().setUp()
        self.path = f"{self.dir}/x.sock"
        self.address = f"unix:{self.path}"

    def write_listener(self, mode):
        self.config.write_text(
            f'[serve]\nworkers = 2\n[[serve.listener]]\naddress = "{self.address}"\n'
            f'mode = "{mode}"\n[models.tiny]\ncommand = "sleep 600 {{port}}"\n'
        )

    def test_it_has_its_mode_and_is_removed_at_the_end(self):
        self.write_listener("0660")
        door = self.start()
        self.assertEqual(stat.S_IMODE(os.stat(self.path).st_mode), 0o660)
        self.assertTrue(ask(self.address))
        self.write_listener("0600")
        door.signal(signal.SIGHUP)
        door.wait_until_serving(2)
        self.assertEqual(stat.S_IMODE(os.stat(self.path).st_mode), 0o600)
        door.signal(signal.SIGTERM)
        self.assertEqual(door.wait(), 0)
        self.assertFalse(os.path.exists(self.path))

    def test_a_stale_one_is_replaced_and_a_live_one_is_not(self):
        with socket.socket(socket.AF_UNIX) as stale:
            stale.bind(self.path)
        self.write_listener("0600")
        door = self.start()
        self.assertTrue(ask(self.address))
        other = self.launch("--pool", "other", "--listen", self.address)
        self.assertEqual(other.wait(), 1)
        self.assertIn(f"unable to listen on {self.address}: it is taken by", other.log())
        self.assertTrue(ask(self.address))
        self.assertIsNone(door.process.poll())

    def test_a_file_is_never_replaced(self):
        pathlib.Path(self.path).write_text("mine")
        door = self.launch("--listen", self.address)
        self.assertEqual(door.wait(), 1)
        self.assertIn("a file that is no socket is there", door.log())
        self.assertEqual(pathlib.Path(self.path).read_text(), "mine")


class SocketActivation(DoorTest):
    def test_sockets_of_systemd_are_used_and_stay(self):
        path = f"{self.dir}/x.sock"
        with socket.create_server(("127.0.0.1", 0)) as tcp, socket.socket(socket.AF_UNIX) as unix:
            unix.bind(path)
            unix.listen()
            address = f"127.0.0.1:{tcp.getsockname()[1]}"
            self.write_config(listen=(address, f"unix:{path}"))
            door = self.start_with(tcp, unix)
            self.assertEqual(door.addresses, [address, f"unix:{path}"])
            for one in door.addresses:
                self.assertTrue(ask(one))
            door.signal(signal.SIGTERM)
            self.assertEqual(door.wait(), 0)
            # They are systemd's: who connects now waits for the next poolserve.
            socket.create_connection(tcp.getsockname()).close()
            self.assertTrue(os.path.exists(path))


    def test_one_that_is_not_served_stays_when_the_master_dies(self):
        path = f"{self.dir}/x.sock"
        with socket.socket(socket.AF_UNIX) as unix:
            unix.bind(path)
            unix.listen()
            door = self.start_with(unix)
            door.wait_for_log(f"the socket at unix:{path} is closed")
            old = door.workers()
            door.kill()
            self.start()
            self.assertTrue(eventually(lambda: not any(lives(pid) for pid in old)))
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(path)


class Notification(DoorTest):
    def test_systemd_is_told(self):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as supervisor:
            supervisor.bind(f"{self.dir}/notify")
            supervisor.settimeout(PATIENCE_S)
            door = self.start(env={"NOTIFY_SOCKET": f"{self.dir}/notify"})
            self.assertIn(b"READY=1\nSTATUS=1 models on 127.0.0.1:", supervisor.recv(4096))
            door.signal(signal.SIGHUP)
            self.assertRegex(supervisor.recv(4096), rb"^RELOADING=1\nMONOTONIC_USEC=\d+$")
            self.assertIn(b"READY=1", supervisor.recv(4096))
            door.signal(signal.SIGTERM)
            self.assertIn(b"STOPPING=1", supervisor.recv(4096))


class Backends(DoorTest):
    def test_they_inherit_nothing_of_the_door_s(self):
        seen = pathlib.Path(self.dir, "seen")
        script = f"(env; ulimit -Sn; ls -l /proc/self/fd) > {seen}.new; mv {seen}.new {seen}"
        self.config.write_text(
            '[serve]\nlisten = ["127.0.0.1:0"]\nworkers = 2\n[models.tiny]\n'
            f'command = ["sh", "-c", "{script}; exec sleep 600 {{port}}"]\n'
        )
        limit = f"ulimit -Sn 333; exec \"$@\""
        door = self.start(
            command=["sh", "-c", limit, "sh"], env={"NOTIFY_SOCKET": f"{self.dir}/none"}
        )
        host, port = door.addresses[0].rsplit(":", 1)
        body = json.dumps({"model": "tiny", "messages": []})
        with socket.create_connection((host, int(port))) as client:
            client.sendall(
                f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: "
                f"application/json\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()
            )
            self.assertTrue(eventually(seen.exists))
        text = seen.read_text()
        self.assertIn("MODELPOOL_BACKEND=", text)
        self.assertNotIn("NOTIFY_SOCKET", text)
        self.assertIn("\n333\n", text)
        self.assertNotIn("socket:", text)
        # A worker itself has room for what max_connections needs.
        limits = pathlib.Path(f"/proc/{door.workers()[0]}/limits").read_text()
        self.assertGreater(int(re.search(r"Max open files +(\d+)", limits)[1]), 333)


class Deaths(DoorTest):
    def test_a_killed_worker_is_replaced(self):
        door = self.start()
        before = door.workers()
        os.kill(before[0], signal.SIGKILL)
        self.assertTrue(eventually(lambda: len(set(door.workers()) - set(before)) == 1))
        self.assertIn(before[1], door.workers())
        self.assertTrue(ask(door.addresses[0]))

    def test_workers_outlive_the_master_and_the_next_one_takes_over(self):
        first = self.start()
        address = first.addresses[0]
        old = first.workers()
        asking = Asking(address)
        self.addCleanup(asking.stop)
        asking.wait_for_more(5)
        first.kill()
        asking.wait_for_more(5)
        self.assertTrue(all(lives(pid) for pid in old))
        second = self.start()
        self.assertEqual(second.addresses, [address])
        self.assertTrue(eventually(lambda: not any(lives(pid) for pid in old)))
        asking.wait_for_more(5)
        self.assertEqual(len(second.workers()), 2)
        # Again, from those that took over.
        second.kill()
        third = self.start()
        asking.wait_for_more(5)
        self.assertEqual(third.addresses, [address])
        asking.stop()
        self.assertEqual(asking.failures, [])

    def test_where_the_next_one_does_not_listen_connections_are_refused(self):
        path = f"{self.dir}/x.sock"
        self.write_config(listen=("127.0.0.1:0", f"unix:{path}"), models=("tiny",))
        first = self.start()
        self.busy(first)  # so one of its workers stays
        first.kill()
        self.write_config(listen=(f"127.0.0.1:{free_port()}",))
        second = self.start()
        second.wait_for_log(f"the socket at {first.addresses[0]} is closed")
        for address in first.addresses:
            with self.assertRaises((ConnectionRefusedError, FileNotFoundError)):
                ask(address)
        self.assertFalse(os.path.exists(path))
        self.assertTrue(ask(second.addresses[0]))

    def test_as_many_addresses_as_there_may_be_are_taken_over(self):
        self.write_config(listen=["127.0.0.1:0"] * 64)
        first = self.start()
        self.assertEqual(len(first.addresses), 64)
        first.kill()
        second = self.start()
        self.assertEqual(second.addresses, first.addresses)
        for address in second.addresses:
            self.assertTrue(ask(address))

    def test_masters_killed_before_their_workers_serve_leave_nobody_behind(self):
        first = self.start()
        address = first.addresses[0]
        asking = Asking(address)
        self.addCleanup(asking.stop)
        first.kill()
        for _ in range(8):
            killed = self.launch()
            self.assertTrue(eventually(killed.workers))
            killed.kill()
        last = self.start()
        self.assertEqual(last.addresses, [address])
        serving = last.workers()
        self.assertEqual(len(serving), 2)
        self.assertTrue(eventually(lambda: self.all_workers() == serving))
        asking.wait_for_more(5)
        asking.stop()
        self.assertEqual(asking.failures, [])

    def test_what_masters_opened_that_were_killed_at_once_is_taken_over(self):
        first = self.start()
        self.busy(first)  # so one of its workers stays
        first.kill()
        addresses = first.addresses
        for _ in range(8):
            addresses.append(f"127.0.0.1:{free_port()}")
            self.write_config(listen=addresses)
            killed = self.launch()
            self.assertTrue(eventually(lambda: killed.workers() or killed.process.poll() is not None))
            self.assertNotIn("unable", killed.log())
            killed.kill()
        last = self.start()
        self.assertEqual(last.addresses, addresses)
        for address in addresses:
            self.assertTrue(ask(address))

    def test_when_all_are_killed_the_next_one_binds_anew(self):
        first = self.start()
        workers = first.workers()
        first.kill()
        for pid in workers:
            os.kill(pid, signal.SIGKILL)
        second = self.start()
        self.assertTrue(ask(second.addresses[0]))

    def test_a_terminal_s_interrupt_is_the_master_s_to_act_on(self):
        door = self.start(start_new_session=True)
        workers = door.workers()
        for pid in workers:
            os.kill(pid, signal.SIGINT)
            os.kill(pid, signal.SIGHUP)
        self.assertTrue(ask(door.addresses[0]))
        self.assertEqual(door.workers(), workers)
        os.killpg(door.pid, signal.SIGINT)
        self.assertEqual(door.wait(), 0)
        self.assertFalse(any(lives(pid) for pid in workers))


class Coordinator(DoorTest):
    def start_coordinator(self):
        other = subprocess.Popen(
            [*DIES_WITH_US, COORDINATORD, "--dir", self.dir], stderr=subprocess.DEVNULL
        )
        self.addCleanup(other.wait)
        self.addCleanup(other.kill)
        self.assertTrue(
            eventually(
                lambda: os.path.exists(f"{self.dir}/default")
                and self.coordinator()["pid"] == other.pid
            )
        )
        return other

    def test_it_is_started_again_when_it_dies(self):
        self.start()
        first = self.coordinator()["pid"]
        os.kill(first, signal.SIGKILL)
        self.assertTrue(
            eventually(lambda: self.coordinator()["alive"] and self.coordinator()["pid"] != first)
        )

    def test_one_that_others_start_is_left_to_them(self):
        other = self.start_coordinator()
        door = self.start("--on-exit", "stop")
        self.assertEqual(self.coordinator()["pid"], other.pid)
        self.assertNotIn("started", door.log())
        door.signal(signal.SIGTERM)
        self.assertEqual(door.wait(), 0)
        self.assertTrue(self.coordinator()["alive"])

    def test_none_is_started_where_others_are_to(self):
        said = "and others start it (--no-coordinator)"
        alone = self.launch("--no-coordinator")
        self.assertEqual(alone.wait(), 1)
        self.assertIn(said, alone.log())
        other = self.start_coordinator()
        door = self.start("--no-coordinator")
        other.kill()
        other.wait()
        self.assertTrue(eventually(lambda: said in door.log()))
        self.assertFalse(self.coordinator()["alive"])
        other = self.start_coordinator()
        self.assertTrue(eventually(lambda: f"coordinatord (pid {other.pid}) serves" in door.log()))
        self.assertNotIn("started", door.log())

    def test_one_that_another_program_starts_at_the_same_time_is_waited_for(self):
        # It has the pool, and has not written yet who it is.
        first = self.start_coordinator()
        first.kill()
        first.wait()
        with open(f"{self.dir}/default", "rb") as segment:
            fcntl.flock(segment, fcntl.LOCK_EX)
            door = self.launch()
            door.wait_for_log("is its coordinator already")
        self.start_coordinator()
        door.wait_until_serving()
        self.assertTrue(ask(door.addresses[0]))

    def test_one_that_cannot_start_ends_the_door(self):
        pathlib.Path(self.dir, "default").write_text("no pool")
        door = self.launch()
        self.assertEqual(door.wait(), 3)
        self.assertIn("unable to", door.log())


class Reload(DoorTest):
    def test_a_new_config_is_in_force_and_a_bad_one_refused(self):
        door = self.start()
        workers = door.workers()
        self.write_config(models=("tiny", "other"))
        door.signal(signal.SIGHUP)
        door.wait_for_log("serving pool default: 2 models")
        self.config.write_text("[serve]\nlistne = []\n")
        door.signal(signal.SIGHUP)
        door.wait_for_log("the config is refused, and the old one kept")
        self.assertIn("pool.toml:2", door.log())
        door.wait_for_log("serving pool default: 2 models", 2)
        self.assertEqual(door.workers(), workers)
        self.assertTrue(ask(door.addresses[0]))

    def test_sockets_come_and_go_and_no_connection_is_refused(self):
        door = self.start()
        stays = door.addresses[0]
        self.write_config(listen=(stays, f"unix:{self.dir}/new.sock"))
        asking = Asking(stays)
        self.addCleanup(asking.stop)
        door.signal(signal.SIGHUP)
        door.wait_until_serving(2)
        self.assertTrue(ask(f"unix:{self.dir}/new.sock"))
        asking.wait_for_more(5)
        self.write_config(listen=(stays,))
        door.signal(signal.SIGHUP)
        door.wait_until_serving(3)
        self.assertFalse(os.path.exists(f"{self.dir}/new.sock"))
        asking.wait_for_more(5)
        asking.stop()
        self.assertEqual(asking.failures, [])

    def test_models_that_start_in_another_way_are_ended(self):
        self.write_config(models=("tiny", "kept"))
        door = self.start()
        pool = self.attach()
        for number, model in enumerate(("tiny", "kept")):
            pool.acquire(model).ready(f"127.0.0.1:{number + 1}", external=True).release()
        text = self.config.read_text()
        self.config.write_text(text.replace("sleep 600", "sleep 601", 1))
        door.signal(signal.SIGHUP)
        self.assertTrue(eventually(lambda: [b["model"] for b in pool.backends()] == ["kept"]))

    @contextlib.contextmanager
    def held_up(self, door, but=0, **config):
        """SIGHUP for a config whose workers, but so many, cannot begin before the end of the block."""
        rows = contextlib.ExitStack()
        with rows:
            for _ in range(ROWS - len(door.workers()) - 1 - but):
                rows.enter_context(modelpool.Pool(dir=self.dir, create=False))
            before = len(door.workers())
            self.write_config(**config, rest=CAPACITY)
            door.signal(signal.SIGHUP)
            self.assertTrue(eventually(lambda: len(door.workers()) > before))
            yield

    def test_another_one_before_the_first_is_in_force(self):
        self.write_config(rest=CAPACITY)
        door = self.start()
        listen = (door.addresses[0], f"unix:{self.dir}/new.sock")
        with self.held_up(door, listen=listen):
            door.signal(signal.SIGHUP)
        door.wait_until_serving(2)
        self.assertEqual(door.addresses, list(listen))
        for address in listen:
            self.assertTrue(ask(address))
        with self.held_up(door, listen=listen, workers=3):
            door.signal(signal.SIGHUP)
        door.wait_for_log("3 workers")

    def test_old_workers_go_on_with_the_new_config_where_no_new_ones_serve(self):
        self.write_config(rest=CAPACITY)
        door = self.start()
        old, path = door.workers(), f"{self.dir}/new.sock"
        listen = (door.addresses[0], f"unix:{path}")
        with self.held_up(door, listen=listen, models=("other",)):
            door.wait_for_log("no worker serves with the new config")
        self.assertTrue(eventually(lambda: ask(door.addresses[0], "/v1/models/other") == 200))
        self.assertEqual(door.workers(), old)
        self.assertFalse(os.path.exists(path))

    def test_old_workers_go_on_where_not_all_new_ones_serve(self):
        self.write_config(rest=CAPACITY)
        door = self.start()
        old, path = door.workers(), f"unix:{self.dir}/new.sock"
        with self.held_up(door, but=1, listen=(door.addresses[0], path), models=("other",)):
            door.wait_for_log("not all workers serve with the new config")
            self.assertTrue(eventually(lambda: door.workers() == old))
        self.assertTrue(eventually(lambda: ask(door.addresses[0], "/v1/models/other") == 200))
        with self.assertRaises(FileNotFoundError):
            ask(path)

    def test_the_first_process_rests_however_long_new_workers_take(self):
        self.write_config(rest=CAPACITY)
        door = self.start()
        old = door.workers()
        with self.held_up(door, workers=3):
            for pid in set(door.workers()) - set(old):
                os.kill(pid, signal.SIGSTOP)
        before = cpu_seconds(door.pid)
        with self.assertRaises(subprocess.TimeoutExpired):
            door.process.wait(CHANGE_MAX_S + 2)
        self.assertLess(cpu_seconds(door.pid) - before, 0.5)

    def test_old_addresses_are_closed_where_the_master_dies_meanwhile(self):
        self.write_config(rest=CAPACITY)
        door = self.start()
        old = door.addresses[0]
        self.busy(door)  # so one of its workers stays
        new = f"127.0.0.1:{free_port()}"
        with self.held_up(door, but=1, listen=(new,)):
            self.assertTrue(ask(new))
            door.kill()
        self.assertTrue(eventually(lambda: is_refused(old)))
        self.assertTrue(ask(new))

    def test_a_config_that_can_be_served_in_place_of_one_that_cannot(self):
        for takes_over in (False, True):
            with self.subTest(takes_over=takes_over):
                path = f"unix:{self.dir}/x.sock"
                self.write_config(listen=("127.0.0.1:0", path), rest=CAPACITY)
                if takes_over:
                    first = self.start()
                    before = first.workers()
                    first.kill()
                self.write_config(rest=CAPACITY, workers=ROWS + 2)
                door = self.launch()
                door.wait_for_log("another one is started after a pause")
                if takes_over:
                    self.assertTrue(ask(path))
                self.write_config(models=("other",), rest=CAPACITY, workers=3)
                door.signal(signal.SIGHUP)
                door.wait_until_serving()
                self.assertTrue(eventually(lambda: len(door.workers()) == 3))
                if takes_over:
                    self.assertEqual(door.addresses[:1], first.addresses[:1])
                    self.assertTrue(eventually(lambda: not any(lives(pid) for pid in before)))
                    with self.assertRaises(FileNotFoundError):
                        ask(path)
                self.assertEqual(ask(door.addresses[0], "/v1/models/other"), 200)
                door.signal(signal.SIGTERM)
                self.assertEqual(door.wait(), 0)

    def test_nothing_is_announced_after_sigterm(self):
        self.write_config(rest=CAPACITY)
        door = self.start()
        path = f"unix:{self.dir}/new.sock"
        with self.held_up(door, listen=(door.addresses[0], path), workers=1):
            door.signal(signal.SIGSTOP)
            self.assertTrue(eventually(lambda: status_of(door.pid)["State"][0] == "T"))
        self.assertTrue(ask(path))  # so its worker has said that it is ready
        door.signal(signal.SIGTERM)
        door.signal(signal.SIGCONT)
        self.assertEqual(door.wait(), 0)
        self.assertEqual(door.log().count("serving pool default: "), 1)

    def test_what_nobody_wants_any_more_is_closed(self):
        self.write_config(rest=CAPACITY)
        door = self.start()
        stays, path, other = door.addresses[0], f"{self.dir}/new.sock", f"127.0.0.1:{free_port()}"
        with self.held_up(door, listen=(stays, f"unix:{path}", other)):
            self.assertTrue(os.path.exists(path))
            self.write_config(listen=(stays,), rest=CAPACITY)
            door.signal(signal.SIGHUP)
            door.wait_until_serving(2)
            self.assertFalse(os.path.exists(path))
            with self.assertRaises(ConnectionRefusedError):
                ask(other)
        self.assertTrue(ask(stays))

    def test_an_address_that_was_in_use_is_opened_once_it_is_free(self):
        path = f"unix:{self.dir}/x.sock"
        self.write_config(listen=("127.0.0.1:0", path))
        door = self.start()
        with socket.create_server(("127.0.0.1", 0)) as other:
            wanted = f"127.0.0.1:{other.getsockname()[1]}"
            self.write_config(listen=("127.0.0.1:0", path, wanted))
            door.signal(signal.SIGHUP)
            door.wait_for_log("the old sockets and workers stay")
            self.assertTrue(ask(path))
        door.signal(signal.SIGHUP)
        door.wait_until_serving(3)
        self.assertEqual(door.addresses[2], wanted)
        for address in door.addresses:
            self.assertTrue(ask(address))

    def test_workers_raise_their_limit_of_open_files(self):
        self.write_config(serve="max_connections = 100")
        door = self.start(command=["sh", "-c", 'ulimit -Sn 333; ulimit -Hn 9000; exec "$@"', "sh"])
        workers = door.workers()

        def limits():
            return {resource.prlimit(pid, resource.RLIMIT_NOFILE)[0] for pid in workers}

        self.assertEqual(limits(), {1224})
        # As far as the hard limit goes.
        for connections, limit in ((2000, 5024), (4000, 9000)):
            self.write_config(serve=f"max_connections = {connections}")
            door.signal(signal.SIGHUP)
            self.assertTrue(eventually(lambda: limits() == {limit}))
        door.wait_for_log("a worker may open 9000 files, too few for 4000 connections")
        self.assertEqual(door.workers(), workers)

    def test_the_coordinator_reads_it_too(self):
        door = self.start()
        text = self.config.read_text()
        self.config.write_text(f"[pool]\nmax_backends = 7\n{text}")
        door.signal(signal.SIGHUP)
        pool = self.attach()
        self.assertTrue(eventually(lambda: pool.limit == 7))


class End(DoorTest):
    def test_sigterm_leaves_the_coordinator(self):
        door = self.start()
        workers = door.workers()
        door.signal(signal.SIGTERM)
        self.assertEqual(door.wait(), 0)
        self.assertFalse(any(lives(pid) for pid in workers))
        self.assertTrue(self.coordinator()["alive"])
        with self.assertRaises(ConnectionRefusedError):
            ask(door.addresses[0])

    def test_on_exit_stop_ends_models_and_coordinator(self):
        door = self.start("--on-exit", "stop")
        pool = self.attach()
        ticket = pool.acquire("tiny")
        ticket.spawn(["sleep", "600"])
        pid = ticket.pid
        ticket.ready("127.0.0.1:1").release()
        other = pool.acquire("not of the config").ready("127.0.0.1:2", external=True)
        door.signal(signal.SIGTERM)
        self.assertEqual(door.wait(), 0)
        self.assertFalse(lives(pid))
        self.assertEqual([b["model"] for b in pool.backends()], ["not of the config"])
        other.release()
        self.assertFalse(self.coordinator()["alive"])

    def test_the_pool_is_removed_whole(self):
        door = self.start()
        door.signal(signal.SIGTERM)
        self.assertEqual(door.wait(), 0)
        done = self.poolctl("remove", "--stop")
        self.assertEqual(done.returncode, 0, done.stderr)
        left = set(os.listdir(self.dir)) - {"pool.toml", "poolserve.log"}
        self.assertEqual(left, set())


    def test_without_a_limit_requests_finish_whenever_they_do(self):
        self.write_config(serve='shutdown_timeout = "off"')
        door = self.start()
        talk = self.busy(door)
        door.signal(signal.SIGTERM)
        with self.assertRaises(subprocess.TimeoutExpired):
            door.process.wait(KILL_AFTER_S + 1)
        talk.close()
        self.assertEqual(door.wait(), 0)

    def test_past_the_limit_requests_are_cut_and_workers_killed(self):
        self.write_config(serve='shutdown_timeout = "100ms"')
        door = self.start()
        talk = self.busy(door)
        door.signal(signal.SIGTERM)
        self.assertEqual(door.wait(), 0)
        self.assertEqual(talk.recv(1), b"")
        door = self.start()
        os.kill(door.workers()[0], signal.SIGSTOP)  # it cannot even cut
        door.signal(signal.SIGTERM)
        self.assertEqual(door.wait(), 1)

    def test_a_second_signal_ends_at_once(self):
        door = self.start()
        talk = self.busy(door)
        door.signal(signal.SIGTERM)
        door.wait_for_log("stopping")
        door.signal(signal.SIGTERM)
        self.assertEqual(door.wait(), 1)
        self.assertEqual(talk.recv(1), b"")


class FirstProcess(DoorTest):
    def test_it_reaps_everybody_s_orphans(self):
        inside = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]
        if subprocess.run([*inside, "true"], capture_output=True).returncode != 0:
            self.skipTest("no PID namespace can be made here")
        door = self.launch(
            command=[
                *inside, "sh", "-c", '(sleep 0.1 &) ; (sleep 0.2 &) ; exec "$@"', "sh",
            ]
        ).wait_until_serving()  # fmt: skip
        self.assertTrue(ask(door.addresses[0]))

        def zombies():
            return [p for p in os.listdir("/proc") if p.isdigit()
                    and status_of(p).get("State", "")[:1] == "Z"
                    and status_of(p).get("Name") in ("sleep", "poolserve")]  # fmt: skip

        master = next(p for p in processes_with(self.mark) if title(p) == "poolserve: master")
        workers = [p for p in processes_with(self.mark) if title(p) == "poolserve: worker"]
        os.kill(workers[0], signal.SIGKILL)
        self.assertTrue(eventually(lambda: not lives(workers[0])))
        self.assertTrue(
            eventually(
                lambda: not any(
                    status_of(p).get("PPid") == str(master) for p in zombies()
                )
            )
        )
        self.assertTrue(ask(door.addresses[0]))
        os.kill(master, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            door.process.wait(PATIENCE_S)
        self.assertIsNotNone(door.process.poll())


if __name__ == "__main__":
    unittest.main()
