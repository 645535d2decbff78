"""The bed, its nodes, the witness and components, as the end-to-end tests use them."""

import contextlib
import json
import os
import select
import subprocess
import sys
import threading
import time

ROOT = os.path.realpath(os.path.join(os.path.dirname(__file__), "..", ".."))
BED = os.path.join(ROOT, "tools", "bed")
BINARIES = os.path.join(ROOT, "build", "release", "bin")
WORKLOADS = os.path.join(ROOT, "tests", "e2e", "workloads")
ADDRESS = "10.77.0.50"
HEARTBEAT_PORT = 7600
OBSERVER = f"10.77.0.254:{HEARTBEAT_PORT}"

# For what ends within seconds on an idle machine. Nothing is concluded from how long it took.
PATIENCE_S = 300
SSH_GAVE_UP = 255
CONSOLE_LINES = 40  # of a node that does not answer


class Failed(Exception):
    """Something was not as it has to be, or could not be carried through."""


class Done:
    """How a command ended."""

    def __init__(self, code, out, err):
        self.code, self.out, self.err = code, out, err


def wait_until(what, condition, timeout_s=PATIENCE_S, pause_s=0.3):
    deadline = time.monotonic() + timeout_s
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise Failed(f"waited {timeout_s} s in vain: {what}")
        time.sleep(pause_s)


class Node:
    def __init__(self, bed, number):
        self._bed = bed
        self.number = number
        self.name = f"node{number}"
        self.address = f"10.77.0.{number}"

    def start(self, *command, **options):
        """Starts a command in the node; returns the Popen."""
        return subprocess.Popen(self._bed.argv("exec", self.name, "--", *command), **options)

    def run(self, *command, check=True, given=None, timeout=PATIENCE_S):
        try:
            done = subprocess.run(self._bed.argv("exec", self.name, "--", *command), text=True,
                                  input=given if given is not None else "", capture_output=True,
                                  check=False, timeout=timeout)
        except subprocess.TimeoutExpired:
            self.show_console()
            raise
        if check and done.returncode != 0:
            if done.returncode == SSH_GAVE_UP:
                self.show_console()
            raise Failed(f"{self.name}: {' '.join(command)} ended with {done.returncode}: "
                         f"{done.stderr.strip() or done.stdout.strip()}")
        return Done(done.returncode, done.stdout, done.stderr)

    def show_console(self):
        """Prints what the node's kernel said last: its console goes with the bed."""
        logs = subprocess.run(self._bed.argv("logs", self.name, "--console"), text=True,
                              capture_output=True, check=False, stdin=subprocess.DEVNULL)
        for line in (logs.stdout or logs.stderr).splitlines()[-CONSOLE_LINES:]:
            print(f"{self.name} console: {line}", file=sys.stderr, flush=True)

    def shell(self, script, check=True, given=None):
        return self.run("sh", "-c", script, check=check, given=given)

    def starling(self, *arguments, check=True):
        return self.run("starling", *arguments, check=check)

    def components(self):
        """Rows of `starling ps` by name."""
        rows = json.loads(self.starling("ps", "--json").out)["components"]
        return {row["name"]: row for row in rows}

    def agent(self, action):
        done = subprocess.run(self._bed.argv("agent", self.name, action), capture_output=True,
                              text=True, check=False, timeout=PATIENCE_S,
                              stdin=subprocess.DEVNULL)
        if done.returncode != 0:
            raise Failed(f"the agent of {self.name}: {action}: {done.stderr.strip()}")
        return done.stdout.strip()

    def agent_pid(self):
        word, _, pid = self.agent("status").partition(" ")
        if word != "running":
            raise Failed(f"the agent of {self.name} is {word}")
        return int(pid)

    def wait_agent(self):
        wait_until(f"the agent of {self.name} answers",
                   lambda: self.starling("info", check=False).code == 0)


