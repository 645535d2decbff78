#!/usr/bin/python3
"""tools/bed, on real guests: needs root (or sudo), QEMU and the guest kernels.

Environment: STARLING_BED_KERNEL is the guests' kernel series (default 6.12).
"""

import hashlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
import unittest

CHECKOUT = os.path.realpath(os.path.join(os.path.dirname(__file__), "..", ".."))
BED = os.path.join(CHECKOUT, "tools", "bed")
KERNEL = os.environ.get("STARLING_BED_KERNEL", "6.12")
# A name of our own, so that a bed somebody has up stays out of it.
NAME = f"test-{os.getpid()}"


def bed(*arguments, name=NAME, check=True, text=True, **kwargs):
    """Runs tools/bed (options before --) and returns the finished process."""
    arguments = list(arguments)
    arguments[1:1] = ["--name", name]
    kwargs.setdefault("stdin", subprocess.DEVNULL)
    if "input" in kwargs:
        del kwargs["stdin"]
    done = subprocess.run([BED, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          text=text, check=False, timeout=400, **kwargs)
    if check and done.returncode != 0:
        raise AssertionError(f"bed {arguments} ended with {done.returncode}: {done.stderr}")
    return done


def execute(node, *command, **kwargs):
    return bed("exec", f"node{node}", "--", *command, **kwargs)


def output(node, *command, **kwargs):
    return execute(node, *command, **kwargs).stdout.strip()


def processes_with(*texts):
    """Live processes (zombies are not) with one of the texts on their command line."""
    found = {}
    for entry in os.listdir("/proc"):
        if not entry.isdigit() or int(entry) == os.getpid():
            continue
        try:
            with open(f"/proc/{entry}/cmdline", "rb") as source:
                line = source.read().replace(b"\0", b" ").decode(errors="replace")
            with open(f"/proc/{entry}/stat", encoding="ascii", errors="replace") as source:
                status = source.read().rpartition(")")[2].split()[0]
        except OSError:
            continue
        if status not in "ZX" and any(text in line for text in texts):
            found[int(entry)] = line
    return found


def identity(name):
    """The texts by which the bed's resources can be told from all others."""

    bed_id = f"{hashlib.sha256(CHECKOUT.encode()).hexdigest()[:8]}-{name}"
    return bed_id, os.path.join(CHECKOUT, "build", "bed", name) + "/"


def traces(name):
    """Everything that is left of a bed; empty when it left nothing."""
    bed_id, folder = identity(name)
    left = [f"process {pid}: {line}" for pid, line in processes_with(bed_id, folder).items()]
    left += [f"file {path}" for path in (folder, f"/run/starling-bed/{bed_id}",
                                         f"/run/netns/starling-{bed_id}") if os.path.exists(path)]
    namespaces = subprocess.run(["ip", "netns", "list"], stdout=subprocess.PIPE, text=True,
                                check=True).stdout
    left += [f"namespace {line}" for line in namespaces.splitlines() if bed_id in line]
    with open("/proc/self/mountinfo", encoding="utf-8") as source:
        left += [f"mount {line.strip()}" for line in source if bed_id in line]
    return left


class WithBed(unittest.TestCase):
    """Tests that share one bed of two nodes."""

    @classmethod
    def setUpClass(cls):
        cls.addClassCleanup(bed, "down", check=False)
        began = time.monotonic()
        bed("up", "--kernel", KERNEL)
        print(f"up took {time.monotonic() - began:.1f} s", file=sys.stderr)

    def test_exec_carries_streams_and_exit_codes(self):
        done = execute(1, "sh", "-c", "cat; echo error >&2; exit 7", input="in\n", check=False)
        self.assertEqual((done.returncode, done.stdout, done.stderr), (7, "in\n", "error\n"))
        self.assertEqual(execute(1, "true").returncode, 0)
        self.assertEqual(execute(1, "false", check=False).returncode, 1)
        self.assertEqual(execute(1, "no-such-command", check=False).returncode, 127)
        self.assertEqual(output(1, "printf", "%s|", "two words", "$HOME", "a'b", ""),
                         "two words|$HOME|a'b||")
        blob = os.urandom(3_000_000)
        self.assertEqual(execute(2, "cat", input=blob, text=False).stdout, blob)
        self.assertEqual(bed("exec", "2", "--", "hostname").stdout, "node2\n")

    def test_exec_many_times_and_at_once(self):
        times = []
        for number in range(7):
            began = time.monotonic()
            self.assertEqual(output(1, "echo", str(number)), str(number))
            times.append(time.monotonic() - began)
        running = [subprocess.Popen([BED, "exec", "--name", NAME, "2", "--", "sh", "-c",
                                     f"sleep 1; exit {number}"]) for number in range(12)]
        self.assertEqual([process.wait(timeout=120) for process in running], list(range(12)))
        print(f"exec takes {sorted(times)[3] * 1000:.0f} ms (median)", file=sys.stderr)

    def test_wrong_use_is_refused(self):
        for arguments, code, text in (
                (("exec", "node3", "--", "true"), 1, "no node3"),
                (("exec", "zero", "--", "true"), 2, "no node"),
                (("exec", "node1"), 1, "no command"),
                (("up",), 1, "is up already"),
                (("boot", "node1"), 1, "on already"),
                (("up", "--memory", "3"), 1, "at least 512"),
                (("client", "--", "no-such-command"), 1, "no command")):
            done = bed(*arguments, check=False)
            self.assertEqual(done.returncode, code, arguments)
            self.assertIn(text, done.stderr)
        down = bed("exec", "node1", "--", "true", name="never-up", check=False)
        self.assertEqual(down.returncode, 1)
        self.assertIn("is not up", down.stderr)

    def test_status(self):
        status = json.loads(bed("status", "--json").stdout)
        self.assertEqual((status["schema"], status["state"], status["nodes"]), (1, "up", 2))
        self.assertIsInstance(status["accelerated"], bool)
        self.assertTrue(all(node["running"] for node in status["node"]))
        self.assertEqual(output(1, "uname", "-r"), status["kernel"])
        self.assertTrue(status["kernel"].startswith(KERNEL + "."))

    def test_nodes_reach_each_other_and_the_host_reaches_them(self):
        execute(1, "ping", "-c", "1", "-W", "5", "node2")
        execute(2, "ping", "-c", "1", "-W", "5", "node1")
        execute(1, "ping", "-c", "1", "-W", "5", "-M", "do", "-s", "8900", "10.77.0.254")
        bed("client", "--", "ping", "-c", "1", "-W", "5", "10.77.0.2")

    def test_a_node_is_what_a_component_needs(self):
        for node in (1, 2):
            self.assertIn("state ACTIVE", output(node, "rdma", "link", "show", "rxe0/1"))
            self.assertEqual(output(node, "sh", "-c", "ulimit -l"), "unlimited")
            controllers = output(node, "cat", "/sys/fs/cgroup/cgroup.subtree_control").split()
            self.assertLessEqual({"cpu", "memory", "io", "pids", "cpuset"}, set(controllers))
            self.assertIn("Looks good", output(node, "criu", "check"))
            self.assertIn("starling", output(node, "getent", "group", "starling"))
            for path, kind in (("/var/lib/starling", "ext4"), ("/run", "tmpfs"), ("/tmp", "tmpfs"),
                               ("/dev/shm", "tmpfs"), ("/sys/fs/cgroup", "cgroup2")):
                self.assertEqual(output(node, "findmnt", "-no", "FSTYPE", path), kind, path)
        configuration = output(1, "cat", "/etc/starling/starlingd.toml")
        self.assertIn('host = "node1"', configuration)
        self.assertIn('address = "10.77.0.2:7400"', configuration)
        self.assertNotIn("10.77.0.1:7400\"\n[[peer]]", configuration)
        # A fence, a component's address, a shaped link.
        execute(1, "sh", "-ec", """
            ip netns add try
            ip link add mv0 link eth0 type macvlan mode bridge
            ip link set mv0 netns try name eth0
            ip -n try addr add 10.77.0.50/24 dev eth0
            ip -n try link set eth0 up
            ip netns exec try nft '
              add table netdev f
              add chain netdev f in { type filter hook ingress device eth0 priority 0; }
              add chain netdev f out { type filter hook egress device eth0 priority 0; }'
            ip netns exec try tc qdisc add dev eth0 root tbf rate 100mbit burst 64kb latency 50ms
            ip netns exec try arping -q -c 1 -U -I eth0 10.77.0.50 || true
            """)
        bed("client", "--", "ping", "-c", "1", "-W", "5", "10.77.0.50")
        execute(2, "ping", "-c", "1", "-W", "5", "10.77.0.50")
        execute(1, "ip", "netns", "delete", "try")

    def test_the_checkout_is_visible_and_not_stale(self):
        folder = tempfile.mkdtemp(dir=os.path.join(CHECKOUT, "build"))
        self.addCleanup(os.rmdir, folder)
        path = os.path.join(folder, "program")
        self.addCleanup(lambda: os.path.exists(path) and os.unlink(path))
        for round_number in range(3):
            with open(path, "w", encoding="ascii") as out:
                out.write(f"#!/bin/sh\nexit {20 + round_number}\n")
            os.chmod(path, 0o755)
            self.assertEqual(execute(1, path, check=False).returncode, 20 + round_number)
            os.unlink(path)
        self.assertNotEqual(execute(1, "touch", path, check=False).returncode, 0)

    def test_the_shared_folder_is_coherent(self):
        for number in range(5):
            writer, reader = (1, 2) if number % 2 else (2, 1)
            execute(writer, "sh", "-c", f"echo {number} >/shared/number")
            self.assertEqual(output(reader, "cat", "/shared/number"), str(number))
        execute(1, "rm", "/shared/number")
        self.assertNotEqual(execute(2, "test", "-e", "/shared/number", check=False).returncode, 0)

    def test_locks_hold_between_nodes(self):
        program = ("import fcntl, sys\n"
                   "f = open('/shared/lock', 'a+')\n"
                   "try:\n  fcntl.lockf(f, fcntl.LOCK_EX | fcntl.LOCK_NB)\n"
                   "except BlockingIOError:\n  sys.exit(9)\n"
                   "print('held', flush=True)\nsys.stdin.read()\n")
        holder = subprocess.Popen([BED, "exec", "--name", NAME, "1", "--", "python3", "-c", program],
                                  stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        with holder:
            self.assertEqual(holder.stdout.readline(), "held\n")
            self.assertEqual(execute(2, "python3", "-c", program, check=False).returncode, 9)
            holder.stdin.close()
        self.assertEqual(execute(2, "python3", "-c", program).returncode, 0)

    def test_sqlite_from_both_nodes(self):
        writer = ("import sqlite3, sys\n"
                  "db = sqlite3.connect('/shared/both.db', timeout=120, isolation_level=None)\n"
                  "db.execute('create table if not exists t (n int unique, who text)')\n"
                  "for _ in range(10):\n"
                  "  db.execute('begin immediate')\n"
                  "  n = db.execute('select coalesce(max(n), 0) + 1 from t').fetchone()[0]\n"
                  "  db.execute('insert into t values (?, ?)', (n, sys.argv[1]))\n"
                  "  db.execute('commit')\n")
        running = [subprocess.Popen([BED, "exec", "--name", NAME, str(node), "--", "python3", "-c",
                                     writer, f"node{node}"], stdin=subprocess.DEVNULL)
                   for node in (1, 2, 1, 2, 1, 2)]
        self.assertEqual([process.wait(timeout=300) for process in running], [0] * len(running))
        database = sqlite3.connect(os.path.join(identity(NAME)[1], "shared", "both.db"))
        self.addCleanup(database.close)
        self.assertEqual(database.execute("select max(n), count(*) from t").fetchone(), (60, 60))
        self.assertEqual(database.execute("pragma integrity_check").fetchone(), ("ok",))

    def test_many_at_once_in_the_shared_folder(self):
        """The shared folder's daemon was killed by its own system call filter when it grew threads."""
        work = ("import os, sys, threading\n"
                "def work(n):\n"
                "  for i in range(20):\n"
                "    with open(f'/shared/many-{sys.argv[1]}-{n}-{i}', 'wb') as f:\n"
                "      f.write(bytes([n]) * 100_000); os.fsync(f.fileno())\n"
                "    with open(f.name, 'rb') as f: assert f.read() == bytes([n]) * 100_000\n"
                "    os.unlink(f.name)\n"
                "threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]\n"
                "[t.start() for t in threads]; [t.join() for t in threads]\n"
                "print(len([f for f in os.listdir('/shared') if f.startswith('many-' + sys.argv[1])]))\n")
        running = [subprocess.Popen([BED, "exec", "--name", NAME, str(node), "--", "python3", "-c",
                                     work, str(node)], stdin=subprocess.DEVNULL,
                                    stdout=subprocess.PIPE, text=True) for node in (1, 2)]
        outputs = [process.communicate(timeout=300)[0] for process in running]
        self.assertEqual(outputs, ["0\n", "0\n"])
        status = json.loads(bed("status", "--json").stdout)
        self.assertEqual([node["shared"] for node in status["node"]], [True, True])

    def test_rdma_write_between_the_nodes(self):
        server = subprocess.Popen([BED, "exec", "--name", NAME, "1", "--", "timeout", "60",
                                   "ib_write_bw", "-d", "rxe0", "-D", "2"],
                                  stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        self.addCleanup(server.wait)
        execute(1, "sh", "-c", "for i in $(seq 100); do ss -Hltn sport = :18515 | grep -q . && "
                               "exit 0; sleep 0.1; done; exit 1")
        shown = output(2, "timeout", "60", "ib_write_bw", "-d", "rxe0", "-D", "2", "node1")
        rates = [line.split() for line in shown.splitlines() if line.split()[:1] == ["65536"]]
        self.assertEqual(len(rates), 1, shown)
        self.assertGreater(float(rates[0][3]), 0)
        print(f"ib_write_bw: {rates[0][3]} MB/s", file=sys.stderr)

    def test_a_cut_link_cuts_both_directions_but_not_exec(self):
        self.addCleanup(bed, "link", "node1", "up")
        bed("link", "node1", "down")
        self.assertNotEqual(execute(1, "ping", "-c", "1", "-W", "1", "node2", check=False).returncode,
                            0)
        self.assertNotEqual(execute(2, "ping", "-c", "1", "-W", "1", "node1", check=False).returncode,
                            0)
        self.assertEqual(json.loads(bed("status", "--json").stdout)["node"][0]["link"], "down")
        bed("link", "node1", "up")
        for node, other in ((1, "node2"), (2, "node1")):
            # Several tries: a neighbour entry that failed during the cut answers the first.
            execute(node, "sh", "-c", f"for i in $(seq 10); do ping -c 1 -W 2 {other} && exit; "
                                      "sleep 0.5; done; exit 1")

    def test_power_off_keeps_what_was_flushed(self):
        execute(2, "sh", "-c", "echo kept >/var/lib/starling/kept && sync /var/lib/starling/kept; "
                               "echo gone >/tmp/gone")
        bed("power-off", "node2")
        status = json.loads(bed("status", "--json").stdout)
        self.assertEqual([node["running"] for node in status["node"]], [True, False])
        off = execute(2, "true", check=False)
        self.assertEqual(off.returncode, 1)
        self.assertIn("node2 is off", off.stderr)
        execute(1, "true")
        bed("boot", "node2")
        self.assertEqual(output(2, "cat", "/var/lib/starling/kept"), "kept")
        self.assertNotEqual(execute(2, "test", "-e", "/tmp/gone", check=False).returncode, 0)
        execute(1, "sh", "-c", "for i in $(seq 10); do ping -c 1 -W 2 node2 && exit; done; exit 1")


class OneNode(unittest.TestCase):
    """Beds of one node each, for what changes or ends the bed."""

    def test_the_agent_is_kept_running(self):
        build = tempfile.mkdtemp(dir=os.path.join(CHECKOUT, "build"))
        os.mkdir(f"{build}/bin")
        self.addCleanup(subprocess.run, ["rm", "-r", build], check=True)
        with open(f"{build}/bin/starlingd", "w", encoding="ascii") as out:
            out.write('#!/bin/sh\necho "agent with $*"\nexec sleep 1000\n')
        os.chmod(f"{build}/bin/starlingd", 0o755)
        self.addCleanup(bed, "down", check=False)
        bed("up", "--nodes", "1", "--kernel", KERNEL, "--build", build)

        def status():
            return bed("agent", "1", "status").stdout.split()

        def running(old=None):
            deadline = time.monotonic() + 30
            while time.monotonic() < deadline:
                now = status()
                if now[0] == "running" and now[1] != old:
                    return now[1]
                time.sleep(0.2)
            self.fail(f"the agent is {status()}")

        first = running()
        execute(1, "kill", "-9", first)
        second = running(first)
        self.assertNotEqual(first, second)
        bed("agent", "1", "stop")
        self.assertEqual(status(), ["stopped"])
        self.assertNotEqual(execute(1, "test", "-e", f"/proc/{second}", check=False).returncode, 0)
        time.sleep(2.5)
        self.assertEqual(status(), ["stopped"])
        bed("agent", "1", "start")
        third = running()
        bed("agent", "1", "restart")
        self.assertNotEqual(third, running())
        self.assertIn("agent with --config /etc/starling/starlingd.toml",
                      bed("logs", "node1").stdout)
        self.assertEqual(output(1, "sh", "-c", "command -v starlingd"), f"{build}/bin/starlingd")

    def test_two_beds_do_not_collide(self):
        names = [f"{NAME}-a", f"{NAME}-b"]
        for name in names:
            self.addCleanup(bed, "down", name=name, check=False)
        ups = [subprocess.Popen([BED, "up", "--name", name, "--nodes", "1", "--kernel", KERNEL],
                                stderr=subprocess.DEVNULL) for name in names]
        self.assertEqual([up.wait(timeout=400) for up in ups], [0, 0])
        for name in names:
            execute(1, "sh", "-c", f"echo {name} >/shared/name", name=name)
        for name in names:
            self.assertEqual(output(1, "cat", "/shared/name", name=name), name)
        bed("down", name=names[0])
        self.assertEqual(traces(names[0]), [])
        self.assertEqual(output(1, "cat", "/shared/name", name=names[1]), names[1])
        bed("client", "--", "ping", "-c", "1", "-W", "5", "10.77.0.1", name=names[1])
        bed("down", name=names[1])
        self.assertEqual(traces(names[1]), [])

    def test_down_leaves_nothing(self):
        self.addCleanup(bed, "down", check=False)
        bed("up", "--nodes", "1", "--kernel", KERNEL)
        self.assertNotEqual(traces(NAME), [])  # or this test could not fail
        client = subprocess.Popen([BED, "client", "--name", NAME, "--", "sleep", "1000"])
        execution = subprocess.Popen([BED, "exec", "--name", NAME, "1", "--", "sleep", "1000"],
                                     stderr=subprocess.DEVNULL)
        time.sleep(1)
        bed("down")
        self.assertEqual(client.wait(timeout=10), -signal.SIGKILL)
        self.assertEqual(execution.wait(timeout=10), 255)
        self.assertEqual(traces(NAME), [])
        bed("down")  # again: no harm

    def interrupted_up(self, delay, number):
        up = subprocess.Popen([BED, "up", "--name", NAME, "--kernel", KERNEL],
                              stderr=subprocess.PIPE, text=True, start_new_session=True)
        time.sleep(delay)
        # As a terminal does it: to the whole foreground group.
        os.killpg(up.pid, number)
        _, errors = up.communicate(timeout=60)
        return up.returncode, errors

    def test_interrupting_up_leaves_nothing(self):
        self.addCleanup(bed, "down", check=False)
        for delay, number in ((0.3, signal.SIGINT), (1.5, signal.SIGINT), (4, signal.SIGTERM)):
            with self.subTest(delay=delay, signal=number):
                code, errors = self.interrupted_up(delay, number)
                self.assertEqual(code, 128 + number, errors)
                self.assertEqual(traces(NAME), [])

    def test_killing_up_and_then_down_leaves_nothing(self):
        self.addCleanup(bed, "down", check=False)
        for delay in (0.12, 0.2, 0.3, 0.5, 0.8, 4):
            with self.subTest(delay=delay):
                self.interrupted_up(delay, signal.SIGKILL)
                bed("down")
                self.assertEqual(traces(NAME), [])
        # And `up` itself copes with what a killed one left.
        self.interrupted_up(2, signal.SIGKILL)
        bed("up", "--nodes", "1", "--kernel", KERNEL)
        execute(1, "true")
        bed("down")
        self.assertEqual(traces(NAME), [])

    def test_down_ends_a_running_up(self):
        up = subprocess.Popen([BED, "up", "--name", NAME, "--kernel", KERNEL],
                              stderr=subprocess.DEVNULL)
        time.sleep(2)
        bed("down")
        self.assertEqual(up.wait(timeout=10), -signal.SIGKILL)
        self.assertEqual(traces(NAME), [])


if __name__ == "__main__":
    unittest.main(verbosity=2)
