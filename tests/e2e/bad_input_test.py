#!/usr/bin/python3
"""Gives Starling what it must refuse, and looks at what it says, how it exits, and what it changed.

usage: bad_input_test.py [--case NAME ...] [--list] [--kernel 6.12|6.1] [--keep] [--bed NAME]

Each case passes when the exit code is the documented one, the message names what it must name, and
nothing was changed: the components of both nodes with their processes, and, where the agent was not
restarted by the case itself, the agents. Ends with a table: input, exit code, message. Exit code 0:
all passed; 1: not.
"""

import contextlib
import json
import os
import re
import subprocess
import sys
import tempfile
import textwrap

import beds
import cases
from beds import BINARIES, Failed, wait_until

OFFENDER = os.path.join(beds.WORKLOADS, "offender.py")
RAW_GRPC = os.path.join(beds.ROOT, "tests", "e2e", "raw_grpc.py")
BYSTANDER = "bystander"
CONFIGURATION = "/etc/starling/starlingd.toml"
HOLD = "/run/starling/hold"
CONTROL_PORT, DATA_PORT, ROCE_PORT = 7400, 7401, 4791
# As node1 shows itself, in a node and on this host.
TLS_IN_NODE = "/etc/starling/authority.crt:/etc/starling/node2.crt:/etc/starling/node2.key"

# What runs on a node: components as the agent lists them, and their processes with start times.
LOOK = """
starling ps --json
echo
for group in $(find /sys/fs/cgroup/starling -mindepth 1 -type d | sort); do
  echo "$group $(cat $group/cgroup.freeze)"
  for pid in $(cat $group/cgroup.procs | sort -n); do cut -d' ' -f 1,2,22 /proc/$pid/stat; done
done
"""

CASES = []


def case(function):
    CASES.append(function)
    return function


class Test:
    """What the cases use: the bed, and the table of what was seen."""

    def __init__(self, bed, folder):
        self.bed = bed
        self.folder = folder
        self.one, self.two = bed.nodes[1], bed.nodes[2]
        self.rows = []

    # What must not change ---------------------------------------------------------------------

    def look(self):
        """Everything of both nodes that a refusal must leave as it is."""
        seen = {}
        for node in (self.one, self.two):
            listing, _, processes = node.shell(LOOK).out.partition("\n\n")
            for row in json.loads(listing)["components"]:
                seen[node.name, row["name"]] = (row["state"], row["epoch"], row["migration_id"])
            seen[node.name, "processes"] = processes.strip()
        return seen

    @contextlib.contextmanager
    def unchanged(self, agents=True):
        """Nothing may be different afterwards; with `agents` they may not have been restarted."""
        def pids():
            return {node.name: node.agent_pid() for node in (self.one, self.two)} if agents else {}
        before = {**self.look(), **pids()}
        yield
        # What was refused may still be on its way out.
        after = {}

        def same():
            after.clear()
            after.update({**self.look(), **pids()})
            return after == before
        try:
            wait_until("all is as before", same, timeout_s=60, pause_s=1)
        except Failed:
            changed = {key: (before.get(key), after.get(key))
                       for key in {*before, *after} if before.get(key) != after.get(key)}
            raise Failed(f"something was changed: {changed}") from None

    # What must be said ------------------------------------------------------------------------

    def expect(self, what, done, code, *words):
        """Notes the row; fails unless the exit code and all words are right."""
        said = (done.err.strip() or done.out.strip())
        self.rows.append((what, done.code, said))
        if done.code != code:
            raise Failed(f"{what}: exit code {done.code} instead of {code}: {said}")
        missing = [word for word in words if word not in said]
        if missing:
            raise Failed(f"{what}: the message does not say {missing}: {said}")
        if "\n" not in said and code != 0 and not said.startswith(("starling: ", "starlingd: ")):
            raise Failed(f"{what}: the message does not begin with the program's name: {said}")

    def refuse_move(self, what, name, code, *words, agents=True):
        with self.unchanged(agents):
            done = self.one.starling("migrate", name, "--to", "node2", "--quiet", check=False)
            self.expect(what, done, code, *words)
            if "cannot be moved" in done.err and not re.search(
                    r":\n  \S.* \[[a-z-]+\]\n    \S", done.err):
                raise Failed(f"{what}: an obstacle and its mend are not on lines of their own: "
                             f"{done.err}")

    # Components and configurations --------------------------------------------------------------

    @contextlib.contextmanager
    def component(self, name, *arguments, options=()):
        """A component on node1 that holds something; see offender.py."""
        self.one.starling("run", name, *options, "--", OFFENDER, *arguments)
        try:
            wait_until(f"{name} holds {arguments}", lambda: "holding" in
                       self.one.starling("logs", name, "--tail", "64", check=False).out)
            yield
        finally:
            self.one.starling("stop", name, "--grace", "1", check=False)

    def need_bystander(self, stack):
        """The component that most cases try to move runs on node1, whatever the case before did."""
        if self.one.components().get(BYSTANDER, {}).get("state") == "running":
            return
        self.two.starling("stop", BYSTANDER, "--grace", "1", check=False)
        stack.enter_context(self.component(BYSTANDER, "nothing"))

    def raw_call(self, method, message, tls=None, version=""):
        """What node2's agent answers to bytes of ours; as host node1, or by other certificates."""
        return self.bed.client(
            "env", f"STARLING_TLS={tls or self.bed.certificate('node1')}",
            f"STARLING_TLS_VERSION={version}", "/usr/bin/python3", "-B", RAW_GRPC, "call",
            self.two.address, str(CONTROL_PORT), method, message, check=False)

    def cgroup_of(self, name):
        return f"/sys/fs/cgroup/starling/{name}"

    @contextlib.contextmanager
    def configured(self, node, edit):
        """The node's agent with another configuration: `edit` is a sed script."""
        node.shell(f"cp {CONFIGURATION} /tmp/starlingd.toml && sed -i -e '{edit}' {CONFIGURATION}")
        try:
            node.agent("restart")
            node.wait_agent()
            yield
        finally:
            node.shell(f"mv /tmp/starlingd.toml {CONFIGURATION}")
            node.agent("restart")
            node.wait_agent()

    @contextlib.contextmanager
    def agent_stopped(self, node):
        node.agent("stop")
        try:
            yield
        finally:
            node.agent("start")
            node.wait_agent()


