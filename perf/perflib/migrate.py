"""The demo's comparison, repeated: a Redis under load, moved by starling and by stock CRIU."""

import datetime
import os

from demolib import bed as beds
from demolib import comparison, rows, table

from . import summary

METRICS = ("blackout_ms", "client_gap_ms", "total_ms", "wire_bytes", "rounds")
REPETITIONS = 5
QUICK_REPETITIONS = 1
MIB = 100
QUICK_MIB = 32


def add_options(parser):
    group = parser.add_argument_group("migrate")
    group.add_argument("--repetitions", type=int, metavar="N",
                       help=f"how often each way is measured (default {REPETITIONS}, quick "
                            f"{QUICK_REPETITIONS})")
    group.add_argument("--mib", type=int, metavar="N",
                       help=f"MiB of values in Redis (default {MIB}, quick {QUICK_MIB})")
    group.add_argument("--rate", type=int, default=500, metavar="N",
                       help="requests per second of the client (default 500)")
    group.add_argument("--seed", type=int, default=1, metavar="N", help="of values and load")
    group.add_argument("--only", metavar="ROW,...", default=",".join(table.WHAT),
                       help="measure these rows only: " + ", ".join(table.WHAT))


def run(machines, arguments, note):
    """Returns the result's parts: parameters, facts, samples, summary, failures."""
    quick = arguments.quick
    repetitions = arguments.repetitions or (QUICK_REPETITIONS if quick else REPETITIONS)
    mib = arguments.mib or (QUICK_MIB if quick else MIB)
    names = arguments.only.split(",")
    unknown = sorted(set(names) - set(table.WHAT))
    if unknown:
        raise beds.DemoError(f"there is no row {unknown[0]!r}; rows are {', '.join(table.WHAT)}")
    place = rows.Place(machines, os.path.join(beds.CHECKOUT, "build", "perf", "migrate"))
    rate_bytes_per_s = None
    if any(name.endswith("-shaped") for name in names):
        rate_bytes_per_s = beds.verbs_rate(machines)
        note(f"ib_write_bw reaches {rate_bytes_per_s / 1e6:.0f} MB/s")
    comparison.rehearse(place, names, note)
    samples, failures = [], []
    for repetition in range(repetitions):
        note(f"repetition {repetition + 1} of {repetitions}")
        load = rows.Load(arguments.rate, mib, arguments.seed + repetition)
        done, failed = comparison.measure(place, load, names, rate_bytes_per_s, note)
        at = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
        samples += [{"repetition": repetition, "at": at, **row} for row in done]
        failures += [{"repetition": repetition, "name": name} for name in failed]
        failures += [{"repetition": repetition, "name": row["name"], "flaws": table.flaws(row)}
                     for row in done if table.flaws(row)]
    starling = next((row for row in samples if row["name"] == "starling"), {})
    return {
        "parameters": {"repetitions": repetitions, "mib": mib, "requests_per_s": arguments.rate,
                       "seed": arguments.seed, "rate_bytes_per_s": rate_bytes_per_s},
        "provider": starling.get("provider"), "encrypted": starling.get("encrypted"),
        "samples": samples, "summary": summary.by_row(samples, METRICS), "failures": failures}


def text(result):
    """The summary for people: median and MAD, least and greatest."""
    lines = []
    for name, metrics in result["summary"].items():
        for metric in ("blackout_ms", "client_gap_ms", "total_ms"):
            if (one := metrics[metric]) is not None:
                lines.append(f"{table.WHAT[name]:26} {metric:14} median {one['median']:8.0f}  "
                             f"MAD {one['mad']:6.0f}  min {one['min']:8.0f}  "
                             f"max {one['max']:8.0f}  n {one['n']}")
    return "\n".join(lines)
