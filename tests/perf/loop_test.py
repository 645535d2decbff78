#!/usr/bin/python3
"""The benchmark of the deciding loop: windows of recorded loads, requests and what is counted of
them, from made-up runs; the component and its clients for real.

usage: loop_test.py FOLDER-OF-BINARIES
"""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import unittest

CHECKOUT = os.path.realpath(os.path.join(os.path.dirname(__file__), "..", ".."))
sys.dont_write_bytecode = True
sys.path[:0] = [os.path.join(CHECKOUT, "tools"), os.path.join(CHECKOUT, "perf")]

from demolib import bed as beds  # noqa: E402
from demolib import deciding, player, predicted, slo, traces, windows  # noqa: E402
from perflib import ghost_moves, loop, timeline  # noqa: E402

BINARIES = ""
WARM, STEPS = 30, 40


def written(folder, name, text):
    path = os.path.join(folder, name)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w", encoding="utf-8") as out:
        out.write(text)
    return path


class TracesTest(unittest.TestCase):
    def setUp(self):
        self._folder = tempfile.TemporaryDirectory()
        self.addCleanup(self._folder.cleanup)

    def read(self, name, text):
        return traces.read([written(self._folder.name, name, text)])

    def test_each_format_is_told_by_its_first_line(self):
        one, = self.read("a.csv", "ts,cores,cpu_cap_mhz,cpu_pct\n0,2,1,50\n300,2,1,25\n")
        self.assertEqual(one, traces.Series("bitbrains", "a", (1.0, 0.5)))
        one, = self.read("b.csv", "timestamp,value\n2014-02-14 14:30:00,3\n,\n2014,4\n")
        self.assertEqual(one.values, (3.0, 3.0, 4.0))
        both = self.read("c.csv", "# where it is from\nstep,x,y\n0,1,-2\n1,3,4\n")
        self.assertEqual([(s.name, s.values) for s in both], [("x", (1.0, 3.0)), ("y", (0.0, 4.0))])
        one, = self.read("d.csv", "owner,app,fn,avg_mem_mb,avg_dur_ms,minute_7,minute_8\n"
                                  "o,a,f,10,500,120,60\n")
        self.assertEqual((one.name, one.values), ("f", (1.0, 0.5)))
        both = self.read("e.csv", "pod,t,gpu_duty,mem_util\np,0,0.5,0\np,60,1,0\nq,0,0.25,0\n")
        self.assertEqual([(s.name, s.values) for s in both], [("p", (0.5, 1.0)), ("q", (0.25,))])

    def test_a_folder_is_taken_as_replay_takes_it(self):
        folder = self._folder.name
        written(folder, "planetlab/day.csv", "step,x\n0,1\n")
        written(folder, "nab/ec2_cpu_1.csv", "timestamp,value\n0,1\n")
        written(folder, "nab/ec2_disk_1.csv", "timestamp,value\n0,1\n")
        written(folder, "spot/price.csv", "timestamp_utc,price_usd_h\n0,1\n")
        self.assertEqual([(s.group, s.name) for s in traces.read([folder])],
                         [("nab", "ec2_cpu_1"), ("planetlab", "x")])

    def test_what_is_no_trace_is_named(self):
        for name, text, words in (("a.csv", "x,y\n1,2\n", "none of a trace that is known"),
                                  ("b.csv", "timestamp,value\n0,much\n", "much"),
                                  ("c.csv", "", "none of a trace that is known"),
                                  ("d.csv", "step,x,y\n0,1\n", "not what its first line")):
            with self.assertRaisesRegex(beds.DemoError, f"{name}.*{words}"):
                self.read(name, text)
        with self.assertRaisesRegex(beds.DemoError, "no traces of processors"):
            traces.read([self._folder.name])
        with self.assertRaisesRegex(beds.DemoError, "gone.csv: No such file"):
            traces.read([os.path.join(self._folder.name, "gone.csv")])


def three(total):
    """Loads of which the first has half of the sum."""
    return [[share * value for value in total] for share in (0.5, 0.3, 0.2)]


def rising(rise, high=2.5, low=1.0, before=8):
    """Low, then within `rise` steps high, and stays there."""
    ramp = [low + (high - low) * (step + 1) / rise for step in range(rise)]
    total = [low] * (WARM + before) + ramp
    return total + [high] * (WARM + STEPS - len(total))


