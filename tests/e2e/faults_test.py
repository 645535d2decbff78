#!/usr/bin/python3
"""Breaks migrations of a live Redis in each of their steps, and looks at what is left of it.

usage: faults_test.py [--subset | --case POINT:FAULT ...] [--kernel 6.12|6.1] [--keep] [--json FILE]

Each case starts a Redis on node1 under the witness's load, holds its migration to node2 at a point
(docs/testing.md lists them), injects a fault, lets go, waits until everything is settled, and looks
at both nodes. It passes when

  - at no time two copies ran (both nodes are watched all the while),
  - exactly one runs afterwards; none only where the host that held the only copy was powered off,
  - while the source was in doubt it was frozen,
  - the witness lost nothing acknowledged, read nothing wrong, and its one connection never broke,
  - both journals agree and have nothing unsettled,
  - and nothing is left over when the component has been stopped.

Ends with a table, step by fault. Exit code 0: all passed; 1: not; 2: wrong usage.
"""

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time

import beds
from beds import ADDRESS, BED, BINARIES, OBSERVER, PATIENCE_S, ROOT, Failed, wait_until

REDIS = ["/usr/bin/redis-server", "--port", "7777", "--bind", "0.0.0.0", "--protected-mode", "no",
         "--save", "", "--appendonly", "no", "--dir", "/"]

# In the order in which a migration comes by.
POINTS = ["source-reserve", "target-reserve", "source-precopy", "source-freeze", "source-capture",
          "source-images", "source-restore", "target-restore", "target-prepared", "source-probe",
          "target-probe", "source-commit", "target-commit", "target-committed", "source-left",
          "source-called-off"]
FAULTS = ["agent-source", "agent-target", "criu", "power-source", "power-target", "cut-5s",
          "cut-for-ever"]
# The points right after which CRIU runs, and where.
CRIU_RUNS = {"source-precopy": "source", "source-capture": "source", "target-restore": "target"}
SUBSET = [("source-precopy", "agent-source"), ("source-capture", "criu"),
          ("target-restore", "agent-target"), ("source-commit", "cut-for-ever"),
          ("target-committed", "agent-target"), ("source-images", "power-target")]
# What Node.do("left") says that a stopped component must not leave behind; rdma has a baseline.
LEFT = ["groups", "keepers", "criu", "sockets", "images", "rdma"]
EXTRA = ["agent-restarted", "agent-upgraded", "agent-upgraded-moving"]

# Both nodes' clocks are known to about this: a shorter overlap of two running copies is not seen.
CLOCK_S = 0.05


def applies(point, fault):
    return fault != "criu" or point in CRIU_RUNS


