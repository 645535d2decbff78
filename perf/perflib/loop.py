"""A loop that foresees beside one that reacts and none, over windows of recorded loads; ghosts."""

import dataclasses
import datetime
import json
import os

from demolib import bed as beds
from demolib import deciding, rows, slo, table, traces, windows

from . import earlier, ghost_moves, summary, timeline

MEMORY_MIB = QUICK_MEMORY_MIB = 1536  # of the bed's machines
WINDOWS, CALM = 10, 3
QUICK_WINDOWS, QUICK_CALM = 1, 0
WARM_STEPS, STEPS = 30, 40
QUICK_WARM_STEPS, QUICK_STEPS = 20, 30
SETTLED_STEPS = 12  # before agents move what has just begun (docs/policy.md)
PERIOD_S = 2.0
COST_S = 0.040  # of processor, each request: many times what carrying it costs an emulated machine
BOUND_S = 0.5
# Of this machine's processors, what the guests may have to share: clients and looks take a twentieth.
ELSEWHERE_MOST = 0.2
# What is to come out, and is said to have failed where it does not.
MOST = {"violation_vs_reactive": 1 / 3, "total_with_ghost_vs_without": 1 / 3,
        "blackout_with_ghost_vs_without": 1.0}


def add_options(parser):
    group = parser.add_argument_group("loop", "plays --traces FOLDER, or:")
    group.add_argument("--trace", nargs="+", metavar="FILE", default=[],
                       help="recorded loads to play, or folders of them (default: the demo's excerpt)")
    group.add_argument("--windows", type=int, metavar="N",
                       help=f"so many, 0 for the ghosts alone (default {WINDOWS}, quick "
                            f"{QUICK_WINDOWS})")
    group.add_argument("--calm", type=int, metavar="N",
                       help=f"of them without a shortage (default {CALM}, quick {QUICK_CALM})")
    group.add_argument("--period", type=float, default=PERIOD_S, metavar="SECONDS",
                       help=f"loop.period_s, in which one step is played (default {PERIOD_S:g})")
    group.add_argument("--bound", type=float, default=BOUND_S * 1000, metavar="MS",
                       help=f"of reply times (default {BOUND_S * 1000:g})")
    group.add_argument("--rules", default=",".join(deciding.RULES), metavar="RULE,...",
                       help="only these of " + ", ".join(deciding.RULES))
    group.add_argument("--draw", type=int, default=1, metavar="N",
                       help="seed by which windows are drawn (default 1)")
    group.add_argument("--no-ghosts", action="store_true",
                       help="leave out the moves with a warm ghost and without")


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is played, and how."""

    count: int
    calm: int
    warm: int
    steps: int
    period_s: float
    bound_s: float
    rules: tuple
    repetitions: int
    draw: int

    @property
    def window_from_s(self):
        return self.warm * self.period_s

    @property
    def judged_from_s(self):
        """From when on agents may move what has landed, of the warm-up too: a move in vain
        counts."""
        return SETTLED_STEPS * self.period_s

    @property
    def end_s(self):
        return (self.warm + self.steps) * self.period_s


def plan_of(arguments):
    quick = arguments.quick
    count, calm = (QUICK_WINDOWS, QUICK_CALM) if quick else (WINDOWS, CALM)
    if arguments.windows is not None:
        count, calm = arguments.windows, min(calm, arguments.windows)
    calm = arguments.calm if arguments.calm is not None else calm
    rules = tuple(arguments.rules.split(","))
    for rule in rules:
        if rule not in deciding.RULES:
            raise beds.DemoError(f"there is no rule {rule!r}; rules are {', '.join(deciding.RULES)}")
    if not 0 <= calm <= count:
        raise beds.DemoError(f"--calm is from 0 to --windows ({count}), not {calm}")
    if not 0.2 <= arguments.period <= 3600:
        raise beds.DemoError(f"--period is from 0.2 to 3600 seconds, not {arguments.period:g}")
    if arguments.bound <= 0:
        raise beds.DemoError(f"--bound is above 0, not {arguments.bound:g}")
    return Plan(count, calm, QUICK_WARM_STEPS if quick else WARM_STEPS,
                QUICK_STEPS if quick else STEPS, arguments.period, arguments.bound / 1000, rules,
                arguments.repetitions or (1 if quick else ghost_moves.REPETITIONS), arguments.draw)


def run(machines, arguments, note):
    """Returns the result's parts: parameters, samples, summary, ratios, failures."""
    if arguments.hosts:
        raise beds.DemoError("perf/run loop writes the agents' policy and restarts them, which it does "
                             "in a bed of its own only: leave --hosts out")
    plan = plan_of(arguments)
    paths = arguments.trace or ([arguments.traces] if arguments.traces else [traces.EXCERPT])
    chosen = windows.choose(traces.read(paths), count=plan.count, calm=plan.calm, warm=plan.warm,
                            steps=plan.steps, seed=plan.draw)
    folder = os.path.join(beds.CHECKOUT, "build", "perf", "loop")
    os.makedirs(folder, exist_ok=True)
    failures = []
    if len(chosen) < plan.count:
        failures.append({"figure": "windows", "measured": len(chosen), "limit": plan.count,
                         "why": "these traces have no more stretches of that kind"})
    kept = os.path.join(folder, "samples.json")
    samples = _samples_before(kept, chosen, plan) if arguments.resume else []
    gives = None
    if chosen:
        with deciding.Deciding(machines, folder, plan.period_s) as nodes:
            gives = nodes.gives(COST_S)
        note(f"node 1 gives its components {gives:.2f} processors")
    for number, window in enumerate(chosen):
        note(f"window {number + 1} of {len(chosen)}: {window.group}, {', '.join(window.names)}, from "
             f"step {window.begin}, " + (f"short after {window.short_from} steps, "
                                         f"{window.rise_steps} after it began to rise" if window.short
                                         else "never short"))
        # Turns are taken, so that what changes on this machine meanwhile falls on all of them.
        for turn in range(len(plan.rules)):
            rule = plan.rules[(number + turn) % len(plan.rules)]
            if any((one["window"], one["rule"]) == (number, rule) for one in samples):
                continue
            try:
                sample, played = _run_one(machines, folder, number, window, rule, plan, gives)
            except beds.DemoError as error:
                failures.append({"window": number, "rule": rule, "flaws": [str(error)]})
                note(f"{rule}: FAILED: {error}")
                continue
            samples.append(sample)
            table.write(os.path.join(folder, _name(number, rule)), played)
            table.write(kept, samples)
            note(_line(sample))
    ghosts = [] if arguments.no_ghosts else \
        _ghosts(machines, folder, plan, arguments.resume, failures, note)
    result = {
        "parameters": {**dataclasses.asdict(plan), "traces": paths, "cost_s": COST_S, "gives": gives,
                       "policies": {rule: deciding.policy(rule, plan.period_s)
                                    for rule in plan.rules}},
        "windows": [_describe(number, window) for number, window in enumerate(chosen)],
        **conclude(samples, ghosts), "samples": samples, "ghost_samples": ghosts}
    result["failures"] = failures + flaws(result, arguments.quick)
    result["plots"] = _draw(folder, chosen, samples, plan)
    return result