class WindowsTest(unittest.TestCase):
    def fit(self, total):
        return windows.fitting(three(total), "g", ("a", "b", "c"), 0, WARM)

    def test_it_is_scaled_to_the_level_of_a_shortage(self):
        window = self.fit(rising(10))
        self.assertAlmostEqual(max(window.sum), windows.SHORT_LEVEL)
        self.assertAlmostEqual(window.sum[0], windows.SHORT_LEVEL / 2.5)
        self.assertEqual(window.sum.index(next(v for v in window.sum if v > 1)),
                         WARM + window.short_from)
        self.assertFalse(window.sudden)
        self.assertAlmostEqual(max(map(sum, zip(*windows.scaled(window, 0.6)))),
                               0.6 * windows.SHORT_LEVEL)

    def test_a_jump_is_sudden(self):
        window = self.fit(rising(1))
        self.assertEqual((window.short_from, window.rise_steps, window.sudden), (8, 1, True))

    def test_without_a_shortage_it_stays_below(self):
        calm = windows.calmed(self.fit(rising(10)))
        self.assertAlmostEqual(max(calm.sum), windows.CALM_LEVEL)
        self.assertEqual((calm.short, calm.short_from, calm.rise_steps, calm.sudden),
                         (False, None, None, False))

    def test_what_is_no_such_stretch_is_not_taken(self):
        self.assertIsNone(self.fit([0.0] * (WARM + STEPS)), "nothing at all")
        self.assertIsNone(self.fit([1.0] * (WARM + STEPS)), "short from the beginning")
        self.assertIsNone(self.fit(rising(10, before=-8)), "short when the window begins")
        spike = [1.0] * (WARM + STEPS)
        spike[WARM + 20] = 30.0
        self.assertIsNone(self.fit(spike), "a lone spike")
        one_has_all = [rising(10), [0.0] * (WARM + STEPS), [0.0] * (WARM + STEPS)]
        self.assertIsNone(windows.fitting(one_has_all, "g", ("a", "b", "c"), 0, WARM),
                          "no move ends it")

    @staticmethod
    def steady(name, group="g"):
        return traces.Series(group, name, tuple([0.6] * 360 + [1.0] * 40))

    @staticmethod
    def surging(name, at, group="g"):
        """Usually low, once a little above what it has in its busiest hours."""
        low, ramp = [0.2] * at, [0.5, 0.8, 1.1]
        surge = ramp + [1.5] * 12
        return traces.Series(group, name, tuple(low + surge + [0.2] * (360 - at - len(surge)) +
                                                [1.0] * 40))

    def test_drawing_is_repeatable_and_says_when_there_is_no_more(self):
        series = [self.steady(name) for name in "abcd"] + \
            [self.surging(str(at), at) for at in (60, 120, 180, 240)]
        options = {"calm": 2, "warm": WARM, "steps": STEPS}
        chosen = windows.choose(series, count=6, seed=1, **options)
        self.assertEqual(chosen, windows.choose(series, count=6, seed=1, **options))
        self.assertNotEqual(chosen, windows.choose(series, count=6, seed=2, **options))
        self.assertEqual([window.short for window in chosen].count(False), 2)
        self.assertTrue(all(max(window.sum) > 1 for window in chosen if window.short))
        flat = [self.steady(name) for name in "abcd"]
        self.assertEqual(windows.choose(flat, count=6, seed=1, **options), [])

    def test_groups_take_turns(self):
        series = [self.steady("a", "few"), self.steady("b", "few"), self.surging("c", 60, "few")]
        series += [self.steady(name, "many") for name in "abcd"]
        series += [self.surging(str(at), at, "many") for at in (60, 120, 180)]
        chosen = windows.choose(series, count=6, calm=0, warm=WARM, steps=STEPS, seed=1)
        # Of the three there is one stretch only.
        self.assertEqual([window.group for window in chosen], ["few"] + ["many"] * 5)

    def test_the_demo_has_an_excerpt_that_rises(self):
        window = predicted.rise(traces.read([traces.EXCERPT]))
        self.assertTrue(window.short)
        self.assertGreater(window.short_from, 0)


class PlayerTest(unittest.TestCase):
    def test_requests_ask_for_what_the_trace_asked(self):
        due = player.due_times([0.5, 0.0, 1.0], 2.0, 0.01)
        in_step = [sum(step * 2.0 <= at < (step + 1) * 2.0 for at in due) for step in range(3)]
        self.assertEqual(sum(in_step), len(due))
        for got, expected in zip(in_step, (100, 0, 200)):
            self.assertAlmostEqual(got, expected, delta=1)
        gaps = [after - before for before, after in zip(due, due[1:]) if after < 2.0]
        self.assertAlmostEqual(min(gaps), 0.02)
        self.assertAlmostEqual(max(gaps), 0.02)

    def test_little_load_is_not_lost_in_rounding(self):
        # A hundredth of a request a step.
        self.assertEqual(len(player.due_times([0.0001] * 1000, 1.0, 0.01, phase=0.5)), 10)

    def test_phases_keep_components_apart(self):
        both = [player.due_times([0.5], 1.0, 0.01, phase) for phase in (0.0, 0.5)]
        self.assertAlmostEqual(abs(both[0][0] - both[1][0]), 0.01)


