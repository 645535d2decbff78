#!/usr/bin/python3
"""Moves real programs between two nodes of a bed under the witness's load, and looks at them.

usage: workloads_test.py [--subset] [--case NAME ...] [--list] [--kernel 6.12|6.1] [--keep]
                         [--bed NAME] [--json FILE]

Each workload is started on node1 with an address and a heartbeat, watched by the witness through
one TCP connection from outside, moved to node2 and, where the case says so, back and again. It
passes when the witness lost nothing acknowledged, read nothing wrong, and its connection never
broke; when the component's own digest of its state is what it has to be; when its copies ran one at
a time (one process at the source less is one at the target more); and when nothing of it is left
once it has been stopped.

The shapes (threads, shared, churn, sysv, sparse, huge) are workloads of tests/e2e/workloads/shapes.cc, which
say themselves whether their memory is what it has to be: they write while they are moved to node2
and while the rest of their memory arrives there, and rest while they are moved back.

The case `memory-bounds` moves a component larger than what an agent may take, and looks at the peaks
of both agents.

The cases `redis-...` move Redis another way: over TCP, with its pages sealed, and both; and over RoCEv2 in
user space, where node1's kernel has no RDMA and node2's has, with --post-copy as well.

The case `post-copy` moves a Redis under heavy writes there and back, by pre-copy alone and then with
--post-copy, and says how long each held it.

The case `there-and-back` moves one component twenty times (four with --subset) and compares what the
agents and the nodes hold after the second move and after the last: descriptors, memory, threads,
namespaces, cgroups, mounts, links, RDMA resources, and files of the agents' folders.

Ends with a table. Exit code 0: all passed; 1: not.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
import typing

sys.dont_write_bytecode = True
sys.path[:0] = [os.path.join(os.path.dirname(os.path.realpath(__file__)), "..", "..", folder)
                for folder in ("tools", "perf")]

from demolib import agents  # noqa: E402
from demolib import bed as demo  # noqa: E402
from perflib import ratios  # noqa: E402

import beds
import cases
from beds import ADDRESS, BINARIES, Failed, wait_until

PROBE = "exec 3<>/dev/tcp/127.0.0.1/%d"
SITE = "/srv/starling-site"
# Memory of an agent is held against this much growth between move 2 and the last one: an allocator
# rests, a leak of one migration (its slabs, its arena, its images) does not fit under it.
AGENT_GROWTH_KIB = 8192

# Run in a node: what its agent and its kernel hold. One JSON object.
HOLDINGS = r"""
import glob, json, os, subprocess
def lines(*argv):
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout.splitlines()
def agent():
    return int(open("/run/bed-agent/pid").read())
def status(pid, key):
    for line in open(f"/proc/{pid}/status"):
        if line.startswith(key + ":"):
            return int(line.split()[1])
def count(folder):
    return sum(len(files) + len(folders) for _, folders, files in os.walk(folder))
pid = agent()
keepers = [int(p) for p in os.listdir("/proc") if p.isdigit() and
           os.path.exists(f"/proc/{p}/exe") and
           os.readlink(f"/proc/{p}/exe").endswith("/starling-keeper")]
rdma = {}
for line in lines("rdma", "resource", "show"):
    words = line.split()[2:]
    rdma.update({key: int(value) for key, value in zip(words[::2], words[1::2])})
print(json.dumps({
    "agent_pid": pid,
    "agent_rss_kib": status(pid, "VmRSS"), "agent_threads": status(pid, "Threads"),
    "agent_descriptors": len(os.listdir(f"/proc/{pid}/fd")),
    "agent_mappings": len(open(f"/proc/{pid}/maps").readlines()),
    "agent_locked_kib": status(pid, "VmPin"),
    "keepers": len(keepers),
    "keeper_descriptors": sum(len(os.listdir(f"/proc/{k}/fd")) for k in keepers),
    "keeper_rss_kib": sum(status(k, "VmRSS") for k in keepers),
    "namespaces": len(lines("lsns", "-n", "-o", "NS")),
    "cgroups": count("/sys/fs/cgroup/starling") and sum(
        1 for _ in glob.iglob("/sys/fs/cgroup/**/cgroup.procs", recursive=True)),
    "mounts": len(open("/proc/self/mounts").readlines()),
    "links": len(os.listdir("/sys/class/net")),
    "run_files": count("/run/starling"), "log_files": count("/var/log/starling"),
    # Reports are kept up to a number of their own, and what was learned of the host is, at first, after
    # five minutes.
    "state_files": count("/var/lib/starling") - count("/var/lib/starling/reports") -
                   os.path.exists("/var/lib/starling/loop/host.models"),
    "processes": sum(1 for p in os.listdir("/proc") if p.isdigit() and
                     status(p, "VmRSS") is not None),
    "rdma": rdma}))
