"""Agents that decide by themselves while a recorded load is played: the bed's two nodes, what
they were told, what they did, and what clients saw. tools/demo shows it once, perf/run loop
compares rules."""

import contextlib
import json
import os
import subprocess
import threading
import time

from . import bed as beds

CONFIGURATION = "/etc/starling/starlingd.toml"
POLICY = "/etc/starling/policy.toml"
PORT = 7700
NAMES = ("one", "two", "three")  # of the components
# The blackout of an emulated machine is a second or two, and longer while it is short of its
# processor: no reason to leave a component there.
BEARS_BLACKOUT_MS = 20000
# What is done about a shortage here is moving. Of these periods a policy's times are made, so that
# they mean the same at any pace: a shortage within ACT_WITHIN is moved away from, which is longer
# than a move takes, one within RESERVE_WITHIN has room reserved, as far as forecasts see.
ACT_WITHIN, RESERVE_WITHIN, PATIENCE, LEASE = 6, 12, 10, 30
# A present shortage is one after so many seconds, whatever the period.
REACT_S = 10
REACT_ABOVE = 0.9
# Periods between looks at the agents. Each takes an emulated processor half a second to a second,
# which agents cannot tell from use that will come again.
WATCH_EVERY = 15

RULES = ("predictive", "reactive", "none")


def policy(rule, period_s):
    """The policy file of one of RULES. `predictive` is the default policy, acting, with its
    times in periods; `reactive` only looks at present use, and neither reserves nor keeps
    ghosts; `none` is the predictive one, observing."""
    present = "".join(f'[[rule]]\nresource = "{resource}"\npercent = 0\nabove = {REACT_ABOVE}\n'
                      f"within_s = {REACT_S}\n" for resource in ("cpu", "memory"))
    if rule == "reactive":
        return f'mode = "act"\n[allow]\nreserve = false\nghost = false\n{present}'
    foreseen = "".join(f'[[rule]]\nresource = "{resource}"\npercent = 90\nabove = {above}\n'
                       f"within_s = {ACT_WITHIN * period_s:g}\n"
                       for resource, above in (("cpu", 0.8), ("memory", 0.85)))
    return (f'mode = "{"act" if rule == "predictive" else "observe"}"\n[reserve]\n'
            f"within_s = {RESERVE_WITHIN * period_s:g}\nlease_s = {max(5, LEASE * period_s):g}\n"
            f"patience_s = {PATIENCE * period_s:g}\n{foreseen}{present}")