def _name(number, rule):
    return f"window-{number + 1}-{rule}.json"


def _describe(number, window):
    return {"window": number, "group": window.group, "names": window.names, "begin": window.begin,
            "short": window.short, "short_from": window.short_from,
            "rise_steps": window.rise_steps, "sudden": window.sudden, "demand": window.demand}


def _samples_before(path, chosen, plan):
    """Samples of an earlier run over the same windows at the same pace; others are left out."""
    return [one for one in earlier.read(path)
            if one["window"] < len(chosen) and one["key"] == _key(chosen[one["window"]], plan)]


def _key(window, plan):
    return [window.group, list(window.names), window.begin, window.short, plan.period_s, plan.bound_s,
            plan.warm, plan.steps]


def _run_one(machines, folder, number, window, rule, plan, gives):
    """Plays a window under a rule. Returns its sample, and all that was seen."""
    with deciding.Deciding(machines, folder, plan.period_s) as nodes:
        nodes.begin(rule)
        wire = machines.wire_bytes()
        played = nodes.play(windows.scaled(window, gives), cost_s=COST_S, drain_s=plan.bound_s)
        played["gives"] = gives
        played["wire_bytes"] = machines.wire_bytes() - wire
    return sample_of(number, window, rule, plan, played), played


def sample_of(number, window, rule, plan, played):
    """What is kept of a run: figures from when on the agents could act."""
    begin_s, end_s = plan.judged_from_s, plan.end_s
    components = []
    for one in played["components"]:
        requests = one["requests"]
        components.append({
            "name": one["name"],
            "violation_s": len(slo.violated_seconds(requests, plan.bound_s, begin_s, end_s)),
            **slo.waits(requests, begin_s, end_s)})
    moves = [{**{key: one[key] for key in ("component", "from", "decided_s", "left_s", "why")},
              **_of_report(one["report"])} for one in played["moves"]]
    node1 = [one for one in played["decisions"] if one["host"] == "node1"]
    short_s = plan.window_from_s + window.short_from * plan.period_s if window.short else None
    first = moves[0]["left_s"] if moves else None
    reserved = [one["at_s"] for one in played["events"] if one["kind"] == "loop-reserved"]
    return {
        "window": number, "rule": rule, "short": window.short, "sudden": window.sudden,
        "key": _key(window, plan),
        "at": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "components": components,
        "violation_s": sum(one["violation_s"] for one in components),
        "migrations": len(moves), "moves": moves,
        "failed": [f"{one['host']} {one['component']}: {one['text']}" for one in played["events"]
                   if one["kind"] in ("loop-failed", "called-off")],
        "moved_bytes": sum(one["wire_bytes"] or 0 for one in moves),
        "wire_bytes": played["wire_bytes"],
        "reserved_s": reserved[0] if reserved else None,
        # How long before the shortage the first component had gone; below 0: after it had begun.
        "lead_s": short_s - first if short_s is not None and first is not None else None,
        "ghosts": sum((one["host"], one["kind"]) == ("node1", "ghost")
                      for one in played["events"]),
        "leases_before": played["leases_before"], "leases_after": played["leases_after"],
        "given_back_s": played["given_back_s"],
        "threshold_shift": node1[-1]["threshold_shift"] if node1 else 0,
        "late_s": played["late_s"], "elsewhere": played["elsewhere"], "gives": played["gives"],
        "flaws": [f"{one['name']}: {flaw}" for one in played["components"] for flaw in one["flaws"]]}


