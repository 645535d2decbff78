"""Median and spread of repeated measurements."""

import statistics


def summarize(values):
    """Median, median absolute deviation, least and greatest of some numbers; None without any."""
    if not values:
        return None
    median = statistics.median(values)
    return {"n": len(values), "median": median,
            "mad": statistics.median(abs(value - median) for value in values),
            "min": min(values), "max": max(values)}


def by_row(samples, metrics):
    """{row name: {metric: summary}} of samples that are rows."""
    names = list(dict.fromkeys(sample["name"] for sample in samples))
    return {name: {metric: summarize([sample[metric] for sample in samples
                                      if sample["name"] == name and sample.get(metric) is not None])
                   for metric in metrics}
            for name in names}
