"""The page stream over verbs beside ib_write_bw, and messages beside ib_send_lat, between two machines."""

import json
import subprocess
import time

from demolib import bed as beds
from demolib import hosts

from . import summary

REPETITIONS = 5
QUEUE_PAIRS = (1, 2, 3, 4)
STREAM_QUEUE_PAIRS = (2, 4)
MEMORY_MIB = 768
STREAM_MIB = 128
SECONDS = 3
PORT = 7680
GIGABYTE = 1e9


def _busy_s(machines, number):
    """Seconds that the machine's processors have been busy since it started."""
    said = machines.execute(number, "sh", "-c", "getconf CLK_TCK; head -n 1 /proc/stat").split()
    ticks, fields = int(said[0]), [int(field) for field in said[2:10]]
    # user nice system idle iowait irq softirq steal
    return (sum(fields) - fields[3] - fields[4] - fields[7]) / ticks


def _with_cpu(machines, act):
    """What act() returns, and the processor time for each GB on the wire meanwhile, of both sides."""
    before = [_busy_s(machines, number) for number in (1, 2)]
    wire = machines.wire_bytes()
    result = act()
    gigabytes = (machines.wire_bytes() - wire) / GIGABYTE
    after = [_busy_s(machines, number) for number in (1, 2)]
    return result, [(late - early) / gigabytes for early, late in zip(before, after)]


def _stream(machines, queue_pairs, sealed, port):
    """What stream-bench says of a stream from machine 1 to machine 2."""
    bench = machines.node_binary("stream-bench")
    both = [bench, "--provider", "verbs", "--mib", str(STREAM_MIB), "--seconds", str(SECONDS),
            "--port", str(port), "--queue-pairs", str(queue_pairs),
            *(["--sealed"] if sealed else [])]
    target = machines.start_in(2, *both, "--device", beds.verbs_device(machines, 2), "--listen",
                               machines.node_address(2), stdin=subprocess.DEVNULL,
                               stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        said = []
        for line in target.stderr:
            said.append(line)
            if "listening" in line:
                break
        else:
            raise beds.DemoError(f"stream-bench does not listen: {''.join(said)}")
        return json.loads(machines.execute(1, *both, "--device", beds.verbs_device(machines, 1),
                                           "--connect", machines.node_address(2), timeout=180))
    finally:
        time.sleep(0.5)
        target.terminate()
        target.wait()
        target.stderr.close()


def _latency(machines, note):
    """Our agents' round trip of a message and perftest's one way, each in seconds, run one after the
    other by `starling bench`."""
    said = json.loads(machines.execute(1, machines.node_binary("starling"), "bench",
                                       "--to", machines.node_name(2), "--provider", "verbs",
                                       "--json", timeout=300))
    (ours,) = said["results"]
    (peer,) = [tool for tool in said["tools"] if tool["tool"] == "ib_send_lat"]
    if not peer["one_way_s"]:
        raise beds.DemoError(f"ib_send_lat: {peer['skipped']}")
    note(f"a message there and back in {ours['round_trip_median_s'] * 1e6:.0f} us, ib_send_lat "
         f"{peer['one_way_s'] * 1e6:.0f} us one way; writes to {ours.get('granted')}")
    return {"round_trip_s": ours["round_trip_median_s"], "one_way_s": peer["one_way_s"],
            "ratio": ours["round_trip_median_s"] / (2 * peer["one_way_s"]),
            "granted": ours.get("granted")}


def _measure(machines, arguments, note):
    samples, port = [], PORT
    for repetition in range(arguments.repetitions or (1 if arguments.quick else REPETITIONS)):
        perftest = {}
        for queue_pairs in QUEUE_PAIRS:
            rate, cpu = _with_cpu(machines, lambda: beds.verbs_rate_over(machines, queue_pairs))
            perftest[queue_pairs] = {"bytes_per_s": rate, "cpu_s_per_gb": cpu}
        best = max(perftest.values(), key=lambda one: one["bytes_per_s"])
        plain = []
        for queue_pairs in STREAM_QUEUE_PAIRS:
            port += 2
            said, cpu = _with_cpu(machines, lambda: _stream(machines, queue_pairs, False, port))
            plain.append({**said, "cpu_s_per_gb": cpu})
        streams = {"plain": max(plain, key=lambda one: one["bytes_per_s"])}
        port += 2
        said, cpu = _with_cpu(machines, lambda: _stream(
            machines, streams["plain"]["queue_pairs"], True, port))
        streams["sealed"] = {**said, "cpu_s_per_gb": cpu}
        latency = _latency(machines, note)
        sample = {"section": "verbs", "repetition": repetition, "ib_write_bw": perftest,
                  "stream": streams, "plain_streams": plain, "latency": latency,
                  "stream_vs_ib_write_bw": streams["plain"]["bytes_per_s"] / best["bytes_per_s"],
                  "sealed_vs_ib_write_bw": streams["sealed"]["bytes_per_s"] / best["bytes_per_s"],
                  "stream_cpu_vs_ib_write_bw": sum(streams["plain"]["cpu_s_per_gb"]) /
                                               sum(best["cpu_s_per_gb"])}
        samples.append(sample)
        note(f"ib_write_bw {best['bytes_per_s'] / 1e6:.1f} MB/s at best, "
             f"{sum(best['cpu_s_per_gb']):.1f} s of processors a GB; stream plain "
             f"{streams['plain']['bytes_per_s'] / 1e6:.1f}, sealed "
             f"{streams['sealed']['bytes_per_s'] / 1e6:.1f} MB/s, "
             f"{sum(streams['plain']['cpu_s_per_gb']):.1f} s a GB, into "
             f"{streams['plain']['granted']}")
    return samples


def run(arguments, note):
    """Returns samples, summary, ratios and failures. Everything of one repetition runs back to back;
    the figures are the medians of the repetitions' ratios."""
    if arguments.hosts:
        machines = hosts.Hosts(arguments.hosts.split(","), arguments.component_ip, arguments.ssh)
    else:
        machines = beds.Bed("perf-verbs")
        machines.up(arguments.kernel, arguments.memory or MEMORY_MIB)
    try:
        samples = _measure(machines, arguments, note)
    finally:
        machines.down()
    figures = {name: summary.summarize([sample[name] for sample in samples])
               for name in ("stream_vs_ib_write_bw", "sealed_vs_ib_write_bw",
                            "stream_cpu_vs_ib_write_bw")}
    figures["control_rtt_vs_ib_send_lat"] = summary.summarize(
        [sample["latency"]["ratio"] for sample in samples])
    return {"samples": samples, "summary": figures,
            "ratios": {name: value["median"] for name, value in figures.items()}, "failures": []}
