"""The Unix sockets of backends whose command says {socket}: each goes when its backend has gone."""

import os
import pathlib
import signal
import sys
import unittest

from door import HERE, POOLCTL, DoorTest, eventually, subprocess


class Sockets(DoorTest):
    def setUp(self):
        super().setUp()
        self.folder = pathlib.Path(self.dir, "default.backends")
        self.start(models=self.listening("a") + self.listening("b"))

    def listening(self, name):
        command = f"{sys.executable} {HERE}/odd_backend.py {{socket}} {name} {self.log}"
        return f'[models."{name}"]\ncommand = "{command}"\n'

    def files(self):
        return sorted(os.listdir(self.folder))

    def ask(self, name):
        """Asks the model; the name of its socket."""
        reply = self.post(f"/m/{name}/x", "")
        self.assertEqual((reply.status, reply.json["name"]), (200, name))
        backend = self.backends()[name]
        path = pathlib.Path(backend["address"].removeprefix("unix:"))
        self.assertEqual(path.parent, self.folder)
        self.assertTrue(path.is_socket())
        self.assertEqual(path.name, f'{backend["slot"]}.{backend["generation"]}.sock')
        return path.name

    def kill_backend(self, name):
        os.kill(self.backends()[name]["pid"], signal.SIGKILL)

    def look_of_the_door(self):
        """When this returns, each worker's look at the folder has begun anew."""
        for _ in range(2 * len(self.workers())):
            stray = self.folder / "250.1.sock"
            stray.touch()
            self.assertTrue(eventually(lambda: not stray.exists()))

    def test_one_goes_with_its_backend_and_no_other_does(self):
        first, other = self.ask("a"), self.ask("b")
        (self.folder / f"{first}.lock").touch()
        (self.folder / "notes").touch()
        self.kill_backend("a")
        self.assertTrue(eventually(lambda: self.files() == [other, "notes"]))
        second = self.ask("a")
        self.assertNotEqual(second, first)
        self.look_of_the_door()
        self.assertEqual(self.files(), sorted([other, second, "notes"]))
        self.assertEqual((self.ask("a"), self.ask("b")), (second, other))

    def test_one_goes_although_the_worker_that_loaded_it_was_killed(self):
        name = self.ask("a")
        loader = self.backends()["a"]["owner_pid"]
        self.assertIn(loader, self.workers())
        os.kill(loader, signal.SIGKILL)
        self.assertTrue(eventually(lambda: loader not in self.workers() and len(self.workers()) == 2))
        self.look_of_the_door()
        self.assertEqual(self.ask("a"), name)
        self.kill_backend("a")
        self.assertTrue(eventually(lambda: not self.files()))

    def test_what_a_door_that_was_killed_left_the_next_one_removes(self):
        self.ask("a")
        workers = self.workers()
        self.masters[0].kill()
        for pid in workers:
            os.kill(pid, signal.SIGKILL)
        self.kill_backend("a")
        self.assertTrue(eventually(lambda: "a" not in self.backends()))
        self.assertEqual(len(self.files()), 1)
        self.start(keep_config=True)
        self.assertTrue(eventually(lambda: not self.files()))

    def test_one_whose_load_fails_goes_too(self):
        script = f"{sys.executable} -c 'import socket, sys; socket.socket(1).bind(sys.argv[1])' {{socket}}"
        self.write_config(models=f'[models.bad]\ncommand = ["sh", "-c", """{script}"""]\n')
        self.masters[0].send_signal(signal.SIGHUP)
        self.assertTrue(eventually(lambda: self.post("/m/bad/x", "").status == 503))
        self.assertTrue(eventually(lambda: not self.files()))

    def test_they_go_with_the_pool(self):
        self.ask("a")
        self.masters[0].terminate()
        self.assertEqual(self.masters[0].wait(), 0)
        subprocess.run([POOLCTL, "--dir", self.dir, "remove", "--stop"], check=True)
        self.assertFalse(self.folder.exists())


if __name__ == "__main__":
    unittest.main()