"""

# Counts that may differ by chance between two looks: gRPC's and the kernel's own comings and goings.
# A keeper has one descriptor more while one of its agent's connections comes or goes; each move makes
# new keepers, so that nothing adds up in them.
LOOSE = {"keeper_descriptors": 2, "agent_descriptors": 6, "agent_threads": 6, "agent_mappings": 40, "processes": 4,
         "keeper_rss_kib": 2048, "agent_rss_kib": AGENT_GROWTH_KIB}


class Workload:
    """A program, how it is watched, and what it says of itself."""

    port = 7777
    witness_options = ("--keys", "200", "--value-size", "1024")
    protocol = "redis"
    run_options = ()
    least_processes = 1

    def prepare(self, test):
        """Makes on both nodes what the program needs."""

    def command(self):
        raise NotImplementedError

    def digest(self, test):
        """What there is of the program's state while nothing is written."""
        raise NotImplementedError

    def check(self, test, report, before, after):
        """Whatever else has to be so. `before` and `after`: digests at the two ends of a move
        without load."""
        if before != after:
            raise Failed(f"the digest was {before} before the move and is {after} after it")


def ask(bed, port, line):
    """One inline command of Redis' protocol, from outside; the line or bulk string that answers."""
    program = (
        "import socket, sys\n"
        "with socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=120) as c:\n"
        "    s = c.makefile('rb'); c.sendall(sys.argv[3].encode() + b'\\r\\n')\n"
        "    a = s.readline()\n"
        "    print((s.read(int(a[1:])) if a[:1] == b'$' else a).decode().strip())\n")
    return bed.client("/usr/bin/python3", "-c", program, ADDRESS, str(port), line).out.strip()


class Redis(Workload):
    witness_options = ("--preload-mib", "8", "--value-size", "1024")

    def command(self):
        return ["/usr/bin/redis-server", "--port", str(self.port), "--bind", "0.0.0.0",
                "--protected-mode", "no", "--save", "", "--appendonly", "no",
                "--enable-debug-command", "yes", "--dir", "/"]

    def digest(self, test):
        return ask(test.bed, self.port, "DEBUG DIGEST")


# Prints the number of items of the memcached at ADDRESS PORT, and a hash of their keys and values.
MEMCACHED_DIGEST = r"""
import hashlib, socket, sys, time, urllib.parse
with socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=120) as connection:
    stream = connection.makefile("rb")
    # A list passes items over that are being moved from one queue to another meanwhile.
    for _ in range(50):
        connection.sendall(b"stats\r\n")
        stats = dict(line.split()[1:3] for line in iter(stream.readline, b"END\r\n"))
        connection.sendall(b"lru_crawler metadump all\r\n")
        keys = []
        for line in iter(stream.readline, b"END\r\n"):
            if not line.startswith(b"key="):
                sys.exit(f"memcached lists no keys: {line}")
            keys.append(urllib.parse.unquote_to_bytes(line.split()[0][4:]))
        if len(keys) == int(stats[b"curr_items"]):
            break
        time.sleep(0.2)
    else:
        sys.exit(f"memcached has {stats[b'curr_items']} items and lists {len(keys)}")
    content = hashlib.sha256()
    for key in sorted(keys):
        connection.sendall(b"get " + key + b"\r\n")
        head = stream.readline()
        if not head.startswith(b"VALUE "):
            sys.exit(f"{key} is listed, and is not there: {head}")
        content.update(head + stream.read(int(head.split()[3]) + 2))
        stream.readline()
print(len(keys), content.hexdigest())
"""

