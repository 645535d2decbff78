#!/usr/bin/python3
"""Moves components between two nodes of a bed by their keepers alone, and breaks it in the middle.

usage: keeper_test.py [--build DIR] [--kernel 6.12|6.1] [--bed PROGRAM] [TEST...]
"""

import argparse
import json
import os
import re
import subprocess
import sys
import time
import unittest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
OPTIONS = argparse.Namespace(
    bed=os.path.join(ROOT, "tools", "bed"), build=os.path.join(ROOT, "build", "release"),
    kernel="6.12", name="keeper-test")
REDIS = ["--ip", "10.77.0.60/24", "--mac", "52:54:00:aa:00:3c", "--user", "redis", "--",
         "/usr/bin/redis-server", "--port", "7777", "--bind", "0.0.0.0", "--protected-mode", "no",
         "--save", "", "--dir", "/"]


def bed(*arguments, check=True, **keywords):
    command = [OPTIONS.bed, arguments[0], "--name", OPTIONS.name, *arguments[1:]]
    done = subprocess.run(command, capture_output=True, text=True, **keywords)
    if check and done.returncode != 0:
        raise AssertionError(f"{' '.join(command)} ended with {done.returncode}:\n"
                             f"{done.stdout}{done.stderr}")
    return done


def on(node, *command, check=True, timeout=180):
    return bed("exec", node, "--", *command, check=check, timeout=timeout)


def tool(node, *arguments, check=True):
    return on(node, os.path.join(OPTIONS.build, "tests", "keeper_tool"), *arguments, check=check)


def status(node, *arguments):
    """The keeper's status as a dictionary of its plain fields."""
    text = tool(node, "status", *arguments).stdout
    return dict(re.findall(r"^(\w+): \"?([^\"\n]*)\"?$", text, re.M))


def setUpModule():
    bed("up", "--kernel", OPTIONS.kernel, "--build", OPTIONS.build, timeout=300)


def tearDownModule():
    bed("down", timeout=120)


