#!/usr/bin/python3
"""Ghosts and failing over to them, between the nodes of a bed.

usage: ghost_test.py [--case NAME ...] [--list] [--kernel 6.12|6.1] [--keep] [--bed NAME]

kept      a cold and a warm ghost are added, shown on both nodes, and dropped; each leaves nothing behind,
          also when its component is stopped
migrate   a Redis under the witness moves without a ghost, and again from a warm one: in a fraction of
          the time, with nothing lost, and the report says so
failover  the node of a Redis loses its power in the middle of an instant: it is refused without a
          fence, and with one starts from the last whole instant, never a mix of two; the node comes
          back, and does not run it
cut       only the link is cut: refused, also when the fence command fails; it runs on where it was, and
          while that node answers it is refused too. Failed over by a person who is wrong: the old copy
          ends once its node hears of it
several   on three nodes: two warm ghosts of a Redis that is written to are kept fresh at once, over a
          killed agent; it moves from one and the other goes; failed over to the one that has
          instants, the other goes; each is what it has to be
agents    both agents are killed with a warm ghost alive: it is taken up again, and is one; killed while
          the component is frozen for an instant, it runs on

Exit code 0: all passed; 1: not.
"""

import json
import os
import subprocess
import sys
import tempfile
import threading
import time

import beds
import cases
from beds import ADDRESS, BINARIES, Failed, wait_until
from workloads_test import ask, flaws

PORT = 7777
CONFIGURATION = "/etc/starling/starlingd.toml"
FENCE = "/var/lib/starling/fence"
HOLD = "/run/starling/hold"
# Of values that do not compress: large enough that the first round is most of a move.
PRELOAD_MIB = 64
GROWN_MIB = 150  # beyond what an arena has to spare


def expect(condition, what):
    if not condition:
        raise Failed(what)


# Writes the same number under two keys, in one transaction, for as long as it is answered; prints the
# last one that was acknowledged.
WRITER = r"""
import socket, sys
last = int(sys.argv[3])
try:
    with socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=20) as c:
        lines = c.makefile('rb')
        while True:
            c.sendall(b'MULTI\r\nSET first %d\r\nSET last %d\r\nEXEC\r\n' % (last + 1, last + 1))
            said = [lines.readline() for _ in range(6)]
            if said[5] != b'+OK\r\n':
                break
            last += 1
            print(last, flush=True)
except OSError:
    pass
"""


class Writer:
    """Counts up in the component, until nobody answers any more."""

    def __init__(self, bed, begin=0):
        self.last = begin
        self._process = bed.start_client("/usr/bin/python3", "-u", "-c", WRITER, ADDRESS, str(PORT),
                                         str(begin), stdin=subprocess.DEVNULL,
                                         stdout=subprocess.PIPE, text=True)
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self):
        for line in self._process.stdout:
            self.last = int(line)

    def end(self):
        self._process.kill()
        self._process.wait()
        self._thread.join(timeout=30)
        return self.last


