"""Moves of one component from a warm ghost and without, in turns: what the ghost spares."""

import datetime
import json
import time

from demolib import bed as beds
from demolib import rows, table

from . import summary
from .migrate import Writer

REPETITIONS = 5
MIB = 256
# Enough for rounds to have something to bring, and a fraction of what a link carries.
PAGES_PER_S = 200
REQUESTS_PER_S = 50
GHOST_EVERY_S = 2
GHOST_ROUNDS = 3  # before it moves
PATIENCE_S = 300
NAMES = ("without-ghost", "with-ghost")
METRICS = ("total_s", "command_s", "blackout_ms", "held_ms", "client_gap_ms", "wire_bytes")


def measure(place, repetitions, samples, note, keep):
    """Adds to `samples` what is missing of them, with the flaws of each, and calls `keep` after
    each; returns what could not be measured."""
    failures = []
    for repetition in range(repetitions):
        load = Writer(MIB, PAGES_PER_S, REQUESTS_PER_S, seed=1 + repetition)
        # Who goes first changes, so that what the other has warmed up helps both.
        for name in NAMES if repetition % 2 == 0 else NAMES[::-1]:
            if any((row["repetition"], row["name"]) == (repetition, name) for row in samples):
                continue
            note(f"moves {repetition + 1} of {repetitions}: {name}")
            try:
                row = rows.starling_row(place, load, name,
                                        _with_ghost if name == "with-ghost" else None)
            except beds.DemoError as error:
                failures.append({"repetition": repetition, "name": name, "flaws": [str(error)]})
                note(f"{name}: FAILED: {error}")
                continue
            row = {**row, "repetition": repetition, "total_s": row["report"]["total_s"],
                   "command_s": row["total_ms"] / 1000,
                   "at": datetime.datetime.now(datetime.timezone.utc).isoformat(
                       timespec="seconds")}
            began_as_ghost = any(phase["name"].startswith("ghost")
                                 for phase in row["report"]["phases"])
            row["flaws"] = table.flaws(row)
            if began_as_ghost != (name == "with-ghost"):
                row["flaws"].append("the report says otherwise of a ghost")
            samples.append(row)
            keep()
            note(f"{name}: {row['total_s']:.1f} s, blackout {row['blackout_ms']:.0f} ms")
    return failures


def _with_ghost(place, component):
    """Keeps a warm ghost of it on the other node, until that is fresh."""
    bed = place.bed
    bed.execute(1, "starling", "ghost", "add", component, "--on", bed.node_name(2), "--every",
                str(GHOST_EVERY_S), timeout=PATIENCE_S)
    deadline = time.monotonic() + PATIENCE_S
    while True:
        listed = json.loads(bed.execute(1, "starling", "ghost", "list", "--json"))["away"]
        if any(one["name"] == component and one["state"] == "warm" and
               one["rounds"] >= GHOST_ROUNDS for one in listed):
            return
        if time.monotonic() > deadline:
            raise beds.DemoError(f"{component} has no fresh ghost after {PATIENCE_S} s: {listed}")
        time.sleep(1)


def ratios(samples):
    """Of medians, with a ghost over without; None where one is missing."""
    def median(name, metric):
        one = summary.summarize([row[metric] for row in samples if row["name"] == name])
        return None if one is None else one["median"]

    def over(metric):
        above, below = median("with-ghost", metric), median("without-ghost", metric)
        return above / below if above is not None and below else None
    return {"total_with_ghost_vs_without": over("total_s"),
            "blackout_with_ghost_vs_without": over("blackout_ms"),
            "wire_with_ghost_vs_without": over("wire_bytes")}


def summarized(samples):
    return summary.by_row(samples, METRICS)
