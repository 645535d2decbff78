"""What it takes to ask for a reservation: grants, renewals, claims, yields, each written down."""

import json
import os
import subprocess
import tempfile

from demolib import bed as beds

LOCAL = True  # needs no machines but this one

REALISTIC = 200  # leases on one host
MEDIAN_US = 50


def add_options(parser):
    del parser  # --build is the predictor's


def run(machines, arguments, note):
    """Returns the result's parts: parameters, figures, what was measured, failures."""
    del machines
    bench = os.path.join(arguments.build, "bin", "reservations-bench")
    if not os.access(bench, os.X_OK):
        raise beds.DemoError(f"there is no {bench}: build first (tools/setup)")
    note("asking for reservations")
    # Where an agent keeps them: on a tmpfs.
    where = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=where) as folder:
        command = [bench, folder] + (["--quick"] if arguments.quick else [])
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode != 0:
        raise beds.DemoError(f"{bench} failed")
    measured = json.loads(done.stdout)
    figures = {}
    for one in measured:
        for name in ("grant", "renew", "claim", "refuse", "release", "grant_with_yield"):
            figures[f"{name}_us_{one['leases']}"] = one[name]["wall_us"]["median"]
    failures = [] if arguments.quick else [
        {"figure": name, "measured": value, "limit": MEDIAN_US}
        for name, value in figures.items()
        if name.endswith(f"_{REALISTIC}") and value > MEDIAN_US]
    return {"parameters": {"realistic_leases": REALISTIC, "folder": where}, "figures": figures,
            "measured": measured, "failures": failures}


def text(result):
    return "\n".join(f"  {name:28} {value:10.1f} us" +
                     (f"   at most {MEDIAN_US}" if name.endswith(f"_{REALISTIC}") else "")
                     for name, value in result["figures"].items())
