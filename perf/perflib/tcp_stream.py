"""The transport over TCP beside iperf3 with as many streams, over loopback, one after the other."""

import json
import os

from demolib import bed as beds

from . import iperf3, summary

BENCH = os.path.join(beds.Bed.binaries, "tcp-bench")
STREAMS = (1, 2, 4)
REPETITIONS = 5
SECONDS = 2
PORT = 7591


def _ours(streams, seconds, port):
    said = beds.run([BENCH, "--streams", str(streams), "--seconds", str(seconds), "--port",
                     str(port)], 120)
    return json.loads(said)["bytes_per_s"]


def run(arguments, note):
    """Returns samples, ratios and failures. Each pair runs back to back, so that other work on the
    machine meets both alike; the figure is the median of the pairs' ratios."""
    repetitions = 1 if arguments.quick else REPETITIONS
    samples, port = [], PORT
    for streams in STREAMS:
        for repetition in range(repetitions):
            port += 2
            peer = iperf3.bytes_per_s("127.0.0.1", port, SECONDS, streams=streams)
            ours = _ours(streams, SECONDS, port + 1)
            samples.append({"section": "tcp", "streams": streams, "repetition": repetition,
                            "tcp_bytes_per_s": ours, "iperf3_bytes_per_s": peer,
                            "ratio": ours / peer})
            note(f"{streams} streams: tcp {ours / 1e6:.0f} MB/s, iperf3 {peer / 1e6:.0f} MB/s")
    by_streams = {streams: summary.summarize([sample["ratio"] for sample in samples
                                              if sample["streams"] == streams])
                  for streams in STREAMS}
    worst = min(value["median"] for value in by_streams.values())
    return {"samples": samples, "summary": {"tcp_vs_iperf3_by_streams": by_streams},
            "ratios": {"tcp_vs_iperf3": worst}, "failures": []}
