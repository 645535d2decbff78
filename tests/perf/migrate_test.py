#!/usr/bin/python3
"""The benchmark of migrations, from made-up moves, and the component that it moves.

usage: migrate_test.py FOLDER-OF-BINARIES
"""

import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import unittest

CHECKOUT = os.path.realpath(os.path.join(os.path.dirname(__file__), "..", ".."))
sys.dont_write_bytecode = True
sys.path[:0] = [os.path.join(CHECKOUT, "tools"), os.path.join(CHECKOUT, "perf")]

from perflib import migrate, overhead, plots, processors, ratios, summary  # noqa: E402

BINARIES = ""
MIB = 1 << 20


def report(rounds, precopy_s=None):
    """`rounds`: (pages, listing_s, seconds) of each, the frozen one last."""
    return {"page_rounds": [{"pages": pages, "listing_s": listing, "seconds": seconds,
                             "deferred_pages": 0, "wire_bytes": pages * 4096} for pages, listing, seconds in rounds],
            "phases": [{"name": "precopy", "seconds": precopy_s if precopy_s is not None
                        else sum(seconds for _, _, seconds in rounds[:-1])}],
            "sent": {"pages": 4096 * sum(pages for pages, _, _ in rounds)}}


def sample(name, kind, size, blackout, **more):
    return {"name": name, "kind": kind, "size_mib": size, "blackout_ms": blackout,
            "client_gap_ms": blackout * 2, "total_ms": blackout * 10, "p99_back_s": 1.0,
            "wire_bytes": 2048 * 4096, "quiet_bytes_per_s": 0, "moving_s": 1, "pages_per_s": 0,
            "report": report([(1024, 0, 1), (0, 0, 0)]), **more}


class OverheadTest(unittest.TestCase):
    def test_what_is_not_written_to_is_needed_once(self):
        self.assertEqual(overhead.needed_pages(report([(1000, 0.1, 2), (0, 0.1, 0.1)]), 0), 1000)

    def test_it_agrees_with_a_simulation(self):
        # Pages are sent one after the other; writes come at random times to random pages.
        pages, rate, listing, sending, gap = 2000, 300.0, 0.5, 4.0, 1.0
        second_listing, second_sending, second_gap = 0.2, 1.5, 0.7
        generator = random.Random(7)
        needed, trials = 0, 20
        for _ in range(trials):
            first_end = listing + sending + gap
            writes = [[] for _ in range(pages)]
            at = 0.0
            while at < first_end + second_listing + second_sending + second_gap:
                at += generator.expovariate(rate)
                writes[generator.randrange(pages)].append(at)
            # Of the second round: what was written to since the first listing began.
            again = [p for p in range(pages) if any(t < first_end for t in writes[p])]
            sent = [listing + sending * p / pages for p in range(pages)]
            dirty = sum(any(sent[p] < t < first_end for t in writes[p]) for p in range(pages))
            for index, page in enumerate(again):
                sent[page] = first_end + second_listing + second_sending * index / len(again)
            end = first_end + second_listing + second_sending + second_gap
            dirty += sum(any(max(sent[p], first_end if p not in again else 0) < t < end
                             for t in writes[p]) for p in range(pages))
            needed += pages + dirty
            count = len(again)
        told = report([(pages, listing, listing + sending + gap),
                       (count, second_listing, second_listing + second_sending), (1, 0, 0)],
                      precopy_s=listing + sending + gap + second_listing + second_sending +
                      second_gap)
        # Here the first round's gap is told apart from its sending, which the report does not.
        told["page_rounds"][0]["seconds"] = listing + sending
        reckoned = overhead.needed_pages(told, rate)
        self.assertAlmostEqual(reckoned / (needed / trials), 1, delta=0.06)

    def test_overhead_leaves_out_what_was_on_the_wire_anyway(self):
        row = {"wire_bytes": 5 * MIB, "quiet_bytes_per_s": MIB / 2, "moving_s": 2,
               "pages_per_s": 0, "report": report([(1024, 0, 1), (0, 0, 0)])}
        self.assertAlmostEqual(overhead.wire_overhead(row), 1)
        self.assertAlmostEqual(overhead.wire_framing(row), 1)
        self.assertAlmostEqual(overhead.bulk_rate(row), 4 * MIB)