def _of_report(report):
    if report is None:
        return {"wire_bytes": None, "held_ms": None, "total_s": None, "from_ghost": None}
    return {"wire_bytes": report["wire_bytes"], "held_ms": report["held_s"] * 1000,
            "total_s": report["total_s"],
            "from_ghost": any(phase["name"].startswith("ghost") for phase in report["phases"])}


def _ghosts(machines, folder, plan, resume, failures, note):
    path = os.path.join(folder, "ghost-samples.json")
    samples = earlier.read(path) if resume else []
    failures += ghost_moves.measure(rows.Place(machines, folder), plan.repetitions, samples, note,
                                    lambda: table.write(path, samples))
    return samples


def _over(samples, rule, other, keep=lambda sample: True):
    """Violation seconds under a rule over those under another, in windows with a shortage that were
    measured under both; None without any."""
    by_window = {}
    for sample in samples:
        if sample["short"] and keep(sample):
            by_window.setdefault(sample["window"], {})[sample["rule"]] = sample["violation_s"]
    both = [one for one in by_window.values() if rule in one and other in one]
    below = sum(one[other] for one in both)
    return sum(one[rule] for one in both) / below if below else None


def conclude(samples, ghosts):
    """What the samples say: ratios and a summary for each rule."""
    ratios = {
        "violation_vs_reactive": _over(samples, "predictive", "reactive"),
        "violation_vs_reactive_gradual": _over(samples, "predictive", "reactive",
                                               lambda one: not one["sudden"]),
        "violation_vs_reactive_sudden": _over(samples, "predictive", "reactive",
                                              lambda one: one["sudden"]),
        "violation_vs_none": _over(samples, "predictive", "none"),
        **ghost_moves.ratios(ghosts)}
    by_rule = {}
    for rule in dict.fromkeys(sample["rule"] for sample in samples):
        for short in (True, False):
            mine = [one for one in samples if (one["rule"], one["short"]) == (rule, short)]
            if not mine:
                continue
            moves = [move for one in mine for move in one["moves"]]
            by_rule.setdefault(rule, {})["short" if short else "calm"] = {
                "windows": len(mine),
                "violation_s": summary.summarize([one["violation_s"] for one in mine]),
                "violation_total_s": sum(one["violation_s"] for one in mine),
                "migrations": len(moves),
                "moved_bytes": sum(one["moved_bytes"] for one in mine),
                "held_ms": summary.summarize([move["held_ms"] for move in moves
                                              if move["held_ms"] is not None]),
                "move_s": summary.summarize([move["total_s"] for move in moves
                                             if move["total_s"] is not None]),
                "lead_s": summary.summarize([one["lead_s"] for one in mine
                                             if one["lead_s"] is not None])}
    return {**ratios, "ratios": ratios, "summary": by_rule,
            "ghost_summary": ghost_moves.summarized(ghosts)}