class Node:
    """One node: what it is told to do, and what was seen running on it."""

    def __init__(self, bed, number):
        self.bed = bed
        self.number = number
        self.name = f"node{number}"
        self._process = None
        self._lock = threading.Condition()
        self._answers = {}
        self._next = 0
        self._samples = []  # (our time of receipt, the node's time, state)
        self._marks = []

    def connect(self):
        self._process = subprocess.Popen(
            self.bed.argv("exec", self.name, "--", "/usr/bin/python3", "-B",
                          os.path.join(ROOT, "tests", "e2e", "fault_node.py")),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        threading.Thread(target=self._read, args=(self._process,), daemon=True).start()
        self.do("agent")

    def _read(self, process):
        with self._lock:
            self._samples.append(None)  # another boot, another clock
        for line in process.stdout:
            try:
                message = json.loads(line)
            except ValueError:
                break  # cut off with the power
            with self._lock:
                if "state" in message and "id" not in message:
                    self._samples.append((time.monotonic(), message["t"], message["state"]))
                else:
                    self._answers[message["id"]] = message
                self._lock.notify_all()
        with self._lock:
            if self._process is process:
                self._process = None
            self._lock.notify_all()

    def close(self):
        process = self._process
        if process is not None:
            with contextlib.suppress(OSError):
                process.stdin.close()
            try:
                process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def do(self, action, timeout=PATIENCE_S, **arguments):
        """Asks the node and waits for its answer."""
        with self._lock:
            process = self._process
            if process is None:
                raise Failed(f"{self.name} is not there")
            number = self._next
            self._next += 1
            with contextlib.suppress(BrokenPipeError):
                process.stdin.write(json.dumps({"id": number, "do": action, **arguments}) + "\n")
                process.stdin.flush()
            there = self._lock.wait_for(
                lambda: number in self._answers or self._process is not process, timeout)
            if number not in self._answers:
                raise Failed(f"{self.name}: {action}: " +
                             ("no answer" if not there else "the node went away"))
            answer = self._answers.pop(number)
        if not answer["ok"]:
            raise Failed(f"{self.name}: {action}: {answer['error']}")
        return answer

    def starling(self, *arguments, check=True):
        done = self.do("command", argv=["starling", *arguments], timeout_s=PATIENCE_S)
        if check and done["code"] != 0:
            raise Failed(f"{self.name}: starling {' '.join(arguments)} ended with {done['code']}: "
                         f"{done['err'].strip()}")
        return done

    def ps(self):
        """The components by name; None while the agent does not answer."""
        done = self.starling("ps", "--json", check=False)
        if done["code"] != 0:
            return None
        return {row["name"]: row for row in json.loads(done["out"])["components"]}

    def forget_samples(self):
        with self._lock:
            self._samples = [None]

    def running(self, names=None):
        """Spans of our time in which a copy was seen running, each as (from, to); `names` limits it
        to those cgroups. Sure spans: from the first to the last look that saw it without a break."""
        with self._lock:
            samples = list(self._samples) + [None]
        spans, boot = [], []
        for sample in samples:
            if sample is not None:
                boot.append(sample)
                continue
            if boot:
                # The quickest message tells most about how far the two clocks are apart.
                apart = min(ours - theirs for ours, theirs, _ in boot)
                start = last = None
                for _, theirs, state in boot:
                    runs = any(what == "running" for name, what in state.items()
                               if names is None or name in names)
                    if runs:
                        start = theirs if start is None else start
                        last = theirs
                    elif start is not None:
                        spans.append((start + apart, last + apart))
                        start = None
                if start is not None:
                    spans.append((start + apart, last + apart))
            boot = []
        return spans

    def states_since(self, moment):
        """What its cgroups were seen as since then (our time of receipt)."""
        with self._lock:
            return [sample[2] for sample in self._samples if sample and sample[0] > moment]


class Bed:
    """The bed of this test, with a node1 and a node2."""

    def __init__(self, name):
        self.name = name
        self.nodes = {1: Node(self, 1), 2: Node(self, 2)}

    def argv(self, *arguments):
        return [BED, arguments[0], "--name", self.name, *arguments[1:]]

    def run(self, *arguments, check=True, timeout=PATIENCE_S):
        done = subprocess.run(self.argv(*arguments), capture_output=True, text=True, check=False,
                              stdin=subprocess.DEVNULL, timeout=timeout)
        if check and done.returncode != 0:
            raise Failed(f"bed {' '.join(arguments)} ended with {done.returncode}: "
                         f"{done.stderr.strip()}")
        return done

    def is_up(self):
        return json.loads(self.run("status", "--json").stdout)["state"] == "up"

    def up(self, kernel):
        self.run("up", "--kernel", kernel, "--memory", "768", timeout=600)

    def power_off(self, node):
        self.run("power-off", node.name)
        wait_until(f"{node.name} lets go of its helper", lambda: node._process is None)

    def boot(self, node):
        self.run("boot", node.name)
        node.connect()

    def start_client(self, *command, **options):
        return subprocess.Popen(self.argv("client", "--", *command), **options)

    def link(self, node, state):
        self.run("link", node.name, state)


class Case:
    """One migration, one fault. `problems` is empty when all was as it has to be."""

    def __init__(self, bed, name, folder, baseline):
        self.bed = bed
        self.name = name
        self.folder = folder
        self.baseline = baseline
        self.source, self.target = bed.nodes[1], bed.nodes[2]
        self.problems = []
        self.cell = ""
        self.witness = None
        self._migrating = None
        self._cut = False
        self._off = None

    def complain(self, text):
        self.problems.append(text)

    # Steps ------------------------------------------------------------------------------------

    def begin(self):
        for node in (self.source, self.target):
            node.forget_samples()
            wait_until(f"the agent of {node.name} answers", lambda node=node: node.ps() is not None)
        self.source.starling(
            "run", self.name, "--ip", f"{ADDRESS}/24", "--",
            os.path.join(BINARIES, "starling-heartbeat"), "--to", OBSERVER,
            "--every", "10ms", "--", *REDIS)
        self.witness = beds.Witness(self.bed, self.folder, 7777, "--preload-mib", "1",
                                    "--value-size", "4096")
        self.witness.wait_ready()

    def migrate(self, probe=None):
        arguments = ["migrate", self.name, "--to", "node2", "--json"]
        if probe:
            arguments += ["--probe", probe]
        self.told = {}

        def follow():
            # When the source's power goes, there is no answer.
            with contextlib.suppress(Failed):
                self.told = self.source.starling(*arguments, check=False)
        self._migrating = threading.Thread(target=follow, daemon=True)
        self._migrating.start()

    def inject(self, point, fault):
        holder = self.source if point.startswith("source") else self.target
        holder.do("hold", point=point)
        self.migrate(probe={"target-probe": "true", "source-called-off": "false"}.get(point))
        deadline = time.monotonic() + PATIENCE_S
        while not holder.do("reached", point=point, timeout_s=5)["reached"]:
            if not self._migrating.is_alive() or time.monotonic() > deadline:
                raise Failed(f"{point} was never reached: {self.told}")
        if fault == "agent-source":
            self.source.do("kill_agent")
        elif fault == "agent-target":
            self.target.do("kill_agent")
        elif fault == "criu":
            side = CRIU_RUNS[point]
            node = self.source if side == "source" else self.target
            if node.do("kill_criu", timeout_s=60, release_first=True, side=side)["killed"] == 0:
                self.complain("no CRIU was seen that could be killed")
        elif fault == "power-source":
            self._off = self.source
        elif fault == "power-target":
            self._off = self.target
        elif fault.startswith("cut"):
            self.bed.link(self.target, "down")
            self._cut = True
        if self._off is not None:
            self.bed.power_off(self._off)
        if holder is not self._off:
            holder.do("release")
        if self._off is not None:
            time.sleep(2)  # for the other to go on alone
            self.bed.boot(self._off)
        if fault == "cut-5s":
            time.sleep(5)
            self.heal()
        if fault == "cut-for-ever":
            self.resolve()
            self.heal()

    def heal(self):
        self.bed.link(self.target, "up")
        self._cut = False

    def source_state(self):
        """The source's view once it will not change by itself: "in-doubt", "running", "left" ..."""
        rows = self.source.ps()
        if rows is None or self.name not in rows:
            return None
        row = rows[self.name]
        return row["state"] if row["state"] == "in-doubt" or not row["migration_id"] else None

    def resolve(self):
        """As a person would: looks at the target (over another network), decides at the source."""
        state = wait_until("the source knows how it ends, or that it does not", self.source_state)
        if state != "in-doubt":
            return
        since = time.monotonic()
        verdict = wait_until("the target's word is final", lambda: self.verdict(
            ("committed", "aborted", None)))
        time.sleep(2)
        # No answer in time says nothing: it is asked again.
        if wait_until("the source answers", self.source_state) != "in-doubt":
            self.complain("the source did not stay in doubt while the link was cut")
        for seen in self.source.states_since(since):
            if seen.get(self.name) != "held":
                self.complain(f"in doubt, the source was {seen}")
                break
        where = "--there" if verdict == "committed" else "--here"
        self.cell = where
        self.source.starling("resolve", self.name, where, "--yes")
        rows = self.source.ps() or {}
        expected = "left" if where == "--there" else "running"
        if rows.get(self.name, {}).get("state") != expected:
            self.complain(f"resolved {where}, the source shows {rows.get(self.name)}")

    def verdict(self, finals):
        rows = [row for row in self.target.do("journal")["migrations"]
                if row["component"] == self.name]
        state = rows[-1]["state"] if rows else None
        return (state or "unknown") if state in finals else None

    def settled(self):
        journals = []
        for node in (self.source, self.target):
            if node.ps() is None:
                return None
            journals.append(node.do("journal"))
        rows = [row for journal in journals for row in journal["migrations"]]
        return journals if all(row["settled"] for row in rows) else None

    # Looks ------------------------------------------------------------------------------------

    def look(self):
        journals = wait_until("both journals are settled", self.settled)
        self._migrating.join(PATIENCE_S)
        if self._migrating.is_alive():
            self.complain("`starling migrate` has not ended")
        where = self.look_at_journals(*journals)
        self.look_at_copies(where)
        self.look_at_the_past()
        if where is not None:
            self.look_at_witness()
        self.clean(where)

    def look_at_journals(self, source, target):
        """Compares the journals; returns the node on which the one copy is to run, or None."""
        ours = [next((row for row in reversed(journal["migrations"])
                      if row["component"] == self.name), None) for journal in (source, target)]
        components = [next((row for row in journal["components"] if row["name"] == self.name), None)
                      for journal in (source, target)]
        if ours[0] is None:
            self.complain("the source's journal knows no migration")
            return self.source
        # A migration that was called off before the target heard of it is unknown there, or aborted.
        states = (ours[0]["state"], ours[1]["state"] if ours[1] else None)
        if states not in (("left", "committed"), ("called-off", "aborted"), ("called-off", None)):
            self.complain(f"the journals disagree: {states}")
        gone = states[0] == "left"
        living = [bool(row and row["state"] == "RUNNING") for row in components]
        if gone:
            epochs = [row["epoch"] if row else None for row in components]
            if epochs != [ours[0]["epoch"] + 1] * 2:
                self.complain(f"moved from epoch {ours[0]['epoch']}, but the epochs are {epochs}")
            if components[0] is None or (components[0]["state"], components[0]["host"]) != (
                    "LEFT", "node2"):
                self.complain(f"the source's journal says of the component: {components[0]}")
        keeper = self.target if gone else self.source
        where = None if self._off is keeper else keeper
        # A host that was powered off held the only copy: that is the one way to lose it.
        if living != [where is self.source, where is self.target]:
            self.complain(f"by the journals it runs at (source, target): {living}; the copy is at "
                          f"{where.name if where else 'none: its host was powered off'}")
        self.cell = f"{where.name if where else 'off'} {self.cell}".strip()
        return where

    def look_at_copies(self, where):
        for node in (self.source, self.target):
            groups = node.do("left")["groups"]
            running = [name for name, state in groups.items() if state == "running"]
            listed = (node.ps() or {}).get(self.name, {}).get("state")
            if len(running) != (1 if node is where else 0) or len(groups) != len(running):
                self.complain(f"{node.name} has {groups}")
            if (listed == "running") != (node is where):
                self.complain(f"`starling ps` of {node.name} says {listed}")

    def look_at_the_past(self):
        """Two copies never ran at one time."""
        for mine in self.source.running():
            for other in self.target.running():
                both = min(mine[1], other[1]) - max(mine[0], other[0])
                if both > CLOCK_S:
                    self.complain(f"two copies ran for {both:.3f} s")

    def look_at_witness(self):
        report = self.witness.report()
        for what in ("lost_writes", "wrong_values", "broken_connections", "unverified_values"):
            if report[what] != 0:
                why = {key: value for key, value in report.items() if isinstance(value, str)}
                self.complain(f"the witness: {what} {report[what]}; {why}")
        if report["heartbeat"]["duplicated"] != 0:
            self.complain(f"the witness: {report['heartbeat']['duplicated']} heartbeats came twice")

    def clean(self, where):
        if where is not None:
            where.starling("stop", self.name, "--grace", "5")
        for node in (self.source, self.target):
            def bare(node=node):
                left = node.do("left")
                left = {key: left[key] for key in LEFT}
                over = {kind: count for kind, count in left.pop("rdma").items()
                        if count > self.baseline[node.name].get(kind, 0)}
                return None if any(left.values()) or over else True, left, over
            try:
                wait_until("", lambda: bare()[0], timeout_s=60)
            except Failed:
                self.complain(f"left over on {node.name}: {bare()[1:]}")

    def end(self):
        """Whatever happened: lets go of the witness, the hold and the link."""
        if self.witness is not None:
            self.witness.kill()
        if self._cut:
            self.heal()


class Matrix:
    """Runs cases one after another in one bed."""

    def __init__(self, bed):
        self.bed = bed
        self.results = {}
        self.baseline = {}
        self._count = 0

    def new_case(self, folder):
        self._count += 1
        return Case(self.bed, f"redis-{os.getpid() % 10000}-{self._count}", folder, self.baseline)

    def attempt(self, key, act):
        began = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            case = self.new_case(folder)
            try:
                case.begin()
                act(case)
            except (Failed, subprocess.TimeoutExpired, KeyError) as error:
                case.complain(f"{type(error).__name__}: {error}")
            finally:
                case.end()
        self.results[key] = case
        print(f"{' x '.join(key)}: {'ok' if not case.problems else 'FAILED'} ({case.cell}), "
              f"{time.monotonic() - began:.0f} s", flush=True)
        for problem in case.problems:
            print(f"    {problem}", flush=True)
        if case.problems:
            self.show_events(case)
            self.wipe()

    def show_events(self, case):
        for node in self.bed.nodes.values():
            with contextlib.suppress(Failed):
                done = node.starling("events", case.name, check=False)
                for line in done["out"].splitlines()[-25:]:
                    print(f"    {node.name}: {line}")

    def wipe(self):
        """After a case that failed: both nodes as new, so that the next is not to blame."""
        script = ("for pid in $(cat /sys/fs/cgroup/starling-keepers/cgroup.procs); do "
                  "kill -9 $pid; done; sleep 1; for g in /sys/fs/cgroup/starling/*/; do "
                  "echo 1 >$g/cgroup.kill; sleep 0.5; rmdir $g; done; "
                  "rm -rf /run/starling/hold /run/starling/keepers /run/starling/images "
                  "/var/lib/starling/journal.db*")
        for node in self.bed.nodes.values():
            with contextlib.suppress(Failed):
                if node._process is None:
                    self.bed.run("boot", node.name, check=False)
                    node.connect()
                self.bed.run("agent", node.name, "stop")
                self.bed.run("exec", node.name, "--", "sh", "-c", script, check=False)
                self.bed.run("agent", node.name, "start")

    def rehearse(self):
        """One migration without a fault: what is left of resources after it is what agents keep."""
        def act(case):
            case.migrate()
            case._migrating.join(PATIENCE_S)
            if case.told.get("code") != 0:
                raise Failed(f"`starling migrate` without a fault: {case.told}")
            for node in self.bed.nodes.values():
                self.baseline[node.name] = {"qp": 10**6, "mr": 10**6, "pd": 10**6, "cq": 10**6,
                                            "cm_id": 10**6}
            case.look()
            for node in self.bed.nodes.values():
                self.baseline[node.name] = node.do("left")["rdma"]
        self.attempt(("no", "fault"), act)

    def fault(self, point, fault):
        def act(case):
            case.inject(point, fault)
            case.look()
        self.attempt((point, fault), act)

    # The agent comes and goes, the component does not ------------------------------------------

    def agent(self, kind):
        def act(case):
            case.source.do("hold", point="source-precopy")
            moving = kind == "agent-upgraded-moving"
            if moving:
                case.migrate()
                wait_until("the migration is under way", lambda: case.source.do(
                    "reached", point="source-precopy", timeout_s=5)["reached"])
            began = time.monotonic()
            before = case.source.do("agent")["pid"]
            version = json.loads(case.source.starling("info", "--json")["out"])["version"]
            if kind == "agent-restarted":
                case.source.do("kill_agent")
            else:
                self.upgrade(case.source)
            case.source.do("release")
            wait_until("another agent answers", lambda: case.source.ps() is not None and
                       case.source.do("agent")["pid"] not in (0, before))
            after = json.loads(case.source.starling("info", "--json")["out"])["version"]
            if (after != version) != (kind != "agent-restarted"):
                case.complain(f"the agent's version was {version} and is {after}")
            if moving:
                journals = wait_until("both journals are settled", case.settled)
                case._migrating.join(PATIENCE_S)
            time.sleep(2)
            for seen in case.source.states_since(began):
                if seen.get(case.name) != "running":
                    case.complain(f"while the agent was replaced, the component was {seen}")
                    break
            if moving:
                where = case.look_at_journals(*journals)
                case.look_at_copies(where)
                case.look_at_witness()
                case.clean(where)
            else:
                # The new agent finds it, and can move it.
                case.migrate()
                case._migrating.join(PATIENCE_S)
                if case.told.get("code") != 0:
                    case.complain(f"the new agent could not move it: {case.told}")
                case.look()
        self.attempt((kind, "agent-source"), act)
        if kind != "agent-restarted":
            self.downgrade(self.bed.nodes[1])

    def upgrade(self, node):
        """Puts a copy of the programs, which calls itself another version, in place of the agent's
        and restarts that; what runs goes on with its old programs."""
        done = self.bed.run("exec", node.name, "--", "/usr/bin/python3", "-c", f"""
import os, shutil, subprocess
bin, new = {BINARIES!r}, "/tmp/other-build"
shutil.copytree(bin, new, ignore=shutil.ignore_patterns("starling-witness"))
version = json.loads(subprocess.run(["starling", "info", "--json"], capture_output=True).stdout)["version"]
""".replace("import os,", "import json, os,") + """
other = version[:-1] + chr(ord(version[-1]) + 1)
for name in os.listdir(new):
    path = os.path.join(new, name)
    data = open(path, "rb").read()
    open(path, "wb").write(data.replace(version.encode() + b"\\0", other.encode() + b"\\0"))
subprocess.run(["mount", "--bind", new, bin], check=True)
""", check=False)
        if done.returncode != 0:
            raise Failed(f"the other build cannot be put in place: {done.stderr}")
        node.do("kill_agent")

    def downgrade(self, node):
        with contextlib.suppress(Failed):
            self.bed.run("exec", node.name, "--", "sh", "-c",
                         f"umount -l {BINARIES}; rm -rf /tmp/other-build", check=False)
            self.bed.run("agent", node.name, "restart", check=False)

    # ------------------------------------------------------------------------------------------

    def table(self):
        lines = []
        faults = [fault for fault in FAULTS if any(key[1] == fault and key[0] in POINTS
                                                   for key in self.results)]
        points = [point for point in POINTS if any(key[0] == point for key in self.results)]

        def cell(point, fault):
            if not applies(point, fault):
                return "-"
            case = self.results.get((point, fault))
            if case is None:
                return ""
            return ("ok " if not case.problems else "FAILED ") + case.cell
        rows = [["step", *faults]] + [[point, *(cell(point, fault) for fault in faults)]
                                      for point in points]
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        for row in rows:
            lines.append("  ".join(word.ljust(width) for word, width in zip(row, widths)).rstrip())
        for key, case in self.results.items():
            if key[0] not in POINTS:
                lines.append(f"{' x '.join(key)}: {'ok' if not case.problems else 'FAILED'} "
                             f"{case.cell}")
        lines += ["node1, node2: where the one copy runs afterwards; off: the host that held the "
                  "only copy was powered off,", "and it is lost with it; --here, --there: `starling "
                  "resolve` ended the doubt; -: CRIU does not run then"]
        return "\n".join(lines)


def parse():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--subset", action="store_true", help="a spread of six cases")
    which.add_argument("--case", action="append", metavar="POINT:FAULT",
                       help="only this one; may be repeated")
    parser.add_argument("--kernel", choices=("6.12", "6.1"), default="6.12")
    parser.add_argument("--name", default=f"faults-{os.getpid()}",
                        help="the bed's name; one that is up is used and left up")
    parser.add_argument("--keep", action="store_true", help="leave the bed up")
    parser.add_argument("--json", metavar="FILE", help="write the results there")
    arguments = parser.parse_args()
    if arguments.subset:
        cases = SUBSET
    elif arguments.case:
        cases = [tuple(case.split(":", 1)) if ":" in case else (case, "agent-source")
                 for case in arguments.case]
        for point, fault in cases:
            if point not in POINTS + EXTRA or fault not in FAULTS:
                parser.error(f"there is no case {point}:{fault}")
    else:
        cases = [(point, fault) for point in POINTS for fault in FAULTS if applies(point, fault)]
        cases += [(kind, "agent-source") for kind in EXTRA]
    return arguments, cases


def main():
    arguments, cases = parse()
    # Ended early, it still takes its bed down.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    bed = Bed(arguments.name)
    ours = not bed.is_up()
    matrix = Matrix(bed)
    try:
        if ours:
            bed.up(arguments.kernel)
        for node in bed.nodes.values():
            node.connect()
        matrix.rehearse()
        if matrix.results[("no", "fault")].problems:
            print("a migration without a fault did not go well: no fault was tried")
            return 1
        for point, fault in cases:
            if point in EXTRA:
                matrix.agent(point)
            else:
                matrix.fault(point, fault)
    finally:
        for node in bed.nodes.values():
            node.close()
        if ours and not arguments.keep:
            bed.run("down", check=False)
    print(matrix.table())
    if arguments.json:
        with open(arguments.json, "w", encoding="utf-8") as out:
            json.dump({"schema": 1, "kernel": arguments.kernel, "cases": [
                {"step": point, "fault": fault, "passed": not case.problems, "ended": case.cell,
                 "problems": case.problems}
                for (point, fault), case in matrix.results.items()]}, out, indent=2)
    failed = [key for key, case in matrix.results.items() if case.problems]
    print(f"{len(matrix.results) - len(failed)} of {len(matrix.results)} cases passed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
