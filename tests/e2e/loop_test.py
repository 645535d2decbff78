#!/usr/bin/python3
"""Agents that foresee, reserve and decide by themselves, on two nodes of a bed.

usage: loop_test.py [--case NAME ...] [--list] [--kernel 6.12|6.1] [--keep] [--bed NAME]

moved     a component's memory grows; its agent foresees that the node will not have enough, reserves
          on the other node, is killed together with that node's agent, finds component, lease and
          what it learned again, and moves the component before the node is short; `starling why`
          has the reason, the component goes on growing there, and its shadow has come along
early-end the growth ends before the shortage: what was reserved is given back, nothing moves, and
          the threshold has moved
degraded  two components want all processors: the one of lower priority is left less, also after its
          agent was killed, and has all of it back when the other one ends, and when the agent ends
ghost     as moved, with a ghost: where room is reserved the loop keeps a warm one, both agents are
          killed, it is taken up again, and the component moves from it
ghost-end as early-end: the ghost and its room are gone within the lease, and nothing moves
yields    a ghost ends when its room is given to something firmer; its source hears why, and makes it
          again when there is room
no-room   a target without room refuses a move, and names itself, what was asked for and what is free
rests     a component is parked by hand and woken by its user, by a packet, by an agent that is
          another, and when it is to be moved
limits    limits follow what a component uses, down and up, and it has its own back when the agent ends
probe     the loop moves a component whose owner's probe fails: it runs on where it was, as it was; the
          probe travels with it, and another one goes before it
idle-move a component whose user stays away is parked on the emptier node, and woken there by a packet: and
          once more by hand, woken by its user
enforced  memory that a lease promises is protected, and storage held to --io-max where the node has any; it
          stays over a killed agent and is given back when the agent ends
policy    a policy that is wrong is refused by line and key, and the one before stays

Exit code 0: all passed; 1: not.
"""

import json
import os
import re
import struct
import sys

import beds
import cases
from beds import BINARIES, Failed, wait_until

CONFIGURATION = "/etc/starling/starlingd.toml"
POLICY = "/etc/starling/policy.toml"
RAW_GRPC = os.path.join(beds.ROOT, "tests", "e2e", "raw_grpc.py")
PERIOD_S = 4
MIB = 1 << 20
# How much the component may grow before it is too much, and how fast it does.
GROWTH_MIB = 220
KIB_PER_S = 1280


def expect(condition, what):
    if not condition:
        raise Failed(what)


def varint(value):
    out = b""
    while value >= 128:
        out, value = out + bytes([value % 128 + 128]), value // 128
    return out + bytes([value])


def field(number, content):
    """One field of a message, as protobuf encodes it."""
    if isinstance(content, int):
        return varint(number << 3) + varint(content)
    if isinstance(content, float):
        return varint(number << 3 | 1) + struct.pack("<d", content)
    return varint(number << 3 | 2) + varint(len(content)) + content


