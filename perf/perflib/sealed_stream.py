"""The page stream sealed beside plain, over TCP on loopback, one after the other."""

import json
import os

from demolib import bed as beds

from . import summary

BENCH = os.path.join(beds.Bed.binaries, "stream-bench")
REPETITIONS = 7
SECONDS = 2
PORT = 7660


def _stream(sealed, seconds, port):
    said = beds.run([BENCH, *(["--sealed"] if sealed else []), "--seconds", str(seconds), "--port",
                     str(port)], 120)
    return json.loads(said)["bytes_per_s"]


def run(arguments, note):
    """Returns samples, summary, ratios and failures. Each pair runs back to back, so that other work on
    the machine meets both alike; the figure is the median of what sealing costs in each."""
    samples = []
    for repetition in range(1 if arguments.quick else REPETITIONS):
        plain = _stream(False, SECONDS, PORT + 2 * repetition)
        sealed = _stream(True, SECONDS, PORT + 2 * repetition + 1)
        samples.append({"section": "sealed", "repetition": repetition,
                        "plain_bytes_per_s": plain, "sealed_bytes_per_s": sealed,
                        "encryption_cost": 1 - sealed / plain})
        note(f"stream plain {plain / 1e6:.0f} MB/s, sealed {sealed / 1e6:.0f} MB/s")
    cost = summary.summarize([sample["encryption_cost"] for sample in samples])
    return {"samples": samples, "summary": {"encryption_cost": cost},
            "ratios": {"encryption_cost": cost["median"]}, "failures": []}