class Deciding:
    """Two nodes whose agents decide once in `period_s`, and three components of starling-service
    that start on node 1. Use as a context manager: components are stopped, and agents observe,
    after it."""

    def __init__(self, bed, folder, period_s, *, mib=32, names=NAMES):
        self.bed, self.folder, self.period_s = bed, folder, period_s
        self._mib, self.names = mib, names
        self._events, self._offset_s = {}, {}
        os.makedirs(folder, exist_ok=True)

    def __enter__(self):
        for node in (1, 2):
            self.bed.write(node, POLICY, "")
            self.bed.execute(
                node, "sh", "-c", f"grep -q '^.loop.$' {CONFIGURATION} || printf '%s' \"$1\" "
                f">>{CONFIGURATION}", "sh",
                f'\n[loop]\nperiod_s = {self.period_s:g}\npolicy = "{POLICY}"\n')
        return self

    def __exit__(self, *_):
        self.stop()
        for node in (1, 2):
            with contextlib.suppress(beds.DemoError):
                self.bed.write(node, POLICY, "")

    def address(self, index):
        """Of the component of this number."""
        host, _, last = self.bed.component_address.rpartition(".")
        return f"{host}.{int(last) + index}"

    def starling(self, node, *arguments, timeout=120):
        return self.bed.execute(node, "starling", *arguments, timeout=timeout)

    def json(self, node, *arguments):
        return json.loads(self.starling(node, *arguments, "--json"))

    def events(self, node, after=0):
        said = self.starling(node, "events", "--after", str(after), "--json")
        return [json.loads(line) for line in said.splitlines()]

    # What is done -------------------------------------------------------------------------------

    def begin(self, rule):
        """New agents under a rule's policy, and three fresh components on node 1: thresholds,
        counters and what was learned of components begin anew; what was learned of the hosts and
        of past moves stays, as over any restart."""
        self.stop()
        for node in (1, 2):
            self.bed.write(node, POLICY, policy(rule, self.period_s))
            self.bed.agent(node, "restart")
        for node in (1, 2):
            self._wait_agent(node)
            seen = self.events(node)
            self._events[node] = seen[-1]["number"] if seen else 0
            before = time.monotonic()
            unix_s = float(self.bed.execute(node, "date", "+%s.%N"))
            self._offset_s[node] = unix_s - (before + time.monotonic()) / 2
        for index, name in enumerate(self.names):
            address = f"{self.address(index)}/{self.bed.component_prefix}"
            self.starling(1, "run", name, "--ip", address, "--bears-blackout",
                          str(BEARS_BLACKOUT_MS), "--", self.bed.node_binary("starling-service"),
                          "--port", str(PORT), "--mib", str(self._mib))

    def _wait_agent(self, node):
        deadline = time.monotonic() + 120
        while True:
            with contextlib.suppress(beds.DemoError):
                self.starling(node, "info")
                return
            if time.monotonic() > deadline:
                raise beds.DemoError(f"the agent of {self.bed.node_name(node)} does not answer")
            time.sleep(0.3)

    def stop(self):
        for node in (1, 2):
            with contextlib.suppress(beds.DemoError):
                there = {one["name"] for one in self.json(node, "ps")["components"]
                         if one["state"] not in ("left", "exited")}
                for name in self.names:
                    if name in there:
                        self.starling(node, "stop", name, "--grace", "1")

    def play(self, demand, *, cost_s, drain_s, timeout_s=120):
        """Plays each component's demand (processors a step, one step a period) and returns what was
        seen: `requests` of each component (see player.py), looks at the agents, moves, decisions,
        leases. All times are in seconds since the first step."""
        player = _Player(self, demand, cost_s, drain_s)
        watch = None
        try:
            before = self._counts()
            machine = _Machine(self.bed)
            began = player.begin(timeout_s)
            watch = _Watch(self, began)
            result = player.end(len(demand[0]) * self.period_s + drain_s + timeout_s)
            elsewhere = machine.elsewhere()
            looks = watch.end()
        finally:
            player.kill()
            if watch is not None:
                watch.end()
        given_back_s = self._wait_given_back(began)
        return {**self._done(began), "looks": looks, "late_s": result["late_s"],
                "elsewhere": elsewhere,
                "components": [{"name": name, **one}
                               for name, one in zip(self.names, result["components"])],
                "leases_before": before, "leases_after": self._counts(),
                "given_back_s": given_back_s}

    def gives(self, cost_s):
        """How many processors node 1 gives its components at most, as their own clocks count: what is
        left beside timer ticks and interrupts, which an emulated processor spends a third of itself
        on while it is busy. Asks for more than there is, for some steps."""
        self.begin("none")
        steps = 6
        result = self._ask([[1.0] * steps] * len(self.names), cost_s)
        end_s = steps * self.period_s
        in_time = [due + waited <= end_s for one in result["components"]
                   for due, waited in one["requests"] if waited is not None]
        if not any(in_time):
            raise beds.DemoError("the components answered nothing at all")
        return sum(in_time) * cost_s / end_s

    def _ask(self, demand, cost_s):
        """Plays without looking at the agents."""
        player = _Player(self, demand, cost_s, 0.0)
        try:
            player.begin(120)
            return player.end(len(demand[0]) * self.period_s + 120)
        finally:
            player.kill()

    # What is seen -------------------------------------------------------------------------------

    def _counts(self):
        """What each node counts of leases, and how many it granted that wait for their
        component."""
        counts = {}
        for node in (1, 2):
            said = self.json(node, "leases")
            counts[self.bed.node_name(node)] = {
                **said["counts"], "waiting": sum(not one["pinned"] for one in said["granted"])}
        return counts

    def _wait_given_back(self, began):
        """Until no lease waits for its component; returns when that was seen, since the
        beginning, or None when a lease's length and the patience pass without."""
        deadline = time.monotonic() + (LEASE + PATIENCE) * self.period_s + 10
        while any(one["waiting"] for one in self._counts().values()):
            if time.monotonic() > deadline:
                return None
            time.sleep(1)
        return time.monotonic() - began

    def _done(self, began):
        """Events and decisions since `begin`, and the moves that they tell of."""
        events, decisions = [], []
        for node in (1, 2):
            name = self.bed.node_name(node)
            first_s = self._offset_s[node] + began
            events += [{"host": name, "at_s": one["time"] - first_s, "component": one["component"],
                        "kind": one["kind"], "text": one["text"]}
                       for one in self.events(node, self._events[node])]
            why = self.json(node, "why", "--last", "1000")
            if why["refused"]:
                raise beds.DemoError(f"{name}: the policy is refused: {why['refused']}")
            decisions += [{"host": name, "at_s": one["time"] - first_s, **one}
                          for one in why["decisions"] if one["time"] >= first_s]
        events.sort(key=lambda one: one["at_s"])
        reports = {}
        for one in events:
            if one["kind"] == "left":
                # Of several moves away from one host it has the last.
                with contextlib.suppress(beds.DemoError):
                    node = 1 if one["host"] == self.bed.node_name(1) else 2
                    reports[one["host"], one["component"]] = self.json(node, "report",
                                                                      one["component"])
        return {"events": events, "decisions": decisions, "moves": moves(events, reports)}


