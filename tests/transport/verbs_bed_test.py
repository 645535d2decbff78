#!/usr/bin/python3
"""The verbs provider between two guests with SoftRoCE: content, refusals, and peers that vanish.

Needs root (or sudo), QEMU and the guest kernels. usage: verbs_bed_test.py FABRIC_CHECK
Environment: STARLING_BED_KERNEL is the guests' kernel series (default 6.12); STARLING_BED_NAME a bed
of this checkout that is up already and is used instead of one of our own.
"""

import os
import re
import subprocess
import sys
import time
import unittest

CHECKOUT = os.path.realpath(os.path.join(os.path.dirname(__file__), "..", ".."))
BED = os.path.join(CHECKOUT, "tools", "bed")
KERNEL = os.environ.get("STARLING_BED_KERNEL", "6.12")
GIVEN = os.environ.get("STARLING_BED_NAME")
NAME = GIVEN or f"verbs-{os.getpid()}"
FABRIC_CHECK = ""

# How long an operation may take before fabric_check gives it up, and how much later at most its
# process has to have ended. Generous, since emulated guests on a busy machine are slow.
TIMEOUT_S = 20
GRACE_S = 40


def bed(command, *arguments, check=True):
    done = subprocess.run([BED, command, "--name", NAME, *arguments], stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
                          timeout=400)
    if check and done.returncode != 0:
        raise AssertionError(f"bed {command} {arguments} ended with {done.returncode}: {done.stdout}")
    return done


def start(node, *command):
    return subprocess.Popen([BED, "exec", "--name", NAME, f"node{node}", "--", *command],
                            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                            stderr=subprocess.STDOUT, text=True)


