"""The page of the pool: what is served, and what a browser makes of it."""

import base64
import hashlib
import json
import os
import pathlib
import re
import signal
import unittest

from browser import SHIFT, Browser
from door import DoorTest, eventually
from node import folder_with

JSON = {"Content-Type": "application/json"}
STREAM = b"POST /m/a/stream?600,0.1 HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n"
HOSTILE = '<img src=x onerror="window.ran=1">\u05d0\u05d1\'"&amp;</script>'


class PageTest(DoorTest):
    def order(self, call, model, fields=None):
        reply = self.post(f"/api/pool/{call}", {"model": model}, fields=JSON | (fields or {}))
        self.assertEqual(reply.status, 200, reply.body)

    def keys(self):
        path = pathlib.Path(self.dir, "keys")
        path.touch(0o600)
        path.write_text("the-user use\nthe-boss steer\n")
        return f'keys = "{path}"'

    def in_use(self):
        """Streams from a, until the connection is closed."""
        talk = self.socket()
        talk.sendall(STREAM)
        self.assertTrue(eventually(self.leases))
        return talk


class Page(PageTest):
    def test_it_is_one_page_that_may_do_nothing_but_ask_its_door(self):
        self.start()
        page = self.get("/pool")
        self.assertEqual(page.status, 200)
        self.assertEqual(page.fields["Content-Type"], "text/html; charset=utf-8")
        self.assertEqual(page.fields["X-Content-Type-Options"], "nosniff")
        self.assertEqual(page.fields["Referrer-Policy"], "no-referrer")
        self.assertEqual(page.fields["Cache-Control"], "no-cache")
        html = page.body.decode()
        self.assertTrue(html.startswith('<!doctype html>\n<html lang="en">'))
        self.assertTrue(html.endswith("</html>\n"))
        policy = dict(
            one.strip().split(" ", 1) for one in page.fields["Content-Security-Policy"].split(";")
        )
        self.assertEqual(policy.pop("default-src"), "'none'")
        self.assertEqual(policy.pop("connect-src"), "'self'")
        for kind in ("script", "style"):
            (text,) = re.findall(f"<{kind}>(.*?)</{kind}>", html, re.S)
            digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
            self.assertEqual(policy.pop(f"{kind}-src"), f"'sha256-{digest}'")
        for name in ("base-uri", "form-action", "frame-ancestors"):
            self.assertEqual(policy.pop(name), "'none'")
        self.assertEqual(policy.pop("img-src"), "data:")
        self.assertEqual(policy, {"require-trusted-types-for": "'script'", "trusted-types": "'none'"})
        # Nothing of others, no inline handler or style, no text as HTML.
        urls = set(re.findall(r"(?:https?:)?//[\w.-]+\.\w+[^\s'\"]*", html))
        self.assertEqual(urls, {"http://www.w3.org/2000/svg"}, "the name of a format")
        for forbidden in (r"\son\w+=", r"\sstyle=", "innerHTML", "insertAdjacentHTML", r"\beval\b"):
            self.assertIsNone(re.search(forbidden, html), forbidden)

    def test_methods(self):
        self.start(models=self.model("a"))
        head = self.request("HEAD", "/pool")
        self.assertEqual((head.status, head.body), (200, b""))
        page = self.get("/pool?of=a&bookmark")
        self.assertEqual(head.fields["Content-Length"], str(len(page.body)))
        self.assertEqual(
            head.fields["Content-Security-Policy"], page.fields["Content-Security-Policy"]
        )
        for method in ("POST", "PUT", "DELETE"):
            for path in ("/pool", "/pool?model=a"):
                reply = self.request(method, path, '{"model": "a"}', JSON)
                self.assertEqual((reply.status, reply.fields["Allow"]), (405, "GET, HEAD"))
        for path in ("/pool/", "/pool/x", "/pools"):
            self.assertEqual(self.get(path).status, 404)
        self.assertEqual(self.backends(), {})

    def test_it_needs_no_key_and_its_name_must_be_the_doors(self):
        self.start(models=self.model("a"), serve=self.keys())
        for fields in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Bearer the-user"}):
            self.assertEqual(self.get("/pool", fields=fields).status, 200)
        for path in ("/api/pool/status", "/v1/models", "/pools"):
            self.assertEqual(self.get(path).status, 401)
        self.assertEqual(self.post("/pool", "{}").status, 401)
        self.assertEqual(self.get("/pool", fields={"Host": "evil.example"}).status, 421)

    def test_any_site_may_link_to_it_and_none_may_read_it(self):
        self.start(models=self.model("a"))
        link = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
        self.assertEqual(self.get("/pool", fields=link).status, 200)
        self.assertEqual(self.get("/api/pool/list", fields=link).status, 403)
        script = self.get("/pool", fields={"Origin": "https://evil.example"} | link)
        self.assertNotIn("Access-Control-Allow-Origin", script.fields)


