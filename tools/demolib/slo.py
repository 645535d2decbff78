"""What clients bore: seconds of violation, of a reply-time bound. Pure functions over requests as
demolib/player.py has them: [due, waited] in seconds, waited None when no answer came."""

import math


def violated_seconds(requests, bound_s, begin_s=0.0, end_s=math.inf):
    """The seconds (whole ones, from `begin_s`) in which a request was due that was answered after
    `bound_s`, or never; of those due in [begin_s, end_s)."""
    return {int(due - begin_s) for due, waited in requests
            if begin_s <= due < end_s and (waited is None or waited > bound_s)}


def waits(requests, begin_s=0.0, end_s=math.inf):
    """Of the requests due in [begin_s, end_s): how many, how many unanswered, median and 99th
    percentile of the others' reply times, and the longest; None without any."""
    due = [waited for at, waited in requests if begin_s <= at < end_s]
    answered = sorted(waited for waited in due if waited is not None)

    def quantile(share):
        return answered[min(len(answered) - 1, int(share * len(answered)))] if answered else None
    return {"requests": len(due), "unanswered": len(due) - len(answered), "p50_s": quantile(0.5),
            "p99_s": quantile(0.99), "longest_s": answered[-1] if answered else None}


def longest_by_second(requests, begin_s=0.0):
    """[(second, longest reply time of the requests due in it)], for a chart; those without an
    answer are left out."""
    longest = {}
    for due, waited in requests:
        if due >= begin_s and waited is not None:
            second = int(due - begin_s)
            longest[second] = max(longest.get(second, 0.0), waited)
    return sorted(longest.items())
