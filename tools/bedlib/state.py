"""What a bed consists of, written down before it exists.

A bed is a folder (build/bed/NAME), a folder for sockets under /run, a network namespace and a set
of processes. Each is recorded before it is made, so that `down` finds all of it even when the tool
that made it was killed. A process is known by its pid and its start time: a number that came to
belong to somebody else is never touched.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import time

CHECKOUT = os.path.realpath(os.path.join(os.path.dirname(__file__), "..", ".."))
BEDS = os.path.join(CHECKOUT, "build", "bed")
RUN = "/run/starling-bed"
DATA_NET = "10.77.0"
MANAGEMENT_NET = "10.78.0"
MAX_NODES = 20  # addresses from .50 on belong to components


class BedError(Exception):
    """Something a user can read and act on."""


def run(*argv, check=True, **kwargs):
    """Runs a command to its end; its output becomes the error's text when it fails."""
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, check=False, **kwargs)
    if check and done.returncode != 0:
        raise BedError(f"`{' '.join(argv)}` failed ({done.returncode}): {done.stdout.strip()}")
    return done


def start_time(pid):
    """The process's start in clock ticks since boot, or None when there is no live process."""
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as stat:
            fields = stat.read().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in "ZX" else int(fields[19])


def write_atomically(path, text, work=None):
    """Replaces a file so that a reader sees the old or the new content, never a part.

    `work` is a folder of the same file system for the unfinished file (default: beside `path`).
    """
    temporary = f"{os.path.join(work, os.path.basename(path)) if work else path}.{os.getpid()}.new"
    with open(temporary, "w", encoding="utf-8") as out:
        out.write(text)
    os.replace(temporary, path)


def make_folders(path):
    """Like os.makedirs, but what it makes inside the checkout belongs to the checkout's owner."""
    missing = []
    while not os.path.isdir(path):
        missing.append(path)
        path = os.path.dirname(path)
    owner = os.stat(CHECKOUT)
    for folder in reversed(missing):
        with contextlib.suppress(FileExistsError):
            os.mkdir(folder, 0o755)
            if folder.startswith(CHECKOUT + os.sep):
                os.chown(folder, owner.st_uid, owner.st_gid)