class RatiosTest(unittest.TestCase):
    SAMPLES = [
        sample("starling", "floor", 1, 100.0), sample("criu-precopy", "floor", 1, 400.0),
        sample("starling", "load", 64, 110.0), sample("starling", "load", 768, 130.0),
        sample("starling", "load", 768, 150.0), sample("starling", "load", 768, 120.0),
        sample("criu-precopy", "load", 768, 1000.0),
        sample("criu-precopy-shaped", "load", 768, 1100.0)]

    def test_each_is_of_medians(self):
        found = ratios.ratios(self.SAMPLES, [64, 768])
        self.assertAlmostEqual(found["blackout_768_over_64"], 130 / 110)
        self.assertAlmostEqual(found["blackout_vs_criu_precopy"], 0.13)
        self.assertAlmostEqual(found["memory_part_vs_criu_precopy"], 30 / 600)
        self.assertAlmostEqual(found["total_vs_criu_precopy_shaped"], 1300 / 11000)
        self.assertAlmostEqual(found["gap_vs_criu_precopy"], 0.13)
        self.assertAlmostEqual(found["p99_back_vs_criu_precopy"], 1)
        self.assertAlmostEqual(found["wire_overhead"], 2)

    def test_what_was_not_measured_is_none(self):
        found = ratios.ratios([one for one in self.SAMPLES if one["name"] == "starling"], [64, 768])
        self.assertIsNone(found["blackout_vs_criu_precopy"])
        self.assertIsNone(found["bulk_vs_ib_write_bw"])
        self.assertIsNotNone(found["blackout_768_over_64"])
        self.assertEqual([name for name, value in ratios.ratios([], [64]).items()
                          if value is not None], [])

    def test_memory_beyond_the_bounds_is_a_flaw(self):
        row = {"size_mib": 100, "source_agent_peak_bytes": 200 * MIB,
               "target_agent_peak_bytes": 350 * MIB, "target_keeper_peak_bytes": 10 * MIB,
               "target_agent_before_bytes": 20 * MIB, "target_agent_after_bytes": 30 * MIB}
        self.assertEqual(ratios.memory_flaws(row), [])
        for key, value in (("source_agent_peak_bytes", 257 * MIB),
                           ("target_agent_peak_bytes", 362 * MIB),
                           ("target_agent_after_bytes", 60 * MIB)):
            self.assertEqual(len(ratios.memory_flaws({**row, key: value})), 1, key)


class ProcessorsTest(unittest.TestCase):
    def test_rows_of_a_report_are_read(self):
        text = ("# Overhead\tCommand\tShared Object\tSymbol\n\n"
                "   2.50%\troce-bench\t/x/bin/roce-bench\t[.] starling::Crc(char const*)\t-\n"
                "  40.00%\tswapper\t[kernel.kallsyms]\t[k] pv_native_safe_halt\n\n")
        rows = processors.parse(text)
        self.assertEqual(rows[0], {"share": 0.4, "program": "swapper", "object": "[kernel.kallsyms]",
                                   "function": "pv_native_safe_halt"})
        self.assertEqual((rows[1]["object"], rows[1]["function"]), ("roce-bench", "starling::Crc"))
        self.assertEqual(len(processors.lines(rows)), 2)


class ResumeTest(unittest.TestCase):
    ASKED = {"write_share": 0.25, "requests_per_s": 200, "seed": 1}

    def rows(self, repetition, **changed):
        cells = [("floor", 1), ("load", 64), ("load", 768), ("idle", 768)]
        return [{"repetition": repetition, "kind": kind, "size_mib": size, "name": "starling",
                 "asked": self.ASKED, **changed} for kind, size in cells]

    def test_whole_repetitions_of_the_same_are_done(self):
        other = self.rows(3, asked={**self.ASKED, "seed": 2})
        samples = self.rows(0) + self.rows(1)[:-1] + self.rows(2) + other + self.rows(5)
        taken = migrate._whole(samples, 5, [64, 768], ["starling"], self.ASKED)
        self.assertEqual([row["repetition"] for row in taken], [0] * 4 + [2] * 4)
        self.assertEqual(migrate._whole(samples, 5, [64, 256, 768], ["starling"], self.ASKED), [])
        self.assertEqual(migrate._whole([], 5, [64, 768], ["starling"], self.ASKED), [])