# Names and usage --------------------------------------------------------------------------------


@case
def unknown_names(test):
    """Components and hosts that nobody knows."""
    with test.unchanged():
        for arguments in (["migrate", "nobody", "--to", "node2"], ["check", "nobody", "--to", "node2"],
                          ["stop", "nobody"], ["cancel", "nobody"], ["logs", "nobody"],
                          ["resolve", "nobody", "--here", "--yes"]):
            test.expect(f"{arguments[0]} of an unknown component",
                        test.one.starling(*arguments, check=False), 3, "nobody")
        test.expect("migrate to an unknown host",
                    test.one.starling("migrate", BYSTANDER, "--to", "node9", check=False), 3,
                    "node9", "node2")


@case
def bad_usage(test):
    """Arguments that cannot be meant."""
    with test.unchanged():
        for what, arguments, words in (
                ("run under a name that is none", ["run", "../x", "--", "/bin/true"], ["../x"]),
                ("run under a name that is taken", ["run", BYSTANDER, "--", "/bin/true"],
                 [BYSTANDER, "already"]),
                ("run with an address that is none",
                 ["run", "x", "--ip", "10.77.0.300/24", "--", "/bin/true"], ["10.77.0.300"]),
                ("run of a program that is not there", ["run", "x", "--", "/no/such"],
                 ["/no/such"]),
                ("run with too little memory",
                 ["run", "x", "--memory", "1M", "--", "/bin/true"], ["4"]),
                ("migrate without --to", ["migrate", BYSTANDER], ["--to"]),
                ("migrate to this very host", ["migrate", BYSTANDER, "--to", "node1"], ["node1"]),
                ("an unknown command", ["mirgate", BYSTANDER], []),
                ("cancel of what does not move", ["cancel", BYSTANDER], [BYSTANDER]),
                ("resolve of what is not in doubt",
                 ["resolve", BYSTANDER, "--here", "--yes"], ["not in doubt"])):
            code = 4 if what.startswith(("run under a name that is taken", "cancel", "resolve")) else 2
            test.expect(what, test.one.starling(*arguments, check=False), code, *words)