class Bed:
    """One bed of this checkout. Not for use by several threads."""

    def __init__(self, name):
        if not re.fullmatch(r"[a-z0-9][a-z0-9_-]{0,30}", name):
            raise BedError(f"'{name}' is no name for a bed: use up to 31 of a-z, 0-9, - and _")
        self.name = name
        checkout_hash = hashlib.sha256(CHECKOUT.encode()).hexdigest()[:8]
        self.id = f"{checkout_hash}-{name}"
        self.netns = f"starling-{self.id}"
        self.folder = os.path.join(BEDS, name)
        self.run_folder = os.path.join(RUN, self.id)
        self.shared = os.path.join(self.folder, "shared")
        self.authority = os.path.join(self.folder, "authority")  # of the nodes' certificates
        self._state_path = os.path.join(self.folder, "bed.json")
        self._process_folder = os.path.join(self.folder, "processes")

    # Description -----------------------------------------------------------------------------

    def load(self):
        """The bed's description as `up` wrote it, or None."""
        try:
            with open(self._state_path, encoding="utf-8") as source:
                return json.load(source)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except json.JSONDecodeError as error:
            raise BedError(f"{self._state_path} is damaged ({error}); run `{self.hint('down')}`")

    def save(self, description):
        write_atomically(self._state_path, json.dumps(description, indent=2) + "\n")

    def require(self):
        """The description of a bed that is up."""
        description = self.load()
        if description is None:
            raise BedError(f"bed '{self.name}' is not up; run `{self.hint('up')}`")
        if description["state"] != "up":
            raise BedError(f"bed '{self.name}' is not fully up (an `up` is running, or was "
                           f"killed); wait for it, or run `{self.hint('down')}`")
        return description

    def hint(self, command):
        name = "" if self.name == "default" else f" --name {self.name}"
        return f"tools/bed {command}{name}"

    def node_folder(self, node):
        return os.path.join(self.folder, f"node{node}")

    # Exclusion -------------------------------------------------------------------------------

    @contextlib.contextmanager
    def locked(self, create=False):
        """Holds the bed against other changing commands. Yields False if there is no bed."""
        path = os.path.join(self.folder, "lock")
        while True:
            if create:
                make_folders(self.folder)
            try:
                descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
            except FileNotFoundError:
                if create:
                    continue
                yield False
                return
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
                # A `down` that we waited for removed the file: take part in the new one.
                with contextlib.suppress(FileNotFoundError):
                    if os.stat(path).st_ino == os.fstat(descriptor).st_ino:
                        yield True
                        return
            finally:
                os.close(descriptor)

    # Processes -------------------------------------------------------------------------------

    def spawn(self, role, argv, output):
        """Starts a process of the bed in its own session, recorded before it runs `argv`.

        A shell stands in until the record is written; when the tool dies before that, the shell
        reads the end of its input and goes. `output` is a path to append to. Returns the pid.
        """
        make_folders(self._process_folder)
        with open(output, "ab") as log:
            child = subprocess.Popen(
                ["/bin/sh", "-c", 'read -r go && exec "$@" </dev/null', "sh", *argv],
                stdin=subprocess.PIPE, stdout=log, stderr=log, start_new_session=True, cwd="/")
        self._record(role, child.pid)
        child.stdin.write(b"go\n")
        child.stdin.close()
        return child.pid

    def record_tool(self):
        """Records the running tool itself, so that `down` can end an `up` that still runs."""
        make_folders(self._process_folder)
        self._record("tool", os.getpid())

    def forget(self, role):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(os.path.join(self._process_folder, f"{role}.json"))

    def _record(self, role, pid):
        record = {"role": role, "pid": pid, "start": start_time(pid)}
        write_atomically(os.path.join(self._process_folder, f"{role}.json"), json.dumps(record))

    def processes(self):
        """Role to pid, of the recorded processes that live."""
        alive = {}
        with contextlib.suppress(FileNotFoundError):
            for entry in sorted(os.listdir(self._process_folder)):
                if not entry.endswith(".json"):
                    continue
                with contextlib.suppress(FileNotFoundError, json.JSONDecodeError):
                    with open(os.path.join(self._process_folder, entry), encoding="utf-8") as file:
                        record = json.load(file)
                    if record["start"] is not None and start_time(record["pid"]) == record["start"]:
                        alive[record["role"]] = record["pid"]
        return alive

    def kill(self, *roles, timeout=20):
        """Kills recorded processes hard and waits until they are gone."""
        pids = {role: pid for role, pid in self.processes().items()
                if role in roles and pid != os.getpid()}
        starts = {pid: start_time(pid) for pid in pids.values()}
        for pid in pids.values():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        deadline = time.monotonic() + timeout
        for role, pid in pids.items():
            while starts[pid] is not None and start_time(pid) == starts[pid]:
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(pid, os.WNOHANG)
                if time.monotonic() > deadline:
                    raise BedError(f"process {pid} ({role}) does not die")
                time.sleep(0.01)
        for role in roles:
            self.forget(role)

    # The end ---------------------------------------------------------------------------------

    def _kill_in_namespace(self):
        """Kills what runs in the bed's network namespace: `client` commands and their children.

        Whoever is in there belongs to the bed, and would keep the namespace and its taps alive.
        """
        with contextlib.suppress(FileNotFoundError):
            ours = os.stat(f"/run/netns/{self.netns}")
            for _ in range(200):
                inside = []
                for entry in os.listdir("/proc"):
                    with contextlib.suppress(OSError):
                        if entry.isdigit() and start_time(entry) is not None:
                            theirs = os.stat(f"/proc/{entry}/ns/net")
                            if (theirs.st_dev, theirs.st_ino) == (ours.st_dev, ours.st_ino):
                                inside.append(int(entry))
                if not inside:
                    return
                for pid in inside:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                time.sleep(0.02)
            raise BedError(f"processes {inside} in the namespace {self.netns} do not die")

    def remove(self, keep_lock=False):
        """Takes everything of the bed away. Does nothing when there is nothing.

        The caller holds the lock; its file goes last, unless the caller means to go on with it.
        """
        self.kill(*self.processes())
        if os.path.exists(f"/run/netns/{self.netns}"):
            self._kill_in_namespace()
            # A tool killed within `ip netns add` leaves a plain file, which is not a namespace.
            run("ip", "netns", "delete", self.netns)
        shutil.rmtree(self.run_folder, ignore_errors=True)
        with contextlib.suppress(OSError):
            os.rmdir(RUN)
        with contextlib.suppress(FileNotFoundError):
            for entry in os.scandir(self.folder):
                if entry.name == "lock":
                    continue
                if entry.is_dir(follow_symlinks=False):
                    shutil.rmtree(entry.path)
                else:
                    os.unlink(entry.path)
            if keep_lock:
                return
            shutil.rmtree(self.folder)
        with contextlib.suppress(OSError):
            os.rmdir(BEDS)