def flaws(result, quick):
    """What must not be, each with its figure: of all runs, and unless `quick` of the ratios."""
    found = []
    for one in result["samples"]:
        where = {"window": one["window"], "rule": one["rule"]}
        if one["flaws"]:
            found.append({**where, "flaws": one["flaws"]})
        if one["elsewhere"] is not None and one["elsewhere"] > ELSEWHERE_MOST:
            found.append({**where, "figure": "elsewhere", "measured": one["elsewhere"],
                          "limit": ELSEWHERE_MOST, "why": "this machine was busy elsewhere, and the "
                          "run says little"})
        if one["given_back_s"] is None:
            found.append({**where, "figure": "leases left", "measured": one["leases_after"]})
        if not one["short"] and one["migrations"]:
            found.append({**where, "figure": "migrations without a shortage",
                          "measured": one["migrations"], "limit": 0})
        if one["rule"] == "none" and one["short"] and not one["violation_s"]:
            found.append({**where, "figure": "violation_s", "measured": 0,
                          "why": "nobody felt that the host was short"})
    found += [{"repetition": one["repetition"], "name": one["name"], "flaws": one["flaws"]}
              for one in result["ghost_samples"] if one["flaws"]]
    if not quick:
        found += [{"figure": name, "measured": result["ratios"][name], "limit": limit}
                  for name, limit in MOST.items()
                  if result["ratios"].get(name) is not None and result["ratios"][name] > limit]
    return found


def _draw(folder, chosen, samples, plan):
    """A timeline of each window that was played under every rule; names of the files."""
    made = []
    for number, window in enumerate(chosen):
        played = {}
        for rule in plan.rules:
            path = os.path.join(folder, _name(number, rule))
            if any((one["window"], one["rule"]) == (number, rule) for one in samples) and \
                    os.path.exists(path):
                with open(path, encoding="utf-8") as source:
                    played[rule] = json.load(source)
        if "predictive" in played:
            made.append(f"loop/window-{number + 1}.svg")
            timeline.draw(os.path.join(folder, f"window-{number + 1}.svg"), window, played, plan)
    return made


def _line(sample):
    moves = ", ".join(f"{one['component']} from {one['from']} after {one['left_s']:.0f} s"
                      + (" (ghost)" if one["from_ghost"] else "") for one in sample["moves"])
    return (f"{sample['rule']:10} {sample['violation_s']:4} s of violation, "
            f"{sample['migrations']} moves" + (f": {moves}" if moves else "")
            + (f"; {len(sample['failed'])} failed" if sample["failed"] else "")
            + (f"; this machine was busy elsewhere, {sample['elsewhere']:.0%} of it"
               if (sample["elsewhere"] or 0) > ELSEWHERE_MOST else ""))


def text(result):
    """The summary for people."""
    lines = ["window  kind    rule        violation s  moves  moved MiB  blackouts ms"]
    for one in result["samples"]:
        kind = "sudden" if one["sudden"] else "gradual" if one["short"] else "calm"
        held = " ".join("-" if move["held_ms"] is None else f"{move['held_ms']:.0f}"
                        for move in one["moves"])
        lines.append(f"{one['window'] + 1:>6}  {kind:7} {one['rule']:11} {one['violation_s']:>11}  "
                     f"{one['migrations']:>5}  {one['moved_bytes'] / 2**20:>9.0f}  {held}")
    for name, metrics in result["ghost_summary"].items():
        for metric, one in metrics.items():
            if one is not None:
                lines.append(f"{name:14} {metric:12} median {one['median']:9.2f}  MAD "
                             f"{one['mad']:8.2f}  min {one['min']:9.2f}  max {one['max']:9.2f}  n "
                             f"{one['n']}")
    lines += ["", "ratios:"]
    lines += [f"  {name:32} " + ("      -" if value is None else f"{value:7.3f}")
              for name, value in result["ratios"].items()]
    return "\n".join(lines)
