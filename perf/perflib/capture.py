"""What tracking and reading memory costs: a Redis under load, and a big process; no wire, no CRIU."""

import contextlib
import csv
import io
import json
import os
import shutil
import socket
import statistics
import subprocess
import tempfile
import time

from demolib import bed as beds

from . import summary

LOCAL = True  # needs no machines but this one
REPETITIONS = 5
QUICK_REPETITIONS = 1
REDIS_MIB = 512
QUICK_REDIS_MIB = 32
VALUE_BYTES = 1024
SECONDS = 10  # of load, each time
QUICK_SECONDS = 2
CLIENTS = 8
BIG_MIB = 4096
QUICK_BIG_MIB = 128
WRITE_PAGES_PER_S = 20000
FAULT_MIB = 64
LINK_BYTES_PER_S = 1.25e9  # of the link that pre-copies are held to: 10 Gbit/s
PATIENCE_S = 600

LIMITS = {  # ratio: least or most that it may be
    "throughput_kept": (0.85, None),
    "p99_ratio": (None, 2.0),
}


def add_options(parser):
    group = parser.add_argument_group("capture")
    group.add_argument("--redis-mib", type=int, metavar="N",
                       help=f"of values in the Redis (default {REDIS_MIB}, quick {QUICK_REDIS_MIB})")
    group.add_argument("--big-mib", type=int, metavar="N",
                       help=f"of the big process (default {BIG_MIB}, quick {QUICK_BIG_MIB})")
    group.add_argument("--tracker", metavar="NAME", default="auto",
                       help="how written pages are found (default: the best that works here)")


def _run(argv):
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=PATIENCE_S,
                          stdin=subprocess.DEVNULL)
    if done.returncode != 0:
        raise beds.DemoError(f"{' '.join(argv)} ended with {done.returncode}: "
                             f"{done.stderr.strip()[-400:]}")
    return done.stdout


def _cgroup_root():
    with open("/proc/self/mounts", encoding="utf-8") as mounts:
        for line in mounts:
            _, where, kind, *_ = line.split()
            if kind == "cgroup2":
                return where
    raise beds.DemoError("there is no cgroup2 file system here")


@contextlib.contextmanager
def _in_cgroup(name, argv, port):
    """Runs a server in a cgroup of its own until it answers; yields the cgroup's folder."""
    cgroup = os.path.join(_cgroup_root(), f"starling-perf-{name}-{os.getpid()}")
    os.mkdir(cgroup)
    enter = f'echo $$ >"{cgroup}/cgroup.procs" && exec "$@"'
    process = subprocess.Popen(["sh", "-c", enter, "sh", *argv], stdin=subprocess.DEVNULL,
                               stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + PATIENCE_S
        while True:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            if process.poll() is not None or time.monotonic() > deadline:
                raise beds.DemoError(f"{argv[0]} does not answer")
            time.sleep(0.1)
        yield cgroup
    finally:
        process.kill()
        process.wait()
        # A process that has ended may be counted for a moment longer.
        for _ in range(100):
            try:
                os.rmdir(cgroup)
                break
            except OSError:
                time.sleep(0.1)


def _free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Redis:
    """A Redis full of values, and a client that sets them as fast as it can."""

    def __init__(self, port, mib):
        self._port = port
        self._keys = mib * 2**20 // VALUE_BYTES
        self._requests_per_s = 50000

    @staticmethod
    def command(port, folder):
        return ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "",
                "--appendonly", "no", "--dir", folder]

    def _benchmark(self, requests, *options):
        said = _run(["redis-benchmark", "-p", str(self._port), "-t", "set", "-n", str(requests),
                     "-r", str(self._keys), "-d", str(VALUE_BYTES), "-c", str(CLIENTS), "--csv",
                     *options])
        (row,) = csv.DictReader(io.StringIO(said))
        return {"requests_per_s": float(row["rps"]), "p99_ms": float(row["p99_latency_ms"])}

    def fill(self):
        """Sets most keys, and learns how many requests are a second's."""
        self._benchmark(2 * self._keys, "-P", "32")
        self._requests_per_s = self.load(1)["requests_per_s"]

    def load(self, seconds):
        """About so long without a capture beside it."""
        return self._benchmark(max(int(self._requests_per_s * seconds), 1))


