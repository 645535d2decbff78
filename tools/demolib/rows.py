"""The ways in which the demo moves a component, each measured alike: one row of the table each."""

import contextlib
import json
import os
import select
import shlex
import subprocess
import time

from . import agents
from . import bed as beds
from . import witness as witnesses

COMPONENT_MAC = "52:54:00:aa:00:50"
REDIS_PORT = 6379
REDIS = ["redis-server", "--port", str(REDIS_PORT), "--bind", "0.0.0.0", "--protected-mode", "no",
         "--save", "", "--appendonly", "no", "--dir", "/"]
# Ports of criu_node.py whose traffic is the move's: images, and one page server for each round.
MOVE_PORTS = [7502, *range(7510, 7530)]
SETTLE_S = 2
# Runs a command between two lines with the node's time in nanoseconds: CRIU's total is taken by the
# node's clock, too, and how a command gets to the node is part of neither.
TIMED = 'date +%s%N; "$@"; status=$?; date +%s%N; exit $status'
PATIENCE_S = 600  # with any one step of a node; a hang is to end as an error


class Load:
    """A component and what it is to do while it moves: here a Redis and its client."""

    component = "redis"
    port = REDIS_PORT
    settle_s = SETTLE_S  # of load before the move, and after it
    beat_every = "1ms"  # how finely its blackout is seen

    def __init__(self, rate, mib, seed=1):
        self.rate = rate
        self.mib = mib
        self.seed = seed

    def command(self, bed):
        """The program's command line, in a node."""
        del bed
        return REDIS

    def client(self):
        """How the witness asks."""
        return {"rate": self.rate, "preload_mib": self.mib, "seed": self.seed}

    def look(self, bed):
        """What is to be known of the component just before it moves."""
        del bed
        return {}


class Place:
    """Where rows are measured: two machines (bed.Bed or hosts.Hosts), and a folder for results."""

    def __init__(self, bed, results):
        self.bed = bed
        self.results = results

    def witness(self):
        path = os.path.join(beds.Bed.binaries, "starling-witness")
        if not os.access(path, os.X_OK):
            raise beds.DemoError(f"{path} is not there; run tools/setup")
        return path


class CriuNode:
    """criu_node.py running in a guest."""

    def __init__(self, bed, number):
        script = bed.node_script(
            os.path.join(os.path.dirname(os.path.realpath(__file__)), "criu_node.py"))
        self._name = bed.node_name(number)
        self._process = bed.start_in(number, "/usr/bin/python3", "-B", script,
                                     stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def do(self, name, **arguments):
        line = ""
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps({"do": name, **arguments}) + "\n")
            self._process.stdin.flush()
            answered, _, _ = select.select([self._process.stdout], [], [], PATIENCE_S)
            if not answered:
                self._process.kill()
                raise beds.DemoError(f"{self._name}: {name} was not done after {PATIENCE_S} s")
            line = self._process.stdout.readline()
        if not line:
            raise beds.DemoError(f"{self._name}: the helper in the guest died")
        answer = json.loads(line)
        if not answer.pop("ok"):
            raise beds.DemoError(f"{self._name}: {answer['error']}")
        return answer

    def close(self):
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()


class CriuPair:
    """The helpers in both guests. Use as a context manager: it leaves nothing behind."""

    def __init__(self, place):
        self._place = place
        self._mac = place.bed.client_mac()
        self.source = CriuNode(place.bed, 1)
        self.target = CriuNode(place.bed, 2)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.source.close()
        self.target.close()

    def prepare(self):
        bed = self._place.bed
        for node, is_target in ((self.target, True), (self.source, False)):
            node.do("prepare", address=f"{bed.component_address}/{bed.component_prefix}",
                    mac=COMPONENT_MAC, client=bed.client_address, client_mac=self._mac,
                    device=bed.device, target=is_target)

    def clean(self):
        self.source.do("clean")
        self.target.do("clean")

    def shape(self, rate_bytes_per_s):
        for node in (self.source, self.target):
            node.do("shape", rate_bytes_per_s=rate_bytes_per_s, ports=MOVE_PORTS,
                    device=self._place.bed.device)

    def unshape(self):
        for node in (self.source, self.target):
            node.do("unshape", device=self._place.bed.device)

    def rehearse(self):
        """Moves a component that is nothing but its heartbeat, both ways, so that no row pays for
        what the guests read from disk the first time."""
        for precopy in (False, True):
            self.prepare()
            self.source.do("launch", command=shlex.join(_heartbeat(self._place)))
            self.source.do("move", target=self._place.bed.node_address(2), precopy=precopy)
            self.clean()