# Prints a hash of the files that the web server at ADDRESS PORT serves, named on standard input.
SITE_DIGEST = r"""
import hashlib, sys, urllib.request
content = hashlib.sha256()
for name in sys.stdin.read().split():
    content.update(urllib.request.urlopen(f"http://{sys.argv[1]}:{sys.argv[2]}/{name}").read())
print(content.hexdigest())
"""


class Memcached(Workload):
    protocol = "memcached"
    witness_options = ("--preload-mib", "4", "--value-size", "1024")

    def command(self):
        return ["/usr/bin/memcached", "-u", "root", "-l", "0.0.0.0", "-p", str(self.port), "-U",
                "0", "-m", "64", "-t", "4"]

    def digest(self, test):
        count, content = test.bed.client("/usr/bin/python3", "-c", MEMCACHED_DIGEST, ADDRESS,
                                         str(self.port)).out.split()
        if int(count) < 1000:
            raise Failed(f"memcached has {count} of the witness's items")
        return count, content


class Nginx(Workload):
    protocol = "http"
    witness_options = ("--keys", "50", "--value-size", "16384")
    least_processes = 3

    def prepare(self, test):
        for node in (test.one, test.two):
            made = node.run(os.path.join(beds.WORKLOADS, "nginx_site.py"), SITE, "--port",
                            str(self.port), "--witness", os.path.join(BINARIES, "starling-witness"),
                            "--keys", "50", "--value-size", "16384").out
        self._command = made.split()

    def command(self):
        return self._command

    def digest(self, test):
        names = test.one.shell(f"cd {SITE}/www && find . -type f | sort").out
        return test.bed.client("/usr/bin/python3", "-c", SITE_DIGEST, ADDRESS, str(self.port),
                               given=names).out.strip()

    def check(self, test, report, before, after):
        super().check(test, report, before, after)
        files = test.one.shell(f"cd {SITE}/www && find . -type f | sort | xargs cat | sha256sum"
                               ).out.split()[0]
        if after != files:
            raise Failed(f"nginx serves {after}, and its files are {files}")


class ProcessFamily(Workload):
    least_processes = 3

    def command(self):
        return [os.path.join(beds.WORKLOADS, "process_family.py"), str(self.port)]

    def digest(self, test):
        said = json.loads(ask(test.bed, self.port, "DIGEST"))
        if len(set(said["chains"].values())) != 1:
            raise Failed(f"child and grandchild disagree: {said}")
        return said

    def check(self, test, report, before, after):
        super().check(test, report, before, after)
        if after["keys"] == 0 or not after["chains"]["child"]:
            raise Failed(f"the relatives have seen no writes: {after}")


class SqliteWriter(Workload):
    run_options = ("--shared", "/shared")
    witness_options = ("--keys", "50", "--value-size", "256")
    database = "/shared/rows.db"

    def prepare(self, test):
        test.one.shell(f"rm -f {self.database}*")

    def command(self):
        return [os.path.join(beds.WORKLOADS, "sqlite_writer.py"), str(self.port), self.database]

    def digest(self, test):
        return json.loads(ask(test.bed, self.port, "DIGEST"))

    def check(self, test, report, before, after):
        super().check(test, report, before, after)
        if not after["gapless"] or after["integrity"] != "ok":
            raise Failed(f"the database is damaged: {after}")
        # Every acknowledged write is one row, and one that was cut off at the end may be one more.
        if after["rows"] < report["writes_acknowledged"]:
            raise Failed(f"{report['writes_acknowledged']} rows were acknowledged, and there are "
                         f"{after['rows']}")
        # The file alone says the same: looked at by another program on the other node.
        seen = test.one.run("/usr/bin/python3", "-c",
                            "import sqlite3, sys\n"
                            "d = sqlite3.connect(sys.argv[1], timeout=60)\n"
                            "print(d.execute('SELECT count(*) FROM row').fetchone()[0], "
                            "d.execute('PRAGMA integrity_check').fetchone()[0])",
                            self.database).out.split()
        if seen != [str(after["rows"]), "ok"]:
            raise Failed(f"the writer says {after}, its file on the other node {seen}")


class Memory(Workload):
    """Not watched by the witness: it speaks a language of its own, and its digest can be worked out
    from scratch."""

    mib, seed = 16, 7

    def command(self):
        return [os.path.join(BINARIES, "starling-memhog"), "--mib", str(self.mib), "--seed",
                str(self.seed), "--rate", "2000", "--listen", str(self.port)]


