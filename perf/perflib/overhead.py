"""What had to be sent of a component that writes while it moves."""

import math

PAGE = 4096


def needed_pages(report, pages_per_s):
    """Pages that no pre-copy could have left out: each that is not zero once, and each again
    whenever it was written to after it had been sent.

    Reckoned from the report's rounds for a component that writes to pages drawn uniformly at this
    rate: a page that the round sent at some moment between its listing and its end, or that an
    earlier round had sent, was written to before the next round's listing with the probability
    1 - exp(-time * rate / pages). A page that was written to between its listing and its sending
    is not among them: the round brought its newest content.
    """
    rounds = report["page_rounds"]
    pages = rounds[0]["pages"]
    per_page = pages_per_s / pages if pages else 0
    phases = {phase["name"]: phase["seconds"] for phase in report["phases"]}
    # Between the last round and the freeze CRIU is made ready.
    gap_s = max(0.0, phases.get("precopy", 0) - sum(one["seconds"] for one in rounds[:-1]))
    needed = pages
    for number, one in enumerate(rounds[:-1]):
        last = number == len(rounds) - 2
        rest_s = gap_s if last else 0.0
        sending_s = max(one["seconds"] - one["listing_s"], 0.0)
        needed += one["pages"] * (1 - _mean_decay(per_page, sending_s) *
                                  math.exp(-per_page * rest_s))
        # What was written to already, and left for the last round, is not needed once more.
        elsewhere = max(pages - one["pages"] - one["deferred_pages"], 0)
        needed += elsewhere * (1 - math.exp(-per_page * (one["seconds"] + rest_s)))
    return needed


def _mean_decay(rate, span_s):
    """The mean of exp(-rate * t) for t from 0 to span_s."""
    return -math.expm1(-rate * span_s) / (rate * span_s) if rate * span_s > 0 else 1.0


def wire_overhead(row):
    """Bytes on the wire, but for what was there without the move, over the needed pages'."""
    wire = row["wire_bytes"] - row["quiet_bytes_per_s"] * row["moving_s"]
    return wire / (PAGE * needed_pages(row["report"], row["pages_per_s"]))


def wire_framing(row):
    """The same over the pages that were sent, needed or not."""
    wire = row["wire_bytes"] - row["quiet_bytes_per_s"] * row["moving_s"]
    return wire / (PAGE * sum(one["pages"] for one in row["report"]["page_rounds"]))


def bulk_rate(row):
    """Bytes per second of the first round, from its listing until all of it had landed."""
    first = row["report"]["page_rounds"][0]
    return first["wire_bytes"] / first["seconds"]