class SloTest(unittest.TestCase):
    REQUESTS = [[0.1, 0.2], [0.9, 0.6], [1.2, 0.5], [3.0, None], [3.5, 0.7], [9.0, 0.9]]

    def test_a_second_counts_once_however_many_replies_were_late_in_it(self):
        self.assertEqual(slo.violated_seconds(self.REQUESTS, 0.5), {0, 3, 9})
        self.assertEqual(slo.violated_seconds(self.REQUESTS, 0.5, 3.0, 9.0), {0})
        self.assertEqual(slo.violated_seconds(self.REQUESTS, 0.95), {3})

    def test_waits_are_of_those_that_were_answered(self):
        waits = slo.waits(self.REQUESTS, 0.5, 9.0)
        self.assertEqual((waits["requests"], waits["unanswered"], waits["longest_s"]), (4, 1, 0.7))
        self.assertEqual(slo.waits([])["p50_s"], None)
        self.assertEqual(slo.longest_by_second(self.REQUESTS),
                         [(0, 0.6), (1, 0.5), (3, 0.7), (9, 0.9)])


class ServiceTest(unittest.TestCase):
    """starling-service and player.py, over loopback."""

    def setUp(self):
        self._folder = tempfile.TemporaryDirectory()
        self.addCleanup(self._folder.cleanup)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self._service = subprocess.Popen(
            [os.path.join(BINARIES, "starling-service"), "--port", str(self.port), "--mib", "2"])
        self.addCleanup(self.end)
        while self._service.poll() is None:
            with contextlib.suppress(ConnectionRefusedError), \
                    socket.create_connection(("127.0.0.1", self.port), timeout=20):
                break

    def end(self):
        self._service.kill()
        self._service.wait()

    def play(self, demand, drain_s=20.0, before=b"\n"):
        plan = os.path.join(self._folder.name, "plan.json")
        result = os.path.join(self._folder.name, "result.json")
        with open(plan, "w", encoding="utf-8") as out:
            json.dump({"step_s": 0.2, "cost_s": 0.005, "drain_s": drain_s, "components": [
                {"address": "127.0.0.1", "port": self.port, "demand": demand}]}, out)
        done = subprocess.run([sys.executable, "-B", player.__file__, plan, result], input=before,
                              stdout=subprocess.PIPE, check=True, timeout=120)
        self.assertEqual(done.stdout, b"ready\n")
        with open(result, encoding="utf-8") as source:
            return json.load(source)

    def test_all_is_answered_in_order_and_costs_what_it_is_to_cost(self):
        began = _cpu_s(self._service.pid)
        one, = self.play([0.2, 0.0, 0.1])["components"]
        self.assertEqual(one["flaws"], [])
        self.assertEqual(len(one["requests"]), 12)
        self.assertTrue(all(waited is not None and waited >= 0.0045
                            for _, waited in one["requests"]), one)
        # Ticks of a hundredth.
        self.assertGreaterEqual(_cpu_s(self._service.pid) - began, 12 * 0.005 - 0.03)

    def test_more_than_there_is_stays_unanswered_when_nobody_waits(self):
        one, = self.play([20.0], drain_s=0.0)["components"]
        self.assertGreater(slo.waits(one["requests"])["unanswered"], 0)
        self.assertEqual(one["flaws"], [])

    def test_the_next_client_goes_on_where_the_last_one_was(self):
        self.play([0.1])
        with socket.create_connection(("127.0.0.1", self.port), timeout=20) as client:
            client.sendall(b"7 10\n")
            self.assertEqual(client.recv(100), b"7 5\n")
            client.sendall(b"nonsense\n")
            self.assertEqual(client.recv(100), b"")

    def test_an_end_is_a_flaw(self):
        with socket.create_connection(("127.0.0.1", self.port), timeout=20) as first:
            # It answers one client at a time; this one it will end in front of.
            client = player.Connection({"address": "127.0.0.1", "port": self.port}, [0.0], 0.001)
            client.send_due(0.0)
            self.end()
            with contextlib.suppress(ConnectionResetError):  # when it was not accepted yet
                self.assertEqual(first.recv(100), b"")
            for _ in range(1000):
                client.receive(0.0)
                if client.flaws:
                    break
            self.assertTrue(client.flaws)
            client.close()


