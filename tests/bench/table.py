"""The targets, and one readable table of everything that was measured."""

import re

import counts

PEERS = ("php-fpm", "uWSGI", "gunicorn")
KEYS = ("median", "p99", "min", "max", "cpu", "spread", "early", *counts.KEYS, "samples", "unit")
TO_US = {"ns": 1e-3, "us": 1, "ms": 1e3, "s": 1e6}


def plain_name(name):
    """A Google Benchmark name without what says how it was timed; one thread is the rule."""
    return re.sub(
        r"/(real_time|process_time|manual_time|threads:1|(repeats|iterations|min_time):[^/]*)(?=/|$)",
        "",
        name,
    )


class Missing(Exception):
    """Something a target needs was not measured."""


class Measured:
    """Looks values up by benchmark and name."""

    def __init__(self, everything):
        self.reports = everything["benchmarks"]

    def result(self, benchmark, name):
        for result in self.reports.get(benchmark, {}).get("results", []):
            if plain_name(result["name"]) == name:
                return result
        raise Missing(f"{benchmark}: {name}")

    def get(self, benchmark, name, key="median"):
        result = self.result(benchmark, name)
        if key not in result:
            raise Missing(f"{benchmark}: {key} of {name}")
        return result[key]

    def microseconds(self, benchmark, name):
        unit = self.result(benchmark, name).get("unit", self.reports[benchmark].get("unit"))
        if unit not in TO_US:
            raise Missing(f"{benchmark}: unit of {name}")
        return self.get(benchmark, name) * TO_US[unit]


def targets():
    """(what, measure, limit, how to print it): reached if the measure does not exceed the limit."""
    rows = []

    def at_most(limit, what, measure, form="{:.2f}"):
        rows.append((what, measure, limit, form))

    def ratio(limit, what, name, base, key="median"):
        at_most(limit, what, lambda m: m.get("hot_path", name, key) / m.get("hot_path", base, key))

    ratio(1.3, "begin+end / floor", "begin_end", "floor")
    ratio(1.6, "begin+end with a 31-byte tag / floor", "begin_end_tag", "floor")
    ratio(1 / 6, "begin+end / LocalAI's algorithm", "begin_end", "localai")
    ratio(2.5, "acquire+release, 1 backend / floor", "acquire_release/1", "floor")
    ratio(2.5, "acquire+release, 128 backends / floor", "acquire_release/128", "floor")
    ratio(3.5, "acquire+release, 1024 at random / floor", "acquire_release_random/1024", "floor")
    # CPU time, because somebody else may use the second CPU.
    ratio(1.15, "2 processes on one backend / alone", "two_processes/same",
          "two_processes/alone", "cpu")  # fmt: skip
    at_most(0, "cache lines written by both of 2 processes",
            lambda m: m.get("counts", "written_by_both_processes", "segment_lines"), "{:.0f}")  # fmt: skip
    for which in ("different", "same"):
        ratio(1.5, f"CPU time, 4 threads, {which} backend / 1 thread",
              f"threads_{which}/threads:4", f"threads_{which}", "cpu")  # fmt: skip

    for when, name in (("all CPUs at work", "saturated"), ("after a sleep", "woken")):
        # 8 as in stamp_lag_max_ns().
        at_most(8, f"coarse clock behind the precise one, {when}",
                lambda m, name=name: m.get("clock", f"clock_lag/{name}", "max"), "{:.2f} ticks")  # fmt: skip

    ms = "{:.3f} ms"

    def lateness(limit, rule, load, key):
        at_most(limit, f"{rule} timeout, {load} load: due to signal, {key}",
                lambda m: m.get("lateness", f"{rule}/{load}/signalled/due", key), ms)  # fmt: skip

    for rule in ("busy", "idle", "load"):
        at_most(0, f"{rule} timeout: signals before the limit",
                lambda m, rule=rule: sum(m.get("lateness", f"{rule}/{load}/signalled/limit", "early")
                                         for load in ("light", "full")), "{:.0f}")  # fmt: skip
        lateness(0.3, rule, "light", "median")
        lateness(2, rule, "light", "p99")
        lateness(20, rule, "full", "p99")
    at_most(0.01, "busy timeout, median / that of the best peer", best_peer_ratio, "{:.5f}")

    for key, limit in (("median", 0.3), ("p99", 3)):
        at_most(limit, f"exit of a victim to grant, {key}",
                lambda m, key=key: m.get("handover", "exit_to_grant", key), ms)  # fmt: skip
    at_most(1.5, "ready to 64 waiters / raw futex loop",
            lambda m: m.get("handover", "ready_to_64") / m.get("handover", "futex_to_64"))  # fmt: skip

    for size, limit_us in (("16x8x16", 20), ("128x128x16", 1000)):
        at_most(limit_us, f"scan + decide, {size}",
                lambda m, size=size: m.microseconds("scale", f"scan/{size}"), "{:.1f} us")  # fmt: skip
    for crowd, limit_us in (("64x8x64", 2000), ("8x8x8", 50)):
        at_most(limit_us, f"making room, residents x devices x heads: {crowd}",
                lambda m, crowd=crowd: m.microseconds("scale", f"make_room/{crowd}"), "{:.1f} us")  # fmt: skip
    at_most(5, "making room without a waiter, 64 residents",
            lambda m: m.get("scale", "make_room/64x8x0"), "{:.2f} us")  # fmt: skip
    at_most(1000, "settings of 4096 models: publication, under the mutex",
            lambda m: m.microseconds("scale", "settings_publish/4096"), "{:.0f} us")  # fmt: skip
    at_most(0, "idle coordinator: wake-ups in 10 s",
            lambda m: m.get("scale", "coordinator_idle_wakeups"), "{:.0f}")  # fmt: skip
    at_most(0.0, "idle coordinator: CPU",
            lambda m: round(m.get("scale", "coordinator_idle_cpu_percent"), 1), "{:.1f} %")  # fmt: skip
    rows += door_targets()
    return rows


