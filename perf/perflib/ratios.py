"""The figures by which a sweep of migrations is judged; docs/benchmarks.md defines each."""

import statistics

from . import overhead

MIB = 1 << 20
SOURCE_BOUND = 256 * MIB  # of the source's agent, whatever it moves
TARGET_BOUND = 256 * MIB  # of the target's, beyond 1.05 times the component


def median(samples, name, kind, metric, size=None):
    """Of one metric of the rows of a name and kind ("load", "floor" or "idle"); None without any."""
    values = [row[metric] for row in samples
              if row["name"] == name and row["kind"] == kind and size in (None, row["size_mib"])
              and row.get(metric) is not None]
    return statistics.median(values) if values else None


def _over(one, other):
    return one / other if one is not None and other else None


def memory_part_ms(samples, name, size):
    """What the memory adds to the blackout: beyond that of a component that has next to none."""
    blackout, floor = (median(samples, name, "load", "blackout_ms", size),
                       median(samples, name, "floor", "blackout_ms"))
    return None if blackout is None or floor is None else max(blackout - floor, 0.0)


def _median_of(function, rows):
    return statistics.median(map(function, rows)) if rows else None


def ratios(samples, sizes):
    """{name: number, or None where the rows that it needs are missing}."""
    most = max(sizes)

    def of(name, metric):
        return median(samples, name, "load", metric, most)

    blackouts = [median(samples, "starling", "load", "blackout_ms", size) for size in sizes]
    spread = _over(max(blackouts), min(blackouts)) if None not in blackouts else None
    loaded = [row for row in samples if row["name"] == "starling" and row["kind"] == "load"
              and row["size_mib"] == most]
    idle = [row for row in samples if row["name"] == "starling" and row["kind"] == "idle"]
    return {
        "blackout_768_over_64": spread,
        "blackout_vs_criu_precopy": _over(of("starling", "blackout_ms"),
                                          of("criu-precopy", "blackout_ms")),
        "memory_part_vs_criu_precopy": _over(memory_part_ms(samples, "starling", most),
                                             memory_part_ms(samples, "criu-precopy", most)),
        "total_vs_criu_precopy_shaped": _over(of("starling", "total_ms"),
                                              of("criu-precopy-shaped", "total_ms")),
        "gap_vs_criu_precopy": _over(of("starling", "client_gap_ms"),
                                     of("criu-precopy", "client_gap_ms")),
        "p99_back_vs_criu_precopy": _over(of("starling", "p99_back_s"),
                                          of("criu-precopy", "p99_back_s")),
        "bulk_vs_ib_write_bw": _median_of(
            lambda row: overhead.bulk_rate(row) / row["link_bytes_per_s"], idle),
        "bulk_vs_ib_write_bw_beside": _median_of(
            lambda row: overhead.bulk_rate(row) / row["link_beside_bytes_per_s"], idle),
        "wire_overhead": _median_of(overhead.wire_overhead, loaded),
        "wire_framing": _median_of(overhead.wire_framing, loaded),
    }


def memory_flaws(row):
    """What of the agents' memory must not be, in words."""
    if "source_agent_peak_bytes" not in row:
        return []
    found = []
    component = row["size_mib"] * MIB
    if row["source_agent_peak_bytes"] > SOURCE_BOUND:
        found.append(f"the source's agent took {row['source_agent_peak_bytes'] / MIB:.0f} MiB")
    for who in ("agent", "keeper"):
        peak = row[f"target_{who}_peak_bytes"]
        if peak > 1.05 * component + TARGET_BOUND:
            found.append(f"the target's {who} took {peak / MIB:.0f} MiB")
    before, after = row["target_agent_before_bytes"], row["target_agent_after_bytes"]
    if after > before + 32 * MIB:
        found.append(f"the target's agent had {before / MIB:.0f} MiB and keeps {after / MIB:.0f}")
    return found
