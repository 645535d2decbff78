"""A cluster through a day of traces, by the agents' own decisions, beside simpler rules."""

import json
import os
import subprocess
import tempfile

from demolib import bed as beds

LOCAL = True  # needs no machines but this one

SECONDS = 600  # of processor time that a day may take
# At ten times the hosts a decision may take so much longer: caches are colder.
GROWN = 1.5
FIGURES = ("priority_inversions", "double_promises", "without_holder", "violation_vs_reactive",
           "cost_vs_oracle")


def add_options(parser):
    del parser  # --traces and --build are the predictor's


def _replay(arguments, folder, name, *options):
    out = os.path.join(folder, name)
    command = [os.path.join(arguments.build, "bin", "starling"), "replay", "--cluster",
               "--traces", arguments.traces, "--out", out, *options]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if done.returncode != 0:
        raise beds.DemoError(f"starling replay --cluster failed: {done.stderr.strip()[-400:]}")
    with open(out, encoding="utf-8") as file:
        return json.load(file), done.stdout


def run(machines, arguments, note):
    """Returns the result's parts: parameters, figures, what was measured, failures."""
    del machines
    if not arguments.traces:
        raise beds.DemoError("perf/run cluster needs --traces FOLDER")
    with tempfile.TemporaryDirectory() as folder:
        small = ["--hosts", "50", "--components", "1000", "--steps", "24"]
        note("a day of the cluster")
        day, table = _replay(arguments, folder, "day.json", *(small if arguments.quick else []))
        note("decisions with few hosts and with many")
        hosts = (100, 1000) if arguments.quick else (1000, 10000)
        decisions, hearing = {}, {}
        for count in hosts:
            one, _ = _replay(arguments, folder, "scale.json", "--forecast-only", "--steps", "3",
                             "--hosts", str(count), "--components", str(20 * count))
            decisions[str(count)] = one["rules"]["forecast"]["decision_us"]
            hearing[str(count)] = one["rules"]["forecast"]["hearing_us"]
    few, many = (decisions[str(count)]["median"] for count in hosts)
    figures = {name: day[name] for name in FIGURES}
    figures.update({"cpu_s": day["cpu_s"], "decision_us": few, "decision_us_ten_times": many,
                    "hearing_us": hearing[str(hosts[0])]["median"],
                    "hearing_us_ten_times": hearing[str(hosts[1])]["median"]})
    limits = {"priority_inversions": 0, "double_promises": 0, "without_holder": 0,
              "cpu_s": SECONDS}
    failures = [{"figure": name, "measured": figures[name], "limit": limit}
                for name, limit in limits.items() if figures[name] > limit]
    if not arguments.quick and many > GROWN * few:
        failures.append({"figure": "decision_us_ten_times", "measured": many,
                         "limit": GROWN * few})
    ratios = {name: day[name] for name in FIGURES}
    return {"parameters": {"traces": arguments.traces}, **ratios, "ratios": ratios,
            "figures": figures, "measured": {"day": day, "decisions_us": decisions,
                                           "hearing_us": hearing},
            "table": table, "failures": failures}


def text(result):
    lines = [result["table"].rstrip()]
    lines += [f"  {name:28} {value:12.4f}" for name, value in result["figures"].items()
              if value is not None]
    return "\n".join(lines)
