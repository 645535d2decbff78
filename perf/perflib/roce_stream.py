"""RoCEv2 in user space over a veth pair, beside the bare port and one stream of iperf3 on the same pair."""

import json
import os
import subprocess

from demolib import bed as beds

from . import iperf3, processors, summary

BENCH = os.path.join(beds.Bed.binaries, "roce-bench")
REPETITIONS = 5
SECONDS = 2
PORT = 7620
MTU = 9000


class _Pair:
    """Two network namespaces joined by a veth pair."""

    def __init__(self):
        self.names = [f"perf-roce-{side}-{os.getpid()}" for side in "ab"]
        self.devices = [f"pr{side}{os.getpid()}" for side in "ab"]

    def __enter__(self):
        try:
            for name in self.names:
                beds.run(["ip", "netns", "add", name], 30)
            beds.run(["ip", "link", "add", self.devices[0], "mtu", str(MTU), "netns",
                      self.names[0], "type", "veth", "peer", "name", self.devices[1], "mtu",
                      str(MTU), "netns", self.names[1]], 30)
            for side in range(2):
                beds.run(self.inside(side, "ip", "addr", "add", f"10.92.0.{side + 1}/24", "dev",
                                     self.devices[side]), 30)
                beds.run(self.inside(side, "ip", "link", "set", self.devices[side], "up"), 30)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        for name in self.names:
            subprocess.run(["ip", "netns", "delete", name], check=False,
                           stderr=subprocess.DEVNULL)

    def inside(self, side, *command):
        return ["ip", "netns", "exec", self.names[side], *command]

    def bench(self, side, role, *more):
        return self.inside(side, BENCH, role, "--roce-port", f"af_packet:{self.devices[side]}",
                           "--roce-ip", f"10.92.0.{side + 11}", "--address", "10.92.0.2", *more)


def _both(listener, connector):
    """Runs two ends; returns what each printed."""
    listening = subprocess.Popen(listener, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                 stderr=subprocess.PIPE, text=True)
    try:
        line = listening.stderr.readline()
        if "listening" not in line:
            raise beds.DemoError(f"{listener[-1]}: {line}{listening.stderr.read()}")
        said = beds.run(connector, 120)
        heard, complaint = listening.communicate(timeout=60)
        if listening.returncode != 0:
            raise beds.DemoError(complaint)
        return heard, said
    finally:
        listening.kill()
        listening.wait()


def _port(pair, seconds):
    heard, _ = _both(pair.bench(1, "port-listen"),
                     pair.bench(0, "port-connect", "--seconds", str(seconds)))
    return json.loads(heard)["bytes_per_s"]


def _roce(pair, seconds, port):
    common = ("--port", str(port), "--seconds", str(seconds))
    _, said = _both(pair.bench(1, "listen", *common), pair.bench(0, "connect", *common))
    return json.loads(said)["bytes_per_s"]


def run(arguments, note):
    """Returns samples, summary, ratios and failures. The three run one after the other in each repetition, so
    that other work on the machine meets all alike; a figure is the median of the repetitions' ratios."""
    if os.geteuid() != 0:
        raise beds.DemoError("section roce makes network namespaces: run it as root")
    samples, port = [], PORT
    with _Pair() as pair:
        for repetition in range(1 if arguments.quick else REPETITIONS):
            bare = _port(pair, SECONDS)
            port += 2
            ours = _roce(pair, SECONDS, port)
            peer = iperf3.bytes_per_s("10.92.0.2", port + 1, SECONDS, server=pair.inside(1),
                                      client=pair.inside(0))
            samples.append({"section": "roce", "repetition": repetition,
                            "roce_bytes_per_s": ours, "port_bytes_per_s": bare,
                            "iperf3_bytes_per_s": peer, "roce_vs_port": ours / bare,
                            "roce_vs_iperf3": ours / peer})
            note(f"roce {ours / 1e6:.0f} MB/s, port {bare / 1e6:.0f} MB/s, "
                 f"iperf3 {peer / 1e6:.0f} MB/s")
        profile = None
        if arguments.profile:
            note("roce once more, sampled")
            _, profile = processors.record(lambda: _roce(pair, SECONDS, port + 2), 60)
    figures = {name: summary.summarize([sample[name] for sample in samples])
               for name in ("roce_vs_port", "roce_vs_iperf3")}
    return {"samples": samples, "summary": figures,
            "ratios": {name: figure["median"] for name, figure in figures.items()},
            "failures": [], "profile": profile}