class Shape:
    """A workload of shapes.cc."""

    port = 7777
    least_processes = 1
    most_memory = None  # of its cgroup, in bytes

    def __init__(self, name, least_processes=1, most_memory=None):
        self.name = name
        self.least_processes = least_processes
        self.most_memory = most_memory

    def prepare(self, test):
        if self.name != "huge":
            return
        for node in test.nodes():
            node.shell("echo 16 >/proc/sys/vm/nr_hugepages", check=False)
            free = node.shell("sed -n 's/^HugePages_Free: *//p' /proc/meminfo").out.strip()
            if int(free or 0) < 8:
                raise cases.Skipped(f"{node.name} has {free or 'no'} huge pages")

    run_options = ()

    def command(self):
        return [os.path.join(BINARIES, "starling-shapes"), self.name, "--listen", str(self.port)]


SHAPES = {"threads": Shape("threads"), "shared": Shape("shared", least_processes=4),
          "churn": Shape("churn"), "sysv": Shape("sysv", least_processes=3), "sparse": Shape("sparse", most_memory=256 << 20),
          "huge": Shape("huge")}
CALLED_OFF_FIRST = "threads"
BIG_MIB = 400  # more than an agent may take

WORKLOADS = {"redis": Redis, "memcached": Memcached, "nginx": Nginx,
             "process-family": ProcessFamily, "sqlite": SqliteWriter}


class Way(typing.NamedTuple):
    """A further way to move the first of them."""

    options: tuple  # of `migrate`
    expected: dict  # what the report has to say
    edits: dict = {}  # of the configurations: scripts for sed, by the node's number
    without_rdma: tuple = ()  # numbers of nodes whose kernel has none meanwhile


SEAL = 's/encryption = .*/encryption = "on"/'
ROCE = {1: 's/provider = .*/provider = "roce"/; s/offer = .*/offer = []/; $a [roce]\\n'
           'port = "af_packet:eth0"\\nip = "10.77.0.101"\\nlisten = "10.77.0.1:7402"',
        2: 's/offer = .*/offer = ["tcp", "roce"]/; $a [roce]\\n'
           'port = "verbs:rxe0"\\nlisten = "10.77.0.2:7402"'}
WAYS = {
    "redis-tcp": Way(("--transport", "tcp"), {"provider": "tcp", "encrypted": False}),
    "redis-sealed": Way((), {"encrypted": True}, {1: SEAL, 2: SEAL}),
    "redis-tcp-sealed": Way(("--transport", "tcp"), {"provider": "tcp", "encrypted": True},
                            {1: SEAL, 2: SEAL}),
    "redis-roce": Way(("--transport", "roce"), {"provider": "roce", "encrypted": False}, ROCE,
                      without_rdma=(1,)),
    "redis-roce-post-copy": Way(("--transport", "roce", "--post-copy"), {"provider": "roce"}, ROCE,
                                without_rdma=(1,)),
}
SUBSET = ["redis", "redis-tcp-sealed", "process-family", "there-and-back"]
PROBED = "process-family"


