#!/usr/bin/python3
"""The fault test's hand and eye in one node of a bed.

Reads one JSON object a line from standard input ({"id": 1, "do": "hold", ...}), answers each with
one line ({"id": 1, "ok": true, ...}), and all the while prints what runs in the components' cgroups,
by this node's clock: {"t": seconds, "state": {"redis@1f": "running" | "held" | "restoring" | "gone"}}.
"""

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time

RUN = "/run/starling"
HOLD = RUN + "/hold"
GROUPS = "/sys/fs/cgroup/starling"
KEEPERS = "/sys/fs/cgroup/starling-keepers"
JOURNAL = "/var/lib/starling/journal.db"
SAMPLE_S = 0.05
# So that the reader's clock for this node stays right, and it knows that nothing changed.
REPEAT_S = 0.25

OUTPUT = threading.Lock()


def say(message):
    with OUTPUT:
        sys.stdout.write(json.dumps(message) + "\n")
        sys.stdout.flush()


def read(path):
    try:
        with open(path, encoding="utf-8", errors="replace") as source:
            return source.read()
    except OSError:
        return ""


def pids(group):
    return [int(word) for word in read(group + "/cgroup.procs").split()]


def fields(pid):
    """comm, state and tracer of a process."""
    found = {}
    for line in read(f"/proc/{pid}/status").splitlines()[:10]:
        key, _, value = line.partition(":")
        found[key] = value.strip()
    return found.get("Name", ""), found.get("State", "")[:1], int(found.get("TracerPid") or 0)


# Eye ------------------------------------------------------------------------------------------


def state_of(group):
    """What the processes of a component's cgroup can do now.

    "running": some of them execute the component's own instructions. CRIU thaws the group while it
    holds each process by ptrace, and restores inside of the group: neither is running.
    """
    events = read(group + "/cgroup.events")
    if "populated 1" not in events:
        return "empty"
    if "frozen 1" in events:
        return "held"
    free, criu = False, False
    for pid in pids(group):
        name, state, tracer = fields(pid)
        if name == "criu":
            criu = True
        elif name and state not in ("Z", "X") and tracer == 0:
            free = True
    # It may have been frozen between the two looks.
    if "frozen 1" in read(group + "/cgroup.events"):
        return "held"
    if criu:
        return "restoring"
    return "running" if free else "held"


def watch():
    last, told = None, 0.0
    while True:
        try:
            names = [entry.name for entry in os.scandir(GROUPS) if entry.is_dir()]
        except OSError:
            names = []
        begun = time.monotonic()
        state = {name: state_of(f"{GROUPS}/{name}") for name in names}
        if state != last or begun - told > REPEAT_S:
            # An unchanged state holds until now; a new one is known from its look on.
            say({"t": begun, "state": state})
            last, told = state, begun
        time.sleep(SAMPLE_S)


# Hand -----------------------------------------------------------------------------------------


def hold(point):
    os.makedirs(HOLD, exist_ok=True)
    open(f"{HOLD}/{point}", "w").close()
    return {}


def reached(point, timeout_s):
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if os.path.exists(f"{HOLD}/{point}.reached"):
            return {"reached": True}
        time.sleep(0.02)
    return {"reached": False}


def release():
    shutil.rmtree(HOLD, ignore_errors=True)
    return {}


def kill_agent():
    pid = int(read("/run/bed-agent/pid") or 0)
    os.kill(pid, signal.SIGKILL)
    return {"pid": pid}


def kill_criu(timeout_s, release_first, side):
    """Kills the first CRIU that is seen at work on the component; the hold is let go of once looking
    has begun."""
    deadline = time.monotonic() + timeout_s
    if release_first:
        release()
    while time.monotonic() < deadline:
        groups = [KEEPERS]
        try:
            groups += [entry.path for entry in os.scandir(GROUPS) if entry.is_dir()]
        except OSError:
            pass
        for group in groups:
            for pid in pids(group):
                if read(f"/proc/{pid}/comm").strip() != "criu":
                    continue
                # At work: it has processes of the component in its hands, or makes some.
                if not busy(pid, side):
                    continue
                try:
                    os.kill(pid, signal.SIGKILL)
                    return {"killed": pid}
                except ProcessLookupError:
                    pass
        time.sleep(0.002)
    return {"killed": 0}


def busy(criu, side):
    for entry in os.scandir(GROUPS):
        if not entry.is_dir():
            continue
        for pid in pids(entry.path):
            name, _, tracer = fields(pid)
            if side == "source" and tracer == criu:
                return True
            if side == "target" and name not in ("criu", ""):
                return True
    return False


def command(argv, timeout_s):
    done = subprocess.run(argv, capture_output=True, text=True, timeout=timeout_s, check=False,
                          stdin=subprocess.DEVNULL)
    return {"code": done.returncode, "out": done.stdout, "err": done.stderr}


def journal():
    """The journal's rows, from a copy: the agent holds the file."""
    for _ in range(20):
        with tempfile.TemporaryDirectory() as folder:
            for suffix in ("", "-wal"):
                if os.path.exists(JOURNAL + suffix):
                    shutil.copy(JOURNAL + suffix, f"{folder}/copy.db{suffix}")
            base = None
            try:
                base = sqlite3.connect(f"{folder}/copy.db")
                base.row_factory = sqlite3.Row
                return {table: [dict(row) for row in base.execute(query)] for table, query in (
                    ("components", "SELECT name, epoch, state, host, migration_id FROM components"),
                    ("migrations", "SELECT id, role, component, peer, state, epoch, reason, settled "
                                   "FROM migrations ORDER BY number"))}
            except sqlite3.DatabaseError as error:
                said = str(error)  # it was written to while it was copied
            finally:
                if base is not None:
                    base.close()
        time.sleep(0.2)
    raise RuntimeError(f"the journal cannot be read: {said}")


def rdma():
    found = {}
    for kind in ("qp", "mr", "pd", "cq", "cm_id"):
        done = subprocess.run(["rdma", "resource", "show", kind], capture_output=True, text=True,
                              check=False)
        found[kind] = len(done.stdout.splitlines())
    return found


def left():
    """Everything that a component or a migration could leave behind."""
    def listing(path):
        try:
            return sorted(os.listdir(path))
        except OSError:
            return []
    return {
        "groups": {name: state_of(f"{GROUPS}/{name}") for name in listing(GROUPS)
                   if os.path.isdir(f"{GROUPS}/{name}")},
        "keepers": len([pid for pid in pids(KEEPERS) if fields(pid)[0].startswith("starling-keep")]),
        "criu": len([pid for pid in pids(KEEPERS) if fields(pid)[0] == "criu"]),
        "sockets": listing(RUN + "/keepers"),
        "images": listing(RUN + "/images"),
        "rdma": rdma(),
    }


def agent():
    return {"pid": int(read("/run/bed-agent/pid") or 0)}


ACTIONS = {"hold": hold, "reached": reached, "release": release, "kill_agent": kill_agent,
           "kill_criu": kill_criu, "command": command, "journal": journal, "left": left,
           "agent": agent}


def act(request):
    number, name = request.pop("id"), request.pop("do")
    try:
        answer = {"id": number, "ok": True, **ACTIONS[name](**request)}
    except Exception as error:  # whatever it is, the other side has to hear of it
        answer = {"id": number, "ok": False, "error": f"{type(error).__name__}: {error}"}
    say(answer)


def main():
    threading.Thread(target=watch, daemon=True).start()
    for line in sys.stdin:
        threading.Thread(target=act, args=(json.loads(line),), daemon=True).start()


if __name__ == "__main__":
    main()