class Bench:
    """capture-bench, and how it is run."""

    def __init__(self, build, tracker):
        self._binary = os.path.join(build, "bin", "capture-bench")
        if not os.access(self._binary, os.X_OK):
            raise beds.DemoError(f"there is no {self._binary}: build first (tools/setup)")
        self._tracker = tracker

    def rounds(self, cgroup, *options):
        return json.loads(_run([self._binary, "rounds", "--cgroup", cgroup, "--tracker",
                                self._tracker, *options]))

    @contextlib.contextmanager
    def beside(self, cgroup):
        """Pre-copies one after another, at the default settings, while the context lasts."""
        process = subprocess.Popen(
            [self._binary, "precopy", "--cgroup", cgroup, "--tracker", self._tracker, "--seconds",
             str(PATIENCE_S), "--link", str(LINK_BYTES_PER_S)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        try:
            yield
            if process.poll() is not None:
                raise beds.DemoError(f"capture-bench ended: {process.stderr.read().strip()}")
        finally:
            process.terminate()
            process.wait()
            process.stderr.close()
            # It may have been ended while it had the cgroup frozen.
            with contextlib.suppress(OSError), \
                    open(os.path.join(cgroup, "cgroup.freeze"), "w", encoding="ascii") as freeze:
                freeze.write("0")

    def write_fault_us(self, repetitions):
        """What the first write to a protected page costs here; None: the kernel protects none."""
        samples = [json.loads(_run([self._binary, "faults", "--mib", str(FAULT_MIB)]))
                   ["write_fault_s"] for _ in range(repetitions)]
        return None if None in samples else statistics.median(samples) * 1e6

    def memcpy(self, mib, threads):
        told = json.loads(_run([self._binary, "memcpy", "--mib", str(mib), "--threads",
                                str(threads)]))
        return {"bytes_per_s": told["bytes"] / told["elapsed_s"],
                "cores": told["processor_s"] / told["elapsed_s"]}


def _redis(arguments, bench, repetitions, note):
    quick = arguments.quick
    mib = arguments.redis_mib or (QUICK_REDIS_MIB if quick else REDIS_MIB)
    seconds = QUICK_SECONDS if quick else SECONDS
    samples = []
    port = _free_port()
    with tempfile.TemporaryDirectory() as folder, \
            _in_cgroup("redis", Redis.command(port, folder), port) as cgroup:
        redis = Redis(port, mib)
        note(f"filling a Redis with {mib} MiB")
        redis.fill()
        for number in range(repetitions):
            note(f"Redis under load, repetition {number + 1} of {repetitions}")
            samples.append({"captured": False, **redis.load(seconds)})
            with bench.beside(cgroup):
                redis.load(2)  # it first looks how long Redis waits for processors anyway
                samples.append({"captured": True, **redis.load(seconds)})
    return mib, samples


def _big(arguments, bench, repetitions, note):
    mib = arguments.big_mib or (QUICK_BIG_MIB if arguments.quick else BIG_MIB)
    writer = os.path.join(arguments.build, "bin", "starling-writer")
    samples = []
    port = _free_port()
    command = [writer, "--mib", str(mib), "--rate", str(WRITE_PAGES_PER_S), "--port", str(port)]
    with _in_cgroup("big", command, port) as cgroup:
        for number in range(repetitions):
            note(f"a process of {mib} MiB, repetition {number + 1} of {repetitions}")
            for threads in (1, 2):
                told = bench.rounds(cgroup, "--threads", str(threads), "--max-slowdown", "1",
                                    "--rounds", "3")
                first, *later = told["rounds"]
                samples.append({
                    "what": "capture", "threads": threads, "tracker": told["tracker"],
                    "bytes_per_s": first["pages"] * 4096 / first["elapsed_s"],
                    "cores": first["processor_s"] / first["elapsed_s"],
                    # Later rounds look through all of it for what was written.
                    "tracked_bytes_per_s": mib * 2**20 / statistics.median(
                        one["listing_s"] for one in later),
                    "paused_s": max(one["paused_s"] for one in told["rounds"])})
                samples.append({"what": "memcpy", "threads": threads,
                                **bench.memcpy(mib, threads)})
    return mib, samples


def _median(samples, metric, **where):
    values = [one[metric] for one in samples
              if all(one.get(key) == value for key, value in where.items())]
    return statistics.median(values)


def ratios(redis, big):
    """The figures by which the engine is judged; docs/benchmarks.md defines each."""
    figures = {
        "throughput_kept": _median(redis, "requests_per_s", captured=True) /
        _median(redis, "requests_per_s", captured=False),
        "p99_ratio": _median(redis, "p99_ms", captured=True) /
        _median(redis, "p99_ms", captured=False)}
    for threads, name in ((1, "capture_vs_memcpy"), (2, "capture_vs_memcpy_two_threads")):
        figures[name] = _median(big, "bytes_per_s", what="capture", threads=threads) / \
            _median(big, "bytes_per_s", what="memcpy", threads=threads)
    return figures


def run(machines, arguments, note):
    """Returns the result's parts: parameters, tracker, samples, summary, ratios, failures."""
    del machines
    if os.geteuid() != 0:
        raise beds.DemoError("other processes' memory is read by root alone")
    if shutil.which("redis-benchmark") is None:
        raise beds.DemoError("there is no redis-benchmark; run tools/setup --no-build")
    repetitions = arguments.repetitions or (QUICK_REPETITIONS if arguments.quick else REPETITIONS)
    bench = Bench(arguments.build, arguments.tracker)
    redis_mib, redis = _redis(arguments, bench, repetitions, note)
    big_mib, big = _big(arguments, bench, repetitions, note)
    note("what a write to a protected page costs")
    write_fault_us = bench.write_fault_us(repetitions)
    figures = ratios(redis, big)
    # A smoke test says nothing of speed.
    failures = [] if arguments.quick else [
        {"ratio": name, "measured": figures[name], "least": least, "most": most}
        for name, (least, most) in LIMITS.items()
        if (least is not None and figures[name] < least) or
        (most is not None and figures[name] > most)]
    return {"parameters": {"repetitions": repetitions, "redis_mib": redis_mib, "big_mib": big_mib,
                           "write_pages_per_s": WRITE_PAGES_PER_S,
                           "link_bytes_per_s": LINK_BYTES_PER_S},
            "tracker": big[0]["tracker"], "write_fault_us": write_fault_us, "ratios": figures,
            "summary": _summary(redis, big), "samples": {"redis": redis, "big": big},
            "failures": failures}


def _summary(redis, big):
    told = {}
    for captured, name in ((False, "redis_alone"), (True, "redis_captured")):
        rows = [one for one in redis if one["captured"] == captured]
        told[name] = {metric: summary.summarize([one[metric] for one in rows])
                      for metric in ("requests_per_s", "p99_ms")}
    for what in ("capture", "memcpy"):
        for threads in (1, 2):
            rows = [one for one in big if (one["what"], one["threads"]) == (what, threads)]
            told[f"{what}_{threads}"] = {
                metric: summary.summarize([one[metric] for one in rows])
                for metric in ("bytes_per_s", "cores", "tracked_bytes_per_s", "paused_s")
                if metric in rows[0]}
    return told


def text(result):
    lines = [f"  tracker: {result['tracker']}"]
    if result["write_fault_us"] is not None:
        lines.append(f"  a first write to a protected page: {result['write_fault_us']:.1f} us")
    for name, metrics in result["summary"].items():
        for metric, one in metrics.items():
            unit, scale = ("GB/s", 1e9) if metric.endswith("bytes_per_s") else ("", 1)
            lines.append(f"  {name:16} {metric.replace('bytes_per_s', 'rate'):16} median "
                         f"{one['median'] / scale:10.3f} {unit:4}  MAD {one['mad'] / scale:8.3f}  "
                         f"n {one['n']}")
    lines += [f"  {name:32} {value:7.3f}" for name, value in result["ratios"].items()]
    return "\n".join(lines)
