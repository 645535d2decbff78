"""What an agent takes to watch 200 components, idle and busy, beside systemd-cgtop."""

import json
import os

from demolib import bed as beds

MEMORY_MIB = QUICK_MEMORY_MIB = 2560  # 200 components with a keeper each
COUNT = 200
QUICK_COUNT = 10
SECONDS = 60
QUICK_SECONDS = 10
PATIENCE_S = 3600


def add_options(parser):
    group = parser.add_argument_group("overhead")
    group.add_argument("--count", type=int, metavar="N",
                       help=f"components (default {COUNT}, quick {QUICK_COUNT})")


def run(machines, arguments, note):
    """Returns the result's parts: parameters, figures, what was measured, failures."""
    count = arguments.count or (QUICK_COUNT if arguments.quick else COUNT)
    seconds = QUICK_SECONDS if arguments.quick else SECONDS
    script = os.path.join(beds.CHECKOUT, "perf", "overhead", "measure.py")
    folder = os.path.dirname(machines.node_binary("starling"))
    note(f"{count} components on {machines.node_name(1)}")
    said = machines.execute(1, "/usr/bin/python3", "-B", machines.node_script(script), "--bin",
                            folder, "--count", str(count), "--seconds", str(seconds),
                            timeout=PATIENCE_S)
    measured = json.loads(said.splitlines()[-1])
    figures, ratios = {}, {}
    for kind in ("idle", "busy"):
        one = measured[kind]
        figures[f"{kind}_agent_cores"] = one["agent"]["cores"]
        figures[f"{kind}_cgtop_cores"] = one["cgtop"]["cores"]
        figures[f"{kind}_keepers_cores"] = one["keepers"]["cores"]
        figures[f"{kind}_agent_mib"] = one["agent"]["resident_bytes"] / 2**20
        figures[f"{kind}_cgtop_mib"] = one["cgtop"]["resident_bytes"] / 2**20
        figures[f"{kind}_keeper_mib"] = (one["keepers"]["own_bytes"] / 2**20 /
                                         max(1, one["keepers"]["count"]))
        ratios[f"{kind}_cpu_vs_cgtop"] = one["agent"]["cores"] / max(1e-9, one["cgtop"]["cores"])
        ratios[f"{kind}_memory_vs_cgtop"] = (one["agent"]["resident_bytes"] /
                                             max(1, one["cgtop"]["resident_bytes"]))
    failures = []
    if measured["watched"] != count:
        failures.append({"figure": "watched", "measured": measured["watched"], "limit": count})
    return {"parameters": {"count": count, "seconds": seconds, "period_s": measured["period_s"]},
            **ratios, "ratios": ratios, "figures": figures, "measured": measured,
            "failures": failures}


def text(result):
    rows = {**result["figures"], **result["ratios"]}
    return "\n".join(f"  {name:24} {value:12.4f}" for name, value in rows.items())
