"""Starts the witness beside a move, and reads what it saw."""

import json
import os
import select
import subprocess
import time

from . import bed as beds

HEARTBEAT_PORT = 7600


class Witness:
    """starling-witness on the host, in the bed's network, from ready() to report()."""

    def __init__(self, bed, binary, folder, server, *, protocol="redis", rate, preload_mib,
                 value_bytes=1024, seed=1):
        os.makedirs(folder, exist_ok=True)
        self._events = os.path.join(folder, "witness.events")
        self._json = os.path.join(folder, "witness.json")
        self._stop = os.path.join(folder, "witness.stop")
        for path in (self._json, self._stop, self._events):
            if os.path.exists(path):
                os.remove(path)
        self._process = bed.start_client(
            binary, "--protocol", protocol, "--connect", server,
            "--heartbeat-port", str(HEARTBEAT_PORT), "--rate", str(rate),
            "--value-size", str(value_bytes), "--preload-mib", str(preload_mib),
            "--seed", str(seed), "--stop-file", self._stop, "--events", self._events, "--json",
            self._json, "--wait-ready", "--ready-timeout", "180", stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True)

    def wait_ready(self, timeout_s=240):
        """Returns once data is in place, the load runs and is being measured."""
        ready, _, _ = select.select([self._process.stdout], [], [], timeout_s)
        line = self._process.stdout.readline() if ready else ""
        if line.strip() != "ready":
            self.kill()
            raise beds.DemoError(f"the witness did not get ready: {self._process.stderr.read()}")

    def mark(self, name):
        """Something happens now: the report says how long it was felt."""
        with open(self._events, "a", encoding="utf-8") as events:
            events.write(f"{time.monotonic():.6f} {name}\n")

    def report(self, timeout_s=240):
        """Ends the run, lets the witness read everything back, and returns its report."""
        with open(self._stop, "w", encoding="ascii"):
            pass
        try:
            _, said = self._process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()
            raise beds.DemoError("the witness did not end") from None
        if self._process.returncode not in (0, 2):
            raise beds.DemoError(f"the witness failed: {said.strip()}")
        with open(self._json, encoding="utf-8") as source:
            return json.load(source)

    def kill(self):
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()


def figures(report, began_s, ended_s):
    """What a row takes from a witness's report. `began_s` and `ended_s`: when the move ran, by
    time.monotonic(), to tell a blackout from a hiccup of this machine at another time."""
    heartbeat, answers = report["heartbeat"], report["answer_gaps"]
    longest = heartbeat["gaps"][0]
    inside = longest["at_monotonic_s"] + longest["ms"] / 1000 >= began_s and \
        longest["at_monotonic_s"] <= ended_s
    event = next(iter(report["events"]), {})
    return {
        "p99_before_ms": event.get("p99_before_ms"),
        "p99_back_s": event.get("p99_back_s"),
        "blackout_ms": heartbeat["longest_gap_ms"],
        "client_gap_ms": answers["longest_gap_ms"],
        "lost_writes": report["lost_writes"],
        "wrong_values": report["wrong_values"],
        "broken_connections": report["broken_connections"],
        "blackout_during_move": inside,
        "heartbeats_duplicated": heartbeat["duplicated"],
        "unverified_values": report["unverified_values"],
        "unanswered": report["unanswered"],
        "refused": report["refused"],
    }


def settle(seconds):
    """Lets the load run for a while, before a move and after it."""
    time.sleep(seconds)