class Test:
    def __init__(self, bed):
        self.bed = bed
        self.one, self.two = bed.nodes[1], bed.nodes[2]
        self.nodes = (self.one, self.two)

    # Parts -------------------------------------------------------------------------------------

    def configure(self):
        for node in self.nodes:
            self.policy(node, "")
            node.shell(f"grep -q '^.loop.$' {CONFIGURATION} || cat >>{CONFIGURATION}",
                       given=f'\n[loop]\nperiod_s = {PERIOD_S}\npolicy = "{POLICY}"\n')
            node.agent("restart")
            node.wait_agent()

    def policy(self, node, text):
        node.shell(f"cat >{POLICY}.new && mv {POLICY}.new {POLICY}", given=text)

    def json(self, node, *arguments):
        return json.loads(node.starling(*arguments, "--json").out)

    def memory(self, node):
        """(used now, capacity) of a node, as its agent sees it, once that has looked for a while."""
        def look():
            for metric in self.json(node, "forecast")["all"]["metrics"]:
                if metric["metric"] == "memory" and metric["ahead"][1]["outcomes"] > 5:
                    return metric["now"], metric["capacity"]
            return None
        return wait_until(f"{node.name} has looked at itself", look)

    def shown(self, node, name):
        """What a node foresees of a component; empty while it does not watch it."""
        known = self.json(node, "forecast")["components"]
        return next((one for one in known if one["name"] == name), {})

    def ramp(self, name):
        self.one.starling("run", name, "--bears-blackout", "60000", "--",
                          os.path.join(BINARIES, "starling-ramp"), "--kib-per-s", str(KIB_PER_S))

    def signal(self, node, signal):
        node.shell(f"pkill -{signal} -x starling-ramp")

    def grow_policy(self, patience_s, ghost=False):
        """Moves at once when the next step is too much, reserves when what comes after is. With `ghost`
        it keeps one there meanwhile, and moves nothing until let_move()."""
        used, capacity = self.memory(self.one)
        above = (used + GROWTH_MIB * MIB) / capacity
        expect(above < 0.95, f"the node is too small: {used} of {capacity} bytes are in use")
        self.growing = f"""
mode = "act"
hysteresis = 0.005
max_moves = {0 if ghost else 2}
[allow]
page_out = false
degrade = false
processors = false
ghost = {str(ghost).lower()}
[ghosts]
rate_mib_s = 64
every_s = 2
[reserve]
within_s = {6 * PERIOD_S}
lease_s = 120
patience_s = {patience_s}
[thresholds]
lower = 0.01
higher = 0.01
[[rule]]
resource = "memory"
percent = 90
above = {above:.4f}
within_s = {PERIOD_S}
"""
        self.policy(self.one, self.growing)

    def let_move(self):
        self.policy(self.one, self.growing.replace("max_moves = 0", "max_moves = 2"))

    def held(self, name):
        """The lease that node1 has on node2 for this component, as node1 knows it."""
        for lease in self.json(self.one, "leases")["held"]:
            if lease["component"] == name:
                return lease
        return None

    def granted(self, name):
        for lease in self.json(self.two, "leases")["granted"]:
            if lease["component"] == name:
                return lease
        return None

    def why(self, name, action):
        """Decisions of node1 with such a step for this component."""
        decided = self.json(self.one, "why", name, "--last", "1000")["decisions"]
        return [one for one in decided if any(step["action"] == action for step in one["steps"])]

    def events(self, node, name, kind):
        lines = node.starling("events", name, "--json").out.splitlines()
        return [event for event in map(json.loads, lines) if event["kind"] == kind]

    def state(self, node, name):
        return node.components().get(name, {}).get("state")

    def kill_agent(self, node):
        before = node.agent_pid()
        node.run("kill", "-9", str(before))
        wait_until(f"the agent of {node.name} is another",
                   lambda: node.agent("status").startswith("running") and
                   node.agent_pid() != before)
        node.wait_agent()

    def without_agent(self, look):
        """What `look` returns once node1's agent has ended in order; then there is another."""
        self.one.agent("stop")
        try:
            return look()
        finally:
            self.one.agent("start")
            self.one.wait_agent()

    def stop(self, *names):
        for node in self.nodes:
            for name in names:
                node.starling("stop", name, "--grace", "1", check=False)
            self.policy(node, "")

    # Cases -------------------------------------------------------------------------------------

    def moved(self):
        name = "ramp"
        self.grow_policy(patience_s=900)
        self.ramp(name)
        lease = wait_until("room is reserved on node2", lambda: self.held(name))
        expect(lease["kind"] == "soft" and lease["host"] == "node2", f"not what was to be: {lease}")
        expect(self.state(self.one, name) == "running", "it has moved already")
        # Both agents, while it pauses.
        self.signal(self.one, "USR1")
        learned = self.shown(self.one, name)["metrics"][0]["ahead"]
        for node in self.nodes:
            self.kill_agent(node)
        expect(self.granted(name), "node2 has forgotten the lease")
        wait_until("node1 knows of its lease again", lambda: self.held(name))
        expect(self.state(self.one, name) == "running", "it did not outlive the agents")
        wait_until("the next agent hears it", lambda: self.shown(self.one, name).get(
            "phase") == "holding")
        metrics = self.shown(self.one, name)["metrics"]
        expect(metrics[0]["ahead"][0]["outcomes"] >= learned[0]["outcomes"] / 2,
               f"what was learned is gone: {learned} {metrics}")
        self.signal(self.one, "USR2")
        wait_until("it has moved by itself", lambda: self.state(self.two, name) == "running")
        wait_until("node1 knows", lambda: self.state(self.one, name) == "left")
        used, capacity = self.memory(self.one)
        expect(used < 0.95 * capacity, f"node1 was short: {used} of {capacity}")
        decided = self.why(name, "migrate")
        expect(decided, "`starling why` does not know of the move")
        expect(re.search(r"memory: P90 in \d+ s is \d+ %, above \d+ %", decided[-1]["reason"]),
               f"not the reason: {decided[-1]}")
        expect(decided[-1]["act"] and self.events(self.one, name, "loop-moved"),
               "it was not the loop that moved it")
        lease = wait_until("its lease is where it runs", lambda: next(
            (one for one in self.json(self.two, "leases")["granted"] if one["pinned"]), None))
        expect(lease["component"] == name and lease["holder"] == "node2", f"not its own: {lease}")
        # It goes on, with what its shadow knew and whom it tells.
        told = self.two.starling("logs", name).out
        wait_until("it grows on", lambda: self.two.starling("logs", name).out != told)
        expect(self.state(self.two, name) == "running", "it does not run any more")
        wait_until("node2 hears it", lambda: self.shown(self.two, name).get("phase") == "growing")
        known = self.shown(self.two, name)["metrics"][0]["ahead"][0]["outcomes"]
        expect(known > learned[0]["outcomes"] / 2, f"its shadow stayed behind: {known} outcomes")
        pool = self.json(self.two, "forecast", "--pool")["pool"]
        expect(pool["hosts"] == ["node1", "node2"], f"the pool: {pool['hosts']} {pool['silent']}")
        report = self.json(self.one, "report", name)
        self.stop(name)
        wait_until("its lease went with it", lambda: not self.granted(name))
        return (f"reserved, both agents killed, moved with {used / capacity:.0%} of node1 in use, "
                f"held {report['held_s']:.2f} s")

    def early_end(self):
        name = "short"
        self.grow_policy(patience_s=5 * PERIOD_S)
        self.ramp(name)
        wait_until("room is reserved on node2", lambda: self.held(name))
        self.signal(self.one, "USR1")
        expect(self.granted(name), "node2 does not know of the lease")
        wait_until("what was reserved is given back", lambda: self.events(
            self.one, name, "loop-gave-back"))
        expect(not self.granted(name), "node2 still has the lease")
        expect(self.state(self.one, name) == "running", "it has moved in vain")
        expect(not self.why(name, "migrate"), "a move was decided on")
        # Something is decided with the threshold as it is now.
        self.signal(self.one, "USR2")
        shifted = wait_until("the threshold has moved", lambda: [
            one for one in self.json(self.one, "why", "--last", "1000")["decisions"]
            if one["threshold_shift"] > 0])
        counts = self.json(self.two, "leases")["counts"]
        self.stop(name)
        return (f"reserved and given back, no move, threshold moved by "
                f"{shifted[0]['threshold_shift']:.3f}; node2 counts {counts}")

    def ghost(self, node, side, name):
        """The ghost of a component, kept elsewhere ("away") or on that node ("here")."""
        listed = self.json(node, "ghost", "list")[side]
        return next((one for one in listed if one["name"] == name), None)

    def fresh_ghost(self, name):
        def look():
            one = self.ghost(self.one, "away", name)
            return one if one and one["state"] == "warm" and one["rounds"] >= 2 else None
        return wait_until("node2 keeps a warm ghost", look)

    def loops_ghost(self):
        name = "staged"
        self.grow_policy(patience_s=900, ghost=True)
        self.ramp(name)
        ghost = self.fresh_ghost(name)
        expect(ghost["by"] == "loop" and ghost["on"] == "node2", f"not the loop's: {ghost}")
        # While it pauses.
        self.signal(self.one, "USR1")
        expect(self.state(self.one, name) == "running", "it has moved already")
        made = self.events(self.one, name, "loop-ghost")
        expect(made and "on host node2" in made[0]["text"], f"no event: {made}")
        decided = self.why(name, "ghost")
        expect(decided, "`starling why` does not know of the ghost")
        lease = self.granted(name)
        expect(lease and lease["kind"] == "firm", f"its room is not firm: {lease}")
        for node in self.nodes:
            self.kill_agent(node)
        expect(self.state(self.one, name) == "running", "it did not outlive the agents")
        again = self.fresh_ghost(name)
        expect(again["migration_id"] != ghost["migration_id"], "it was not made again")
        expect(again["by"] == "loop", "the next agent takes it for a person's")
        wait_until("node1 knows of its lease again", lambda: self.held(name))
        wait_until("the next agent hears it", lambda: self.shown(self.one, name).get(
            "phase") == "holding")
        self.let_move()
        self.signal(self.one, "USR2")
        wait_until("it has moved by itself", lambda: self.state(self.two, name) == "running")
        wait_until("node1 knows", lambda: self.state(self.one, name) == "left")
        expect(self.events(self.one, name, "loop-moved"), "it was not the loop that moved it")
        report = self.json(self.one, "report", name)
        expect(any(phase["name"] == "ghost: since its last round" for phase in report["phases"]),
               f"it did not begin as a ghost: {report['phases']}")
        expect(not self.ghost(self.one, "away", name) and not self.ghost(self.two, "here", name),
               "there is a ghost still")
        self.stop(name)
        wait_until("its lease went with it", lambda: not self.granted(name))
        return (f"made by the loop ({made[0]['text'].split(': ', 1)[1]}), made again, moved from: "
                f"total {report['total_s']:.2f} s, wire {report['wire_bytes'] >> 20} MiB of "
                f"{again['bytes_sent'] >> 20} MiB sent before, held {report['held_s']:.2f} s")

    def ghost_ends(self):
        name = "vain"
        self.grow_policy(patience_s=5 * PERIOD_S, ghost=True)
        before = self.json(self.two, "leases")["counts"]
        self.ramp(name)
        self.fresh_ghost(name)
        self.signal(self.one, "USR1")
        dropped = wait_until("the loop gives it up", lambda: self.events(
            self.one, name, "loop-dropped-ghost"))
        wait_until("node2 keeps nothing", lambda: not self.ghost(self.two, "here", name))
        wait_until("its room is given back", lambda: not self.granted(name))
        expect(not self.ghost(self.one, "away", name), "node1 keeps it")
        expect(self.state(self.one, name) == "running", "it has moved in vain")
        expect(not self.why(name, "migrate"), "a move was decided on")
        expect(self.events(self.one, name, "loop-gave-back"), "not said to be in vain")
        after = self.json(self.two, "leases")["counts"]
        self.stop(name)
        return f"{dropped[0]['text']}; node2 counted {before}, and counts {after}"

    def ghost_yields(self):
        name = "modest"
        self.policy(self.one, "")
        self.one.starling("run", name, "--", os.path.join(BINARIES, "starling-memhog"), "--mib",
                          "64", "--listen", "7799")
        wait_until("it has its memory", lambda:
                   self.one.components()[name]["memory_bytes"] > 0.9 * 64 * MIB)
        self.one.starling("ghost", "add", name, "--on", "node2", "--every", "2")
        self.fresh_ghost(name)
        free = self.json(self.two, "leases")["free"]["memory"]
        said = self.reserve("elsewhere", free + 32 * MIB, kind=b"firm", priority=5)
        expect(self.granted("elsewhere"), f"the lease was not granted: {said}")
        ended = wait_until("node1 hears that it has ended", lambda: self.events(
            self.one, name, "ghost-ended"))
        expect("its room was given to another" in ended[0]["text"], f"not why: {ended}")
        expect(not self.granted(name) and not self.ghost(self.two, "here", name), "it is there")
        waiting = wait_until("a person's ghost waits", lambda: (
            lambda one: one if one and one["state"] == "waiting" else None)(
                self.ghost(self.one, "away", name)))
        expect(self.state(self.one, name) == "running", "the component did not outlive its ghost")
        self.give_back("elsewhere")
        self.fresh_ghost(name)
        self.one.starling("ghost", "drop", name, "--on", "node2")
        self.stop(name)
        return f"{ended[0]['text']}; then: {waiting['why']}"

    def weight(self, name):
        path = f"/sys/fs/cgroup/starling/{name}*/cpu.weight"
        return int(self.one.shell(f"cat {path}").out)

    def degraded(self):
        for name, priority in (("low", "0"), ("high", "5")):
            self.one.starling("run", name, "--priority", priority, "--", "/bin/sh", "-c",
                              "while :; do :; done")
        self.policy(self.one, f"""
mode = "act"
[allow]
migrate = false
reserve = false
page_out = false
[[rule]]
resource = "cpu"
percent = 0
above = 0.6
within_s = {PERIOD_S}
""")
        wait_until("the lower one is left less", lambda: self.weight("low") < 100)
        expect(self.weight("low") == 50 and self.weight("high") == 100,
               f"low has {self.weight('low')}, high {self.weight('high')}")
        expect(self.why("low", "degrade"), "`starling why` does not know of it")
        self.kill_agent(self.one)
        expect(self.weight("low") == 50, "the killed agent lifted it")
        self.one.starling("stop", "high", "--grace", "1")
        self.one.shell("for pid in $(cat /sys/fs/cgroup/starling/low*/cgroup.procs); do "
                       "kill -STOP $pid; done")
        wait_until("the next agent gives it back", lambda: self.weight("low") == 100)
        # And in order, when the agent goes down.
        self.one.shell("for pid in $(cat /sys/fs/cgroup/starling/low*/cgroup.procs); do "
                       "kill -CONT $pid; done")
        self.one.starling("run", "high", "--priority", "5", "--", "/bin/sh", "-c",
                          "while :; do :; done")
        wait_until("it is left less again", lambda: self.weight("low") == 50)
        given_back = self.without_agent(lambda: self.weight("low"))
        expect(given_back == 100, f"an agent that ended left it {given_back}")
        expect(self.state(self.one, "low") == "running", "it did not outlive the agent")
        self.stop("low", "high")
        return "50 of 100, kept over a killed agent, given back by the next and at an orderly end"

    def call_as_node1(self, method, message):
        return self.bed.client(
            "env", f"STARLING_TLS={self.bed.certificate('node1')}", "/usr/bin/python3", "-B",
            RAW_GRPC, "call", self.two.address, "7400", f"/starling.v1.LoopPeer/{method}",
            message.hex()).out

    def reserve(self, component, memory, kind=b"soft", priority=0):
        """A lease on node2 for node1, for the next minutes, as node1's agent would ask for it."""
        lease = (field(1, f"node1/{component}".encode()) + field(3, component.encode()) +
                 field(4, priority) + field(5, kind) + field(7, field(2, memory)))
        return self.call_as_node1("AskLease", field(1, b"node1") + field(2, lease) +
                                  field(4, 900.0))

    def give_back(self, component):
        self.call_as_node1("GiveBackLease", field(1, b"node1") +
                           field(2, f"node1/{component}".encode()))

    def no_room(self):
        name = "large"
        free = self.json(self.two, "leases")["free"]["memory"]
        said = self.reserve("elsewhere", int(0.9 * free))
        expect(self.granted("elsewhere"), f"the lease was not granted: {said}")
        mib = int(0.3 * free / MIB)
        self.one.starling("run", name, "--", os.path.join(BINARIES, "starling-memhog"), "--mib",
                          str(mib), "--listen", "7799")
        wait_until("it has its memory", lambda:
                   self.one.components()[name]["memory_bytes"] > 0.9 * mib * MIB)
        done = self.one.starling("migrate", name, "--to", "node2", "--quiet", check=False)
        expect(done.code != 0 and self.state(self.one, name) == "running",
               f"ended with {done.code}: {self.state(self.one, name)}")
        # The report has it, since the migration was begun.
        said = f"{done.out}{done.err}".strip()
        refusal = re.search(r"host node2 has no room for component large of host node1: it was asked "
                            r"for .*, and has .* free", said)
        expect(refusal, f"not what was to be said: {said}")
        expect(not self.granted(name), "a lease of what was refused is left")
        # node1 holds a lease for a component that it does not have.
        self.policy(self.one, 'mode = "act"\n[allow]\nmigrate = false\nreserve = false\n'
                              'degrade = false\npage_out = false\n')
        wait_until("that lease is given back", lambda: not self.granted("elsewhere"))
        self.policy(self.one, "")
        self.one.starling("migrate", name, "--to", "node2", "--quiet")
        lease = self.granted(name)
        expect(lease and lease["pinned"], f"it runs there without a lease: {lease}")
        self.stop(name)
        return refusal.group(0)

    def group(self, name, knob):
        return self.one.shell(f"cat /sys/fs/cgroup/starling/{name}*/{knob}").out.strip()

    def user_acts(self, name):
        """As a display server would that has a key for a component."""
        datagram = struct.pack("=IHHdd5II32s", 0x31544e48, 2, 0, 0, 0, 0, 0, 0, 3, 0, 0, b"")
        self.one.run("/usr/bin/python3", "-c",
                     "import socket, sys; socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).sendto("
                     "bytes.fromhex(sys.argv[1]), sys.argv[2])",
                     datagram.hex(), f"/run/starling/hints/{name}")

    def parked(self, name):
        frozen = "frozen 1" in self.group(name, "cgroup.events")
        expect(frozen == (self.state(self.one, name) == "parked"), "`starling ps` says otherwise")
        return frozen

    def rests(self):
        name, address = "editor", "10.77.0.61"
        self.one.starling("run", name, "--ip", f"{address}/24", "--", "/bin/sleep", "1000000")
        wait_until("it is watched", lambda: self.shown(self.one, name))
        ping = ["ping", "-c", "1", "-W", "2", address]
        self.bed.client(*ping)

        def park():
            self.one.starling("park", name)
            expect(self.parked(name), "it is not parked")

        def woken(how):
            wait_until(f"it is woken by {how}", lambda: not self.parked(name), pause_s=0.1)

        park()
        self.one.starling("unpark", name)
        expect(not self.parked(name), "it is still parked")
        park()
        self.user_acts(name)
        woken("its user")
        park()
        self.bed.client(*ping)
        woken("a packet")
        park()
        self.kill_agent(self.one)
        woken("the next agent")
        wait_until("it is watched again", lambda: self.shown(self.one, name))
        park()
        alone = self.without_agent(lambda: "frozen 0" in self.group(name, "cgroup.events"))
        expect(alone, "an agent that ended left it parked")
        wait_until("it is watched again", lambda: self.shown(self.one, name))
        park()
        self.one.starling("migrate", name, "--to", "node2", "--quiet")
        expect(self.state(self.two, name) == "running", "it could not be moved")
        self.two.starling("stop", name, "--grace", "1")
        # That the policy has one rest is shown natively (follow_use_test, parking_test): an agent that has
        # seen no pauses of users yet says 0.28 of each, which no policy takes for enough.
        return "by hand: woken by its user, a packet, the next agent, an agent that ends, a move"

    def limits(self):
        name = "worker"
        self.policy(self.one, 'mode = "act"\n[allow]\nmigrate = false\nreserve = false\n'
                              'degrade = false\npage_out = false\nlimits = true\n')
        self.one.starling("run", name, "--", "/bin/sh", "-c",
                          "trap 'while :; do :; done' USR1; while :; do sleep 1; done")
        expect(self.group(name, "cpu.max") == "max 100000", "it is limited from the start")

        def quota():
            words = self.group(name, "cpu.max").split()
            return float("inf") if words[0] == "max" else int(words[0]) / int(words[1])

        low = wait_until("its limit is near what it uses", lambda: quota() < 0.5 and quota())
        expect(self.group(name, "memory.high") != "max", "its memory is not limited")
        self.one.shell(f"for pid in $(cat /sys/fs/cgroup/starling/{name}*/cgroup.procs); do "
                       "grep -qx sh /proc/$pid/comm && kill -USR1 $pid; done; true")
        high = wait_until("it has what it wants", lambda: quota() > max(0.9, low) and quota())
        expect(self.why(name, "limits"), "`starling why` does not know of it")
        self.kill_agent(self.one)
        given_back = self.without_agent(
            lambda: (self.group(name, "cpu.max"), self.group(name, "memory.high")))
        expect(given_back == ("max 100000", "max"), f"an agent that ended left it {given_back}")
        self.stop(name)
        return f"down to {low:.2f} of a processor and up to {high:.2f}, given back at the end"

    def probed(self):
        name, probe = "probed", "echo it is not well; false"
        self.one.starling("run", name, "--bears-blackout", "60000", "--probe", probe, "--",
                          "/bin/sleep", "1000000")

        def copy(node):
            # Its processes as that node's kernel counts them: another copy has others.
            return sorted(node.shell(f"cat /sys/fs/cgroup/starling/{name}*/cgroup.procs").out.split())

        before = copy(self.one)
        self.policy(self.one, f"""
mode = "act"
[allow]
page_out = false
degrade = false
reserve = false
[[rule]]
resource = "memory"
percent = 0
above = 0.05
within_s = {PERIOD_S}
""")
        failed = wait_until("the loop's move has failed",
                            lambda: self.events(self.one, name, "loop-failed"))
        self.policy(self.one, "")
        expect("the probe failed" in failed[0]["text"] and "it is not well" in failed[0]["text"],
               f"not by its probe: {failed[0]}")
        wait_until("no other move is under way", lambda: self.state(self.one, name) == "running")
        expect(copy(self.one) == before, "another copy runs on node1")
        expect(name not in self.two.components(), "node2 has kept something of it")
        report = self.json(self.one, "report", name)
        expect(report["outcome"] == "called-off" and report["probe"] == probe,
               f"the report says otherwise: {report}")
        self.one.starling("migrate", name, "--to", "node2", "--probe", "true", "--quiet")
        arrived = self.two.components()[name]
        expect(arrived["probe"] == probe, f"its probe did not travel with it: {arrived}")
        done = self.two.starling("migrate", name, "--to", "node1", "--quiet", check=False)
        expect(done.code == 5 and self.state(self.two, name) == "running",
               f"it was not used: {done.code} {done.err}")
        self.stop(name)
        return failed[0]["text"]

    def learn_of_users(self):
        """As if node1 had seen users for weeks, all of whom stay away for long."""
        self.without_agent(lambda: self.one.shell(
            f"{os.path.join(BINARIES, 'starling-idle-users')} > /var/lib/starling/loop/host.models"))

    def idle_move(self):
        name, address, port = "desk", "10.77.0.62", 7798
        self.learn_of_users()
        free = self.json(self.one, "leases")["free"]["memory"]
        # Enough for node1 to be clearly the fuller one.
        self.one.starling("run", "busy", "--", os.path.join(BINARIES, "starling-memhog"), "--mib",
                          str(int(0.4 * free / MIB)), "--listen", "7797")
        self.one.starling("run", name, "--ip", f"{address}/24", "--bears-blackout", "60000", "--probe",
                          "true", "--", os.path.join(BINARIES, "starling-memhog"), "--mib", "32",
                          "--listen", str(port))
        wait_until("it is watched", lambda: self.shown(self.one, name))
        ping = ["ping", "-c", "1", "-W", "2", address]
        self.bed.client(*ping)
        self.user_acts(name)
        # Emulated processors are as good as always in use, on both nodes: only memory is to count.
        self.policy(self.one, f"""
mode = "act"
[allow]
page_out = false
degrade = false
reserve = false
[idle]
rest = "park-away"
above = 0.5
after_s = 5
move_at = 0
[[rule]]
resource = "memory"
percent = 90
above = 0.95
within_s = {PERIOD_S}
""")
        wait_until("it is parked on node2", lambda: self.state(self.two, name) == "parked")
        self.policy(self.one, "")
        decided = self.why(name, "migrate")
        expect(decided and "it makes room" in decided[-1]["steps"][0]["reason"],
               f"not for that reason: {decided}")
        expect(self.events(self.one, name, "loop-moved"), "it was not the loop that moved it")
        expect(self.json(self.one, "report", name)["probe"] == "true", "it was not probed")
        expect("sent it here to rest" in self.events(self.two, name, "parked")[-1]["text"],
               "it was not sent to rest")
        # Its policy lets nothing rest, which is about its own.
        steps = len(self.events(self.two, name, "woken"))
        expect(steps == 0, "node2 has woken it by itself")
        self.bed.client(*ping)
        wait_until("a packet wakes it", lambda: self.state(self.two, name) == "running", pause_s=0.1)
        # The same by hand, and back.
        self.two.starling("migrate", name, "--to", "node1", "--park", "--quiet")
        wait_until("it is parked on node1", lambda: self.state(self.one, name) == "parked")
        self.user_acts(name)
        wait_until("its user wakes it", lambda: self.state(self.one, name) == "running", pause_s=0.1)
        self.stop(name, "busy")
        return decided[-1]["steps"][0]["reason"]

    def enforced(self):
        name = "kept"
        self.two.starling("run", name, "--io-max", "1M", "--", "/bin/sleep", "1000000")
        self.two.starling("migrate", name, "--to", "node1", "--quiet")
        lease = wait_until("its lease is where it runs", lambda: next(
            (one for one in self.json(self.one, "leases")["granted"]
             if one["pinned"] and one["component"] == name), None))
        promised = lease["amount"]["memory"]
        self.policy(self.one, 'mode = "act"\n[allow]\nmigrate = false\nreserve = false\n'
                              'degrade = false\npage_out = false\n')

        def low():
            return int(self.group(name, "memory.low"))

        def whole():
            return int(self.one.shell("cat /sys/fs/cgroup/starling/memory.low").out)

        wait_until("its memory is protected", low)
        # By pages.
        expect(0 <= promised - low() < 4096 and 0 <= promised - whole() < 4096,
               f"{promised} promised, {low()} protected, {whole()} in all")
        disks = self.one.shell("ls -d /sys/block/*/device 2>/dev/null | wc -l").out.strip() != "0"
        if disks:
            wait_until("storage is held", lambda: "wbps=1048576" in self.group(name, "io.max"))
        else:
            told = wait_until("it is told why not", lambda: self.events(
                self.one, name, "not-enforced"))
            expect("no storage device is known" in told[0]["text"], f"not told why: {told}")
        self.kill_agent(self.one)
        expect(low() > 0, "the killed agent lifted it")
        wait_until("it is watched again", lambda: self.shown(self.one, name))
        given_back = self.without_agent(
            lambda: (low(), whole(), self.group(name, "io.max") if disks else ""))
        expect(given_back == (0, 0, ""), f"an agent that ended left it {given_back}")
        self.policy(self.one, "")
        self.stop(name)
        return (f"{promised} bytes protected, storage "
                f"{'held to 1 MiB/s' if disks else 'not: the node has no disk'}")

    def bad_policy(self):
        self.policy(self.one, 'mode = "act"\nmax_moves = 1\n')
        wait_until("the policy is in force", lambda: self.json(self.one, "why")["mode"] == "act")
        self.policy(self.one, 'mode = "observe"\nmax_moves = 100\n')
        why = wait_until("it is refused", lambda: next(
            (one for one in [self.json(self.one, "why")] if one["refused"]), None))
        expect(f"{POLICY}:2: max_moves: is 100" in why["refused"], f"not said: {why['refused']}")
        expect(why["mode"] == "act", "the one before is not in force")
        lines = self.one.starling("events", "--json").out.splitlines()
        said = [event for event in map(json.loads, lines) if event["kind"] == "policy-refused"]
        expect(said and "max_moves" in said[-1]["text"], f"no event: {said}")
        self.policy(self.one, "")
        wait_until("it is mended", lambda: not self.json(self.one, "why")["refused"])
        return why["refused"]


