#!/usr/bin/python3
"""The demo's table, its JSON and its sentence, and the benchmarks' summary, from made-up rows."""

import os
import sys
import unittest

CHECKOUT = os.path.realpath(os.path.join(os.path.dirname(__file__), "..", ".."))
sys.dont_write_bytecode = True
sys.path[:0] = [os.path.join(CHECKOUT, "tools"), os.path.join(CHECKOUT, "perf")]

from demolib import table, witness  # noqa: E402
from perflib import summary  # noqa: E402


def row(name, blackout, gap, **more):
    return {"name": name, "blackout_ms": blackout, "client_gap_ms": gap, "total_ms": 3000.0,
            "wire_bytes": 150 << 20, "rounds": 1, "lost_writes": 0, "wrong_values": 0,
            "broken_connections": 0, "phases": {"dump_ms": 1}, **more}


FACTS = {"kernel": "6.12", "accelerated": False}
ROWS = [row("criu-copy", 2000.0, 2100.0), row("criu-copy-shaped", 4000.0, 4100.0),
        row("criu-precopy-shaped", 1500.0, 4500.0), row("starling", 500.0, 520.0)]


class TableTest(unittest.TestCase):
    def test_the_document_has_the_agreed_keys_and_no_others(self):
        document = table.document(ROWS, provider="verbs", encrypted=False, **FACTS)
        self.assertEqual(list(document), ["schema", "kernel", "accelerated", "provider",
                                          "encrypted", "rows"])
        for one in document["rows"]:
            self.assertEqual(tuple(one), table.ROW_KEYS)

    def test_the_table_has_a_line_for_each_row(self):
        lines = table.text(ROWS).splitlines()
        self.assertEqual(len(lines), 1 + len(ROWS))
        self.assertEqual(lines[1].split()[-8:], ["2000", "2100", "3000", "150", "1", "0", "0", "0"])

    def test_the_sentence_compares_with_the_best_of_each_link(self):
        said = table.sentence(ROWS, rate_bytes_per_s=60e6, **FACTS)
        self.assertIn("blackout of 500 ms", said)
        self.assertIn("at the 60 MB/s of ib_write_bw the best of stock CRIU took 1500 ms "
                      "(CRIU, pre-copy, shaped) and 4100 ms, 3.0 and 7.9 times as long", said)
        self.assertIn("on the bare link the best of stock CRIU took 2000 ms", said)
        self.assertIn("In no row was an acknowledged write lost", said)

    def test_the_sentence_hides_no_damage(self):
        damaged = [*ROWS[:-1], row("starling", 1.0, 1.0, lost_writes=3)]
        said = table.sentence(damaged, rate_bytes_per_s=60e6, **FACTS)
        self.assertIn("Not without damage: starling migrate", said)
        self.assertNotIn("In no row", said)
        failed = table.sentence(ROWS[:-1], rate_bytes_per_s=60e6, **FACTS)
        self.assertIn("not seen to work", failed)

    def test_flaws_name_what_is_wrong(self):
        self.assertEqual(table.flaws(ROWS[0]), [])
        for key in ("lost_writes", "wrong_values", "broken_connections", "refused", "unanswered",
                    "unverified_values", "heartbeats_duplicated"):
            self.assertEqual(len(table.flaws(row("starling", 1.0, 1.0, **{key: 2}))), 1, key)


class FiguresTest(unittest.TestCase):
    @staticmethod
    def report(at):
        return {"heartbeat": {"longest_gap_ms": 700.0, "duplicated": 0,
                              "gaps": [{"ms": 700.0, "at_monotonic_s": at}]},
                "answer_gaps": {"longest_gap_ms": 800.0}, "events": [], "lost_writes": 0, "wrong_values": 0,
                "broken_connections": 0, "unverified_values": 0, "unanswered": 0, "refused": 0}

    def test_a_hiccup_at_another_time_is_told_from_the_blackout(self):
        self.assertTrue(witness.figures(self.report(11), 10, 12)["blackout_during_move"])
        self.assertFalse(witness.figures(self.report(5), 10, 12)["blackout_during_move"])
        self.assertFalse(witness.figures(self.report(13), 10, 12)["blackout_during_move"])


class SummaryTest(unittest.TestCase):
    def test_median_and_spread(self):
        self.assertEqual(summary.summarize([1, 9, 3, 2, 5]),
                         {"n": 5, "median": 3, "mad": 2, "min": 1, "max": 9})
        self.assertIsNone(summary.summarize([]))

    def test_rows_are_kept_apart(self):
        samples = [row("criu-copy", 10.0, 1.0), row("starling", 1.0, 1.0),
                   row("criu-copy", 20.0, 1.0)]
        by_row = summary.by_row(samples, ["blackout_ms"])
        self.assertEqual(by_row["criu-copy"]["blackout_ms"]["median"], 15)
        self.assertEqual(by_row["starling"]["blackout_ms"]["n"], 1)


if __name__ == "__main__":
    unittest.main()
