#!/usr/bin/python3
"""The workload programs of the end-to-end tests, where they do not move: the witness finds them
flawless, and what they say of their state is reproducible.

usage: workloads_test.py FOLDER-OF-BINARIES
"""

import contextlib
import faulthandler
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import unittest

CHECKOUT = os.path.realpath(os.path.join(os.path.dirname(__file__), "..", ".."))
WORKLOADS = os.path.join(CHECKOUT, "tests", "e2e", "workloads")
BINARIES = ""
HANGS_S = 240


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def connect(port):
    deadline = time.monotonic() + 30
    while True:
        try:
            return socket.create_connection(("127.0.0.1", port), timeout=30)
        except ConnectionRefusedError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


@contextlib.contextmanager
def running(*command):
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=30)


def ask(port, line):
    """One line of an inline command; the line or the bulk string that answers it."""
    with connect(port) as connection, connection.makefile("rb") as stream:
        connection.sendall(line + b"\n")
        answer = stream.readline()
        if answer.startswith(b"$"):
            answer = stream.read(int(answer[1:]))
        return answer.decode().strip()


class WorkloadsTest(unittest.TestCase):
    def setUp(self):
        scratch = tempfile.TemporaryDirectory()
        self.addCleanup(scratch.cleanup)
        self.folder = scratch.name
        self.port = free_port()

    def watch(self, *options):
        """Has the witness look at the workload for a second; returns its report."""
        report = os.path.join(self.folder, "witness.json")
        done = subprocess.run(
            [os.path.join(BINARIES, "starling-witness"), "--connect", f"127.0.0.1:{self.port}",
             "--duration", "1", "--warmup", "0.2", "--rate", "50", "--json", report, *options],
            capture_output=True, text=True, check=False, timeout=120)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        with open(report, encoding="utf-8") as source:
            seen = json.load(source)
        self.assertGreater(seen["answers"], 0)
        return seen

    def test_the_process_family_keeps_one_state_in_three_processes(self):
        program = os.path.join(WORKLOADS, "process_family.py")
        digests = []
        for _ in range(2):
            self.port = free_port()
            with running(program, str(self.port)):
                for number in range(20):
                    self.assertEqual(ask(self.port, b"SET k%d v%d" % (number, number)), "+OK")
                digests.append(json.loads(ask(self.port, b"DIGEST")))
        first, second = digests
        self.assertEqual(first["chains"]["child"], first["chains"]["grandchild"])
        self.assertEqual(first["keys"], 20)
        self.assertEqual(len(set(first["pids"].values())), 3)
        for digest in digests:
            del digest["pids"]
        self.assertEqual(first, second)

    def test_the_process_family_is_flawless(self):
        with running(os.path.join(WORKLOADS, "process_family.py"), str(self.port)):
            self.watch("--keys", "100")

    def test_the_sqlite_writer_keeps_every_acknowledged_row(self):
        database = os.path.join(self.folder, "rows.db")
        program = os.path.join(WORKLOADS, "sqlite_writer.py")
        with running(program, str(self.port), database):
            seen = self.watch("--keys", "50", "--value-size", "200")
            before = json.loads(ask(self.port, b"DIGEST"))
        self.assertEqual(before["rows"], seen["writes_acknowledged"])
        self.assertTrue(before["gapless"])
        self.assertEqual(before["integrity"], "ok")
        # A new process answers from the file alone.
        self.port = free_port()
        with running(program, str(self.port), database):
            self.assertEqual(json.loads(ask(self.port, b"DIGEST")), before)

    def test_nginx_serves_what_the_witness_expects(self):
        site = os.path.join(self.folder, "site")
        made = subprocess.run(
            [os.path.join(WORKLOADS, "nginx_site.py"), site, "--port", str(self.port), "--witness",
             os.path.join(BINARIES, "starling-witness"), "--keys", "20", "--value-size", "5000"],
            capture_output=True, text=True, check=True)
        options = ("--protocol", "http", "--keys", "20", "--value-size", "5000")
        with running(*made.stdout.split()):
            self.watch(*options)
            with open(os.path.join(site, "www", "k00000007"), "r+b") as target:
                target.seek(4000)
                target.write(b"spoilt")
            with self.assertRaises(AssertionError, msg="the witness missed a spoilt file"):
                self.watch(*options)

    def test_the_memory_hog_can_be_worked_out_from_its_steps(self):
        hog = os.path.join(BINARIES, "starling-memhog")
        with running(hog, "--mib", "8", "--seed", "3", "--rate", "20000", "--listen",
                     str(self.port)):
            ask(self.port, b"digest")
            time.sleep(0.3)
            steps, digest = ask(self.port, b"digest").split()
        self.assertGreater(int(steps), 0)
        expected = subprocess.run([hog, "--mib", "8", "--seed", "3", "--expect", steps],
                                  capture_output=True, text=True, check=True).stdout.split()
        self.assertEqual([steps, digest], expected)
        other = subprocess.run([hog, "--mib", "8", "--seed", "4", "--expect", steps],
                               capture_output=True, text=True, check=True).stdout.split()
        self.assertNotEqual(digest, other[1])