@case
def already_migrating(test):
    """A second move of a component that moves."""
    with test.component("mover", "memory", "4"), test.unchanged():
        test.one.shell(f"mkdir -p {HOLD} && touch {HOLD}/source-precopy")
        moving = test.one.start("starling", "migrate", "mover", "--to", "node2", "--quiet",
                                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                stderr=subprocess.PIPE, text=True)
        try:
            wait_until("the migration waits in pre-copy", lambda: test.one.shell(
                f"test -e {HOLD}/source-precopy.reached", check=False).code == 0)
            for arguments in (["migrate", "mover", "--to", "node2"], ["stop", "mover"]):
                test.expect(f"{arguments[0]} while it is migrating",
                            test.one.starling(*arguments, check=False), 4, "mover", "migrat")
            test.one.starling("cancel", "mover")
        finally:
            test.one.shell(f"rm -rf {HOLD}")
            out, err = moving.communicate(timeout=beds.PATIENCE_S)
        test.expect("migrate that is cancelled", beds.Done(moving.returncode, out, err), 5,
                    "cancelled")


# The other host -----------------------------------------------------------------------------------


@case
def target_unreachable(test):
    """Nobody answers at the target."""
    before = test.look()
    with test.agent_stopped(test.two):
        test.expect("migrate while the target's agent is down", test.one.starling(
            "migrate", BYSTANDER, "--to", "node2", "--quiet", check=False), 9, "node2")
        test.expect("check while the target's agent is down", test.one.starling(
            "check", BYSTANDER, "--to", "node2", check=False), 9, "node2")
    test.bed.link(test.two, "down")
    try:
        test.expect("migrate while the link is cut", test.one.starling(
            "migrate", BYSTANDER, "--to", "node2", "--quiet", check=False), 9, "node2")
    finally:
        test.bed.link(test.two, "up")
    if test.look() != before:
        raise Failed(f"something was changed: {before} became {test.look()}")


@case
def target_out_of_memory(test):
    """The target has no room."""
    with test.component("big", "memory", "32"):
        # Reserved huge pages are gone from what is available, and cost nothing to take.
        test.two.shell("echo 3 > /proc/sys/vm/drop_caches; free=$(awk '/MemAvailable/{print $2}' "
                       "/proc/meminfo); echo $(((free - 40960) / 2048)) > /proc/sys/vm/nr_hugepages")
        try:
            test.refuse_move("migrate to a host without room", "big", 4, "target-memory", "node2")
        finally:
            test.two.shell("echo 0 > /proc/sys/vm/nr_hugepages")


# Hands on what the agent and `criu swrk` say to each other, but for the version (CriuVersion of
# rpc.proto: field 1 the major number, field 2 the minor one).
OTHER_CRIU = """#!/usr/bin/python3
import os, select, socket, subprocess, sys
agent = socket.socket(fileno=int(sys.argv[-1]))
near, far = socket.socketpair(agent.family, agent.type)
criu = subprocess.Popen(["/usr/sbin/criu", *sys.argv[1:-1], str(far.fileno())],
                        pass_fds=[far.fileno()])
far.close()
while True:
    for ready in select.select([agent, near], [], [])[0]:
        said = ready.recv(1 << 16)
        if not said:
            criu.terminate()
            sys.exit(criu.wait())
        if ready is near:
            agent.send(said.replace(bytes([8, %(major)d, 16, %(minor)d]), bytes([8, 4, 16, 1])))
        else:
            near.send(said)
"""


@case
def target_other_criu(test):
    """The target has another CRIU, or none."""
    ours = test.one.starling("info", "--json").out
    major, minor = (int(number) for number in json.loads(ours)["criu"].split(".")[:2])
    test.two.shell("cat > /tmp/criu-4.1 && chmod +x /tmp/criu-4.1",
                   given=OTHER_CRIU % {"major": major, "minor": minor})
    for binary, words in (("/tmp/criu-4.1", ["criu-version", "4.1", f"{major}.{minor}"]),
                          ("/tmp/no-criu", ["criu-missing", "/tmp/no-criu"])):
        with test.configured(test.two, f"$ a [criu]\\nbinary = \"{binary}\""):
            test.refuse_move(f"migrate to a host whose CRIU is {os.path.basename(binary)}",
                             BYSTANDER, 4, "node2", *words)


