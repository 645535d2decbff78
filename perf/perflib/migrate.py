"""Components of growing size that write while they move, by starling and by stock CRIU."""

import datetime
import os

from demolib import bed as beds
from demolib import comparison, rows, table

from . import earlier, plots, ratios, summary

METRICS = ("blackout_ms", "client_gap_ms", "total_ms", "p99_before_ms", "p99_back_s", "wire_bytes",
           "rounds", "held_ms", "expected_blackout_ms", "source_agent_peak_bytes",
           "target_agent_peak_bytes", "target_keeper_peak_bytes", "target_agent_after_bytes")
ROWS = ("criu-precopy", "criu-precopy-shaped", "starling")
REPETITIONS = 5
QUICK_REPETITIONS = 1
SIZES_MIB = (64, 256, 768)
QUICK_SIZES_MIB = (16, 48)
MEMORY_MIB = 4096  # of the bed's machines
QUICK_MEMORY_MIB = 1536
WRITE_SHARE = 0.25
FLOOR_MIB = 1  # next to no memory

KEYS = 128  # of the client, each in another page of the component
VALUE_BYTES = 1024
# What an idle component still does, so that its connection and its content are watched. A thousand
# heartbeats a second would keep an emulated processor busy for a tenth of its time.
IDLE_BEAT_EVERY = "50ms"
IDLE_REQUESTS_PER_S = 10
# Long enough for the client's 99th percentile to come back, and to know it before.
SETTLE_S = 8


def add_options(parser):
    group = parser.add_argument_group("migrate")
    group.add_argument("--sizes", metavar="MIB,...",
                       help="resident sizes (default " + ",".join(map(str, SIZES_MIB)) + ", quick "
                            + ",".join(map(str, QUICK_SIZES_MIB)) + ")")
    group.add_argument("--write-share", type=float, default=WRITE_SHARE, metavar="SHARE",
                       help="share of ib_write_bw's rate at which pages are written to (default "
                            f"{WRITE_SHARE})")
    group.add_argument("--rate", type=int, default=200, metavar="N",
                       help="requests per second of the client (default 200)")
    group.add_argument("--seed", type=int, default=1, metavar="N", help="of memory and load")
    group.add_argument("--only", metavar="ROW,...", default=",".join(ROWS),
                       help="measure these rows only: " + ", ".join(table.WHAT))


class Writer(rows.Load):
    """starling-writer, and a client that reads and writes values all over its memory."""

    component = "writer"
    port = 6379
    settle_s = SETTLE_S

    def __init__(self, mib, pages_per_s, rate, seed, idle=False):
        super().__init__(IDLE_REQUESTS_PER_S if idle else rate, mib, seed)
        self.pages_per_s = pages_per_s
        self.idle = idle
        if idle:
            self.beat_every = IDLE_BEAT_EVERY

    def command(self, bed):
        return [bed.node_binary("starling-writer"), "--mib", str(self.mib), "--rate",
                f"{self.pages_per_s:.0f}", "--port", str(self.port), "--keys", str(KEYS), "--seed",
                str(self.seed)]

    def client(self):
        return {"rate": self.rate, "preload_mib": KEYS * VALUE_BYTES / 2**20,
                "value_bytes": VALUE_BYTES, "seed": self.seed}

    # Asks for the count of steps twice; prints how many there were in a second.
    PROGRAM = ("import socket, sys, time\n"
               "c = socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=60)\n"
               "s = c.makefile('rb')\n"
               "def ask():\n"
               "    c.sendall(b'STEPS\\r\\n')\n"
               "    return int(s.readline()[1:]), time.monotonic()\n"
               "steps, began = ask()\n"
               "time.sleep(2)\n"
               "more, ended = ask()\n"
               "print((more - steps) / (ended - began))\n")

    def look(self, bed):
        seen = {"pages_per_s": float(bed.client("/usr/bin/python3", "-c", self.PROGRAM,
                                                bed.component_address, str(self.port)))}
        if self.idle:
            # What it still does wants its share of the processors whoever sends.
            seen["link_beside_bytes_per_s"] = beds.verbs_rate(bed)
        return seen


def _cells(sizes, names):
    """What a repetition measures: (kind, size, rows)."""
    compared = [name for name in names if not name.endswith("-shaped")]
    cells = [("floor", FLOOR_MIB, compared)]
    cells += [("load", size, names) for size in sizes]
    if "starling" in names:
        cells.append(("idle", max(sizes), ["starling"]))
    return cells


def _numbers(text):
    try:
        sizes = sorted({int(word) for word in text.split(",")})
    except ValueError:
        raise beds.DemoError(f"--sizes takes whole numbers of MiB, not {text!r}") from None
    if sizes[0] < 1:
        raise beds.DemoError("--sizes begin at 1")
    return sizes


def _completed(row, kind, size, repetition, link_bytes_per_s, asked):
    expected = (row.get("report") or {}).get("expected_blackout_s")
    return {"repetition": repetition, "kind": kind, "size_mib": size, "asked": asked,
            "at": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
            "link_bytes_per_s": link_bytes_per_s,
            "expected_blackout_ms": None if expected is None else expected * 1000, **row}


def _whole(samples, repetitions, sizes, names, asked):
    """Of samples of an earlier run those of its whole repetitions of which the same was asked."""
    cells = {(kind, size, name) for kind, size, rows_ in _cells(sizes, names) for name in rows_}
    by_repetition = {}
    for one in samples:
        by_repetition.setdefault(one["repetition"], []).append(one)
    return [one for of_one in by_repetition.values()
            if {(one["kind"], one["size_mib"], one["name"]) for one in of_one} == cells
            and all(one["asked"] == asked for one in of_one) for one in of_one
            if one["repetition"] < repetitions]