class ShapesTest(unittest.TestCase):
    """What the shapes say of themselves; huge pages are not everywhere."""

    def shape(self, name):
        port = free_port()
        process = self.enterContext(
            running(os.path.join(BINARIES, "starling-shapes"), name, "--listen", str(port)))
        connection = self.enterContext(connect(port))
        return process, self.enterContext(connection.makefile("rwb"))

    @staticmethod
    def ask(stream, line):
        stream.write(line.encode() + b"\n")
        stream.flush()
        return stream.readline().decode().strip()

    def steps(self, stream):
        steps, said = self.ask(stream, "check").split(" ", 1)
        self.assertEqual(said, "ok")
        return int(steps)

    def test_they_are_what_they_have_to_be_while_they_write(self):
        for name in ("threads", "shared", "churn", "sparse"):
            with self.subTest(name):
                _, stream = self.shape(name)
                deadline = time.monotonic() + 120
                while self.steps(stream) < 100:
                    self.assertLess(time.monotonic(), deadline)
                    time.sleep(0.1)
                paused = self.ask(stream, "pause")
                digest = self.ask(stream, "digest")
                self.assertEqual(digest.split()[0], paused)
                self.assertEqual(self.ask(stream, "digest"), digest)
                self.ask(stream, "resume")
                while self.steps(stream) == int(paused):
                    self.assertLess(time.monotonic(), deadline)

    def test_a_page_that_was_lost_is_found(self):
        process, stream = self.shape("sparse")
        self.steps(stream)
        self.ask(stream, "pause")
        with open(f"/proc/{process.pid}/maps", encoding="ascii") as maps:
            spans = [[int(word, 16) for word in line.split()[0].split("-")] for line in maps]
        start, _ = max(spans, key=lambda span: span[1] - span[0])
        with open(f"/proc/{process.pid}/mem", "r+b", buffering=0) as memory:
            memory.seek(start)
            memory.write(bytes(4096))
        self.assertIn("touched page 0", self.ask(stream, "check"))


class HeartbeatTest(unittest.TestCase):
    def beat(self, *command):
        port = free_port()
        return subprocess.run(
            [os.path.join(BINARIES, "starling-heartbeat"), "--to", f"127.0.0.1:{port}", "--",
             *command], capture_output=True, text=True, check=False, timeout=60)

    def test_it_ends_with_the_status_of_its_command(self):
        self.assertEqual(self.beat("true").returncode, 0)
        self.assertEqual(self.beat("sh", "-c", "exit 7").returncode, 7)
        self.assertEqual(self.beat("sh", "-c", "kill -9 $$").returncode, 128 + 9)
        self.assertEqual(self.beat("/no/such/command").returncode, 127)

    def test_it_hands_signals_on(self):
        with subprocess.Popen(
                [os.path.join(BINARIES, "starling-heartbeat"), "--to", "127.0.0.1:9", "--", "sh",
                 "-c", "trap 'exit 5' TERM; echo up; while :; do sleep 0.05; done"],
                stdout=subprocess.PIPE, text=True) as process:
            self.assertEqual(process.stdout.readline(), "up\n")
            process.terminate()
            self.assertEqual(process.wait(timeout=30), 5)

    def test_bad_usage_is_named(self):
        for arguments in (["--to", "nowhere"], ["--to", "1.2.3.4:5", "--every", "3days"],
                          ["--to", "1.2.3.4:5", "--"], []):
            done = subprocess.run([os.path.join(BINARIES, "starling-heartbeat"), *arguments],
                                  capture_output=True, text=True, check=False, timeout=30)
            self.assertEqual(done.returncode, 64, arguments)
            self.assertIn("usage:", done.stderr)


if __name__ == "__main__":
    faulthandler.dump_traceback_later(HANGS_S, exit=True)  # a hang is to say where
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    BINARIES = os.path.realpath(sys.argv.pop(1))
    unittest.main()
