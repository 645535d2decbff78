"""All the ways to move, one after another: what tools/demo shows once and perf/run repeats."""

from . import bed as beds
from . import rows, table


def rehearse(place, names, say):
    """Moves a tiny component each way, so that no row pays for cold caches."""
    if any(name.startswith("criu") for name in names):
        say("rehearsing CRIU with a tiny component")
        with rows.CriuPair(place) as pair:
            pair.rehearse()
    if "starling" in names:
        say("rehearsing starling with a tiny component")
        try:
            rows.rehearse_starling(place)
        except beds.DemoError as error:
            say(f"the rehearsal FAILED: {error}")


def measure(place, load, names, rate_bytes_per_s, say):
    """Measures the rows of these names. Returns those that worked, and the names of the others."""
    done, failed = [], []

    def attempt(name, function):
        if name not in names:
            return
        say(f"{table.WHAT[name]} ...")
        try:
            row = function()
        except beds.DemoError as error:
            failed.append(name)
            say(f"{table.WHAT[name]} FAILED: {error}")
            return
        done.append(row)
        say(f"{table.WHAT[name]}: blackout {row['blackout_ms']:.0f} ms, client gap "
            f"{row['client_gap_ms']:.0f} ms, {row['total_ms']:.0f} ms in all")
        for flaw in table.flaws(row):
            say(f"{table.WHAT[name]}: {flaw}")
        if not row["blackout_during_move"]:
            say("its longest gap between heartbeats was not during the move: this machine was "
                "busy elsewhere, and the row says little")

    if any(name.startswith("criu") for name in names):
        with rows.CriuPair(place) as pair:
            for shaped in (False, True):
                for precopy in (False, True):
                    attempt(rows.criu_name(precopy, shaped),
                            lambda precopy=precopy, shaped=shaped: rows.criu_row(
                                place, pair, load, precopy=precopy,
                                rate_bytes_per_s=rate_bytes_per_s if shaped else None))
    attempt("starling", lambda: rows.starling_row(place, load))
    return done, failed