class Test:
    def __init__(self, bed, folder):
        self.bed = bed
        self.folder = folder
        self.one, self.two = bed.nodes[1], bed.nodes[2]

    def nodes(self):
        return (self.one, self.two)

    def start(self, name, workload):
        workload.prepare(self)
        self.one.starling(
            "run", name, "--ip", f"{ADDRESS}/24", *workload.run_options, "--",
            os.path.join(BINARIES, "starling-heartbeat"), "--to", beds.OBSERVER, "--",
            *workload.command())

    def move(self, name, there, here, *options):
        done = here.starling("migrate", name, "--to", there.name, "--json", *options, check=False)
        lines = [json.loads(line) for line in done.out.splitlines() if line.startswith("{")]
        if done.code != 0 or not lines or lines[-1]["outcome"] != "done":
            raise Failed(f"migrate {name} from {here.name} to {there.name} ended with {done.code}: "
                         f"{done.err.strip().splitlines()[-1:] or lines[-1:]}")
        report = json.loads(here.starling("report", name, "--json").out)
        if report["migration_id"] != lines[-1]["migration_id"] or report["outcome"] != "done":
            raise Failed(f"{here.name} reports another move: {report}")
        return lines[-1]["report"]

    def called_off(self, name):
        """A move that its probe calls off is reported as that."""
        done = self.one.starling("migrate", name, "--to", self.two.name, "--probe", "false",
                                 check=False)
        report = json.loads(self.one.starling("report", name, "--json").out)
        if done.code != 5 or report["outcome"] != "called-off" or \
                "the probe failed" not in report["error"] or not report["held_s"]:
            raise Failed(f"a probe that fails: exit code {done.code}, report {report}")

    def runs_only_on(self, name, there, here, least_processes):
        rows = there.components()
        if rows.get(name, {}).get("state") != "running":
            raise Failed(f"{name} does not run on {there.name}: {rows.get(name)}")
        if rows[name]["processes"] < least_processes:
            raise Failed(f"{name} has {rows[name]['processes']} processes on {there.name}")
        left = here.shell(f"cat /sys/fs/cgroup/starling/{name}*/cgroup.procs", check=False).out
        if left.strip():
            raise Failed(f"{here.name} still has processes of {name}: {left.split()}")

    def stop_everywhere(self, name):
        for node in self.nodes():
            node.starling("stop", name, "--grace", "2", check=False)

    def left_over(self, name):
        """What a stopped component has left behind."""
        for node in self.nodes():
            said = node.shell(
                f"ls -d /sys/fs/cgroup/starling/{name}* /run/starling/*{name}* 2>/dev/null; "
                f"ip -o link | grep -c 'macvlan'; pgrep -f '[s]tarling-keeper.*{name}'",
                check=False).out.split()
            if said != ["0"]:
                raise Failed(f"{node.name} still has something of {name}: {said}")

    def figures(self, reports):
        held = [f"{report['held_s']:.2f} s" for report in reports]
        return f"{len(reports)} moves, held {', '.join(held)}"

    @staticmethod
    def longest(report):
        """The longest phases of the time in which a component was held."""
        names = [phase["name"] for phase in report["phases"]]
        inside = report["phases"][names.index("freeze"):]
        inside.sort(key=lambda phase: -phase["seconds"])
        return ", ".join(f"{phase['name']} {phase['seconds']:.2f}" for phase in inside[:4])

    # Cases ------------------------------------------------------------------------------------

    def bench(self, provider):
        """`starling bench` measures what the moves went over."""
        result = json.loads(self.one.starling("bench", "--to", self.two.name, "--provider", provider,
                                              "--no-tools", "--json").out)["results"]
        if [one["provider"] for one in result] != [provider] or \
                min(point["bytes_per_s"] for point in result[0]["points"]) <= 0:
            raise Failed(f"bench over {provider}: {result}")

    def way(self, name):
        """Redis, moved another way than usual."""
        way = WAYS[name]
        path = "/etc/starling/starlingd.toml"
        edited = [node for node in self.nodes() if node.number in way.edits]
        bare = [node for node in edited if node.number in way.without_rdma]
        for node in edited:
            node.agent("stop")  # or it would hold the device
            node.shell(f"cp {path} /tmp/starlingd.toml && "
                       f"sed -i -e '{way.edits[node.number]}' {path}")
            if node in bare:
                node.shell("rdma link delete rxe0")
            node.agent("start")
            node.wait_agent()
        try:
            figures = self.workload("redis", way.options, way.expected)
            if "provider" in way.expected:
                self.bench(way.expected["provider"])
            return figures
        finally:
            for node in edited:
                node.shell(f"mv /tmp/starlingd.toml {path}")
                if node in bare:
                    node.shell("rdma link add rxe0 type rxe netdev eth0")
                node.agent("restart")
                node.wait_agent()

    def workload(self, name, more=(), expected=None):
        workload = WORKLOADS[name]()
        self.start(name, workload)
        try:
            witness = beds.Witness(self.bed, self.folder, workload.port, *workload.witness_options,
                                   protocol=workload.protocol)
            try:
                witness.wait_ready()
                time.sleep(2)
                options = ("--probe", f"bash -c '{PROBE % workload.port}'",
                           "--probe-timeout", str(beds.PATIENCE_S)) if name == PROBED else ()
                reports = [self.move(name, self.two, self.one, *options, *more)]
                self.runs_only_on(name, self.two, self.one, workload.least_processes)
                time.sleep(2)
                report = witness.report()
            finally:
                witness.kill()
            flaws(report)
            # Back without load, so that the digest of before can be held against that of after.
            before = workload.digest(self)
            reports.append(self.move(name, self.one, self.two, *more))
            self.runs_only_on(name, self.one, self.two, workload.least_processes)
            for one in reports:
                # The bed's agents know one another by certificates.
                for key, value in {"insecure": False, **(expected or {})}.items():
                    if one[key] != value:
                        raise Failed(f"the report says {key}: {one[key]} and not {value}")
            # Under load some of it is.
            if "--post-copy" in more and reports[0]["post_copy_bytes"] == 0:
                raise Failed(f"nothing was left behind: {reports[0]}")
            workload.check(self, report, before, workload.digest(self))
        except BaseException:
            self.say_logs(name)
            raise
        finally:
            self.stop_everywhere(name)
        self.left_over(name)
        return (f"{self.figures(reports)}; {report['answers']} answers, "
                f"{report['writes_acknowledged']} writes acknowledged, lost "
                f"{report['lost_writes']}, wrong {report['wrong_values']}, broken connections "
                f"{report['broken_connections']}; client's longest gap "
                f"{report['answer_gaps']['longest_gap_ms']:.0f} ms")

    def shape(self, name):
        shape = SHAPES[name]
        self.start(name, shape)
        client = None
        try:
            client = Line(self.bed, shape.port)

            def right():
                steps, said = client.ask("check").split(" ", 1)
                if said != "ok":
                    raise Failed(f"after {steps} steps: {said}")
                return int(steps)

            wait_until("it has made some steps", lambda: right() > 300)
            if name == CALLED_OFF_FIRST:
                self.called_off(name)
                right()
            reports = [self.move(name, self.two, self.one)]
            self.runs_only_on(name, self.two, self.one, shape.least_processes)
            arrived = right()
            wait_until("it goes on at the other host", lambda: right() > arrived + 300)
            if shape.most_memory is not None:
                memory = self.two.components()[name]["memory_bytes"]
                if memory > shape.most_memory:
                    raise Failed(f"it takes {memory >> 20} MiB there")
            client.ask("pause")
            before = client.ask("digest")
            reports.append(self.move(name, self.one, self.two))
            after = client.ask("digest")
            if before != after:
                raise Failed(f"the digest was {before} before the move and is {after} after it")
            client.ask("resume")
            steps = right()
            wait_until("it goes on", lambda: right() > steps)
        except BaseException:
            self.say_logs(name)
            raise
        finally:
            if client:
                client.close()
            self.stop_everywhere(name)
        self.left_over(name)
        return f"{self.figures(reports)}; {steps} steps, all as they have to be"

    def memory_bounds(self):
        name, workload = "big", Memory()
        workload.mib = BIG_MIB
        self.start(name, workload)
        client = None
        try:
            client = Line(self.bed, workload.port)
            client.ask("pause")  # its memory is made
            memory = agents.Memory(self)
            report = self.move(name, self.two, self.one)
            row = {"size_mib": BIG_MIB, **memory.figures()}
            found = ratios.memory_flaws(row)
            if found:
                raise Failed("; ".join(found))
            client.ask("digest")
        except BaseException:
            self.say_logs(name)
            raise
        finally:
            if client:
                client.close()
            self.stop_everywhere(name)
        self.left_over(name)
        return (f"{self.figures([report])}; {BIG_MIB} MiB; source's agent at most "
                f"{row['source_agent_peak_bytes'] >> 20} MiB, target's "
                f"{row['target_agent_peak_bytes'] >> 20}, its keeper "
                f"{row['target_keeper_peak_bytes'] >> 20}; target's agent "
                f"{row['target_agent_before_bytes'] >> 20} MiB before and "
                f"{row['target_agent_after_bytes'] >> 20} after")

    # What agents.Memory asks of a bed.
    def execute(self, number, *command):
        return self.bed.nodes[number].run(*command).out

    @staticmethod
    def node_name(number):
        return f"node{number}"

    def post_copy(self):
        """A Redis under heavy writes: there and back by pre-copy alone, then with --post-copy."""
        name, workload = "heavy", Redis()
        self.start(name, workload)
        try:
            witness = beds.Witness(self.bed, self.folder, workload.port, "--preload-mib", "32",
                                   "--value-size", "4096", rate=1500)
            try:
                witness.wait_ready()
                time.sleep(2)
                reports = []
                for options in ((), ("--post-copy",)):
                    for there, here in ((self.two, self.one), (self.one, self.two)):
                        reports.append(self.move(name, there, here, *options))
                        self.runs_only_on(name, there, here, 1)
                        time.sleep(2)
                report = witness.report()
            finally:
                witness.kill()
            flaws(report)
            if min(one["post_copy_bytes"] for one in reports[2:]) == 0:
                raise Failed(f"nothing was left behind: {reports}")
            # rxe0 has memory windows.
            if [one["offered"] for one in reports] != ["", "", "windows", "windows"]:
                raise Failed(f"offered were {[one['offered'] for one in reports]}")
            wait_until("all of it is there",
                       lambda: self.one.components()[name]["bytes_away"] == 0)
        except BaseException:
            self.say_logs(name)
            raise
        finally:
            self.stop_everywhere(name)
        self.left_over(name)
        gap = report["answer_gaps"]["longest_gap_ms"]
        said = [f"{one['held_s']:.2f} s ({self.longest(one)})" for one in reports]
        away = [f"{one['post_copy_bytes'] >> 10} KiB behind for {one['drain_s']:.2f} s"
                for one in reports[2:]]
        return (f"held {' and '.join(said[:2])} by pre-copy, {' and '.join(said[2:])} with "
                f"post-copy, which left {' and '.join(away)}; "
                f"{report['writes_acknowledged']} writes acknowledged, lost {report['lost_writes']}, "
                f"wrong {report['wrong_values']}; client's longest gap {gap:.0f} ms")

    def there_and_back(self, moves):
        name, workload = "wanderer", Memory()
        self.start(name, workload)
        client = None
        try:
            # One connection for all moves.
            client = Line(self.bed, workload.port)
            nodes = [self.one, self.two]
            reports, holdings = [], {}
            for number in range(1, moves + 1):
                here, there = nodes[(number - 1) % 2], nodes[number % 2]
                reports.append(self.move(name, there, here))
                self.runs_only_on(name, there, here, 1)
                steps, digest = client.ask("digest").split()
                worked_out = subprocess.run(
                    [workload.command()[0], "--mib", str(workload.mib), "--seed",
                     str(workload.seed), "--expect", steps], capture_output=True, text=True,
                    check=True).stdout.split()
                if [steps, digest] != worked_out:
                    raise Failed(f"after move {number} and {steps} steps the digest is {digest}, "
                                 f"and has to be {worked_out[1]}")
                # Compared are two moments with the component at home.
                if number in (2, moves - moves % 2):
                    holdings[number] = self.holdings()
            first, last = holdings[2], holdings[moves - moves % 2]
            grown = growth(first, last)
        except BaseException:
            self.say_logs(name)
            raise
        finally:
            if client:
                client.close()
            self.stop_everywhere(name)
        if grown:
            raise Failed("between move 2 and the last: " + "; ".join(grown))
        self.left_over(name)
        compared = "" if first is last else "; " + summary(first, last)
        return f"{self.figures(reports)}; digest equal after each{compared}"

    def holdings(self):
        """What both nodes hold, once that does not change any more."""
        seen = {}

        def settled():
            now = {node.name: json.loads(node.run("/usr/bin/python3", "-", given=HOLDINGS).out)
                   for node in self.nodes()}
            counts = {name: {k: v for k, v in one.items() if k not in LOOSE}
                      for name, one in now.items()}
            same = counts == seen.get("counts")
            seen.update(counts=counts, now=now)
            return same
        wait_until("the nodes settle", settled, pause_s=2)
        return seen["now"]

    def say_logs(self, name):
        """What the agents and the component said last, for whoever looks at a failure."""
        for node in self.nodes():
            said = node.shell(
                f"tail -n 15 /var/log/starling/starlingd.log; tail -n 5 /var/log/starling/{name}.log",
                check=False).out
            print(f"--- {node.name}\n{said}", flush=True)


