"""Runs the benchmarks and shows what they measured. tools/bench builds them and calls this.

Each program prints one JSON object: {"benchmark", "unit", "results": [{"name", "median", ...}]}.
hot_path is a Google Benchmark program; what it prints is brought into the same form.
"""

import argparse
import datetime
import json
import os
import platform
import statistics
import subprocess
import sys

import table

HOT_PATH_PROCESSES = 5  # addresses, and so cache sets and aliases, differ from one to the next
SKIPPED = 77  # a program's exit code: it cannot run here, and its report says why
FOLDER = os.path.dirname(os.path.abspath(__file__))


def commands(folder, quick):
    """The programs in the order in which they run."""
    few = ["--samples", "20"] if quick else []
    least_s = "0.01" if quick else "0.1"
    return {
        "hot_path": [
            f"{folder}/bench_hot_path",
            "--benchmark_format=json",
            "--benchmark_repetitions=3",
            f"--benchmark_min_time={least_s}",
            "--benchmark_enable_random_interleaving=true",
            "--benchmark_report_aggregates_only",
        ],
        "counts": [sys.executable, f"{FOLDER}/counts.py", "--program", f"{folder}/bench_counts"],
        "clock": [f"{folder}/bench_clock", *(["--seconds", "1"] if quick else [])],
        "lateness": [f"{folder}/bench_lateness", *few],
        "peers": [sys.executable, f"{FOLDER}/peers.py", *(["--samples", "6"] if quick else [])],
        "handover": [f"{folder}/bench_handover", *few],
        "scale": [f"{folder}/bench_scale", *(["--quick"] if quick else [])],
        "serve": [sys.executable, f"{FOLDER}/serve.py", "--bin", folder,
                  *(["--quick"] if quick else [])],
    }


def from_google_benchmark(report):
    """Aggregates of Google Benchmark in our form: median wall and CPU time of one operation, ns."""
    to_ns = {"ns": 1, "us": 1e3, "ms": 1e6, "s": 1e9}
    results = {}
    # They ran interleaved; shown in the order in which hot_path.cpp has them.
    def order(entry):
        return entry["family_index"], entry["per_family_instance_index"]

    for entry in sorted(report["benchmarks"], key=order):
        name = table.plain_name(entry["run_name"])
        result = results.setdefault(name, {"name": name})
        if entry.get("aggregate_name") == "median":
            result["median"] = entry["real_time"] * to_ns[entry["time_unit"]]
            result["cpu"] = entry["cpu_time"] * to_ns[entry["time_unit"]]
            result["samples"] = entry["repetitions"]
        elif entry.get("error_occurred"):
            result["note"] = entry.get("error_message", "failed")
    measured = [result for result in results.values() if "median" in result]
    notes = [f"{result['name']}: {result['note']}" for result in results.values() if "note" in result]
    return {"benchmark": "hot_path", "unit": "ns", "results": measured, "notes": notes}


def run(name, argv):
    """What one program measured; None, after a word on stderr, if it could not."""
    if not os.access(argv[0], os.X_OK):
        print(f"{name}: left out, there is no {argv[0]}", file=sys.stderr)
        return None
    print(f"-- {name}", file=sys.stderr)
    finished = subprocess.run(argv, stdout=subprocess.PIPE, check=False)
    try:
        report = json.loads(finished.stdout)
    except ValueError:
        print(f"{name}: failed with {finished.returncode}, printed no JSON", file=sys.stderr)
        return None
    if finished.returncode not in (0, SKIPPED):
        print(f"{name}: found something wrong, exit code {finished.returncode}", file=sys.stderr)
    report = from_google_benchmark(report) if "benchmarks" in report else report
    report["exit_code"] = 0 if finished.returncode == SKIPPED else finished.returncode
    return report


def over_processes(reports):
    """The median of what fresh processes measured, and how far these are apart (of the median)."""
    results = []
    for of_each in zip(*(report["results"] for report in reports)):
        medians = [result["median"] for result in of_each]
        median = statistics.median(medians)
        results.append({
            "name": of_each[0]["name"],
            "median": median,
            "min": min(medians),
            "max": max(medians),
            "cpu": statistics.median(result["cpu"] for result in of_each),
            "spread": (max(medians) - min(medians)) / median,
            "samples": sum(result["samples"] for result in of_each),
        })  # fmt: skip
    notes = sorted({note for report in reports for note in report["notes"]})
    code = max(report["exit_code"] for report in reports)
    return {**reports[0], "results": results, "notes": notes, "exit_code": code}


def machine():
    model = "unknown CPU"
    with open("/proc/cpuinfo") as file:
        for line in file:
            if line.startswith("model name"):
                model = line.split(":", 1)[1].strip()
                break
    with open("/proc/meminfo") as file:
        memory_kib = int(file.readline().split()[1])
    return f"{os.cpu_count()} x {model}, {memory_kib / 2**20:.0f} GiB"


def commit():
    described = subprocess.run(
        ["git", "-C", FOLDER, "describe", "--always", "--dirty"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    return described.stdout.strip() or "unknown"


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--bin", required=True, help="directory of the built programs")
    parser.add_argument("--command", default="tests/bench/run.py", help="how this was called")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--check", action="store_true", help="end with 1 if a target is missed")
    parser.add_argument("--only", action="append")
    parser.add_argument("--json")
    parser.add_argument("--plot")
    options = parser.parse_args()

    everything = {
        "command": options.command,
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "machine": machine(),
        "kernel": platform.release(),
        "commit": commit(),
        "load_before": os.getloadavg()[0],
        "only": options.only or [],
        "benchmarks": {},
    }
    all_ran = True
    for name, argv in commands(options.bin, options.quick).items():
        if options.only and name not in options.only:
            continue
        if name == "hot_path":
            reports = [run(name, argv) for _ in range(HOT_PATH_PROCESSES)]
            report = over_processes(reports) if all(reports) else None
        else:
            report = run(name, argv)
        if report is not None:
            everything["benchmarks"][name] = report
        all_ran &= report is not None and report["exit_code"] == 0

    if options.json:
        with open(options.json, "w") as file:
            json.dump(everything, file, indent=1)
            file.write("\n")
    print(table.text(everything))
    if options.plot:
        import plot  # needs matplotlib, which nobody else does

        plot.draw(everything, options.plot)
    if options.check:
        missed = [what for what, _, _, reached in table.outcomes(everything) if reached != "yes"]
        for what in missed:
            print(f"missed: {what}")
        all_ran &= not missed
    sys.exit(0 if all_ran else 1)


if __name__ == "__main__":
    main()
