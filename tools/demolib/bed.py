"""The test bed as the demo and the benchmarks use it: commands in guests, and the wire's counters."""

import json
import os
import subprocess

CHECKOUT = os.path.realpath(os.path.join(os.path.dirname(__file__), "..", ".."))
BED = os.path.join(CHECKOUT, "tools", "bed")
DATA_BRIDGE = "br0"
CONSOLE_LINES = 40  # of a node, when something failed


class DemoError(Exception):
    """Something that the person at the demo has to be told."""


def run(argv, timeout, given=""):
    """Runs a command on this input; returns what it prints. Fails, and takes too long, with a
    DemoError."""
    try:
        done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=timeout,
                              input=given)
    except subprocess.TimeoutExpired:
        raise DemoError(f"{' '.join(argv)}: not done after {timeout} s") from None
    if done.returncode != 0:
        said = done.stderr.strip() or done.stdout.strip()
        raise DemoError(f"{' '.join(argv)} ended with {done.returncode}: {said}")
    return done.stdout


class Bed:
    """Two nodes of a bed, by its name. hosts.Hosts offers the same of two real machines."""

    device = "eth0"  # of the nodes, in the data network
    client_address = "10.77.0.254"  # of this host, where the witness runs
    component_address = "10.77.0.50"
    component_prefix = 24
    binaries = os.path.join(CHECKOUT, "build", "release", "bin")

    def __init__(self, name):
        self.name = name

    @staticmethod
    def node_address(number):
        return f"10.77.0.{number}"

    @staticmethod
    def node_name(number):
        return f"node{number}"

    def node_binary(self, name):
        """A binary of ours as a node finds it: the bed's nodes see the checkout."""
        return os.path.join(self.binaries, name)

    @staticmethod
    def node_script(path):
        """A script of ours as a node finds it."""
        return path

    def _argv(self, *arguments):
        return [BED, arguments[0], "--name", self.name, *arguments[1:]]

    def _run(self, *arguments, timeout=120, given=""):
        return run(self._argv(*arguments), timeout, given)

    def up(self, kernel, memory_mib):
        """Boots two nodes; what the bed says goes to our standard error."""
        argv = self._argv("up", "--nodes", "2", "--kernel", kernel, "--memory", str(memory_mib))
        if subprocess.run(argv, check=False, stdin=subprocess.DEVNULL).returncode != 0:
            raise DemoError("the bed did not come up")

    def down(self):
        subprocess.run(self._argv("down"), check=False, stdin=subprocess.DEVNULL)

    def consoles(self):
        """What the nodes' kernels said last, a line each: their consoles go with the bed."""
        lines = []
        for number in (1, 2):
            logs = subprocess.run(self._argv("logs", f"node{number}", "--console"), text=True,
                                  capture_output=True, check=False, stdin=subprocess.DEVNULL)
            said = (logs.stdout or logs.stderr).splitlines()[-CONSOLE_LINES:]
            lines += [f"node{number} console: {line}" for line in said]
        return lines

    def status(self):
        return json.loads(self._run("status", "--json"))

    def execute(self, node, *command, timeout=120):
        """Runs a command in a node; returns what it prints."""
        return self._run("exec", f"node{node}", "--", *command, timeout=timeout)

    def write(self, node, path, text):
        """Replaces a file in a node, at once for who reads it."""
        self._run("exec", f"node{node}", "--", "sh", "-c", 'cat >"$1.new" && mv "$1.new" "$1"', "sh",
                  path, given=text)

    def agent(self, node, action):
        """stop, start, restart or status of a node's agent; returns what is said."""
        return self._run("agent", f"node{node}", action)

    def start_in(self, node, *command, **options):
        """Starts a command in a node; returns the Popen."""
        return subprocess.Popen(self._argv("exec", f"node{node}", "--", *command), **options)

    def client(self, *command, timeout=120):
        """Runs a command on the host, in the bed's network; returns what it prints."""
        return self._run("client", "--", *command, timeout=timeout)

    def start_client(self, *command, **options):
        return subprocess.Popen(self._argv("client", "--", *command), **options)

    def client_mac(self):
        """The MAC address of this host in the data network."""
        (bridge,) = json.loads(self.client("ip", "-j", "link", "show", DATA_BRIDGE))
        return bridge["address"]

    def wire_bytes(self):
        """What all guests have sent into the data network so far: read at the host's end of each
        guest's data card, whatever protocol, component traffic included. Segments that the guest
        left to its card are counted unsegmented (their repeated headers are missing)."""
        links = json.loads(self.client("ip", "-j", "-s", "link", "show", "master", DATA_BRIDGE))
        return sum(link["stats64"]["rx"]["bytes"] for link in links)


def verbs_device(bed, number):
    """The node's RDMA device in the data network."""
    links = json.loads(bed.execute(number, "rdma", "-j", "link", "show"))
    for link in links:
        if link.get("netdev") == bed.device:
            return link["ifname"]
    raise DemoError(f"{bed.node_name(number)} has no RDMA device on {bed.device}")


def verbs_rate_over(bed, queue_pairs):
    """The rate in bytes per second that ib_write_bw reaches from node 1 to node 2 over so many queue
    pairs."""
    devices = [verbs_device(bed, number) for number in (1, 2)]
    pid_file = "/run/starling-ib_write_bw.pid"
    # Neither side waits for the other by itself, and one may fail where the other has succeeded: one
    # is there again and again, the other tries until it has a result.
    test = f"-F -q {queue_pairs} -s 1048576 -D 3 --report_gbits"
    serve = f"timeout --foreground 25 ib_write_bw -d {devices[1]} {test}"
    ask = f"timeout 25 ib_write_bw -d {devices[0]} {test} {bed.node_address(2)} 2>/dev/null"
    server = bed.start_in(2, "timeout", "200", "setsid", "--wait", "bash", "-c",
                          f"echo $$ > {pid_file}; while :; do {serve}; done",
                          stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                          stderr=subprocess.DEVNULL)
    try:
        said = bed.execute(1, "bash", "-c",
                           f"for i in $(seq 60); do {ask} && exit; sleep 0.5; done; exit 1",
                           timeout=180)
    finally:
        bed.execute(2, "bash", "-c", f"kill -- -$(cat {pid_file}); rm {pid_file}")
        server.wait()
    rows = [line.split() for line in said.splitlines() if line.split()[:1] == ["1048576"]]
    if not rows:
        raise DemoError(f"ib_write_bw printed no rate: {said}")
    return float(rows[-1][3]) * 1e9 / 8


def verbs_rate(bed):
    """The best rate of ib_write_bw over 1, 2 and 4 queue pairs."""
    return max(verbs_rate_over(bed, queue_pairs) for queue_pairs in (1, 2, 4))
