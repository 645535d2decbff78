#!/usr/bin/python3
"""What the agent of this machine takes to watch many components, beside systemd-cgtop.

usage: measure.py --bin FOLDER --count N --seconds S

Runs N components, measures while they wait and while they work, and stops them. The agent and
`systemd-cgtop --batch`, with the agent's period, look at the same cgroups during the same seconds.
Prints JSON: for "idle" and "busy", of each program the processor time a second and its memory.
"""

import argparse
import json
import os
import resource
import signal
import subprocess
import sys
import time

GROUP = "/sys/fs/cgroup/starling"
TICKS = os.sysconf("SC_CLK_TCK")
SETTLE_S = 20  # forecasts of 12 periods, and whatever a start leaves to be done


def pids_of(name):
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/comm", encoding="utf-8") as file:
                # The kernel keeps 15 characters.
                if file.read().strip() == name[:15]:
                    found.append(int(pid))
        except OSError:
            pass
    return found


def cpu_s(pid):
    with open(f"/proc/{pid}/stat", encoding="utf-8") as file:
        fields = file.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def memory_bytes(pid, key):
    path = "smaps_rollup" if key == "Pss" else "status"
    with open(f"/proc/{pid}/{path}", encoding="utf-8") as file:
        for line in file:
            if line.startswith(key + ":"):
                return int(line.split()[1]) << 10
    raise SystemExit(f"/proc/{pid}/{path} has no {key}")


class Machine:
    def __init__(self, folder, period_s):
        self.folder, self.period_s = folder, period_s

    def starling(self, *arguments):
        done = subprocess.run([os.path.join(self.folder, "starling"), *arguments], text=True,
                              capture_output=True, check=False)
        if done.returncode != 0:
            raise SystemExit(f"starling {' '.join(arguments)}: {done.stderr.strip()}")
        return done.stdout

    def workers(self, number):
        """Signals all workers; they are the processes of that name in the components' cgroups."""
        for pid in pids_of("starling-worker"):
            with open(f"/proc/{pid}/cgroup", encoding="utf-8") as file:
                if "/starling/" in file.read():
                    os.kill(pid, number)

    def measure(self, seconds):
        (agent,) = pids_of("starlingd")
        keepers = pids_of("starling-keeper")
        rounds = max(2, int(seconds / self.period_s))
        before = {pid: cpu_s(pid) for pid in [agent, *keepers]}
        children = resource.getrusage(resource.RUSAGE_CHILDREN)
        began = time.monotonic()
        top = subprocess.Popen(["systemd-cgtop", "--batch", "--raw", "--depth", "3",
                                f"--delay={self.period_s}", f"--iterations={rounds}", GROUP[14:]],
                               stdout=subprocess.PIPE, text=True)
        peak = 0
        said = []
        os.set_blocking(top.stdout.fileno(), False)
        while top.poll() is None:
            said.append(top.stdout.read() or "")
            try:
                peak = max(peak, memory_bytes(top.pid, "VmRSS"))
            except (OSError, SystemExit):
                pass  # it is about to end
            time.sleep(0.2)
        said.append(top.stdout.read() or "")
        passed = time.monotonic() - began
        after = {pid: cpu_s(pid) for pid in before}
        now = resource.getrusage(resource.RUSAGE_CHILDREN)
        if top.returncode != 0:
            raise SystemExit(f"systemd-cgtop ended with {top.returncode}")
        rows = "".join(said).splitlines()
        top_s = (now.ru_utime + now.ru_stime) - (children.ru_utime + children.ru_stime)
        return {
            "seconds": passed, "rounds": rounds,
            "agent": {"cores": (after[agent] - before[agent]) / passed,
                      "resident_bytes": memory_bytes(agent, "VmRSS"),
                      "own_bytes": memory_bytes(agent, "Pss")},
            "keepers": {"count": len(keepers),
                        "cores": sum(after[pid] - before[pid] for pid in keepers) / passed,
                        "own_bytes": sum(memory_bytes(pid, "Pss") for pid in keepers)},
            "cgtop": {"cores": top_s / passed, "resident_bytes": peak,
                      "lines_a_round": len(rows) / rounds}}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bin", required=True)
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    arguments = parser.parse_args()
    machine = Machine(arguments.bin, 1.0)
    forecast = json.loads(machine.starling("forecast", "--json"))
    machine.period_s = forecast["step_s"]
    (agent,) = pids_of("starlingd")
    result = {"period_s": machine.period_s, "count": arguments.count,
              "alone": {"resident_bytes": memory_bytes(agent, "VmRSS")}}
    names = [f"worker-{number}" for number in range(arguments.count)]
    started = []
    try:
        for name in names:
            machine.starling("run", name, "--", os.path.join(arguments.bin, "starling-worker"))
            started.append(name)
        time.sleep(SETTLE_S)
        result["idle"] = machine.measure(arguments.seconds)
        machine.workers(signal.SIGUSR1)
        time.sleep(SETTLE_S)
        result["busy"] = machine.measure(arguments.seconds)
        watched = json.loads(machine.starling("forecast", "--json"))["components"]
        result["watched"] = len(watched)
    finally:
        for name in started:
            subprocess.run([os.path.join(arguments.bin, "starling"), "stop", name, "--grace", "0.1"],
                           capture_output=True, check=False)
    json.dump(result, sys.stdout)
    print()


if __name__ == "__main__":
    main()