class VerbsBedTest(unittest.TestCase):
    port = 7500

    @classmethod
    def setUpClass(cls):
        if not GIVEN:
            cls.addClassCleanup(bed, "down", check=False)
            bed("up", "--kernel", KERNEL)

    def setUp(self):
        VerbsBedTest.port += 1

    def check(self, node, *arguments):
        """Starts fabric_check in a guest; it is ended with the test."""
        process = start(node, FABRIC_CHECK, "--timeout", str(TIMEOUT_S), *arguments)

        def end():
            process.kill()
            process.wait()
            process.stdout.close()
        self.addCleanup(end)
        return process

    def listen(self):
        process = self.check(2, "listen", "--address", "10.77.0.2", "--port", str(self.port))
        line = process.stdout.readline()
        self.assertIn("listening on 10.77.0.2", line)
        return process

    def connect(self, *arguments):
        return self.check(1, "connect", "--address", "10.77.0.2", "--port", str(self.port),
                          *arguments)

    def start_until_loss(self):
        """A sender that has begun to write and goes on until its peer is lost."""
        sender = self.connect("--mib", "8", "--queue-pairs", "2", "--until-loss")
        for line in sender.stdout:
            if "writing until" in line:
                break
        time.sleep(3)
        self.assertIsNone(sender.poll(), "the sender ended while its peer was there")
        return sender

    def expect_loss_noticed(self, sender):
        started = time.monotonic()
        output, _ = sender.communicate(timeout=TIMEOUT_S + GRACE_S)
        print(f"\n  noticed {time.monotonic() - started:.1f} s after: {output.strip()}", flush=True)
        self.assertEqual(sender.returncode, 0, output)
        self.assertRegex(output, r"lost after \d+ passes")
        # Who, with whom, on which queue pair.
        self.assertRegex(output, r"10\.77\.0\.1:\d+ -> 10\.77\.0\.2:\d+ \(rxe0, queue pair \d+\)")

    def test_content_arrives(self):
        for queue_pairs in (1, 2):
            with self.subTest(queue_pairs=queue_pairs):
                VerbsBedTest.port += 1
                self.listen()
                sender = self.connect("--mib", "32", "--queue-pairs", str(queue_pairs))
                output, _ = sender.communicate(timeout=300)
                print("\n  " + output.strip().replace("\n", "\n  "), flush=True)
                self.assertEqual(sender.returncode, 0, output)
                self.assertEqual(len(re.findall("content arrived as sent", output)), 2)

    def test_contract(self):
        """What every provider promises, of the device with itself."""
        program = os.path.join(os.path.dirname(VERBS_CHECK), "fabric_contract_test")
        done = bed("exec", "node1", "--", "env", "STARLING_CONTRACT_VERBS=10.77.0.1", program,
                   "--gtest_filter=*/verbs", check=False)
        self.assertEqual(done.returncode, 0, done.stdout)
        self.assertRegex(done.stdout, r"\[  PASSED  \] 1\d tests")

    def test_small_slabs(self):
        # Many messages: credit has to come back again and again.
        self.listen()
        sender = self.connect("--mib", "4", "--slab-kib", "4", "--slabs", "256")
        output, _ = sender.communicate(timeout=300)
        self.assertEqual(sender.returncode, 0, output)
        self.assertEqual(len(re.findall("content arrived as sent", output)), 2)

    def test_nobody_listens(self):
        sender = self.connect("--mib", "1")
        output, _ = sender.communicate(timeout=TIMEOUT_S + GRACE_S)
        self.assertEqual(sender.returncode, 1)
        self.assertIn("nobody listens there", output)

    def test_attributes(self):
        self.listen()
        sender = self.connect("--mib", "1", "--verbose")
        output, _ = sender.communicate(timeout=300)
        self.assertEqual(sender.returncode, 0, output)
        self.assertRegex(output, "path MTU 4096, GID [0-9]+, timeout 18, retries 7, RNR retries 7, "
                                 "min RNR timer 12")

    def test_peer_killed(self):
        receiver = self.listen()
        sender = self.start_until_loss()
        pid = bed("exec", "node2", "--", "pidof", "fabric_check").stdout.strip()
        self.assertRegex(pid, r"^\d+$")
        bed("exec", "node2", "--", "kill", "-9", pid)
        self.expect_loss_noticed(sender)
        receiver.wait(timeout=GRACE_S)

    def test_sender_killed(self):
        receiver = self.listen()
        self.start_until_loss()
        pid = bed("exec", "node1", "--", "pidof", "fabric_check").stdout.strip()
        bed("exec", "node1", "--", "kill", "-9", pid)
        output, _ = receiver.communicate(timeout=TIMEOUT_S + GRACE_S)
        self.assertEqual(receiver.returncode, 0, output)
        self.assertIn("UNAVAILABLE", output)

    def test_link_cut(self):
        self.listen()
        sender = self.start_until_loss()
        self.addCleanup(bed, "link", "node2", "up")
        bed("link", "node2", "down")
        self.expect_loss_noticed(sender)

    def test_short_cuts(self):
        """A link that comes back within the deadline costs time, nothing else."""
        self.listen()
        sender = self.connect("--mib", "192", "--queue-pairs", "2")
        seen = ""
        for line in sender.stdout:
            seen += line
            if "message there and back" in line:
                break
        self.addCleanup(bed, "link", "node2", "up")
        cuts = 0
        while sender.poll() is None and cuts < 4:
            bed("link", "node2", "down")
            time.sleep(3)
            bed("link", "node2", "up")
            cuts += 1
            time.sleep(5)
        output, _ = sender.communicate(timeout=400)
        output = seen + output
        print(f"\n  {cuts} cuts: {output.strip()}", flush=True)
        self.assertEqual(sender.returncode, 0, output)
        self.assertEqual(len(re.findall("content arrived as sent", output)), 2)

    def test_zz_power_off(self):
        self.listen()
        sender = self.start_until_loss()
        bed("power-off", "node2")
        self.addCleanup(bed, "boot", "node2")
        self.expect_loss_noticed(sender)


if __name__ == "__main__":
    if len(sys.argv) < 2 or not os.access(sys.argv[1], os.X_OK):
        sys.exit(__doc__)
    FABRIC_CHECK = os.path.realpath(sys.argv.pop(1))
    unittest.main(verbosity=2)