@case
def target_other_protocol(test):
    """The two agents speak different protocols: first how ours refuses another one, then how a
    source takes being refused."""
    with test.unchanged():
        # HelloRequest{protocol: 99, host: "node7"}
        hello = "0863" + "12056e6f646537"
        said = test.raw_call("/starling.v1.Peer/Hello", hello).out
        test.rows.append(("a peer with protocol 99", "-", said.strip()))
        for word in ("grpc-status", "speaks protocol 2", "node7 99", "same version"):
            if word not in said:
                raise Failed(f"the agent does not say {word!r} to protocol 99: {said}")
    before = test.look()
    with test.agent_stopped(test.two):
        fake = test.two.start("env", f"STARLING_TLS={TLS_IN_NODE}", "/usr/bin/python3", "-B",
                              RAW_GRPC, "refuse", test.two.address, str(CONTROL_PORT),
                              "host node2 speaks protocol 99 and host node1 2: "
                              "bring both to the same version of Starling",
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
        try:
            if fake.stdout.readline().strip() != "listening":
                raise Failed("the peer of another version did not start")
            test.expect("migrate to a host with protocol 99", test.one.starling(
                "migrate", BYSTANDER, "--to", "node2", "--quiet", check=False), 4, "protocol 99",
                "same version")
        finally:
            test.two.shell("for pid in $(pgrep -f raw_grpc.py); do kill $pid; done", check=False)
            fake.wait(timeout=60)
    if test.look() != before:
        raise Failed("something was changed")


@case
def no_rdma_device(test):
    """No RDMA device at the target, then none here."""
    for node in (test.two, test.one):
        with test.configured(node, "s/rxe0/rxe7/"):
            test.refuse_move(f"migrate, {node.name} has no such RDMA device", BYSTANDER, 4, "rxe7")
            test.expect("starling ps without an RDMA device",
                        node.starling("ps", check=False), 0)


@case
def strangers(test):
    """Callers of the agents' port without a certificate, with the wrong one, or without a role."""
    hello = ("/starling.v1.Peer/Hello", "0801" + "12056e6f646537")

    def refused(what, said, *words):
        test.rows.append((what, "-", said.out.strip()))
        for word in words:
            if word not in said.out:
                raise Failed(f"{what}: the answer does not say {word!r}: {said.out} {said.err}")

    def counts():
        return json.loads(test.two.starling("info", "--json").out)["refusals"]

    authority = os.path.join(test.bed.authority(), "authority.crt")
    other = os.path.join(test.folder, "other-authority")
    starling = os.path.join(BINARIES, "starling")
    for command in (("authority",), ("host", "node1")):
        subprocess.run([starling, "cert", *command, "--out", other], check=True,
                       stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    with test.unchanged():
        before = counts()
        refused("a caller without a certificate", test.raw_call(*hello, tls=authority), "TLS: ")
        refused("a caller with another authority's certificate",
                test.raw_call(*hello, tls=f"{authority}:{other}/node1.crt:{other}/node1.key"),
                "TLS: ")
        refused("a caller that speaks TLS 1.2", test.raw_call(*hello, version="1.2"), "TLS: ")
        for _ in range(2):
            refused("a host without a role",
                    test.raw_call(*hello, tls=test.bed.certificate("node9")),
                    "host node9 has no role here")
        # ReserveRequest{migration_id: "7f3a", spec: {name: "x"}, source_host: "node7"}
        refused("a host that says it is another",
                test.raw_call("/starling.v1.Peer/Reserve",
                              "0a0437663361" + "12030a0178" + "2a056e6f646537"),
                "says that it is host node7")
        after = counts()
    for kind, least in (("certificate", 2), ("role", 3)):
        if after.get(kind, 0) < before.get(kind, 0) + least:
            raise Failed(f"refusals by {kind}: {before} before, {after} after")
    told = [line for line in test.two.starling("events").out.splitlines()
            if "refused" in line and "node9" in line]
    if len(told) != 1:
        raise Failed(f"the host without a role is told {len(told)} times: {told}")


@case
def roles(test):
    """What neither side's roles allow, and what one of them does not."""
    edit = '/^\\[\\[peer/i [[security.allow]]\\npeer = "%s"\\ncomponents = ["%s"]'
    for node, peer in ((test.two, "node1"), (test.one, "node2")):
        with test.configured(node, edit % (peer, "other*")):
            test.refuse_move(f"migrate, {node.name} allows other components", BYSTANDER, 4,
                             "no-role", BYSTANDER, "[[security.allow]]", agents=False)


@case
def transports(test):
    """A transport that is not known, or that the target does not offer."""
    with test.unchanged():
        test.expect("migrate --transport pigeon", test.one.starling(
            "migrate", BYSTANDER, "--to", "node2", "--transport", "pigeon", check=False), 2,
            "pigeon")
    with test.configured(test.two, "/^offer/d"):
        test.expect("migrate --transport tcp, not offered there", test.one.starling(
            "migrate", BYSTANDER, "--to", "node2", "--transport", "tcp", "--quiet", check=False), 4,
            "transport-not-offered", "tcp", "data.offer")
    with test.configured(test.two, 's/encryption = .*/encryption = "on"/'):
        test.expect("migrate, only the target seals", test.one.starling(
            "migrate", BYSTANDER, "--to", "node2", "--quiet", check=False), 5, "data.encryption")


# What the component holds -------------------------------------------------------------------------


@case
def files(test):
    """Files that are missing or different at the target, or open for writing."""
    path = "/usr/local/share/starling-test.dat"
    test.one.shell(f"echo content > {path}")
    test.two.shell(f"rm -f {path}")
    try:
        with test.component("reader", "read", path):
            test.refuse_move("an open file that is missing at the target", "reader", 4,
                             "open-file-missing", path, "node2")
            test.two.shell(f"echo contend > {path}")
            test.refuse_move("an open file that differs at the target", "reader", 4,
                             "open-file-different", path, "node2")
            test.expect("check of a file that differs", test.one.starling(
                "check", "reader", "--to", "node2", check=False), 4, "open-file-different")
            test.two.shell(f"echo content > {path}")
            test.expect("check once the file is the same", test.one.starling(
                "check", "reader", "--to", "node2", check=False), 0)
        with test.component("writer", "write", path):
            test.refuse_move("a file open for writing outside of shared storage", "writer", 4,
                             "open-for-writing", path, "--shared")
        # Storage that is only of this node is not shared, whatever is declared.
        for node in (test.one, test.two):
            node.shell("mkdir -p /var/lib/lonely")
        with test.component("liar", "write", "/var/lib/lonely/file",
                            options=("--shared", "/var/lib/lonely")):
            test.refuse_move("a declared path that is not the same storage", "liar", 4,
                             "shared-path-other-storage", "/var/lib/lonely")
    finally:
        for node in (test.one, test.two):
            node.shell(f"rm -rf {path} /var/lib/lonely")


@case
def outside_tree(test):
    """A process in the component's cgroup that is not of its tree."""
    with test.component("crowded", "nothing"):
        pid = test.one.shell(f"sleep 3600 >/dev/null 2>&1 </dev/null & echo $!; "
                             f"echo $! > {test.cgroup_of('crowded')}/cgroup.procs").out.strip()
        try:
            test.refuse_move("a process of the cgroup outside of the tree", "crowded", 4,
                             "process-outside-tree", pid)
        finally:
            test.one.shell(f"kill {pid}", check=False)


@case
def kernel_objects(test):
    """io_uring, pinned I/O, and devices."""
    file = "/var/lib/starling/pinned"
    for node in (test.one, test.two):
        node.shell(f"head -c 4096 /dev/zero > {file}; chmod 644 {file}")
    for name, arguments, words in (
            ("ring", ["io_uring"], ["io-uring"]),
            ("pinned", ["direct-aio", file], ["direct-aio", file]),
            ("disk", ["device", "/dev/vda"], ["device", "/dev/vda"]),
            ("verbs", ["device", "/dev/infiniband/uverbs0"], ["rdma", "uverbs0"])):
        with test.component(name, *arguments):
            test.refuse_move(" ".join(arguments), name, 4, *words)
    for node in (test.one, test.two):
        node.shell(f"rm -f {file}")


# The agent ----------------------------------------------------------------------------------------


@case
def malformed_configuration(test):
    """Each is refused with its line and key."""
    path = os.path.join(test.folder, "starlingd.toml")
    for what, text, words in (
            ("text that is not TOML", 'host = "a"\nlog_level = \n', [":2:"]),
            ("an unknown key", '[data]\nprovder = "verbs"\n', [":2:", "data.provder", "provider"]),
            ("a value out of range", "[migration]\n\nmax_rounds = 100\n",
             [":3:", "migration.max_rounds", "100", "64"]),
            ("a value of the wrong type", "[control]\nlisten = 7400\n", [":2:", "control.listen"]),
            ("an address that is none", '[control]\nlisten = "here:many"\n',
             [":2:", "control.listen"]),
            ("a relative path", 'state_dir = "state"\n', [":1:", "state_dir"]),
            ("a peer without an address", '[[peer]]\nname = "b"\n', [":1:", "peer.address"]),
            ("a peer named twice", '[[peer]]\nname = "b"\naddress = "1.2.3.4:5"\n' * 2,
             [":4:", "peer.name"]),
            ("a lease that is too short", "[migration]\nlease_s = 2\n",
             [":2:", "migration.lease_s", "peer_timeout_s"]),
            ("a key given twice", 'host = "a"\nhost = "b"\n', [":2:"])):
        with open(path, "w", encoding="utf-8") as out:
            out.write(text)
        done = subprocess.run([os.path.join(BINARIES, "starlingd"), "--config", path],
                              capture_output=True, text=True, check=False, timeout=60,
                              stdin=subprocess.DEVNULL)
        test.expect(f"configuration: {what}",
                    beds.Done(done.returncode, done.stdout, done.stderr), 2, path, *words)
    done = subprocess.run([os.path.join(BINARIES, "starlingd"), "--config", "/no/such.toml"],
                          capture_output=True, text=True, check=False, timeout=60,
                          stdin=subprocess.DEVNULL)
    test.expect("configuration: no file", beds.Done(done.returncode, done.stdout, done.stderr), 2,
                "/no/such.toml")


@case
def agent_not_running(test):
    """The command line without an agent."""
    before = test.look()
    with test.agent_stopped(test.one):
        for arguments in (["ps"], ["migrate", BYSTANDER, "--to", "node2"]):
            test.expect(f"starling {arguments[0]} without an agent",
                        test.one.starling(*arguments, check=False), 7, "starlingd does not run")
        test.expect("starling with a file for a socket", test.one.run(
            "starling", "--socket", CONFIGURATION, "ps", check=False), 7, CONFIGURATION)
    if test.look() != before:
        raise Failed("components changed while their agent was away")


@case
def not_permitted(test):
    """Neither root nor in the group."""
    with test.unchanged():
        nobody = ["setpriv", "--reuid", "65534", "--regid", "65534"]
        for arguments in (["ps"], ["migrate", BYSTANDER, "--to", "node2"], ["stop", BYSTANDER]):
            test.expect(f"starling {arguments[0]} as nobody", test.one.run(
                *nobody, "--clear-groups", "starling", *arguments, check=False), 8, "group starling")
        test.expect("starling ps as a member of the group", test.one.run(
            *nobody, "--groups", "980", "starling", "ps", check=False), 0, BYSTANDER)
        test.expect("starlingd as nobody", test.one.run(
            *nobody, "--clear-groups", "starlingd", "--config", CONFIGURATION, check=False), 1,
            "root")


@case
def journals(test):
    """Journals that are truncated, altered or not journals: refused, and left to the byte."""
    folder = "/tmp/journal-test"
    alter = (
        "import sqlite3, sys\n"
        "db = sqlite3.connect(sys.argv[1] + '/journal.db', isolation_level=None)\n"
        "db.execute('PRAGMA journal_mode=DELETE')\n"
        "db.execute(sys.argv[2]) if len(sys.argv) > 2 else None\n"
        "db.close()\n")
    before = test.look()
    with test.agent_stopped(test.one):
        test.one.shell(
            f"rm -rf {folder} && mkdir -p {folder}/good && cp /var/lib/starling/journal.db* "
            f"{folder}/good && sed -e 's|/var/lib/starling|{folder}/state|; "
            f"s|\"/run/starling\"|\"{folder}/run\"|; s|:740|:750|' {CONFIGURATION} > "
            f"{folder}/starlingd.toml && cat > {folder}/alter.py", given=alter)
        test.one.shell(f"python3 {folder}/alter.py {folder}/good")
        python = f"python3 {folder}/alter.py {folder}/state"
        spoil = (
            ("truncated within a page", "truncate -s 5000 $j", []),
            ("truncated at a page", "truncate -s 8192 $j", []),
            ("empty", "truncate -s 0 $j", ["empty"]),
            ("random bytes", "head -c 20000 /dev/urandom > $j", []),
            # From the beginning of a page: in the middle of one nothing may be kept.
            ("overwritten in the middle", "head -c 3000 /dev/zero | tr '\\000' '\\377' | "
             "dd of=$j bs=1 seek=4096 conv=notrunc status=none", []),
            ("a folder", "rm $j; mkdir $j", ["plain file"]),
            ("a symbolic link", f"rm $j; ln -s {folder}/good/journal.db $j", ["plain file"]),
            ("of another program", f"{python} 'PRAGMA application_id=7'", ["another program"]),
            ("of another version", f"{python} 'PRAGMA user_version=77'", ["77", "schema"]),
            ("with a trigger", f"{python} 'CREATE TRIGGER evil AFTER INSERT ON events BEGIN DELETE "
             "FROM components; END'", ["tables"]),
            ("with a row that makes no sense",
             f"{python} \"UPDATE components SET state = 'flying'\"", ["makes no sense"]),
            ("with a name that is a path",
             f"{python} \"UPDATE components SET name = '../../etc' WHERE rowid = (SELECT MIN(rowid) FROM components)\"", ["makes no sense"]),
            ("with a state that its role cannot have",
             f"{python} \"INSERT INTO migrations SELECT 900, 'feedfacefeedface', 'source', name, "
             "'node2', '10.77.0.2:7400', 'committed', 1, spec, boot_id, '', 0, 1 FROM components "
             "LIMIT 1\"", ["makes no sense"]))
        for what, command, words in spoil:
            test.one.shell(f"rm -rf {folder}/state && cp -r {folder}/good {folder}/state && "
                           f"j={folder}/state/journal.db && {command}")
            files = (f"cd {folder} && find good state -printf '%p %s %y %l\\n' | sort; "
                     "find good state -type f | sort | xargs cat | sha256sum")
            was = test.one.shell(files).out
            done = test.one.run("timeout", "120", "starlingd", "--config",
                                f"{folder}/starlingd.toml", check=False)
            last = (done.err.strip().splitlines() or [""])[-1]
            test.expect(f"a journal {what}", beds.Done(done.code, "", last), 1, "journal.db",
                        *words)
            now = test.one.shell(files).out
            if now != was:
                raise Failed(f"a journal {what} was changed: {was} became {now}")
        # That it is the journal which is refused, and not the rest: without one it starts.
        test.one.shell(f"rm -rf {folder}/state")
        done = test.one.run("timeout", "--preserve-status", "-s", "TERM", "20", "starlingd",
                            "--config", f"{folder}/starlingd.toml", check=False)
        test.expect("no journal at all", done, 0)
        if test.one.shell(f"test -s {folder}/state/journal.db", check=False).code != 0:
            raise Failed(f"without a journal none was made: {done.err}")
    # Its images' tmpfs stays when an agent ends, for the next one.
    test.one.shell(f"umount {folder}/run/images && rm -rf {folder}")
    if test.look() != before:
        raise Failed("something was changed")


# Garbage ------------------------------------------------------------------------------------------

GARBAGE = r"""
import os, random, socket, struct, sys, time
host, control, data, roce = sys.argv[1], *map(int, sys.argv[2:5])
dice = random.Random(int(sys.argv[5]))
preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
settings = b"\0\0\0\4\0\0\0\0\0"
def frame(kind, flags, stream, body, size=None):
    size = len(body) if size is None else size
    return struct.pack("!I", size)[1:] + struct.pack("!BBI", kind, flags, stream) + body
streams = [dice.randbytes(n) for n in (1, 9, 100, 5000, 200000)]
streams += [b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"\x16\x03\x01" + dice.randbytes(500),
            b"*1\r\n$4\r\nPING\r\n", preface, preface[:10], preface + settings,
            preface + settings + dice.randbytes(4000),
            preface + settings + frame(0, 0, 1, b"x" * 10, size=(1 << 24) - 1),
            preface + settings + frame(1, 4, 1, dice.randbytes(300)),
            preface + settings + frame(1, 4, 1, b"\xff" * 100),
            preface + settings + frame(3, 0, 0, b"abcd") * 50,
            preface + settings + b"".join(frame(9, 0, 1, b"") for _ in range(500))]
streams += [preface + settings + b"".join(
    frame(dice.randrange(12), dice.randrange(256), dice.randrange(8), dice.randbytes(
        dice.randrange(64))) for _ in range(200)) for _ in range(20)]
sent = 0
for piece in streams:
    try:
        with socket.create_connection((host, control), timeout=20) as s:
            s.sendall(piece)
            s.settimeout(0.3)
            try:
                while s.recv(65536):
                    pass
            except OSError:
                pass
        sent += 1
    except ConnectionRefusedError:
        sys.exit("the control port does not accept any more")
    except OSError:
        sent += 1
idle = []
for _ in range(100):
    idle.append(socket.create_connection((host, control), timeout=20))
for s in idle[:50]:
    s.sendall(preface[:12])
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for port in (data, roce):
    for _ in range(400):
        udp.sendto(dice.randbytes(dice.randrange(1, 1400)), (host, port))
# Well-formed BTHs with every opcode, to the queue pairs that exist and to some that do not.
for opcode in range(256):
    for pair in (0, 1, 17, 18, 0xFFFFFF):
        udp.sendto(struct.pack("!BBHII", opcode, 0, 0xFFFF, pair, dice.randrange(1 << 24)) +
                   dice.randbytes(dice.randrange(300)), (host, roce))
try:
    socket.create_connection((host, data), timeout=3).close()
except OSError:
    pass
print(sent, "streams,", len(idle), "idle connections")
"""


@case
def garbage_on_ports(test):
    """Random bytes, other protocols and half-open connections on the control and data ports."""
    with test.unchanged():
        for seed in (1, 2):
            said = test.bed.client("/usr/bin/python3", "-c", GARBAGE, test.two.address,
                                   str(CONTROL_PORT), str(DATA_PORT), str(ROCE_PORT), str(seed)).out
            test.rows.append((f"garbage on the ports, seed {seed}", "-", said.strip()))
        # A stranger that does speak the fabric's connection manager.
        stranger = test.one.run("timeout", "30", "ib_write_bw", "-R", "-p", str(DATA_PORT), "-d",
                                "rxe0", "-n", "5", test.two.address, check=False)
        if stranger.code == 0:
            raise Failed("the data port let a stranger in")
        test.rows.append(("ib_write_bw to the data port", stranger.code,
                          (stranger.err.strip() or stranger.out.strip()).splitlines()[-1]))
        # Calls of the peers' own protocol that no peer would make.
        for method, message in (
                ("Commit", ""), ("Restore", ""), ("Reserve", ""), ("Grow", ""), ("Probe", ""),
                ("Renew", "0a0a2e2e2f2e2e2f6574632f"), ("Commit", "0a10" + "41" * 16),
                ("SendImages", "0a0a2e2e2f2e2e2f6574632f"), ("Examine", ""), ("Hello", "ff" * 40),
                ("Reserve", "ff" * 200)):
            said = test.raw_call(f"/starling.v1.Peer/{method}", message)
            if said.code != 0 or "grpc-status" not in said.out:
                raise Failed(f"{method} with {message!r} was not answered: {said.out} {said.err}")
            test.rows.append((f"Peer/{method} {message[:24]}", "-", said.out.strip()))
        test.expect("check afterwards", test.one.starling(
            "check", BYSTANDER, "--to", "node2", check=False), 0)
    # And it still takes a component.
    with test.component("after", "memory", "2"):
        test.expect("migrate afterwards", test.one.starling(
            "migrate", "after", "--to", "node2", "--quiet", check=False), 0)
        test.two.starling("stop", "after", "--grace", "1")


# The course -----------------------------------------------------------------------------------------


def print_table(rows):
    print("\nWhat was given, how it exited, and what was said:")
    for what, code, said in rows:
        text = " ".join(said.split())
        lines = textwrap.wrap(text, 110) or [""]
        if len(lines) > 3:
            lines = lines[:3] + ["..."]
        print(f"\n{what}: {code}")
        for line in lines:
            print(f"    {line}")


def main():
    named = {function.__name__: function for function in CASES}
    options = cases.parser(__doc__, list(named), "bad-input").parse_args()
    if options.list:
        for name, function in named.items():
            print(f"{name}: {' '.join(function.__doc__.split())}")
        return 0
    with tempfile.TemporaryDirectory() as folder, \
            beds.Bed(options.bed, options.kernel, options.keep) as bed, \
            contextlib.ExitStack() as stack:
        test = Test(bed, folder)

        def act(name):
            test.need_bystander(stack)
            return named[name](test)

        rows = cases.run(options.case or list(named), act)
        print_table(test.rows)
    return cases.close(rows, options.json)


if __name__ == "__main__":
    sys.exit(main())