def moves(events, reports):
    """Moves that came about, from both nodes' events in the order of time: {component, from, to,
    decided_s, left_s, report}; `reports` by (host, component), of the last move only."""
    found, decided = [], {}
    for one in events:
        key = one["host"], one["component"]
        if one["kind"] == "loop-migrate":
            decided[key] = one
        elif one["kind"] == "left":
            why = decided.pop(key, None)
            for earlier in found:
                if (earlier["from"], earlier["component"]) == key:
                    earlier["report"] = None
            found.append({"component": one["component"], "from": one["host"],
                          "decided_s": why and why["at_s"], "why": why and why["text"],
                          "left_s": one["at_s"], "report": reports.get(key)})
    return found


class _Player:
    """player.py in the clients' network."""

    def __init__(self, deciding, demand, cost_s, drain_s):
        self._plan = os.path.join(deciding.folder, "plan.json")
        self._result = os.path.join(deciding.folder, "played.json")
        with contextlib.suppress(FileNotFoundError):
            os.remove(self._result)
        components = [{"address": deciding.address(index), "port": PORT, "demand": list(one)}
                      for index, one in enumerate(demand)]
        with open(self._plan, "w", encoding="utf-8") as out:
            json.dump({"step_s": deciding.period_s, "cost_s": cost_s, "drain_s": drain_s,
                       "components": components}, out)
        script = os.path.join(os.path.dirname(os.path.realpath(__file__)), "player.py")
        self._process = deciding.bed.start_client(
            "/usr/bin/python3", "-B", script, self._plan, self._result, stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def begin(self, timeout_s):
        """Has it begin; returns when, by time.monotonic()."""
        timer = threading.Timer(timeout_s, self.kill)
        timer.start()
        try:
            said = self._process.stdout.readline().strip()
        finally:
            timer.cancel()
        if said != "ready":
            self.kill()
            raise beds.DemoError(f"the clients did not get ready: "
                                 f"{self._process.stderr.read().strip()}")
        began = time.monotonic()
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return began

    def end(self, timeout_s):
        try:
            _, said = self._process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()
            raise beds.DemoError("the clients did not end") from None
        if self._process.returncode != 0:
            raise beds.DemoError(f"the clients failed: {said.strip()}")
        with open(self._result, encoding="utf-8") as source:
            return json.load(source)

    def kill(self):
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()


class _Machine:
    """How much of this machine's processors went to neither of the guests."""

    def __init__(self, bed):
        self._pids = [node["pid"] for node in bed.status()["node"]]
        self._began = self._busy()

    def _busy(self):
        """(ticks that processors had in all, that they were busy, busy with the guests)."""
        with open("/proc/stat", encoding="ascii") as source:
            # user, nice, system, idle, waiting for disks, interrupts, soft ones, stolen
            ticks = [int(word) for word in source.readline().split()[1:9]]
        guests = 0
        for pid in self._pids:
            with open(f"/proc/{pid}/stat", encoding="ascii") as source:
                fields = source.read().rpartition(")")[2].split()
            guests += int(fields[11]) + int(fields[12])
        return sum(ticks), sum(ticks) - ticks[3] - ticks[4], guests

    def elsewhere(self):
        """The share of all processors since the beginning, 0 to 1; None when no time has passed."""
        all_, busy, guests = (now - then for now, then in zip(self._busy(), self._began))
        return max(0.0, busy - guests) / all_ if all_ else None


class _Watch:
    """Looks at both agents now and then, beside the load: what node 1 foresees of its processor,
    what node 2 granted and which ghosts it keeps."""

    def __init__(self, deciding, began):
        self._deciding, self._began = deciding, began
        self.looks = []
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def end(self):
        self._ended.set()
        self._thread.join(timeout=150)
        return self.looks

    def _run(self):
        every_s = WATCH_EVERY * self._deciding.period_s
        while not self._ended.wait(every_s - (time.monotonic() - self._began) % every_s):
            # A node may be too busy to answer; the next look will be.
            with contextlib.suppress(beds.DemoError):
                self.looks.append(self._look())

    def _look(self):
        at_s = time.monotonic() - self._began
        foreseen = self._deciding.json(1, "forecast")
        cpu = next(one for one in foreseen["all"]["metrics"] if one["metric"] == "cpu")
        said = self._deciding.bed.execute(
            2, "sh", "-c", "starling leases --json && starling ghost list --json")
        leases, at = json.JSONDecoder().raw_decode(said)
        ghosts = json.loads(said[at:])
        return {"at_s": at_s, "cpu_now": cpu["now"], "capacity": cpu["capacity"],
                "ahead": [{name: one[name] for name in ("ahead_s", "p50", "p90", "low", "high")}
                          for one in cpu["ahead"]],
                "components": {one["name"]: next(metric["now"] for metric in one["metrics"]
                                                 if metric["metric"] == "cpu")
                               for one in foreseen["components"]},
                "leases": [{"component": one["component"], "kind": one["kind"],
                            "pinned": one["pinned"], "cpu": one["amount"]["cpu"] / 1000}
                           for one in leases["granted"]],
                "ghosts": [{key: one[key] for key in ("name", "kind", "state", "arena_bytes",
                                                      "migration_id")}
                           for one in ghosts["here"]]}