class Test:
    def __init__(self, bed, folder):
        self.bed, self.folder = bed, folder
        self.one, self.two = bed.nodes[1], bed.nodes[2]
        self.nodes = tuple(bed.nodes.values())

    # Parts -------------------------------------------------------------------------------------

    def redis(self, name):
        self.one.starling("run", name, "--ip", f"{ADDRESS}/24", "--",
                          os.path.join(BINARIES, "starling-heartbeat"), "--to", beds.OBSERVER,
                          "--", "/usr/bin/redis-server", "--port", str(PORT), "--bind", "0.0.0.0",
                          "--protected-mode", "no", "--save", "", "--appendonly", "no",
                          "--enable-debug-command", "yes", "--dir", "/")
        self.answers()

    def ask(self, line):
        return ask(self.bed, PORT, line)

    def answers(self):
        wait_until("the component answers", lambda: self.bed.client(
            "bash", "-c", f"exec 3<>/dev/tcp/{ADDRESS}/{PORT}", check=False).code == 0)

    def ghosts(self, node, side, name):
        listed = json.loads(node.starling("ghost", "list", "--json").out)
        return [one for one in listed[side] if one["name"] == name]

    def ghost(self, node, side, name):
        found = self.ghosts(node, side, name)
        expect(len(found) <= 1, f"more than one on {node.name}: {found}")
        return found[0] if found else None

    def warm(self, name, rounds=1):
        def look():
            one = self.ghost(self.one, "away", name)
            return one if one and one["state"] == "warm" and one["rounds"] >= rounds else None
        return wait_until(f"{name} has a warm ghost", look)

    def state(self, node, name):
        return node.components().get(name, {}).get("state")

    def refused(self, node, words, *command, code=4):
        done = node.starling(*command, check=False)
        expect(done.code == code and words in done.err,
               f"{' '.join(command)} ended with {done.code} and not {code}, or without "
               f"'{words}': {done.err.strip()} {done.out.strip()}")

    def traces(self, node, name):
        """What a node has of a component that does not run there."""
        found = node.shell(
            f"ls -d /sys/fs/cgroup/starling/{name}* 2>/dev/null; ls /run/starling/images "
            f"/run/starling/keepers 2>/dev/null | grep -v ':$' ; pgrep -fa "
            f"'[s]tarling-keeper.*{name}'", check=False).out.split("\n")
        leases = json.loads(node.starling("leases", "--json").out)["granted"]
        return [line for line in found if line] + [one for one in leases if one["component"] == name]

    def gone(self, name):
        wait_until("node2 keeps nothing", lambda: not self.ghost(self.two, "here", name))
        wait_until("node1 knows", lambda: not self.ghost(self.one, "away", name))
        wait_until("nothing is left on node2", lambda: not self.traces(self.two, name), timeout_s=60)

    def stop(self, *names):
        for node in self.nodes:
            for name in names:
                node.starling("stop", name, "--grace", "1", check=False)

    def kill_agent(self, node):
        before = node.agent_pid()
        node.run("kill", "-9", str(before))
        wait_until(f"the agent of {node.name} is another",
                   lambda: node.agent("status").startswith("running") and
                   node.agent_pid() != before)
        node.wait_agent()

    def migrate(self, name, source, target):
        began = time.monotonic()
        done = source.starling("migrate", name, "--to", target.name, "--json", "--quiet", check=False)
        took = time.monotonic() - began
        expect(done.code == 0, f"migrate ended with {done.code}: {done.err.strip() or done.out}")
        return json.loads(done.out.splitlines()[-1])["report"], took

    def instants(self, name, more):
        """Waits for so many instants beyond those that were begun by now."""
        before = self.ghost(self.one, "away", name)["instants"]
        return wait_until(f"{more} more instants", lambda: (
            lambda one: one if one and one["instants"] >= before + more else None)(
                self.ghost(self.one, "away", name)))

    def hold(self, point):
        self.one.shell(f"mkdir -p {HOLD}; touch {HOLD}/{point}")
        wait_until(f"it is held at {point}", lambda: self.one.shell(
            f"test -e {HOLD}/{point}.reached", check=False).code == 0)

    # Cases -------------------------------------------------------------------------------------

    def kept(self):
        name = "kept"
        self.redis(name)
        self.refused(self.one, "is this host", "ghost", "add", name, "--on", "node1", code=2)
        self.refused(self.one, "no component", "ghost", "add", "nobody", "--on", "node2", code=3)
        self.one.starling("ghost", "add", name, "--on", "node2", "--cold")
        here = self.ghost(self.two, "here", name)
        expect(here and here["kind"] == "cold" and here["from"] == "node1", f"not kept: {here}")
        expect(any(one["component"] == name for one in
                   json.loads(self.two.starling("leases", "--json").out)["granted"]), "no lease")
        expect(self.state(self.two, name) is None, "it is shown as a component of node2")
        self.refused(self.one, "keeps a ghost of", "ghost", "add", name, "--on", "node2")
        self.one.starling("ghost", "drop", name, "--on", "node2")
        self.gone(name)
        self.one.starling("ghost", "add", name, "--on", "node2", "--every", "1")
        first = self.warm(name, rounds=1)
        later = self.warm(name, rounds=first["rounds"] + 2)
        expect(later["bytes_sent"] > 0 and later["fresh_s"] < 60, f"not fresh: {later}")
        expect(self.ask("SET alive yes") == "+OK", "it does not run")
        self.grows_with_its_lease(name)
        self.stop(name)
        self.gone(name)
        # From the other side, too.
        self.redis(name)
        self.one.starling("ghost", "add", name, "--on", "node2")
        self.warm(name)
        self.one.starling("ghost", "drop", name, "--on", "node2")
        self.gone(name)
        self.stop(name)
        return f"cold and warm, added and dropped; {later['rounds']} rounds"

    def grows_with_its_lease(self, name):
        """The component grows by more than its ghost's arena has to spare."""
        def room():
            lease, = (one for one in json.loads(self.two.starling("leases", "--json").out)["granted"]
                      if one["component"] == name)
            return lease["amount"]["memory"], self.ghost(self.two, "here", name)["arena_bytes"]
        leased, arena = room()
        expect(leased == arena, f"a lease of {leased} for an arena of {arena}")
        expect(self.ask(f"DEBUG POPULATE {GROWN_MIB * 1024} grown 1000") == "+OK", "not grown")
        wait_until("its ghost has grown", lambda: room()[1] >= arena + GROWN_MIB * 2**20 / 2)
        leased, arena = room()
        expect(leased == arena, f"a lease of {leased} for an arena of {arena}")
        expect(arena < (64 + 2 * GROWN_MIB) * 2**20, f"an arena of {arena}")

    def move_from_warm(self):
        name = "moved"
        self.redis(name)
        witness = beds.Witness(self.bed, self.folder, PORT, "--preload-mib", str(PRELOAD_MIB),
                               "--value-size", "4096")
        try:
            witness.wait_ready()
            plain, plain_s = self.migrate(name, self.one, self.two)
            back, _ = self.migrate(name, self.two, self.one)
            time.sleep(2)
            self.one.starling("ghost", "add", name, "--on", "node2", "--every", "2", "--rate",
                              "200M")
            self.warm(name, rounds=3)
            warm, warm_s = self.migrate(name, self.one, self.two)
            time.sleep(2)
            report = witness.report()
        finally:
            witness.kill()
        flaws(report)
        expect(any(phase["name"].startswith("ghost") for phase in warm["phases"]),
               f"the report does not say that it began as a ghost: {warm['phases']}")
        expect(not any(phase["name"] == "reserve" for phase in warm["phases"]), "reserved again")
        expect(not any(phase["name"].startswith("ghost") for phase in plain["phases"]), "a ghost?")
        expect(warm["wire_bytes"] < plain["wire_bytes"] / 2, "most of it was sent again")
        expect(warm["total_s"] < plain["total_s"] / 2,
               f"it took {warm['total_s']} s, and without a ghost {plain['total_s']} s")
        expect(not self.ghosts(self.two, "here", name) and not self.ghosts(self.one, "away", name),
               "the ghost is still there")
        self.stop(name)
        return (f"total {plain['total_s']:.2f} -> {warm['total_s']:.2f} s (ratio "
                f"{warm['total_s'] / plain['total_s']:.2f}; with preflight {plain_s:.2f} -> "
                f"{warm_s:.2f}), held {plain['held_s']:.2f} and {back['held_s']:.2f} -> "
                f"{warm['held_s']:.2f} s, wire {plain['wire_bytes'] >> 20} -> "
                f"{warm['wire_bytes'] >> 20} MiB")

    def read(self):
        """Both numbers, which are one."""
        first, last = self.ask("GET first"), self.ask("GET last")
        expect(first == last, f"a mix of two moments: {first} and {last}")
        return int(first)

    def with_instants(self, name):
        self.redis(name)
        self.one.starling("ghost", "add", name, "--on", "node2", "--every", "1", "--rate", "200M",
                          "--checkpoint-every", "3")
        wait_until("there is an instant",
                   lambda: (self.ghost(self.two, "here", name) or {}).get("instants"))

    def failover(self):
        name = "saved"
        self.with_instants(name)
        writer = Writer(self.bed)
        try:
            wait_until("it counts", lambda: writer.last > 50)
            low = writer.last
            held = self.instants(name, 2)
            # In the middle of the next one: what its last round brought has landed.
            self.hold("ghost-instant")
            high = writer.last
            whole = self.ghost(self.two, "here", name)
            subprocess.run(self.bed.argv("power-off", self.one.name), check=True,
                           stdin=subprocess.DEVNULL, timeout=beds.PATIENCE_S)
        finally:
            high = max(high, writer.end())
        self.refused(self.two, "--fenced", "failover", name)
        expect(self.state(self.two, name) is None, "something was started")
        done = json.loads(self.two.starling("failover", name, "--fenced", "--json").out)
        self.answers()
        found = self.read()
        expect(low <= found <= high, f"found {found}, and not one of {low} to {high}")
        expect(self.state(self.two, name) == "running", "it does not run")
        expect(done["age_s"] >= whole["instant_age_s"] and done["fence"] == "a person's word",
               f"not what was to be said: {done} {whole}")
        expect(self.ask("SET first x") == "+OK", "it does not go on")
        subprocess.run(self.bed.argv("boot", self.one.name), check=True, stdin=subprocess.DEVNULL,
                       timeout=beds.PATIENCE_S)
        self.one.wait_agent()
        expect(self.state(self.one, name) in ("left", "lost"),
               f"on the node that came back it is {self.state(self.one, name)}")
        wait_until("node1 knows that it lost it", lambda: self.state(self.one, name) == "left")
        expect(self.ask("GET first") == "x", "another copy answers")
        self.stop(name)
        wait_until("no trace of it on node1", lambda: not self.traces(self.one, name), timeout_s=60)
        return (f"from an instant {done['age_s']:.1f} s old, {high - found} of {high} transactions "
                f"after it lost, {done['connections']} connections closed; instants held it for "
                f"{held['held_s']:.2f} s")

    def fence_command(self, exit_code):
        self.two.shell(f"cat >{FENCE}; chmod 755 {FENCE}",
                       given=f"#!/bin/sh\necho $1 >>{FENCE}.said\nexit {exit_code}\n")
        self.two.shell(f"grep -q '^.failover.$' {CONFIGURATION} || cat >>{CONFIGURATION}",
                       given=f'\n[failover]\nfence_command = "{FENCE}"\n')

    def cut(self):
        name = "cut"
        # Its agent reads the configuration before there is a ghost that would not outlive it.
        self.two.shell(f"rm -f {FENCE}.said")
        self.with_instants(name)
        self.refused(self.two, "answers, and component", "failover", name)
        writer = Writer(self.bed)
        wait_until("it counts", lambda: writer.last > 50)
        self.instants(name, 2)
        self.bed.link(self.one, "down")
        try:
            self.refused(self.two, "which may be the link alone", "failover", name)
            expect(self.state(self.one, name) == "running", "it does not run where it was")
            expect(self.state(self.two, name) is None, "something was started")
        finally:
            self.bed.link(self.one, "up")
        self.answers()
        before = writer.end()
        expect(self.read() >= before, "something acknowledged is lost")
        self.warm(name)
        # A person who is wrong.
        wait_until("there is an instant again",
                   lambda: (self.ghost(self.two, "here", name) or {}).get("instant_age_s"))
        value = self.read()
        self.instants(name, 2)
        self.bed.link(self.one, "down")
        try:
            self.two.starling("failover", name, "--fenced")
            expect(self.state(self.two, name) == "running", "it was not started")
            expect(self.state(self.one, name) == "running", "the old copy cannot know yet")
        finally:
            self.bed.link(self.one, "up")
        wait_until("the old copy has ended", lambda: self.state(self.one, name) == "left")
        wait_until("no trace of it", lambda: not self.traces(self.one, name), timeout_s=60)
        self.answers()
        expect(self.read() == value, "not the value of the instant")
        self.stop(name)
        # By a command: one that cannot, and one that can.
        self.fence_command(1)
        self.two.agent("restart")
        self.two.wait_agent()
        self.with_instants(name)
        self.bed.link(self.one, "down")
        try:
            self.refused(self.two, "ended with 1", "failover", name)
            expect(self.state(self.two, name) != "running", "something was started")
            self.fence_command(0)
            done = json.loads(self.two.starling("failover", name, "--json").out)
            expect(done["fence"] == f"{FENCE} node1", f"not by the command: {done}")
            said = self.two.shell(f"cat {FENCE}.said").out.split()
            expect(said == ["node1", "node1"], f"it was run with {said}")
        finally:
            self.bed.link(self.one, "up")
        wait_until("the old copy has ended", lambda: self.state(self.one, name) == "left")
        self.stop(name)
        self.two.shell(f"sed -i '/^.failover.$/,$d' {CONFIGURATION}; rm -f {FENCE}*")
        self.two.agent("restart")
        self.two.wait_agent()
        return "refused while cut and while it answers; a wrong word and a command both end the old"

    def both_fresh(self, name, three, rounds):
        """Waits until so many rounds more have reached each of the two."""
        def look():
            away = {one["on"]: one for one in self.ghosts(self.one, "away", name)}
            return away if all(away.get(on, {}).get("state") == "warm" and
                               away[on]["rounds"] >= before.get(on, 0) + rounds
                               for on in ("node2", three.name)) else None
        before = {one["on"]: one["rounds"] for one in self.ghosts(self.one, "away", name)}
        return wait_until(f"both ghosts of {name} are fresh", look)

    def several(self):
        name, three = "several", self.bed.nodes[3]
        self.redis(name)
        writer = Writer(self.bed)
        try:
            wait_until("it counts", lambda: writer.last > 50)
            self.one.starling("ghost", "add", name, "--on", "node2", "--every", "1", "--rate",
                              "200M")
            self.one.starling("ghost", "add", name, "--on", "node3", "--every", "1", "--rate",
                              "200M")
            self.both_fresh(name, three, 3)
            self.kill_agent(self.one)
            wait_until("both are made again", lambda: all(
                one["rounds"] >= 1 for one in self.ghosts(self.one, "away", name)) and
                len(self.ghosts(self.one, "away", name)) == 2)
            self.both_fresh(name, three, 3)
        finally:
            last = writer.end()
        expect(self.read() >= last, "something acknowledged is lost")
        digest = self.ask("DEBUG DIGEST")
        report, _ = self.migrate(name, self.one, three)
        expect(self.ask("DEBUG DIGEST") == digest, "the digest is another after the move")
        expect(any(phase["name"] == "ghost: since its last round" for phase in report["phases"]),
               f"it did not begin as a ghost: {report['phases']}")
        self.gone(name)
        said = [event["text"] for event in map(json.loads, self.one.starling(
            "events", name, "--json").out.splitlines()) if event["kind"] == "ghost-dropped"]
        expect(any("node2: the component has gone to host node3" in text for text in said),
               f"not said that the other one goes: {said}")
        self.stop(name)
        # Instants at one of them.
        self.redis(name)
        self.one.starling("ghost", "add", name, "--on", "node2", "--every", "1", "--rate", "200M",
                          "--checkpoint-every", "3")
        self.refused(self.one, "has instants on host node2", "ghost", "add", name, "--on", "node3",
                     "--checkpoint-every", "3")
        self.one.starling("ghost", "add", name, "--on", "node3", "--every", "1", "--rate", "200M")
        writer = Writer(self.bed)
        try:
            wait_until("it counts", lambda: writer.last > 50)
            wait_until("there is an instant",
                       lambda: (self.ghost(self.two, "here", name) or {}).get("instants"))
            self.both_fresh(name, three, 3)
            low = writer.last
            taken = self.ghost(self.two, "here", name)["instants"]
            instants = wait_until("two more instants", lambda: (
                lambda one: one if one["instants"] >= taken + 2 else None)(
                    self.ghost(self.two, "here", name)))
            subprocess.run(self.bed.argv("power-off", self.one.name), check=True,
                           stdin=subprocess.DEVNULL, timeout=beds.PATIENCE_S)
        finally:
            high = writer.end()
        self.refused(three, "no whole instant", "failover", name, "--fenced")
        self.two.starling("failover", name, "--fenced")
        self.answers()
        found = self.read()
        expect(low <= found <= high, f"found {found}, and not one of {low} to {high}")
        wait_until("node3 lets go of its own", lambda: not self.ghost(three, "here", name))
        wait_until("nothing is left on node3", lambda: not self.traces(three, name), timeout_s=60)
        subprocess.run(self.bed.argv("boot", self.one.name), check=True, stdin=subprocess.DEVNULL,
                       timeout=beds.PATIENCE_S)
        self.one.wait_agent()
        wait_until("node1 knows that it lost it", lambda: self.state(self.one, name) == "left")
        wait_until("it wants no ghosts", lambda: not self.ghosts(self.one, "away", name))
        self.stop(name)
        return (f"two kept fresh beside {instants['instants']} instants; moved from one in "
                f"{report['total_s']:.2f} s, failed over from the other")

    def agents(self):
        name = "agents"
        self.redis(name)
        self.one.starling("ghost", "add", name, "--on", "node2", "--every", "1")
        old = self.warm(name)["migration_id"]
        self.kill_agent(self.one)
        new = self.warm(name)
        expect(new["migration_id"] != old, "it was not made again")
        here = self.ghost(self.two, "here", name)
        expect(here["migration_id"] == new["migration_id"], f"node2 keeps another: {here}")
        expect(self.ask("SET alive yes") == "+OK", "it does not run on")
        self.kill_agent(self.two)
        wait_until("it is made again on node2", lambda: (
            self.ghost(self.two, "here", name) or {}).get("migration_id") not in
            (None, new["migration_id"]))
        self.warm(name)
        keepers = self.two.shell(f"ls /run/starling/keepers | grep -c {name}", check=False).out
        expect(keepers.strip() == "1", f"keepers on node2: {keepers}")
        digest = self.ask("DEBUG DIGEST")
        self.migrate(name, self.one, self.two)
        expect(self.ask("DEBUG DIGEST") == digest, "the digest is another after the move")
        self.stop(name)
        # While it is frozen for an instant.
        self.with_instants(name)
        self.hold("ghost-instant")
        frozen = self.one.shell(f"cat /sys/fs/cgroup/starling/{name}/cgroup.freeze").out.strip()
        expect(frozen == "1", "it is not frozen where it has to be")
        self.one.shell(f"kill -9 {self.one.agent_pid()}; rm -r {HOLD}")
        self.one.wait_agent()
        expect(self.ask("SET alive again") == "+OK", "it does not run on")
        self.warm(name)
        wait_until("there is an instant again",
                   lambda: (self.ghost(self.two, "here", name) or {}).get("instants"))
        self.stop(name)
        self.gone(name)
        return "made again after each agent's end, one at a time, and moved from; runs on"


CASES = {"kept": Test.kept, "migrate": Test.move_from_warm, "failover": Test.failover,
         "cut": Test.cut, "several": Test.several, "agents": Test.agents}


def main():
    arguments = cases.parser(__doc__, CASES, "ghost").parse_args()
    if arguments.list:
        print("\n".join(CASES))
        return 0
    names = arguments.case or list(CASES)
    with tempfile.TemporaryDirectory() as folder, beds.Bed(
            arguments.bed, arguments.kernel, arguments.keep, memory_mib=1024,
            nodes=3 if "several" in names else 2) as bed:
        test = Test(bed, folder)

        def after(_, passed):
            if passed:
                return
            cases.show_logs(test.nodes)
            for node in test.nodes:
                print(node.starling("events", check=False).out[-4000:], flush=True)
            test.stop("kept", "moved", "saved", "cut", "several", "agents")

        rows = cases.run(names, lambda name: CASES[name](test), after)
    return cases.close(rows, arguments.json)


if __name__ == "__main__":
    sys.exit(main())
