#!/usr/bin/python3
"""The benchmark of capturing, from made-up samples, and its program on a process of this machine.

usage: capture_test.py FOLDER-OF-BINARIES
"""

import json
import os
import subprocess
import sys
import tempfile
import unittest

CHECKOUT = os.path.realpath(os.path.join(os.path.dirname(__file__), "..", ".."))
sys.dont_write_bytecode = True
sys.path[:0] = [os.path.join(CHECKOUT, "tools"), os.path.join(CHECKOUT, "perf")]

from perflib import capture  # noqa: E402

BINARIES = ""
MIB = 1 << 20


class RatiosTest(unittest.TestCase):
    def test_each_is_of_medians(self):
        redis = [{"captured": captured, "requests_per_s": rate, "p99_ms": p99}
                 for captured, rate, p99 in ((False, 1000, 1.0), (False, 1200, 2.0),
                                             (False, 900, 1.5), (True, 900, 3.0))]
        big = [{"what": what, "threads": threads, "bytes_per_s": rate}
               for what, threads, rate in (("capture", 1, 3e9), ("memcpy", 1, 6e9),
                                           ("capture", 2, 4e9), ("memcpy", 2, 5e9))]
        self.assertEqual(capture.ratios(redis, big), {
            "throughput_kept": 0.9, "p99_ratio": 2.0, "capture_vs_memcpy": 0.5,
            "capture_vs_memcpy_two_threads": 0.8})


class BenchTest(unittest.TestCase):
    def run_bench(self, *arguments):
        done = subprocess.run([os.path.join(BINARIES, "capture-bench"), *arguments],
                              capture_output=True, text=True, check=False, timeout=120)
        self.assertEqual(done.returncode, 0, done.stderr)
        return json.loads(done.stdout)

    def test_memcpy_copies_all_of_it(self):
        self.assertEqual(self.run_bench("memcpy", "--mib", "16", "--threads", "2")["bytes"],
                         16 * MIB)

    def test_a_first_write_to_a_protected_page_costs_more_than_the_next(self):
        told = self.run_bench("faults", "--mib", "16")
        if told["write_fault_s"] is None:
            self.skipTest("this kernel does not write-protect asynchronously")
        self.assertGreater(told["write_fault_s"], told["write_s"])

    def test_rounds_find_what_there_is_and_what_did_not_change(self):
        if os.geteuid() != 0:
            self.skipTest("other processes' memory is read by root alone")
        # A cgroup, as far as rounds without a freeze look at one.
        with tempfile.TemporaryDirectory() as cgroup:
            process = subprocess.Popen(
                [sys.executable, "-c", f"m = bytearray(b'x') * {32 * MIB}; print(); input()"],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            try:
                process.stdout.readline()
                with open(os.path.join(cgroup, "cgroup.procs"), "w", encoding="ascii") as procs:
                    procs.write(f"{process.pid}\n")
                told = self.run_bench("rounds", "--cgroup", cgroup, "--tracker", "hash")
                first, second = told["rounds"]
                self.assertGreater(first["pages"] * 4096, 32 * MIB)
                self.assertLess(second["pages"], first["pages"] / 10)
                told = self.run_bench("precopy", "--cgroup", cgroup, "--tracker", "hash",
                                      "--seconds", "0.1", "--link", "1e9")
                self.assertGreaterEqual(told["pages"], first["pages"] * told["copies"])
            finally:
                process.communicate(b"\n")


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    BINARIES = os.path.realpath(sys.argv.pop(1))
    unittest.main()