def _heartbeat(place, every="1ms"):
    return [place.bed.node_binary("starling-heartbeat"), "--to",
            f"{place.bed.client_address}:{witnesses.HEARTBEAT_PORT}", "--every", every]


def component(place, load):
    """The component's command line."""
    return [*_heartbeat(place, load.beat_every), "--", *load.command(place.bed)]


def _watch(place, load, name):
    return witnesses.Witness(place.bed, place.witness(), os.path.join(place.results, name),
                             f"{place.bed.component_address}:{load.port}", **load.client())


def _measure(place, load, name, move, prepare=None):
    """Runs `move` under the witness's load, after `prepare` if there is one. `move` returns what it
    knows of itself: at least total_ms and rounds."""
    witness = _watch(place, load, name)
    try:
        witness.wait_ready()
        seen = load.look(place.bed)
        if prepare is not None:
            prepare(place, load.component)
        quiet_began, quiet = time.monotonic(), place.bed.wire_bytes()
        witnesses.settle(load.settle_s)
        wire = place.bed.wire_bytes()
        began = time.monotonic()
        quiet_bytes_per_s = (wire - quiet) / (began - quiet_began)
        witness.mark("move")
        moved = move()
        ended = time.monotonic()
        wire = place.bed.wire_bytes() - wire
        witnesses.settle(load.settle_s)
        report = witness.report()
    finally:
        witness.kill()
    return {"name": name, **witnesses.figures(report, began, ended), "wire_bytes": wire,
            "quiet_bytes_per_s": quiet_bytes_per_s, "moving_s": ended - began, **seen, **moved}


def criu_name(precopy, shaped):
    """The name of a CRIU row."""
    return f"criu-{'precopy' if precopy else 'copy'}{'-shaped' if shaped else ''}"


def criu_row(place, pair, load, *, precopy, rate_bytes_per_s=None):
    """Moves the component with CRIU: a plain copy of the images, or pre-copy into its page server;
    with `rate_bytes_per_s` over a link shaped to that rate."""
    pair.prepare()
    pair.source.do("launch", command=shlex.join(component(place, load)))

    def move():
        moved = pair.source.do("move", target=place.bed.node_address(2), precopy=precopy)
        passes = moved.pop("rounds")
        return {"total_ms": moved.pop("total_ms"), "rounds": len(passes),
                "phases": {**moved, "passes": passes}}

    if rate_bytes_per_s is not None:
        pair.shape(rate_bytes_per_s)
    try:
        return _measure(place, load, criu_name(precopy, rate_bytes_per_s is not None), move)
    finally:
        pair.unshape()
        pair.clean()


def starling_row(place, load, name="starling", prepare=None):
    """Moves the component with `starling migrate`, as a user would. `prepare(place, component)`: what
    is to be done before, while the load runs."""
    with StarlingComponent(place, load.component, component(place, load)) as moving:
        memory = agents.Memory(place.bed)
        row = _measure(place, load, name, moving.migrate, prepare)
        return {**row, **memory.figures()}


def rehearse_starling(place):
    """As CriuPair.rehearse(): a component that is nothing but its heartbeat, there and away."""
    with StarlingComponent(place, "rehearsal", _heartbeat(place)) as moving:
        moving.migrate()


class StarlingComponent:
    """A component started on node 1 with `starling run`. Use as a context manager."""

    def __init__(self, place, name, command):
        self._bed = place.bed
        self._name = name
        self._command = command
        self._where = 1

    def __enter__(self):
        bed = self._bed
        bed.execute(1, "starling", "run", self._name, "--ip",
                    f"{bed.component_address}/{bed.component_prefix}", "--", *self._command)
        return self

    def __exit__(self, *_):
        self._bed.execute(self._where, "starling", "stop", self._name)

    def migrate(self):
        said = self._bed.execute(1, "sh", "-c", TIMED, "sh", "starling", "migrate", self._name,
                                 "--to", self._bed.node_name(2), "--json", timeout=300)
        self._where = 2
        began, *said, ended = said.strip().splitlines()
        return {"total_ms": (int(ended) - int(began)) / 1e6, **_told(said)}


def _told(said):
    """What the report, the last line of `starling migrate --json`, says of the move."""
    lines = [line for line in said if line.startswith("{")]
    last = json.loads(lines[-1]) if lines else {}
    report = last.get("report")
    if last.get("outcome") != "done" or report is None:
        raise beds.DemoError(f"starling migrate did not report a finished move: {said!r}")
    return {"rounds": report["rounds"], "provider": report["provider"],
            "encrypted": report["encrypted"], "tracker": report.get("tracker"),
            "held_ms": report["held_s"] * 1000,
            "phases": {f"{phase['name']}_ms": phase["seconds"] * 1000
                       for phase in report["phases"]},
            "report": report}
