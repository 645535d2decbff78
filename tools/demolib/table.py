"""The demo's result for people and for scripts."""

import json

SCHEMA = 1
ROW_KEYS = ("name", "blackout_ms", "client_gap_ms", "total_ms", "wire_bytes", "rounds",
            "lost_writes", "wrong_values", "broken_connections")
WHAT = {
    "criu-copy": "CRIU, plain copy",
    "criu-precopy": "CRIU, pre-copy",
    "criu-copy-shaped": "CRIU, plain copy, shaped",
    "criu-precopy-shaped": "CRIU, pre-copy, shaped",
    "starling": "starling migrate",
}
_COLUMNS = (
    ("", lambda row: WHAT[row["name"]]),
    ("blackout ms", lambda row: f"{row['blackout_ms']:.0f}"),
    ("client gap ms", lambda row: f"{row['client_gap_ms']:.0f}"),
    ("total ms", lambda row: f"{row['total_ms']:.0f}"),
    ("wire MiB", lambda row: f"{row['wire_bytes'] / 2**20:.0f}"),
    ("rounds", lambda row: str(row["rounds"])),
    ("lost", lambda row: str(row["lost_writes"])),
    ("wrong", lambda row: str(row["wrong_values"])),
    ("broken", lambda row: str(row["broken_connections"])),
)


def flaws(row):
    """What in a row must not be, in words; empty if all is well."""
    checks = (
        ("lost_writes", "acknowledged writes lost"), ("wrong_values", "wrong values"),
        ("broken_connections", "connections broken"), ("refused", "requests refused"),
        ("unanswered", "requests never answered"),
        ("unverified_values", "values that could not be read back"),
        ("heartbeats_duplicated", "heartbeats that came twice: two copies ran"),
    )
    return [f"{row[key]} {words}" for key, words in checks if row.get(key)]


def text(rows):
    """The table, aligned."""
    lines = [[title for title, _ in _COLUMNS]]
    lines += [[cell(row) for _, cell in _COLUMNS] for row in rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(_COLUMNS))]
    return "\n".join(
        "  ".join(cell.ljust(width) if column == 0 else cell.rjust(width)
                  for column, (cell, width) in enumerate(zip(line, widths))).rstrip()
        for line in lines)


def document(rows, *, kernel, accelerated, provider, encrypted):
    """build/demo.json."""
    return {"schema": SCHEMA, "kernel": kernel, "accelerated": accelerated, "provider": provider,
            "encrypted": encrypted, "rows": [{key: row[key] for key in ROW_KEYS} for row in rows]}


def write(path, content):
    with open(path, "w", encoding="utf-8") as target:
        json.dump(content, target, indent=2)
        target.write("\n")


def sentence(rows, *, kernel, accelerated, rate_bytes_per_s):
    """What was seen, in words, from the rows alone."""
    by_name = {row["name"]: row for row in rows}
    starling = by_name.get("starling")
    machine = f"Linux {kernel}, {'KVM' if accelerated else 'emulated'}"
    if starling is None:
        return f"On {machine}, starling migrate was not seen to work: it has no row."
    said = (f"On {machine}, starling migrate moved Redis with a blackout of "
            f"{starling['blackout_ms']:.0f} ms and a longest wait of its client of "
            f"{starling['client_gap_ms']:.0f} ms")
    others = [row for row in rows if row["name"] != "starling"]
    shaped = [row for row in others if row["name"].endswith("-shaped")]
    for group, link in ((shaped, f"at the {(rate_bytes_per_s or 0) / 1e6:.0f} MB/s of ib_write_bw"),
                        ([row for row in others if row not in shaped], "on the bare link")):
        if group:
            best = min(group, key=lambda row: row["blackout_ms"])
            gap = min(row["client_gap_ms"] for row in group)
            said += (f"; {link} the best of stock CRIU took {best['blackout_ms']:.0f} ms "
                     f"({WHAT[best['name']]}) and {gap:.0f} ms, "
                     f"{best['blackout_ms'] / starling['blackout_ms']:.1f} and "
                     f"{gap / starling['client_gap_ms']:.1f} times as long")
    damaged = [WHAT[row["name"]] for row in rows if flaws(row)]
    if damaged:
        return f"{said}. Not without damage: {', '.join(damaged)}."
    return (f"{said}. In no row was an acknowledged write lost, a value wrong or a connection "
            "broken.")