def _cpu_s(pid):
    with open(f"/proc/{pid}/stat", encoding="ascii") as source:
        fields = source.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def event(at_s, host, component, kind, text=""):
    return {"at_s": at_s, "host": host, "component": component, "kind": kind, "text": text}


REPORT = {"wire_bytes": 5 << 20, "held_s": 1.25, "total_s": 4.0,
          "phases": [{"name": "ghost: since its last round", "seconds": 0}]}
EVENTS = [event(20, "node1", "one", "loop-reserved", "1 processor on host node2"),
          event(30, "node1", "one", "loop-migrate", "to host node2"),
          event(34, "node1", "one", "left", "to host node2"),
          event(50, "node2", "one", "loop-migrate", "to host node1"),
          event(55, "node2", "one", "left", "to host node1"),
          event(60, "node1", "one", "left", "to host node2, by hand")]


class MovesTest(unittest.TestCase):
    def test_each_has_its_decision_and_only_the_last_its_report(self):
        found = deciding.moves(EVENTS, {("node1", "one"): REPORT, ("node2", "one"): REPORT})
        self.assertEqual([(one["from"], one["decided_s"], one["left_s"], one["report"] is None)
                          for one in found],
                         [("node1", 30, 34, True), ("node2", 50, 55, False),
                          ("node1", None, 60, False)])

    def test_policies_differ_in_what_they_look_at(self):
        texts = {rule: deciding.policy(rule, 2.0) for rule in deciding.RULES}
        self.assertIn('mode = "observe"', texts["none"])
        self.assertEqual(texts["none"].replace("observe", "act"), texts["predictive"])
        self.assertIn(f"within_s = {2 * deciding.ACT_WITHIN}\n", texts["predictive"])
        self.assertNotIn("percent = 90", texts["reactive"])
        self.assertIn("reserve = false", texts["reactive"])


PLAN = loop.Plan(count=3, calm=1, warm=WARM, steps=STEPS, period_s=2.0, bound_s=0.5,
                 rules=deciding.RULES, repetitions=5, draw=1)


def window(short=True, rise=10):
    made = windows.fitting(three(rising(rise)), "g", ("a", "b", "c"), 0, WARM)
    return made if short else windows.calmed(made)


def played(late_seconds=(), events=(), reports=None, given_back_s=1.0, elsewhere=0.05):
    """A run in which the first component's replies were late in these seconds."""
    requests = [[second + 0.5, 0.9 if second in late_seconds else 0.1] for second in range(140)]
    leases = {name: {"granted": 0, "released": 0, "waiting": 0} for name in ("node1", "node2")}
    look = {"at_s": 6.0, "cpu_now": 0.5, "capacity": 1.0,
            "ahead": [{"ahead_s": ahead, "p50": 0.5, "p90": 0.7, "low": 0.3, "high": 0.8}
                      for ahead in (2.0, 12.0, 24.0)],
            "components": {}, "leases": [],
            "ghosts": [{"name": "one", "kind": "warm", "state": "warm", "arena_bytes": 1,
                        "migration_id": "m"}]}
    return {"components": [{"name": name, "flaws": [],
                            "requests": requests if name == "one" else []}
                           for name in deciding.NAMES],
            "events": list(events), "moves": deciding.moves(list(events), reports or {}),
            "decisions": [{"host": "node1", "at_s": 5.0, "threshold_shift": 0.01, "steps": []}],
            "looks": [look, {**look, "at_s": 12.0}], "late_s": 0.001,
            "elsewhere": elsewhere, "gives": 0.7, "wire_bytes": 7,
            "leases_before": leases, "leases_after": leases, "given_back_s": given_back_s}


def sample(number, rule, late_seconds, short=True, rise=10, **more):
    return loop.sample_of(number, window(short, rise), rule, PLAN, played(late_seconds, **more))