class Line:
    """A connection from outside that is kept through all moves; lines in, lines out."""

    PROGRAM = (
        "import socket, sys\n"
        "c = socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=300)\n"
        "s = c.makefile('rwb')\n"
        "for line in sys.stdin:\n"
        "    s.write(line.encode()); s.flush()\n"
        "    print(s.readline().decode().strip(), flush=True)\n")

    def __init__(self, bed, port):
        wait_until("the component listens", lambda: bed.client(
            "bash", "-c", f"exec 3<>/dev/tcp/{ADDRESS}/{port}", check=False).code == 0)
        self._process = bed.start_client("/usr/bin/python3", "-c", self.PROGRAM, ADDRESS, str(port),
                                         stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, line):
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline().strip()
        if not answer:
            raise Failed("the connection to the component broke")
        return answer

    def close(self):
        self._process.stdin.close()
        self._process.wait(timeout=60)
        self._process.stdout.close()


def flaws(report):
    found = {key: report[key] for key in ("lost_writes", "wrong_values", "broken_connections",
                                          "unverified_values", "refused", "unanswered")
             if report[key] != 0}
    if found:
        raise Failed(f"the witness saw {found}: {report['connection_error']} "
                     f"{report['first_refusal']}")
    if report["answers"] == 0 or report["verified_values"] == 0:
        raise Failed(f"the witness saw nothing at all: {report}")
    if report["heartbeat"]["duplicated"] != 0:
        raise Failed(f"{report['heartbeat']['duplicated']} heartbeats came twice: two copies ran")


