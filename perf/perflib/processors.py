"""Where this machine's processors are while something is measured: linux-perf's samples, by program and function."""

import os
import subprocess
import tempfile

from demolib import bed as beds

RATE_HZ = 997  # no multiple of a timer's
SHOWN = 30


def record(act, seconds):
    """Calls act() while all processors are sampled. Returns (what it returned, rows), the rows most first: {share,
    program, object, function}; shares are of all samples, the idle ones included. `seconds`: that act() takes at
    most."""
    with tempfile.TemporaryDirectory(prefix="starling-perf-") as folder:
        path = os.path.join(folder, "samples")
        # The processors' own counters are hidden in most virtual machines; the clock is everywhere.
        command = ["perf", "record", "--quiet", "-a", "-e", "cpu-clock", "-F", str(RATE_HZ), "-o", path,
                   "--", "sleep", str(seconds)]
        try:
            sampling = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                        stderr=subprocess.PIPE, text=True)
        except FileNotFoundError:
            raise beds.DemoError("--profile wants `perf`: install the package linux-perf") from None
        try:
            done = act()
        finally:
            sampling.terminate()
            said = sampling.communicate()[1]
        if not os.path.exists(path):
            raise beds.DemoError(f"perf record: {said.strip()}")
        text = beds.run(["perf", "report", "-i", path, "--stdio", "-F", "overhead,comm,dso,symbol",
                         "--field-separator", "\t"], 120)
    return done, parse(text)


def parse(text):
    """Rows of `perf report --field-separator TAB` with overhead, program, object, function."""
    rows = []
    for line in text.splitlines():
        parts = [part.strip() for part in line.split("\t")]
        if len(parts) < 4 or line.startswith("#") or not parts[0].endswith("%"):
            continue
        rows.append({"share": float(parts[0].rstrip("%")) / 100, "program": parts[1],
                     "object": os.path.basename(parts[2]),
                     # "[k] name", "[.] name"
                     "function": parts[3].split("] ", 1)[-1].split("(")[0]})
    return sorted(rows, key=lambda row: -row["share"])


def lines(rows):
    return [f"{100 * row['share']:6.1f} %  {row['program']:16} {row['object']:28} {row['function']}"
            for row in rows[:SHOWN]]