class SamplesTest(unittest.TestCase):
    def test_a_run_counts_from_when_agents_could_act(self):
        kept = event(25, "node1", "one", "ghost", "host node2 keeps a warm one, m")
        one = sample(0, "predictive", (5, 30, 100), events=[EVENTS[0], kept, *EVENTS[1:3]],
                     reports={("node1", "one"): REPORT})
        self.assertEqual((one["violation_s"], one["migrations"], one["moved_bytes"]),
                         (2, 1, 5 << 20))
        self.assertEqual(one["moves"][0]["held_ms"], 1250)
        self.assertTrue(one["moves"][0]["from_ghost"])
        self.assertEqual((one["reserved_s"], one["ghosts"]), (20, 1))
        short_s = 2.0 * (WARM + window().short_from)
        self.assertEqual(one["lead_s"], short_s - 34)

    def test_ratios_are_of_windows_that_both_rules_had(self):
        samples = [sample(0, "predictive", (80, 81)), sample(0, "reactive", range(80, 90)),
                   sample(1, "predictive", range(80, 84), rise=1),
                   sample(1, "reactive", range(80, 85), rise=1),
                   sample(2, "predictive", range(80, 99)),
                   sample(3, "reactive", range(80, 99), short=False),
                   sample(3, "predictive", range(80, 99), short=False)]
        ratios = loop.conclude(samples, [])["ratios"]
        self.assertAlmostEqual(ratios["violation_vs_reactive"], 6 / 15)
        self.assertAlmostEqual(ratios["violation_vs_reactive_gradual"], 0.2)
        self.assertAlmostEqual(ratios["violation_vs_reactive_sudden"], 0.8)
        self.assertIsNone(ratios["violation_vs_none"])
        self.assertIsNone(ratios["total_with_ghost_vs_without"])

    def test_what_must_not_be_is_named(self):
        def found(*samples, quick=False):
            result = {"samples": list(samples), "ghost_samples": [],
                      **loop.conclude(list(samples), [])}
            return [one.get("figure") for one in loop.flaws(result, quick)]
        fine = [sample(0, "predictive", (80,)), sample(0, "reactive", range(80, 90)),
                sample(0, "none", range(80, 120)), sample(1, "predictive", (), short=False)]
        self.assertEqual(found(*fine), [])
        self.assertEqual(found(sample(0, "none", ())), ["violation_s"])
        self.assertEqual(found(sample(1, "predictive", (), short=False, events=EVENTS[:3])),
                         ["migrations without a shortage"])
        self.assertEqual(found(sample(0, "predictive", (), given_back_s=None)), ["leases left"])
        self.assertEqual(found(sample(0, "predictive", (), elsewhere=0.5)), ["elsewhere"])
        equal = [sample(0, "predictive", (80, 81)), sample(0, "reactive", (80, 81))]
        self.assertEqual(found(*equal), ["violation_vs_reactive"])
        self.assertEqual(found(*equal, quick=True), [])

    def test_the_text_has_a_line_for_each_run(self):
        samples = [sample(0, "predictive", (80,), events=EVENTS[:3]), sample(0, "none", (80, 81))]
        text = loop.text({"samples": samples, **loop.conclude(samples, [])})
        self.assertEqual(len([line for line in text.splitlines() if "gradual" in line
                              and "ratio" not in line and "violation_vs" not in line]), 2)

    def test_ghosts_are_compared_by_their_medians(self):
        rows = [{"name": name, "total_s": total, "blackout_ms": 1000, "wire_bytes": total * 100,
                 "command_s": total, "held_ms": 900, "client_gap_ms": 1100}
                for name, totals in (("without-ghost", (8, 9, 30)), ("with-ghost", (2, 3, 4)))
                for total in totals]
        self.assertEqual(ghost_moves.ratios(rows),
                         {"total_with_ghost_vs_without": 3 / 9,
                          "blackout_with_ghost_vs_without": 1.0,
                          "wire_with_ghost_vs_without": 3 / 9})
        self.assertEqual(ghost_moves.summarized(rows)["with-ghost"]["total_s"]["median"], 3)


class TimelineTest(unittest.TestCase):
    def test_spans_begin_and_end(self):
        run = played(events=EVENTS[:3] + [event(40, "node1", "two", "loop-reserved")])
        self.assertEqual(timeline.spans(run, 140.0),
                         [("reserved", "one", 20, 34), ("reserved", "two", 40, 140.0),
                          ("ghost", "one", 6.0, 12.0), ("move", "one", 30, 34)])

    def test_there_is_a_chart_also_of_a_run_with_nothing_in_it(self):
        if shutil.which("gnuplot") is None:
            self.skipTest("there is no gnuplot")
        nothing = {**played(), "looks": [], "components": []}
        for runs in ({"predictive": played(events=EVENTS[:3]), "none": played((80, 81))},
                     {"predictive": nothing}):
            with tempfile.TemporaryDirectory() as folder:
                path = os.path.join(folder, "window.svg")
                timeline.draw(path, window(), runs, PLAN)
                with open(path, encoding="utf-8") as source:
                    drawn = source.read()
                self.assertIn("asked for, all components", drawn)
                self.assertTrue(drawn.rstrip().endswith("</svg>"))


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    BINARIES = os.path.realpath(sys.argv.pop(1))
    unittest.main()
