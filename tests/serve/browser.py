"""A Chromium of the test's own, driven over a pipe by its DevTools protocol.

It ends, with all its processes and its profile, when the test does; and by itself when nobody holds
the other end of the pipe any more.
"""

import base64
import contextlib
import fcntl
import json
import os
import pathlib
import shutil
import signal
import subprocess
import tempfile
import threading

from door import PATIENCE_S, eventually

FLAGS = (
    "--headless=new",
    "--no-sandbox",  # root, in a container
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--no-default-browser-check",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-breakpad",
    "--remote-debugging-pipe",
)
# key -> its code, and what it types
KEYS = {"Tab": (9, ""), "Enter": (13, "\r"), "Escape": (27, ""), " ": (32, " ")}
SHIFT = 8


def processes_of(group, place):
    """Those of the group that live, and those with the place in command line or environment."""
    found = []
    for entry in pathlib.Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):
            pid = int(entry.name)
            state, _, its_group = (entry / "stat").read_text().rsplit(")", 1)[1].split()[:3]
            told = (entry / "cmdline").read_bytes() + (entry / "environ").read_bytes()
            is_it = int(its_group) == group or place.encode() in told
            if is_it and state not in "ZX" and pid != os.getpid():
                found.append(pid)
    return found


def pipe():
    """Two descriptors that are neither 3 nor 4, which Chromium reads and writes."""
    ends = os.pipe()
    high = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in ends]
    for end in ends:
        os.close(end)
    return high


class Browser:
    """One window with one page. `events`: what it told unasked, [{"method", "params"}]."""

    def __init__(self, test):
        program = shutil.which("chromium")
        if program is None:
            test.skipTest("there is no browser (Debian package: chromium)")
        self.profile = tempfile.mkdtemp(prefix="browser-", dir=test.dir)
        its_in, self.out = pipe()
        self.input, its_out = pipe()

        def place_pipes():
            os.dup2(its_in, 3)
            os.dup2(its_out, 4)

        with open(f"{self.profile}/said", "wb") as said:
            self.process = subprocess.Popen(
                [program, *FLAGS, f"--user-data-dir={self.profile}", "about:blank"],
                stdout=said, stderr=said, pass_fds=(3, 4), preexec_fn=place_pipes,
                start_new_session=True,
                env=os.environ | {"HOME": self.profile, "XDG_CONFIG_HOME": self.profile},
            )  # fmt: skip
        os.close(its_in)
        os.close(its_out)
        self.changed = threading.Condition()
        self.answers, self.events, self.last, self.is_gone = {}, [], 0, False
        self.reader = threading.Thread(target=self.read, daemon=True)
        self.reader.start()
        test.addCleanup(self.end)
        self.session = None
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for part in ("Page", "Runtime", "Log", "Network", "Accessibility"):
            self.call(f"{part}.enable")

    def end(self):
        # Until none is left: a helper may have begun a session of its own.
        def others():
            found = processes_of(self.process.pid, self.profile)
            for pid in found:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            return found

        eventually(lambda: not others())
        self.process.wait()
        self.reader.join()
        os.close(self.out)
        os.close(self.input)
        shutil.rmtree(self.profile, ignore_errors=True)

    # --- The protocol: messages of JSON, each with a zero byte behind it ---

    def read(self):
        data = b""
        while some := os.read(self.input, 1 << 20):
            *messages, data = (data + some).split(b"\0")
            with self.changed:
                for message in map(json.loads, messages):
                    if "id" in message:
                        self.answers[message["id"]] = message
                    else:
                        self.events.append(message)
                self.changed.notify_all()
        with self.changed:
            self.is_gone = True
            self.changed.notify_all()

    def call(self, method, **params):
        self.last += 1
        number = self.last
        message = {"id": number, "method": method, "params": params}
        if self.session:
            message["sessionId"] = self.session
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self.out, data):]
        with self.changed:
            self.changed.wait_for(lambda: self.is_gone or number in self.answers, PATIENCE_S)
            answer = self.answers.pop(number, None)
        if answer is None:
            said = pathlib.Path(f"{self.profile}/said").read_text(errors="replace")[-2000:]
            raise AssertionError(f"no answer of the browser to {method}: {said}")
        if "error" in answer:
            raise AssertionError(f"{method}: {answer['error']}")
        return answer["result"]

    # --- A page ---

    def open(self, url, width=1280, height=900, features=()):
        self.resize(width, height)
        media = [{"name": name, "value": value} for name, value in features]
        self.call("Emulation.setEmulatedMedia", media="screen", features=media)
        self.call("Page.navigate", url=url)
        assert eventually(lambda: self.run("document.readyState === 'complete' && location.href") == url)

    def resize(self, width, height=900):
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height,
                  deviceScaleFactor=1, mobile=width < 600)  # fmt: skip

    def run(self, script):
        """The value of an expression in the page."""
        done = self.call(
            "Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True
        )
        if "exceptionDetails" in done:
            raise AssertionError(f"{script}: {done['exceptionDetails']}")
        return done["result"].get("value")

    def another_tab(self):
        """In front of the page, until it is closed."""
        return self.call("Target.createTarget", url="about:blank")["targetId"]

    def close_tab(self, tab):
        self.call("Target.closeTarget", targetId=tab)

    def text(self):
        return self.run("document.body.innerText")

    def press(self, key, modifiers=0):
        code, text = KEYS[key]
        name = {" ": "Space"}.get(key, key)
        params = {"key": key, "code": name, "windowsVirtualKeyCode": code, "modifiers": modifiers}
        kind = "keyDown" if text else "rawKeyDown"
        self.call("Input.dispatchKeyEvent", type=kind, text=text, **params)
        self.call("Input.dispatchKeyEvent", type="keyUp", **params)

    def type(self, text):
        self.call("Input.insertText", text=text)

    def complaints(self):
        """What the page did that it must not: exceptions, and what its policy forbade."""
        found = []
        for event in list(self.events):
            entry = event.get("params", {}).get("entry", {})
            if event["method"] == "Runtime.exceptionThrown":
                found.append(event["params"]["exceptionDetails"])
            elif entry.get("source") in ("security", "violation", "javascript", "recommendation"):
                found.append(entry)
            elif "Content Security Policy" in entry.get("text", ""):
                found.append(entry)
        return found

    def requests(self):
        return [
            event["params"]["request"]
            for event in list(self.events)
            if event["method"] == "Network.requestWillBeSent"
        ]

    def picture(self, path):
        shot = self.call("Page.captureScreenshot", format="webp", quality=80)
        pathlib.Path(path).write_bytes(base64.b64decode(shot["data"]))