class ConclusionTest(unittest.TestCase):
    def test_rows_that_know_more_stand_beside_those_that_know_less(self):
        samples = [*RatiosTest.SAMPLES, sample("starling", "load", 768, 140.0, held_ms=120.0,
                                               tracker="soft-dirty", provider="verbs",
                                               phases={"dump_ms": 50.0})]
        for one in samples:
            one.setdefault("phases", {})
        told = migrate.conclude(samples, [64, 768])
        self.assertEqual(told["summary"]["768"]["starling"]["held_ms"]["n"], 1)
        self.assertEqual(told["summary"]["768"]["starling"]["blackout_ms"]["n"], 4)
        self.assertIsNone(told["summary"]["768"]["criu-precopy"]["held_ms"])
        self.assertEqual(told["phases"]["dump_ms"]["median"], 50)
        self.assertEqual(set(told["memory_part_ms"]), {"starling", "criu-precopy"})
        told["parameters"] = {"sizes_mib": [64, 768]}
        self.assertIn("memory_part_vs_criu_precopy", migrate.text(told))


class PlotsTest(unittest.TestCase):
    def test_there_is_a_chart_of_each_figure(self):
        if shutil.which("gnuplot") is None:
            self.skipTest("there is no gnuplot")
        one = summary.summarize([100.0, 120.0, 90.0])
        by_name = {"starling": {"blackout_ms": one, "client_gap_ms": one, "total_ms": one},
                   "criu-precopy": {"blackout_ms": one, "client_gap_ms": None, "total_ms": one}}
        result = {"parameters": {"sizes_mib": [64, 768]},
                  "summary": {"64": by_name, "768": by_name},
                  "phases": {"freeze_ms": one, "dump_ms": one, "precopy_ms": one}}
        with tempfile.TemporaryDirectory() as folder:
            made = plots.draw(folder, result)
            self.assertEqual(made, ["migrate-blackout.svg", "migrate-client-gap.svg",
                                    "migrate-total.svg", "migrate-phases.svg"])
            for name in made:
                with open(os.path.join(folder, name), encoding="utf-8") as chart:
                    self.assertIn("</svg>", chart.read(), name)


class WriterTest(unittest.TestCase):
    def setUp(self):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.process = subprocess.Popen(
            [os.path.join(BINARIES, "starling-writer"), "--mib", "64", "--rate", "2000", "--port",
             str(self.port), "--keys", "16"], stderr=subprocess.PIPE)
        self.addCleanup(self.process.stderr.close)
        self.addCleanup(self.process.wait)
        self.addCleanup(self.process.kill)

    def connect(self):
        deadline = time.monotonic() + 60
        while True:
            try:
                return socket.create_connection(("127.0.0.1", self.port), timeout=60)
            except ConnectionRefusedError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)

    def test_it_keeps_values_and_counts_steps(self):
        with self.connect() as one, self.connect() as other, one.makefile("rb") as answers, \
                other.makefile("rb") as counts:
            for piece in (b"*3\r\n$3\r\nSET\r\n$10\r\nk:0000", b"0007\r\n$5\r\nab\r\nc\r\n",
                          b"*2\r\n$3\r\nGET\r\n$10\r\nk:00000007\r\n*2\r\n$3\r\nGET\r\n$10\r\n"
                          b"k:00000008\r\n"):
                one.sendall(piece)
                time.sleep(0.05)
            self.assertEqual([answers.readline() for _ in range(5)],
                             [b"+OK\r\n", b"$5\r\n", b"ab\r\n", b"c\r\n", b"$-1\r\n"])
            steps = []
            while len(steps) < 2 or steps[-1] == steps[0]:
                other.sendall(b"STEPS\r\n")
                steps.append(int(counts.readline()[1:]))
            self.assertGreater(steps[-1], steps[0])
        with self.connect() as nonsense:
            nonsense.sendall(b"*2\r\n$3\r\nGET\r\n$10\r\nk:00000016\r\n")  # no such key
            self.assertEqual(nonsense.recv(10), b"")

    def test_it_ends_when_its_memory_is_not_what_it_wrote(self):
        self.connect().close()
        with open(f"/proc/{self.process.pid}/maps", encoding="ascii") as maps:
            mapping = max((line.split()[0] for line in maps if " rw-p " in line),
                          key=lambda span: int(span.split("-")[1], 16) -
                          int(span.split("-")[0], 16))
        start, end = (int(word, 16) for word in mapping.split("-"))
        with open(f"/proc/{self.process.pid}/mem", "r+b", buffering=0) as memory:
            # The middle of it: a thread's stack may lie at an end.
            memory.seek(start + (end - start) // 8192 * 4096)
            memory.write(bytes(16 * MIB))
        self.assertEqual(self.process.wait(timeout=120), 1)
        self.assertIn(b"a line is not what was written", self.process.stderr.read())


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    BINARIES = os.path.realpath(sys.argv.pop(1))
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    unittest.main()