class Bed:
    """A bed with a node1, a node2, ... Use as a context manager: what it brought up it takes down."""

    def __init__(self, name, kernel, keep=False, memory_mib=768, nodes=2):
        self.name = name
        self.nodes = {number: Node(self, number) for number in range(1, nodes + 1)}
        self._kernel, self._keep, self._memory_mib = kernel, keep, memory_mib

    def argv(self, *arguments):
        return [BED, arguments[0], "--name", self.name, *arguments[1:]]

    def __enter__(self):
        status = subprocess.run(self.argv("status", "--json"), capture_output=True, text=True,
                                check=False, stdin=subprocess.DEVNULL)
        if status.returncode != 0 or json.loads(status.stdout).get("state") != "up":
            up = subprocess.run(self.argv("up", "--kernel", self._kernel, "--memory",
                                          str(self._memory_mib), "--nodes",
                                          str(len(self.nodes))), check=False,
                                stdin=subprocess.DEVNULL)
            if up.returncode != 0:
                raise Failed("the bed did not come up")
        else:
            self._keep = True  # not ours to take away
        for node in self.nodes.values():
            node.wait_agent()
        return self

    def __exit__(self, *_):
        if not self._keep:
            subprocess.run(self.argv("down"), check=False, stdin=subprocess.DEVNULL)

    def authority(self):
        """Folder of the authority that signed the nodes' certificates."""
        status = subprocess.run(self.argv("status", "--json"), capture_output=True, text=True,
                                check=True, stdin=subprocess.DEVNULL)
        return json.loads(status.stdout)["authority"]

    def certificate(self, name, *options):
        """Files of a host's certificate, made when it is asked for first, as raw_grpc.py takes
        them."""
        folder = os.path.join(self.authority(), "hosts")
        files = [os.path.join(folder, f"{name}.{kind}") for kind in ("crt", "key")]
        if not os.path.exists(files[0]):
            subprocess.run([os.path.join(BINARIES, "starling"), "cert", "host", name,
                            "--authority", self.authority(), "--out", folder, *options],
                           check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        return ":".join([os.path.join(self.authority(), "authority.crt"), *files])

    def client(self, *command, check=True, given="", timeout=PATIENCE_S):
        """Runs a command on the host, in the bed's network."""
        done = subprocess.run(self.argv("client", "--", *command), input=given, text=True,
                              capture_output=True, check=False, timeout=timeout)
        if check and done.returncode != 0:
            raise Failed(f"{' '.join(command)} ended with {done.returncode}: "
                         f"{done.stderr.strip()}")
        return Done(done.returncode, done.stdout, done.stderr)

    def start_client(self, *command, **options):
        return subprocess.Popen(self.argv("client", "--", *command), **options)

    def link(self, node, state):
        subprocess.run(self.argv("link", node.name, state), check=True, stdin=subprocess.DEVNULL)


class Witness:
    """starling-witness outside of the guests, with its one connection."""

    def __init__(self, bed, folder, port, *options, protocol="redis", rate=50):
        self._json = os.path.join(folder, "witness.json")
        self._stop = os.path.join(folder, "witness.stop")
        for path in (self._json, self._stop):
            with contextlib.suppress(FileNotFoundError):
                os.remove(path)
        self._process = bed.start_client(
            os.path.join(BINARIES, "starling-witness"), "--protocol", protocol, "--connect",
            f"{ADDRESS}:{port}", "--rate", str(rate), "--heartbeat-port", str(HEARTBEAT_PORT),
            "--stop-file", self._stop, "--json", self._json, "--wait-ready", "--ready-timeout",
            str(PATIENCE_S), "--drain-timeout", str(PATIENCE_S), *options,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def wait_ready(self):
        """Returns once data is in place and the load runs."""
        ready, _, _ = select.select([self._process.stdout], [], [], PATIENCE_S)
        if not ready or self._process.stdout.readline().strip() != "ready":
            self.kill()
            raise Failed(f"the witness did not get ready: {self._process.stderr.read().strip()}")

    def report(self):
        """Ends the load, lets the witness read everything back, and returns what it saw."""
        with open(self._stop, "w", encoding="ascii"):
            pass
        try:
            _, said = self._process.communicate(timeout=2 * PATIENCE_S)
        except subprocess.TimeoutExpired:
            self.kill()
            raise Failed("the witness did not end") from None
        try:
            with open(self._json, encoding="utf-8") as source:
                return json.load(source)
        except (OSError, ValueError) as error:
            raise Failed(f"no report of the witness ({error}): {said.strip()}") from None

    def kill(self):
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()


class Reader:
    """Collects a stream's lines in the background, so that its writer never waits."""

    def __init__(self, stream):
        self.lines = []
        self._thread = threading.Thread(target=self._read, args=(stream,), daemon=True)
        self._thread.start()

    def _read(self, stream):
        for line in stream:
            self.lines.append(line)

    def text(self):
        self._thread.join(timeout=30)
        return "".join(self.lines)