class BrowserTest(PageTest):
    def begin(self, **config):
        master = self.start(**config)
        self.browser = Browser(self)
        self.url = f"http://127.0.0.1:{self.port}/pool"
        return master

    def opened(self, **options):
        self.browser.open(self.url, **options)
        self.see("live", "live")

    def value(self, script):
        return self.browser.run(script)

    def text_of(self, place):
        """What is to be seen there."""
        element = f"document.getElementById({json.dumps(place)})"
        return self.value(f"{element}?.checkVisibility() ? {element}.innerText : ''")

    def see(self, place, text):
        """Waits until that part of the page has the text."""
        if not eventually(lambda: text in self.text_of(place)):
            self.fail(f"{place} has no {text!r}: {self.browser.text()} {self.browser.complaints()}")

    def see_not(self, place, text):
        self.assertTrue(eventually(lambda: text not in self.text_of(place)), self.text_of(place))

    def press_until(self, label, modifiers=0):
        """Goes from element to element, as who has no mouse does, until one of that name."""
        for _ in range(50):
            self.browser.press("Tab", modifiers)
            if self.focused() == label:
                return
        self.fail(f"no way to {label!r} by keyboard: {self.browser.text()}")

    def focused(self):
        return self.value(
            "document.activeElement.getAttribute('aria-label') ?? document.activeElement.innerText"
        )

    def click(self, label):
        """As a mouse would, on the middle of the button of that name."""
        found = f"[...document.querySelectorAll('button')].find(b => (b.ariaLabel ?? b.innerText) === {json.dumps(label)})"
        self.assertTrue(eventually(lambda: self.value(f"Boolean({found})")), label)
        x, y = self.value(
            f"(b => {{ b.scrollIntoView({{block: 'center'}}); const r = b.getBoundingClientRect();"
            f" return [r.x + r.width / 2, r.y + r.height / 2] }})({found})"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self.browser.call(
                "Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1
            )

    def tree(self):
        """[(role, name)] as a screen reader has them, in its order."""
        nodes = {
            node["nodeId"]: node for node in self.browser.call("Accessibility.getFullAXTree")["nodes"]
        }

        def below(node):
            if not node["ignored"]:
                yield node["role"]["value"], node.get("name", {}).get("value", "").strip()
            for child in node.get("childIds", []):
                yield from below(nodes[child])

        return list(below(next(node for node in nodes.values() if "parentId" not in node)))

    def assert_well_behaved(self):
        self.assertEqual(self.browser.complaints(), [])


class PageInBrowser(BrowserTest):
    def test_backends_are_there_with_their_numbers(self):
        self.begin(models=self.model("a", more="parallel = 4") + self.model("b") + self.model("c"))
        for model in "ab":
            self.order("load", model)
        self.in_use()
        self.opened()
        self.see("summary", "2 of 2 places taken, 1 request in flight, 0 waiting")
        self.see("backends", "In flight\n1 of 4\n")
        self.see("backends", "In flight\n0\n")
        self.see("next", "Next to go when room is needed: b")
        self.see("backends", "next to go\n")
        self.assertIn("number 1 of 1 to go", self.text_of("backends"))
        self.see("models", "c")
        # As poolctl has it, once the coordinator has measured it.
        self.assertTrue(eventually(lambda: self.backends()["a"]["measured_bytes"]))
        self.see("backends", "MiB")
        self.see("waiters-title", "Waiting")
        self.assertRegex(self.text_of("backends"), r"Oldest request\n\d+(\.\d)?m?s")
        self.assertRegex(self.text_of("backends"), r"Idle\n\d+(\.\d)?m?s")
        widths = "[...document.querySelectorAll('.bar > div')].map(b => b.getBoundingClientRect().width > 0)"
        self.assertTrue(eventually(lambda: self.value(widths) == [True, True, True, False, True, False, False, True]))
        self.assert_well_behaved()

    def test_sizes_and_times_are_those_of_poolctl(self):
        self.begin()
        self.opened()
        texts = {
            0: "0B", 1023: "1023B", 1024: "1KiB", 1536: "1.5KiB", 1048575: "1MiB",
            5 * 2**30 + 2**28: "5.3GiB", 2**40 - 1: "1TiB", 3 * 2**40: "3TiB",
        }  # fmt: skip
        self.assertEqual(
            self.value(f"{json.dumps(list(texts))}.map(n => sizeText(Number(n)))"),
            list(texts.values()),
        )
        ages = {0: "0ms", 999: "999ms", 1000: "1.0s", 59999: "59.9s", 61000: "1m1s",
                3600000: "1h0m", 90000000: "1d1h"}  # fmt: skip
        self.assertEqual(
            self.value(f"{json.dumps(list(ages))}.map(n => ageText(Number(n)))"), list(ages.values())
        )

    def test_orders_by_mouse(self):
        self.begin(models=self.model("a") + self.model("b", "--load 60"))
        self.opened()
        self.click("Load a")
        self.see("result", "a: loaded, after ")
        self.see("backends", "ready")
        self.assertEqual(self.backends()["a"]["state"], "ready")
        self.click("Pin a")
        self.see("result", "a: pinned")
        self.see("backends", "pinned")
        self.assertTrue(self.backends()["a"]["pinned"])
        self.click("Unpin a")
        self.see("result", "a: no longer pinned")
        self.assertFalse(self.backends()["a"]["pinned"])
        self.click("Evict a")
        self.assertEqual(self.value("document.querySelector('dialog').open"), True)
        self.click("Keep it")
        self.assertEqual(self.value("document.querySelector('dialog').open"), False)
        self.assertIn("a", self.backends())
        self.click("Evict a")
        self.click("Evict")
        self.see("result", "a: gone, after ")
        self.assertNotIn("a", self.backends())
        # One that takes its time says so, and is not given twice.
        self.click("Load b")
        self.see("models-title", "Not loaded")
        self.see("backends", "starting")
        self.assertEqual(len([r for r in self.browser.requests() if r["url"].endswith("/load")]), 2)
        self.assert_well_behaved()

    def test_what_is_in_use_goes_only_if_it_is_cut(self):
        self.begin(models=self.model("a"), pool='max_backends = 2\ndrain_timeout = "100ms"')
        self.order("load", "a")
        self.in_use()
        self.opened()
        self.see("backends", "In flight\n1\n")
        self.click("Evict a")
        self.assertIn("It has 1 request in flight", self.text_of("ask"))
        self.click("Evict")
        self.see("result", "unable to evict a")
        self.assertIn("a", self.backends())
        self.click("Evict a")
        self.value("document.getElementById('ask-force').click()")
        self.click("Evict")
        self.see("result", "a: gone")

    def test_with_the_keyboard_alone(self):
        self.begin(models=self.model("a") + self.model("b"))
        self.order("load", "a")
        self.opened()
        self.see("backends", "ready")
        self.press_until("Evict a")
        self.browser.press("Enter")
        self.assertTrue(eventually(lambda: self.focused() == "Evict"))
        self.browser.press("Escape")
        self.assertTrue(eventually(lambda: self.focused() == "Evict a"), "it comes back")
        self.browser.press("Enter")
        self.assertTrue(eventually(lambda: self.focused() == "Evict"))
        self.browser.press(" ")
        self.see("result", "a: gone")
        self.assertEqual(self.backends(), {})
        # Its row is gone; the focus is where it was, not at the beginning of the page.
        self.assertTrue(eventually(lambda: self.focused() == "Backends"), self.focused())
        self.press_until("Load b")
        self.browser.press("Tab", SHIFT)
        self.assertEqual(self.focused(), "Load a")
        self.browser.press("Enter")
        self.see("result", "a: loaded")
        self.assertEqual(list(self.backends()), ["a"])
        self.assert_well_behaved()

    def test_the_focus_stays_while_all_is_shown_anew(self):
        self.begin(models=self.model("a") + self.model("b") + self.model("c"), pool="max_backends = 3")
        self.order("load", "a")
        self.order("load", "b")
        self.opened()
        self.see("summary", "2 of 3 places taken")
        self.press_until("Evict b")
        self.value("window.had = document.activeElement; window.moved = 0")
        self.value("document.addEventListener('focusout', () => ++window.moved)")
        self.order("load", "c")
        self.see("summary", "3 of 3 places taken")
        self.order("pin", "b")
        self.see("backends", "pinned")
        self.order("evict", "a")
        self.see("summary", "2 of 3 places taken")
        self.assertTrue(self.value("window.had === document.activeElement && window.had.isConnected"))
        self.assertEqual(self.value("window.moved"), 0)
        self.assertEqual(self.focused(), "Evict b")

    def test_who_waits_and_why(self):
        self.begin(models=self.model("a") + self.model("b"), pool="max_backends = 1")
        self.order("load", "a")
        self.order("pin", "a")
        self.in_use()
        self.opened()
        self.see("no-waiters", "Nobody waits.")
        self.order("unpin", "a")
        waits = self.socket()
        waits.sendall(STREAM.replace(b"/m/a/", b"/m/b/"))
        self.see("waiters", "b")
        self.see("waiters", "number 1 of 1 model, with 1 request; 1 of 1 places taken")
        self.see("waiters", "a: ")
        self.see("summary", "1 waiting")
        waits.close()
        self.see("no-waiters", "Nobody waits.")

    def test_names_of_strangers_are_text(self):
        command = f'command = ["python3", "-c", {json.dumps("import time; time.sleep(600)")}]'
        rest = f'{command}\naddress = "127.0.0.1:1"\nready = "tcp"\n'
        long = "x" * 200
        models = "".join(f"[models.{json.dumps(name)}]\n{rest}" for name in (HOSTILE, long, "q"))
        self.begin(models=models, pool="max_backends = 3")
        for model in (HOSTILE, long):
            self.post("/api/pool/load", {"model": model, "timeout": "1ms"}, fields=JSON)
        self.assertTrue(eventually(lambda: {HOSTILE, long} <= set(self.backends())))
        self.opened(width=360)
        self.see("backends", "x" * 200)
        names = "[...document.querySelectorAll('#backends [data-is=name]')].map(n => n.textContent)"
        self.assertEqual(set(self.value(names)), {HOSTILE, long})
        self.click(f"Evict {HOSTILE}")
        self.assertIn("<img", self.text_of("ask"))
        self.click("Evict")
        self.see("result", "<img")
        self.see("events", "<img")
        self.assertEqual(self.value("document.images.length"), 0)
        self.assertIsNone(self.value("window.ran"))
        self.assertLessEqual(self.value("document.documentElement.scrollWidth"), 360)
        self.assert_well_behaved()

    def test_it_fits_into_a_small_window(self):
        models = "".join(self.model(name) for name in ("a", "b" * 60, "c/d:Q4_K_M"))
        self.begin(models=models, pool="max_backends = 2")
        self.order("load", "a")
        self.order("load", "b" * 60)
        self.in_use()
        self.opened(width=360)
        self.see("backends", "number 1 of 1")
        for width in (320, 360, 768, 1280):
            self.browser.resize(width)
            self.assertLessEqual(self.value("document.documentElement.scrollWidth"), width)
        self.browser.resize(360)
        self.click("Evict a")
        self.assertLessEqual(self.value("document.documentElement.scrollWidth"), 360)
        small = "[...document.querySelectorAll('button')].filter(b => b.offsetHeight && b.offsetHeight < 36).length"
        self.assertEqual(self.value(small), 0, "of a finger's size")

    def test_a_screen_reader_finds_all_of_it(self):
        self.begin(models=self.model("a") + self.model("b"))
        self.order("load", "a")
        self.opened()
        self.see("backends", "number 1 of 1")
        tree = self.tree()
        buttons = [name for role, name in tree if role == "button"]
        self.assertEqual(buttons, ["Pin a", "Evict a", "Load b"])
        headings = [name for role, name in tree if role == "heading"]
        self.assertEqual(
            headings, ["Pool default", "Backends", "a", "Waiting", "Not loaded", "Events live"]
        )
        roles = [role for role, _ in tree]
        self.assertIn("log", roles)
        self.assertIn("status", roles)
        for role in ("list", "listitem", "term", "definition"):
            self.assertIn(role, roles)
        for region in ("Backends", "Waiting", "Not loaded", "Events live"):
            self.assertIn(("region", region), tree)
        self.assertEqual([role for role, name in tree if role in ("button", "textbox") and not name], [])
        self.assertEqual(self.value("document.getElementById('log').ariaLive"), "polite")
        self.assertEqual(self.value("document.documentElement.lang"), "en")

    def axe_finds(self):
        found = self.value("axe.run(document).then(r => r.violations.map(v => [v.id, v.nodes[0].html]))")
        checked = self.value("axe.run(document).then(r => r.passes.length)")
        self.assertGreater(checked, 10)
        return found

    def test_axe_finds_nothing(self):
        axe = (folder_with(self, "axe-core") / "node_modules/axe-core/axe.min.js").read_text()
        models = self.model("a", more="parallel = 2") + self.model("b") + self.model("c")
        self.begin(models=models, pool="max_backends = 1", serve=self.keys())
        boss = {"Authorization": "Bearer the-boss"}
        self.order("load", "a", boss)
        self.browser.open(self.url)
        self.see("key-form", "This door asks for a key")
        self.value(f"{axe}; 0")
        self.assertEqual(self.axe_finds(), [], "the form for a key")
        self.browser.type("the-boss")
        self.browser.press("Enter")
        self.see("live", "live")
        for features in ((), (("prefers-color-scheme", "dark"),)):
            for width in (1280, 360):
                self.opened(width=width, features=features)
                self.see("backends", "ready")
                self.value(f"{axe}; 0")
                self.assertEqual(self.axe_finds(), [], (features, width))
                self.click("Evict a")
                self.assertEqual(self.axe_finds(), [], "the question")
                self.browser.press("Escape")
        self.value("document.getElementById('summary').style.color = '#333'")
        self.assertEqual([rule for rule, _ in self.axe_finds()], ["color-contrast"])

    def test_pictures(self):
        """Those of README.md; kept in MODELPOOL_PICTURES, if that is a folder."""
        names = ("qwen3-8b", "llama-3.3-70b", "whisper-large", "nomic-embed")
        models = "".join(
            self.model(name, more=f'parallel = 4\nmemory = "{size}MiB"')
            for name, size in zip(names, (20, 60, 14, 10), strict=True)
        )
        self.begin(models=models, pool='max_backends = 3\nmax_memory = "100MiB"')
        for name in (*names[:2], names[3]):
            self.order("load", name)
        self.order("pin", names[3])
        used = [self.socket() for _ in range(4)]
        for talk, name in zip(used, (*names[:2], names[0], names[2]), strict=True):
            talk.sendall(STREAM.replace(b"/m/a/", f"/m/{name}/".encode()))
        folder = pathlib.Path(os.environ.get("MODELPOOL_PICTURES") or self.dir)
        dark = (("prefers-color-scheme", "dark"),)
        for name, width, height, features in (
            ("wide", 1280, 900, ()), ("small", 360, 740, ()), ("dark", 1280, 900, dark)
        ):  # fmt: skip
            self.opened(width=width, height=height, features=features)
            self.see("waiters", names[2])
            self.see("backends", "MiB")
            picture = folder / f"{name}.webp"
            self.browser.picture(picture)
            self.assertGreater(picture.stat().st_size, 10_000)

    def test_events_arrive_as_they_happen(self):
        self.begin(models=self.model("a"))
        self.order("load", "a")
        self.opened()
        self.see("events", "loaded a")
        # They are looked after at once: here nothing else would.
        self.assertTrue(eventually(lambda: self.value("!looksNow && (clearTimeout(timer), true)")))
        self.order("evict", "a")
        self.see("events", "evicted, requested a")
        self.see("no-backends", "Nothing is loaded.")
        first = "document.querySelector('#events > li').innerText"
        self.assertIn("evicted", self.value(first), "the newest stands first")
        self.assertEqual(len([r for r in self.browser.requests() if "follow=1" in r["url"]]), 1)
        self.value("for (let i = 0; i < 150; ++i) eventRow('kind', 'model', 'text')")
        self.assertEqual(self.value("document.querySelectorAll('#events > li').length"), 100)

    def test_events_that_were_missed_are_counted(self):
        self.begin(models=self.model("a"), more="[capacity]\nevents = 16\n")
        self.opened()
        self.value("following.abort(); following = null; lastEvent = 1")
        while (last := self.events()[-1]["seq"]) < 20:
            values = {"idle_timeout": f"{1000 + last}s"}
            self.assertEqual(self.post("/api/pool/set", values, fields=JSON).status, 200)
            self.assertTrue(eventually(lambda last=last: self.events()[-1]["seq"] > last))
        self.value("void follow()")
        self.see("events", "Warning: lagged")
        self.assertRegex(self.text_of("events"), r"\d+ events lost")

    def test_behind_another_tab_it_asks_nothing(self):
        self.begin(models=self.model("a"))
        self.opened()
        self.see("models", "a")
        other = self.browser.another_tab()
        self.assertTrue(eventually(lambda: self.value("document.hidden")))
        self.assertTrue(eventually(lambda: not self.value("looksNow")))
        asked = len(self.browser.requests())
        self.assertEqual(self.value("document.getElementById('live').innerText"), "paused")
        self.order("load", "a")
        self.order("evict", "a")
        self.order("load", "a")
        self.assertEqual(len(self.browser.requests()), asked)
        self.browser.close_tab(other)
        self.see("backends", "ready")
        self.see("events", "evicted")
        self.see("live", "live")

    def test_it_says_so_when_the_door_is_gone_and_goes_on_when_it_is_back(self):
        master = self.begin(models=self.model("a"))
        self.opened()
        self.see("models", "a")
        master.send_signal(signal.SIGTERM)
        master.wait()
        self.see("connection", "The door does not answer. What stands here is what was seen last.")
        self.see("live", "interrupted")
        self.click("Load a")
        self.see("result", "a: the door does not answer")
        self.start(keep_config=True)
        self.order("load", "a")
        self.see("live", "live")
        self.see("backends", "ready")
        self.assertEqual(self.text_of("connection"), "")

    def test_it_says_so_when_no_coordinator_runs(self):
        master = self.begin(models=self.model("a"))
        self.opened()
        master.kill()
        master.wait()
        os.kill(self.ctl("status")["coordinator"]["pid"], signal.SIGKILL)
        self.see("judge", "No coordinator runs")
        self.see("models", "a")

    def test_with_keys_it_asks_for_one(self):
        self.begin(models=self.model("a"), serve=self.keys())
        self.browser.open(self.url)
        self.see("key-form", "This door asks for a key")
        self.assertEqual(self.value("document.activeElement.id"), "key")
        self.browser.type("sch\u00f6n \u05d0")
        self.browser.press("Enter")
        self.see("key-error", "A key is made of letters")
        self.value("document.getElementById('key').value = ''")
        self.browser.type("wrong-secret")
        self.browser.press("Enter")
        self.see("key-error", "That is no key of this door.")
        # What was refused a moment later says nothing new.
        self.value("lost({status: 401, key: 'wrong-secret'})")
        self.see("key-error", "That is no key of this door.")
        self.browser.type("the-user")
        self.browser.press("Enter")
        self.see("live", "live")
        self.click("Load a")
        self.see("result", "this key may use it; steering needs one")
        self.assertEqual(self.backends(), {})
        self.click("Forget the key")
        self.see("key-form", "This door asks for a key")
        self.browser.type("the-boss")
        self.browser.press("Enter")
        self.see("live", "live")
        self.click("Load a")
        self.see("result", "a: loaded")
        # It stays with the tab, and nowhere else.
        self.browser.open(self.url)
        self.see("backends", "ready")
        self.assertEqual(self.value("JSON.stringify([localStorage, document.cookie])"), '[{},""]')
        for asked in self.browser.requests():
            for secret in ("wrong-secret", "the-user", "the-boss"):
                self.assertNotIn(secret, asked["url"] + asked.get("postData", ""))
        self.assertNotIn("the-boss", self.browser.text() + self.said())
        self.assert_well_behaved()

    def test_what_its_policy_forbids_is_not_done_and_is_seen_by_these_tests(self):
        self.begin()
        self.opened()
        self.assert_well_behaved()
        self.value("document.body.append(Object.assign(document.createElement('img'), {src: '/x.png'}))")
        self.assertTrue(eventually(self.browser.complaints))
        self.assertTrue(
            self.value("try { document.body.innerHTML = '<b>x</b>'; false } catch { true }")
        )


if __name__ == "__main__":
    unittest.main()
