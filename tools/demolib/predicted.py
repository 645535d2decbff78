"""The demo's predicted move: load rises as it did in a recorded trace, and the agents see to it."""

import os

from . import bed as beds
from . import deciding, slo, windows

PERIOD_S = 2.0
WARM_STEPS, STEPS = 25, 40
COST_S = 0.040  # of processor, each request
BOUND_S = 0.5
WHAT = "a predicted move"


def rise(series):
    """The first stretch of these three loads in which they come to be too much for one
    processor, scaled as a window of perf/run loop is."""
    if len(series) < windows.COMPONENTS:
        raise beds.DemoError(f"the predicted move needs loads of {windows.COMPONENTS} components, "
                             f"and the trace has {len(series)}")
    for window in windows.all_of(series[:windows.COMPONENTS], warm=WARM_STEPS, steps=STEPS):
        return window
    raise beds.DemoError("the load never rises as the predicted move needs it: from "
                         f"{windows.WARM_MOST:.0%} of what there is at most to "
                         f"{windows.SHORT_LEVEL:.0%}, for {windows.SHORT_STEPS} steps "
                         "(docs/benchmarks.md, loop)")


def show(bed, results, series, note):
    """Plays the rise and returns what was seen: figures of the clients, moves, what was wrong."""
    window = rise(series)
    seconds = (WARM_STEPS + STEPS) * PERIOD_S
    note(f"{WHAT}: the load of {', '.join(window.names)} as recorded, a step in {PERIOD_S:g} s; it "
         f"is more than {bed.node_name(1)} has from second "
         f"{(WARM_STEPS + window.short_from) * PERIOD_S:.0f} of {seconds:.0f} on")
    with deciding.Deciding(bed, os.path.join(results, "predicted"), PERIOD_S) as nodes:
        gives = nodes.gives(COST_S)
        nodes.begin("predictive")
        played = nodes.play(windows.scaled(window, gives), cost_s=COST_S, drain_s=BOUND_S)
    for one in played["components"]:
        requests = one.pop("requests")
        one["waits"] = slo.waits(requests)
        one["violation_s"] = len(slo.violated_seconds(requests, BOUND_S))
    return {"demand": window.demand, "short_from_s": (WARM_STEPS + window.short_from) * PERIOD_S,
            **played}


def text(seen):
    """What happened, in the order of time, with the reason that `starling why` gave, and what each
    component's clients saw."""
    said = {"loop-reserved": "reserved", "loop-ghost": "ghost",
            "loop-dropped-ghost": "ghost dropped", "loop-migrate": "moves",
            "loop-moved": "moved", "loop-gave-back": "gave back", "loop-failed": "failed"}
    happened = [(one["at_s"],
                 f"{one['host']}  {said[one['kind']]:13} {one['component']}: {one['text']}")
                for one in seen["events"] if one["kind"] in said]
    happened.append((seen["short_from_s"], "from here on more than node1 has is asked for"))
    lines = [f"{at_s:6.1f} s  {what}" for at_s, what in sorted(happened)]
    reasons = [one["reason"] for one in seen["decisions"]
               if any(step["action"] == "migrate" for step in one["steps"])]
    if reasons:
        lines.append(f"why: {reasons[0]}")
    lines += ["", "clients of  requests  unanswered  median ms  99th perc. ms  longest ms  "
              f"seconds over {1000 * BOUND_S:.0f} ms"]
    for one in seen["components"]:
        waits = one["waits"]
        figures = ["-" if waits[key] is None else f"{1000 * waits[key]:.0f}"
                   for key in ("p50_s", "p99_s", "longest_s")]
        lines.append(f"{one['name']:10}  {waits['requests']:8}  {waits['unanswered']:10}  "
                     f"{figures[0]:>9}  {figures[1]:>13}  {figures[2]:>10}  "
                     f"{one['violation_s']:>19}")
    return "\n".join(lines)


def flaws(seen):
    """What must not be, in words."""
    found = [f"{one['name']}: {flaw}" for one in seen["components"] for flaw in one["flaws"]]
    if not any(one["why"] for one in seen["moves"]):
        found.append("the agents moved nothing")
    return found
