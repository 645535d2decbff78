#!/usr/bin/python3
"""RoCEv2 in user space in one guest against SoftRoCE in the other, in both directions.

Needs root (or sudo), QEMU, the guest kernels and a build with DPDK. usage: roce_bed_test.py FABRIC_CHECK
Environment: STARLING_BED_KERNEL is the guests' kernel series (default 6.12); STARLING_BED_NAME a bed
of this checkout that is up already and is used instead of one of our own; STARLING_ROCE_MIB how much
each transfer carries (default 32; the full size is 1024).
"""

import os
import re
import subprocess
import sys
import unittest

CHECKOUT = os.path.realpath(os.path.join(os.path.dirname(__file__), "..", ".."))
BED = os.path.join(CHECKOUT, "tools", "bed")
KERNEL = os.environ.get("STARLING_BED_KERNEL", "6.12")
GIVEN = os.environ.get("STARLING_BED_NAME")
NAME = GIVEN or f"roce-{os.getpid()}"
MIB = int(os.environ.get("STARLING_ROCE_MIB", "32"))
FABRIC_CHECK = ""
TIMEOUT_S = 60  # of one operation: emulated guests on a busy machine are slow

OURS = ("--provider", "roce", "--roce-port", "af_packet:eth0", "--roce-ip", "10.77.0.101")
KERNELS = ("--provider", "verbs", "--introduce")
# 1 % loss, 1 % reordering, 0.1 % duplication.
FAULTS = ("limit", "10000", "delay", "1ms", "loss", "1%", "reorder", "1%", "duplicate", "0.1%")


def bed(command, *arguments, check=True):
    done = subprocess.run([BED, command, "--name", NAME, *arguments], stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
                          timeout=400)
    if check and done.returncode != 0:
        raise AssertionError(f"bed {command} {arguments} ended with {done.returncode}: {done.stdout}")
    return done


class RoceBedTest(unittest.TestCase):
    port = 7700

    @classmethod
    def setUpClass(cls):
        if not GIVEN:
            cls.addClassCleanup(bed, "down", check=False)
            bed("up", "--kernel", KERNEL)

    def start(self, node, *arguments):
        process = subprocess.Popen([BED, "exec", "--name", NAME, f"node{node}", "--", FABRIC_CHECK,
                                    "--timeout", str(TIMEOUT_S), "--verbose", *arguments],
                                   stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                   stderr=subprocess.STDOUT, text=True)

        def end():
            process.kill()
            process.wait()
            process.stdout.close()
        self.addCleanup(end)
        return process

    def transfer(self, sender_is_ours, *more):
        """Ours is in node 1, the kernel's in node 2."""
        RoceBedTest.port += 1
        sides = {1: OURS, 2: KERNELS}
        sender, receiver = (1, 2) if sender_is_ours else (2, 1)
        address = ("--address", f"10.77.0.{receiver}", "--port", str(self.port))
        listening = self.start(receiver, "listen", *sides[receiver], *address)
        seen = ""
        for line in listening.stdout:
            seen += line
            if "listening on" in line:
                break
        else:
            self.fail(seen)
        sending = self.start(sender, "connect", *sides[sender], *address, "--mib", str(MIB),
                             "--pings", "50", *more)
        output, _ = sending.communicate(timeout=3000)
        if sending.returncode != 0:
            listening.terminate()
        heard, _ = listening.communicate(timeout=TIMEOUT_S)
        print("\n  " + output.strip().replace("\n", "\n  "), flush=True)
        print("  the other side: " + heard.strip().replace("\n", "\n  "), flush=True)
        self.assertEqual(sending.returncode, 0, output)
        self.assertEqual(len(re.findall("content arrived as sent", output)), 2)
        self.assertEqual(len(re.findall("content came back as sent", output)), 1)

    def test_ours_to_the_kernels(self):
        self.transfer(True)

    def test_the_kernels_to_ours(self):
        self.transfer(False)

    def test_small_writes(self):
        # A message and a write of one packet each, in turn.
        for ours in (True, False):
            with self.subTest(ours=ours):
                self.transfer(ours, "--slab-kib", "4", "--mib", "2")

    def test_with_faults(self):
        for node in (1, 2):
            bed("exec", f"node{node}", "--", "tc", "qdisc", "replace", "dev", "eth0", "root",
                "netem", *FAULTS)
            self.addCleanup(bed, "exec", f"node{node}", "--", "tc", "qdisc", "delete", "dev",
                            "eth0", "root")
        for ours in (True, False):
            with self.subTest(ours=ours):
                self.transfer(ours)


if __name__ == "__main__":
    if len(sys.argv) < 2 or not os.access(sys.argv[1], os.X_OK):
        sys.exit(__doc__)
    FABRIC_CHECK = os.path.realpath(sys.argv.pop(1))
    unittest.main(verbosity=2)