CASES = {"moved": Test.moved, "early-end": Test.early_end, "ghost": Test.loops_ghost,
         "ghost-end": Test.ghost_ends, "yields": Test.ghost_yields, "degraded": Test.degraded,
         "no-room": Test.no_room, "rests": Test.rests, "limits": Test.limits, "probe": Test.probed,
         "idle-move": Test.idle_move, "enforced": Test.enforced,
         "policy": Test.bad_policy}


def main():
    arguments = cases.parser(__doc__, CASES, "loop").parse_args()
    if arguments.list:
        print("\n".join(CASES))
        return 0
    names = arguments.case or list(CASES)
    with beds.Bed(arguments.bed, arguments.kernel, arguments.keep, memory_mib=1024) as bed:
        test = Test(bed)
        test.configure()

        def after(name, passed):
            if passed:
                return
            cases.show_logs(test.nodes)
            for node in test.nodes:
                print(node.starling("why", "--last", "20", check=False).out, flush=True)
                print(node.starling("events", check=False).out[-6000:], flush=True)
            test.stop("ramp", "short", "staged", "vain", "modest", "low", "high", "large", "editor",
                      "worker", "probed", "kept", "desk", "busy")

        rows = cases.run(names, lambda name: CASES[name](test), after)
    return cases.close(rows, arguments.json)


if __name__ == "__main__":
    sys.exit(main())