def door_targets():
    """poolserve beside nginx, which is the door that does nothing."""
    rows = []

    def at_most(limit, what, measure, form="{:.2f}"):
        rows.append((what, measure, limit, form))

    def of(limit, what, name, form, key="median", scale=1):
        at_most(limit, what, lambda m: m.get("serve", name, key) * scale, form)

    def ratio(limit, what, name, base, key="median"):
        at_most(limit, what, lambda m: m.get("serve", name, key) / m.get("serve", base, key))

    ratio(1.3, "added by poolserve / by nginx, median", "added/door", "added/nginx")
    of(0.25, "added by poolserve, median", "added/door", "{:.3f} ms", scale=1e-3)
    of(1, "added by poolserve, p99", "added/door", "{:.3f} ms", "p99", 1e-3)
    ratio(1 / 0.6, "small answers a second, nginx / poolserve", "answers/nginx", "answers/door")
    of(50, "400 streams x 20 chunks/s: delay, p99", "chunk_delay/400/door", "{:.2f} ms", "p99")
    ratio(2, "... / nginx's", "chunk_delay/400/door", "chunk_delay/400/nginx", "p99")
    of(64, "resident for a stream, of 2,000", "stream_resident/2000/door", "{:.1f} KiB")
    of(128, "... with TLS", "stream_resident/2000_tls/door", "{:.1f} KiB")
    of(28, "kill -9 of 1 of 4 workers: its streams, of 64", "kill/streams_of_killed", "{:.0f}")
    of(0, "... other streams cut", "kill/others_cut", "{:.0f}")
    of(0, "... models loaded again", "kill/loads", "{:.0f}")
    of(0, "... backends ended", "kill/backends_ended", "{:.0f}")
    for name, words in (("reload", "reload"), ("kill_master", "kill -9 of the master"),
                        ("kill_coordinator", "kill -9 of the coordinator")):  # fmt: skip
        of(0, f"{words}, 20 times under 200 streams: cut", f"{name}/streams_cut", "{:.0f}")
        of(0, "... models loaded again", f"{name}/loads", "{:.0f}")
        of(1, "... requests refused, at the longest", f"{name}/longest_refusal", "{:.2f} s")
    return rows


def best_peer_ratio(measured):
    """Our due to signal over the smallest median of a peer; both on the quiet machine."""
    medians = []
    for peer in PEERS:
        try:
            medians.append(measured.get("peers", f"{peer}/light"))
        except Missing:
            pass
    if not medians:
        raise Missing("peers")
    return measured.get("lateness", "busy/light/signalled/due") / min(medians)


def outcomes(everything):
    """(what, measured, at most, "yes", "NO" or "not measured") of each target."""
    measured = Measured(everything)
    for what, measure, limit, form in targets():
        try:
            value = measure(measured)
            yield what, form.format(value), form.format(limit), "yes" if value <= limit else "NO"
        except Missing:
            if not everything["only"]:  # else it is no surprise
                yield what, "-", form.format(limit), "not measured"


def columns(rows, align):
    """Rows of texts as lines; align has < or > for each column."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(align))]
    return [
        "  " + "  ".join(f"{cell:{a}{w}}" for cell, a, w in zip(row, align, widths)).rstrip()
        for row in rows
    ]


def number(value):
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1000 else f"{value:.0f}"
    return str(value)


def text(everything):
    lines = [
        "",
        f"{everything['machine']}; Linux {everything['kernel']}; {everything['date']}",
        f"{everything['command']} at {everything['commit']};"
        f" load average before: {everything['load_before']:.2f}",
        "",
        "Targets",
    ]
    rows = [("what", "measured", "at most", "reached"), *outcomes(everything)]
    lines += columns(rows, "<>><")

    for name, report in everything["benchmarks"].items():
        # Where results have different units, each has its own.
        lines += ["", f"{name} ({report['unit']})" if "unit" in report else name]
        keys = [
            key
            for key in KEYS
            if any(key in result for result in report["results"])
        ]
        rows = [("", *keys)]
        for result in report["results"]:
            rows.append((result["name"], *(number(result.get(key, "")) for key in keys)))
        lines += columns(rows, "<" + ">" * len(keys))
        lines += [f"  note: {note}" for note in report.get("notes", [])]
    return "\n".join(lines)
