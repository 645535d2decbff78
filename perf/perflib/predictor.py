"""What forecasting costs: a step, a host full of components, decisions; scores with --traces."""

import json
import os
import resource
import subprocess
import tempfile
import time

from demolib import bed as beds

LOCAL = True  # needs no machines but this one

LIMITS = {  # figure: most it may be
    "default_us_per_step": 1.0,
    "with_recurrent_us_per_step": 4.0,
    "state_bytes": 4096,
    "share_of_a_core": 0.06,
    "allocations": 0,
}


def add_options(parser):
    group = parser.add_argument_group("predictor")
    group.add_argument("--traces", metavar="FOLDER",
                       help="replay this folder too, and time it")
    group.add_argument("--python-baselines", metavar="SCRIPT",
                       help="with --traces: time this script on the same folder (it takes minutes)")


def _cpu_seconds(command):
    # Libraries that spread small matrices over all processors mostly wait for one another, which
    # would count in our favour.
    environment = dict(os.environ, OPENBLAS_NUM_THREADS="1", OMP_NUM_THREADS="1")
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    started = time.monotonic()
    done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
                          env=environment)
    if done.returncode != 0:
        raise beds.DemoError(f"{command[0]} failed: {done.stderr.strip()[-400:]}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return {"wall_s": time.monotonic() - started,
            "cpu_s": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime}


def run(machines, arguments, note):
    """Returns the result's parts: parameters, figures, what was measured, failures."""
    del machines
    bench = os.path.join(arguments.build, "bin", "predictor-bench")
    if not os.access(bench, os.X_OK):
        raise beds.DemoError(f"there is no {bench}: build first (tools/setup)")
    note("measuring steps, a host and decisions")
    command = [bench] + (["--quick"] if arguments.quick else [])
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode != 0:
        raise beds.DemoError(f"{bench} failed")
    measured = json.loads(done.stdout)
    figures = {
        "default_us_per_step": measured["default"]["ns_per_step"]["median"] / 1000,
        "with_recurrent_us_per_step": measured["with_recurrent"]["ns_per_step"]["median"] / 1000,
        "all_experts_us_per_step": measured["all_experts"]["ns_per_step"]["median"] / 1000,
        "us_per_lesson": measured["with_recurrent"]["ns_per_lesson"]["median"] / 1000,
        "state_bytes": measured["state_bytes"],
        "share_of_a_core": measured["host"]["share_of_a_core_at_1_hz"]["median"],
        "allocations": sum(measured[name]["allocations"]
                           for name in ("default", "with_recurrent", "all_experts", "host")),
        "decision_p99_us": max(one["p99"] for one in measured["decisions"].values()) / 1000,
    }
    replay = None
    if arguments.traces:
        note("replaying the traces")
        with tempfile.TemporaryDirectory() as folder:
            out = os.path.join(folder, "replay.json")
            replay = _cpu_seconds([os.path.join(arguments.build, "bin", "starling"), "replay",
                                   "--traces", arguments.traces, "--out", out])
            with open(out, encoding="utf-8") as file:
                replay["forecast_cpu_s"] = json.load(file)["forecast"]["cost"]["seconds"]
            if arguments.python_baselines:
                note("running the Python baselines")
                replay["python_baselines"] = _cpu_seconds(
                    ["/usr/bin/python3", arguments.python_baselines, arguments.traces,
                     os.path.join(folder, "baselines.json")])
    # A smoke test says nothing of time: its runs are short and its host is small.
    failures = [] if arguments.quick else [
        {"figure": name, "measured": figures[name], "limit": limit}
        for name, limit in LIMITS.items() if figures[name] > limit]
    return {"parameters": {"traces": arguments.traces}, "figures": figures, "measured": measured,
            "replay": replay, "failures": failures}


def text(result):
    lines = [f"  {name:28} {value:12.4f}" +
             (f"   at most {LIMITS[name]}" if name in LIMITS else "")
             for name, value in result["figures"].items()]
    if result["replay"]:
        lines.append(f"  {'replay, processor seconds':28} {result['replay']['cpu_s']:12.4f}")
        if "python_baselines" in result["replay"]:
            python = result["replay"]["python_baselines"]["cpu_s"]
            lines.append(f"  {'Python baselines, the same':28} {python:12.4f}   "
                         f"{python / result['replay']['cpu_s']:.1f} times as much")
    return "\n".join(lines)