def run(machines, arguments, note):
    """Returns the result's parts: parameters, facts, samples, summary, ratios, failures."""
    quick = arguments.quick
    repetitions = arguments.repetitions or (QUICK_REPETITIONS if quick else REPETITIONS)
    sizes = _numbers(arguments.sizes) if arguments.sizes else \
        list(QUICK_SIZES_MIB if quick else SIZES_MIB)
    names = arguments.only.split(",")
    unknown = sorted(set(names) - set(table.WHAT))
    if unknown:
        raise beds.DemoError(f"there is no row {unknown[0]!r}; rows are {', '.join(table.WHAT)}")
    place = rows.Place(machines, os.path.join(beds.CHECKOUT, "build", "perf", "migrate"))
    comparison.rehearse(place, names, note)
    asked = {"write_share": arguments.write_share, "requests_per_s": arguments.rate,
             "seed": arguments.seed}
    kept = os.path.join(place.results, "samples.json")
    samples = _whole(earlier.read(kept), repetitions, sizes, names, asked) if arguments.resume else []
    failures = [failure for row in samples for failure in _failures(row)]
    done_before = {row["repetition"] for row in samples}
    for repetition in range(repetitions):
        if repetition in done_before:
            note(f"repetition {repetition + 1} of {repetitions}: done before")
            continue
        # What is held against the link, and shaped to it, has it measured right before: where
        # processors are shared, a quarter of an hour changes its rate by half.
        rate_bytes_per_s = beds.verbs_rate(machines)
        pages_per_s = arguments.write_share * rate_bytes_per_s / 4096
        note(f"ib_write_bw reaches {rate_bytes_per_s / 1e6:.0f} MB/s; components write to "
             f"{pages_per_s:.0f} pages per second")
        for kind, size, wanted in _cells(sizes, names):
            note(f"repetition {repetition + 1} of {repetitions}: {size} MiB, {kind}")
            link = beds.verbs_rate(machines) if kind == "idle" else rate_bytes_per_s
            load = Writer(size, pages_per_s if kind == "load" else 0, arguments.rate,
                          arguments.seed + repetition, idle=kind == "idle")
            done, failed = comparison.measure(place, load, wanted, rate_bytes_per_s, note)
            done = [_completed(row, kind, size, repetition, link, asked) for row in done]
            samples += done
            failures += [{"repetition": repetition, "kind": kind, "size_mib": size, "name": name}
                         for name in failed]
            failures += [failure for row in done for failure in _failures(row)]
            # An hour's samples are not lost with the last one.
            table.write(kept, samples)
    result = {
        "parameters": {"repetitions": repetitions, "sizes_mib": sizes, **asked},
        **conclude(samples, sizes), "failures": failures}
    result["plots"] = plots.draw(os.path.join(beds.CHECKOUT, "build", "perf"), result)
    return result


def _failures(row):
    """What of a row must not be."""
    flaws = table.flaws(row) + ratios.memory_flaws(row)
    return [{name: row[name] for name in ("repetition", "kind", "size_mib", "name")} |
            {"flaws": flaws}] if flaws else []


def conclude(samples, sizes):
    """What the samples say: facts, ratios, summaries."""
    starling = next((row for row in samples if row["name"] == "starling"), {})
    names = dict.fromkeys(row["name"] for row in samples if row["kind"] == "floor")
    return {
        "provider": starling.get("provider"), "encrypted": starling.get("encrypted"),
        "tracker": starling.get("tracker"),
        "ratios": ratios.ratios(samples, sizes),
        "summary": {str(size): summary.by_row(
            [row for row in samples if row["kind"] == "load" and row["size_mib"] == size], METRICS)
            for size in sizes},
        "memory_part_ms": {name: ratios.memory_part_ms(samples, name, max(sizes))
                           for name in names},
        "phases": _phases(samples, max(sizes)), "samples": samples}


def _phases(samples, size):
    """{phase: summary} of starling's moves of this size under load."""
    found = {}
    for row in samples:
        if (row["name"], row["kind"], row["size_mib"]) == ("starling", "load", size):
            for name, value in row["phases"].items():
                found.setdefault(name, []).append(value)
    return {name: summary.summarize(values) for name, values in found.items()}


def text(result):
    """The summary for people: median and MAD, least and greatest; the phases; the ratios."""
    lines = []
    for size, by_name in result["summary"].items():
        for name, metrics in by_name.items():
            for metric in ("blackout_ms", "client_gap_ms", "total_ms", "p99_back_s"):
                if (one := metrics[metric]) is not None:
                    lines.append(f"{size:>5} MiB  {table.WHAT[name]:26} {metric:14} median "
                                 f"{one['median']:9.2f}  MAD {one['mad']:8.2f}  min "
                                 f"{one['min']:9.2f}  max {one['max']:9.2f}  n {one['n']}")
    lines += ["", "phases of starling, the largest component:"]
    lines += [f"  {name.removesuffix('_ms'):32} {one['median']:9.1f} ms"
              for name, one in result["phases"].items()]
    lines += ["", "ratios:"]
    lines += [f"  {name:32} " + ("      -" if value is None else f"{value:7.3f}")
              for name, value in result["ratios"].items()]
    return "\n".join(lines)