class Counter:
    """A client outside of the guests with one connection that must not break."""

    def __init__(self):
        self.process = subprocess.Popen(
            [OPTIONS.bed, "client", "--name", OPTIONS.name, "--", sys.executable,
             os.path.join(ROOT, "tests", "e2e", "redis_counter.py"), "10.77.0.60", "7777"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        if self.process.stdout.readline() != "connected\n":
            raise AssertionError("the client could not connect")

    def end(self):
        output, _ = self.process.communicate("\n", timeout=200)
        return json.loads(output)


class KeeperTest(unittest.TestCase):
    def tearDown(self):
        for node in ("node1", "node2"):
            for migration in ("", "m1", "m2"):
                flag = ["--migration", migration] if migration else []
                tool(node, "quit", *flag, check=False)
            # Nothing of a component is left: no process, no group, no device.
            left = on(node, "sh", "-c",
                      "pgrep -a 'starling-(keeper|init)'; ls -d /sys/fs/cgroup/starling/*/; "
                      "ls /run/starling-keeper-test/keepers; ip -o link show type macvlan",
                      check=False).stdout
            self.assertEqual(left, "", f"left on {node}")
            on(node, "rm", "-rf", "/tmp/starling-keeper-test", "/dev/shm/starling-keeper-test")
        on("node1", "rm", "-rf", "/shared/keeper-test")

    def start(self, *arguments):
        on("node1", "mkdir", "-p", "/shared/keeper-test")
        on("node1", "chmod", "777", "/shared/keeper-test")
        tool("node1", "run", *arguments)

    def start_redis(self):
        self.start(*REDIS)
        for _ in range(100):
            if bed("client", "--", "redis-cli", "-h", "10.77.0.60", "-p", "7777", "ping",
                   check=False).stdout == "PONG\n":
                return
            time.sleep(0.1)
        self.fail("redis does not answer")

    def move(self, source, target, old, new, arguments):
        """As an agent would: the old copy goes behind its fence before the new one may run."""
        old = ["--migration", old] if old else []
        images = "/shared/keeper-test/images-" + new
        print(tool(source, "dump", "--images", images, *old).stdout, end="")
        print(tool(target, "restore", "--images", images, "--migration", new, "--epoch", "2",
                   *arguments).stdout, end="")
        held = status(target, "--migration", new)
        self.assertEqual((held["phase"], held["frozen"], held["fenced"]), ("LIVE", "true", "true"))
        silent = bed("client", "--", "ping", "-c", "2", "-i", "0.2", "-W", "1", "10.77.0.60",
                     check=False)
        self.assertNotEqual(silent.returncode, 0, "a held component answered")
        tool(source, "kill", *old)
        self.assertEqual(status(source, *old)["phase"], "EXITED")
        tool(source, "quit", *old)
        print(tool(target, "release", "--migration", new).stdout, end="")

    def test_a_redis_moves_there_and_back_under_its_client(self):
        self.start_redis()
        client = Counter()
        try:
            self.move("node1", "node2", "", "m1", REDIS)
            time.sleep(1)
            self.move("node2", "node1", "m1", "m2", REDIS)
            time.sleep(1)
        finally:
            seen = client.end()
        print(seen)
        self.assertIsNone(seen["error"])
        self.assertGreater(seen["acknowledged"], 100)
        self.assertEqual(seen["acknowledged"], seen["value"])
        tool("node1", "stop", "--migration", "m2")
        ended = status("node1", "--migration", "m2")
        self.assertEqual((ended["phase"], ended.get("exit_status", "0")), ("EXITED", "0"))

    def test_the_tree_stays_whole_and_its_status_is_carried(self):
        said = "/shared/keeper-test/said"
        component = [os.path.join(OPTIONS.build, "tests", "test_component")]
        command = ["--ip", "10.77.0.60/24", "--mac", "52:54:00:aa:00:3c", "--user", "nobody", "--",
                   *component, "spawner", said]
        self.start(*command)

        def spawn(node, *flags, signal="USR1"):
            """Lets the component leave a daemon behind; the pid of the daemon's parent."""
            on(node, "sh", "-c", f"echo >{said}; kill -{signal} $1", "sh",
               status(node, *flags)["root_pid"])
            for _ in range(100):
                words = on(node, "cat", said).stdout.split()
                if len(words) == 2:
                    return words[1]
                time.sleep(0.1)
            self.fail("no daemon came")

        def family(node, *flags):
            """Of each process, as the component counts: pid, its parent's, its group's and session's."""
            pids = on(node, "cat", status(node, *flags)["cgroup"] + "/cgroup.procs").stdout
            known, rows = {}, []
            for pid in pids.split():
                text = on(node, "cat", f"/proc/{pid}/status").stdout
                fields = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
                inside = [fields[key].split()[-1] for key in ("NSpid", "NSpgid", "NSsid")]
                known[pid] = inside[0]
                rows.append((inside[0], fields["PPid"].strip(), *inside[1:]))
            return sorted((pid, known.get(parent, "outside"), *rest) for pid, parent, *rest in rows)

        root = status("node1")["root_pid_inside"]
        self.assertEqual(spawn("node1"), root)
        self.assertEqual(spawn("node1", signal="USR2"), root)
        before = family("node1")
        self.assertEqual(len(before), 5)
        self.move("node1", "node2", "", "m1", command)
        here = status("node2", "--migration", "m1")
        self.assertEqual(here["root_pid_inside"], root)
        # CRIU 3.17 gives what lost its session's leader to the first process of the namespace, where
        # the root is no subreaper when it should take it over: it was not in the tree any more.
        self.assertEqual(family("node2", "--migration", "m1"), before)
        # A daemon made after the move belongs to the tree as well.
        self.assertEqual(spawn("node2", "--migration", "m1"), root)
        # And its number is none that CRIU needs at the next target.
        inside = int(on("node2", "cat", said).stdout.split()[0])
        self.assertGreater(inside, 1000)
        # All of it moves on.
        before = family("node2", "--migration", "m1")
        self.assertEqual(len(before), 6)
        self.move("node2", "node1", "m1", "m2", command)
        self.assertEqual(family("node1", "--migration", "m2"), before)
        tool("node1", "stop", "--migration", "m2")
        self.assertEqual(status("node1", "--migration", "m2")["exit_status"], str(128 + 15))

    def test_a_killed_keeper_takes_the_restored_component_with_it(self):
        self.start_redis()
        self.move("node1", "node2", "", "m1", REDIS)
        here = status("node2", "--migration", "m1")
        on("node2", "kill", "-9", here["keeper_pid"])
        for _ in range(50):
            if "populated 0" in on("node2", "cat", here["cgroup"] + "/cgroup.events").stdout:
                break
            time.sleep(0.1)
        else:
            self.fail("the component outlived its keeper")
        on("node2", "sh", "-c", "rmdir /sys/fs/cgroup/starling/t@m1; "
           "rm /run/starling-keeper-test/keepers/t@m1.sock")

    def test_a_dump_that_is_broken_off_leaves_the_tree_held_and_whole(self):
        self.start_redis()
        client = Counter()
        try:
            for end in (["cancel"], ["kill"]):
                stalled = subprocess.Popen(
                    [OPTIONS.bed, "exec", "--name", OPTIONS.name, "node1", "--",
                     os.path.join(OPTIONS.build, "tests", "keeper_tool"), "stall"],
                    stdout=subprocess.PIPE, text=True)
                for _ in range(200):
                    if on("node1", "pgrep", "-x", "criu", check=False).returncode == 0:
                        break
                    time.sleep(0.1)
                time.sleep(2)  # into the dump
                refused = tool("node1", "thaw", check=False)
                self.assertIn("FAILED_PRECONDITION", refused.stderr)
                if end == ["cancel"]:
                    tool("node1", "cancel")
                else:
                    on("node1", "pkill", "-9", "-x", "criu")
                output = stalled.communicate(timeout=60)[0]
                self.assertIn("dump: " + ("ABORTED" if end == ["cancel"] else "UNAVAILABLE"), output)
                self.assertIn("frozen: true", output)
                self.assertIn("fenced: true", output)
                tool("node1", "release")
        finally:
            seen = client.end()
        print(seen)
        self.assertIsNone(seen["error"])
        self.assertEqual(seen["acknowledged"], seen["value"])

    def test_a_restore_that_fails_leaves_nothing_running(self):
        self.start_redis()
        images = "/shared/keeper-test/images-m1"
        tool("node1", "dump", "--images", images)
        on("node1", "sh", "-c", f"cp -r {images} {images}-bad; "
           f"for f in {images}-bad/pages-*.img; do truncate -s 4096 $f; done")
        failed = tool("node2", "restore", "--images", images + "-bad", "--migration", "m1", *REDIS,
                      check=False)
        self.assertEqual(failed.returncode, 1)
        self.assertIn("restore", failed.stderr)
        here = status("node2", "--migration", "m1")
        self.assertEqual((here["phase"], here["fenced"]), ("EMPTY", "true"))
        self.assertIn("populated 0", on("node2", "cat", here["cgroup"] + "/cgroup.events").stdout)
        tool("node2", "quit", "--migration", "m1")
        # The source was only held.
        tool("node1", "release")
        self.assertEqual(bed("client", "--", "redis-cli", "-h", "10.77.0.60", "-p", "7777",
                             "ping").stdout, "PONG\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--build", default=OPTIONS.build)
    parser.add_argument("--kernel", default=OPTIONS.kernel)
    parser.add_argument("--bed", default=OPTIONS.bed)
    parser.add_argument("--name", default=OPTIONS.name)
    parser.parse_known_args(namespace=OPTIONS)
    rest = parser.parse_known_args()[1]
    OPTIONS.build = os.path.abspath(OPTIONS.build)
    unittest.main(argv=[sys.argv[0], "-v", *rest])


if __name__ == "__main__":
    main()
