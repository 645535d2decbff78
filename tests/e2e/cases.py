"""The command line, the verdicts and the closing table of tests whose cases share one bed."""

import argparse
import json
import subprocess
import time
import traceback

from beds import Failed

# What a case may end with without being a mistake in the test itself.
ENDS = (Failed, OSError, subprocess.SubprocessError, ValueError, KeyError)


class Skipped(Exception):
    """Cannot be tested here, and why."""


def parser(doc, names, bed):
    """`doc` is the test's own, with its usage; `names` the cases; `bed` its name unless told."""
    made = argparse.ArgumentParser(usage=doc)
    made.add_argument("--case", action="append", choices=names)
    made.add_argument("--list", action="store_true")
    made.add_argument("--kernel", default="6.12")
    made.add_argument("--keep", action="store_true")
    made.add_argument("--bed", default=bed)
    made.add_argument("--json")
    return made


def run(names, act, after=lambda name, passed: None, also=()):
    """Calls act(name), which returns what was seen or raises, and after(name, passed) in any case.
    `also` are further exceptions with which a case may fail. Returns a row for each."""
    rows = []
    for name in names:
        began = time.monotonic()
        verdict = "FAILED"
        try:
            said, verdict = act(name), "passed"
        except Skipped as reason:
            said, verdict = str(reason), "skipped"
        except (*ENDS, *also) as error:
            if not isinstance(error, Failed):
                traceback.print_exc()
            said = str(error)
        finally:
            after(name, verdict != "FAILED")
        rows.append({"name": name, "verdict": verdict, "said": said or ""})
        print(f"{name}: {verdict} ({time.monotonic() - began:.0f} s): {said}", flush=True)
    return rows


def close(rows, json_path=None):
    """Prints the table and the closing line. Returns the exit code."""
    width = max(len(row["name"]) for row in rows)
    print()
    for row in rows:
        print(f"{row['name']:<{width}}  {row['verdict']:<8} {row['said']}")
    if json_path:
        with open(json_path, "w", encoding="utf-8") as out:
            json.dump({"schema": 1, "rows": rows}, out, indent=2)
    named = {verdict: [row["name"] for row in rows if row["verdict"] == verdict]
             for verdict in ("passed", "skipped", "FAILED")}
    print(f"\n{len(named['passed'])} of {len(rows)} cases passed"
          + "".join(f", {verdict} {', '.join(named[verdict])}"
                    for verdict in ("skipped", "FAILED") if named[verdict]))
    return 1 if named["FAILED"] else 0


def show_logs(nodes, logs="/var/log/starling/starlingd.log"):
    for node in nodes:
        print(f"--- {node.name}\n" + node.shell(f"tail -n 25 {logs}", check=False).out, flush=True)
