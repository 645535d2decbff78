#!/usr/bin/python3
"""Trackers and sources of memory in a guest, on a kernel that CRIU works on and that has soft-dirty bits.

Needs root (or sudo), QEMU and the guest kernels. usage: criu_bed_test.py BUILD KERNEL
"""

import os
import subprocess
import sys
import unittest

CHECKOUT = os.path.realpath(os.path.join(os.path.dirname(__file__), "..", ".."))
BED = os.path.join(CHECKOUT, "tools", "bed")
NAME = f"criu-{os.getpid()}"
BUILD = ""
KERNEL = "6.12"

# Something to page out to, and huge pages for a mapping that no tracker owns.
PREPARE = """
fallocate -l 512M /var/lib/starling/swap && chmod 600 /var/lib/starling/swap &&
mkswap /var/lib/starling/swap >/dev/null && swapon /var/lib/starling/swap &&
echo 12 >/proc/sys/vm/nr_hugepages && grep -q '^HugePages_Total: *12' /proc/meminfo
"""


def bed(command, *arguments, check=True):
    done = subprocess.run([BED, command, "--name", NAME, *arguments], stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
                          timeout=600)
    if check and done.returncode != 0:
        raise AssertionError(f"bed {command} {arguments} ended with {done.returncode}: {done.stdout}")
    return done


def trackers():
    return ["soft-dirty", "hash"] + (["pagemap-scan"] if KERNEL == "6.12" else [])


class CriuBedTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.addClassCleanup(bed, "down", check=False)
        bed("up", "--nodes", "1", "--kernel", KERNEL)
        bed("exec", "node1", "--", "sh", "-c", PREPARE)

    def program(self, name, *arguments):
        return bed("exec", "node1", "--", os.path.join(BUILD, "tests", name), *arguments)

    def test_unit_tests_that_the_hosts_kernel_may_have_to_skip(self):
        for name in ("component_memory_test", "tracker_test", "shared_tracker_test",
                     "memory_source_test", "injected_calls_test", "frozen_memory_test"):
            with self.subTest(name):
                done = bed("exec", "node1", "--", os.path.join(BUILD, "tests", name), "--gtest_brief=1",
                           check=False)
                output = done.stdout
                # 77: nothing failed, and something was skipped (tests/main.cc).
                self.assertIn(done.returncode, (0, 77), output)
                skipped = [line for line in output.splitlines() if "SKIPPED" in line]
                if KERNEL == "6.12":
                    self.assertEqual(skipped, [])
                else:
                    self.assertNotIn("soft_dirty", "".join(skipped))

    def test_mappings_that_come_go_and_move(self):
        for tracker in trackers() + ["criu-predump"]:
            with self.subTest(tracker):
                self.program("criu_check", "--workload", "mappings", "--megabytes", "24",
                             "--tracker", tracker)

    def test_what_no_tracker_owns_is_left_to_criu(self):
        for tracker in trackers():
            with self.subTest(tracker):
                self.program("criu_check", "--workload", "shared-memory", "--tracker", tracker)

    def test_redis(self):
        for tracker in trackers():
            with self.subTest(tracker):
                self.program("criu_check", "--workload", "redis", "--tracker", tracker)


if __name__ == "__main__":
    BUILD, KERNEL = sys.argv[1:3]
    unittest.main(argv=sys.argv[:1] + sys.argv[3:], verbosity=2)