def growth(first, last):
    """What has grown beyond chance, in words."""
    grown = []
    for node, before in first.items():
        after = last[node]
        if before["agent_pid"] != after["agent_pid"]:
            grown.append(f"the agent of {node} was restarted")
        for key, value in before.items():
            if key in ("agent_pid", "rdma") or value is None:
                continue
            if after[key] > value + LOOSE.get(key, 0):
                grown.append(f"{node}: {key} {value} -> {after[key]}")
        for key, value in before["rdma"].items():
            if after["rdma"][key] > value:
                grown.append(f"{node}: RDMA {key} {value} -> {after['rdma'][key]}")
    return grown


def summary(first, last):
    return "; ".join(
        f"{node}: descriptors {a['agent_descriptors']} -> {b['agent_descriptors']}, memory "
        f"{a['agent_rss_kib']} -> {b['agent_rss_kib']} KiB, namespaces {a['namespaces']} -> "
        f"{b['namespaces']}, cgroups {a['cgroups']} -> {b['cgroups']}, RDMA {a['rdma']} -> "
        f"{b['rdma']}" for node, a, b in ((node, first[node], last[node]) for node in first))


def memory_mib(wanted):
    """Of the guests: a kernel refuses a mapping larger than all of its memory."""
    return 2560 if {"sparse", "memory-bounds"} & set(wanted) else 768


def main():
    names = [*WORKLOADS, *WAYS, *SHAPES, "post-copy", "memory-bounds", "there-and-back"]
    parser = cases.parser(__doc__, names, "workloads")
    parser.add_argument("--subset", action="store_true")
    parser.add_argument("--moves", type=int, help="of there-and-back; default 20, 4 with --subset")
    options = parser.parse_args()
    if options.list:
        print("\n".join(names))
        return 0
    wanted = options.case or (SUBSET if options.subset else names)
    with tempfile.TemporaryDirectory() as folder, \
            beds.Bed(options.bed, options.kernel, options.keep, memory_mib(wanted)) as bed:
        test = Test(bed, folder)

        def act(name):
            if name == "there-and-back":
                return test.there_and_back(options.moves or (4 if options.subset else 20))
            if name == "post-copy":
                return test.post_copy()
            if name == "memory-bounds":
                return test.memory_bounds()
            if name in WAYS:
                return test.way(name)
            return test.shape(name) if name in SHAPES else test.workload(name)

        rows = cases.run(wanted, act, also=(demo.DemoError,))
    return cases.close(rows, options.json)


if __name__ == "__main__":
    sys.exit(main())
