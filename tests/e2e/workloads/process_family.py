#!/usr/bin/python3
"""A workload with much of what makes a process tree hard to move: threads that wait on each other,
a child at the end of two pipes, and a daemonised grandchild (own session, orphaned) at the end of
a socket pair.

usage: process_family.py PORT

Speaks Redis' protocol on PORT (see resp.py). A write is acknowledged once a worker thread has
stored it and both the child and the grandchild have taken it into their hash chains and answered
with equal results. DIGEST gives the chains, the store's hash and the three pids; after equal writes
all but the pids are equal, moved or not.
"""

import hashlib
import json
import os
import queue
import socket
import sys
import threading

from resp import RespServer

WORKERS = 4


def chain(previous, key, value):
    return hashlib.sha256(previous + key + b"\0" + value).digest()


def follow(reader, writer):
    """The child's and the grandchild's life: a line in, the new end of the hash chain out."""
    state = b""
    for line in reader:
        key, value = (bytes.fromhex(word) for word in line.decode().split(" "))
        state = chain(state, key, value)
        writer.write(state.hex().encode() + b"\n")
        writer.flush()
    os._exit(0)


class Relative:
    """The near end of the connection to the child or the grandchild."""

    def __init__(self, reader, writer, pid):
        self._reader = reader
        self._writer = writer
        self.pid = pid
        self.state = ""

    def take(self, key, value):
        self._writer.write(f"{key.hex()} {value.hex()}\n".encode())
        self._writer.flush()
        self.state = self._reader.readline().decode().strip()
        if not self.state:
            raise RuntimeError(f"process {self.pid} has gone")


def start_child():
    """A child with a pipe to it and one from it."""
    to_child, from_parent = os.pipe()
    to_parent, from_child = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(from_parent)
        os.close(to_parent)
        follow(os.fdopen(to_child, "rb"), os.fdopen(from_child, "wb"))
    os.close(to_child)
    os.close(from_child)
    return Relative(os.fdopen(to_parent, "rb"), os.fdopen(from_parent, "wb"), pid)


def start_grandchild():
    """A daemon: forked twice, in a session of its own, its parent gone."""
    near, far = socket.socketpair()
    pid = os.fork()
    if pid == 0:
        near.close()
        os.setsid()
        if os.fork() != 0:
            os._exit(0)
        stream = far.makefile("rwb")
        stream.write(b"%d\n" % os.getpid())
        stream.flush()
        follow(far.makefile("rb"), stream)
    far.close()
    os.waitpid(pid, 0)
    reader, writer = near.makefile("rb"), near.makefile("wb")
    return Relative(reader, writer, int(reader.readline()))


class Family:
    """The store, its worker threads and the two relatives."""

    def __init__(self):
        # Fork before there are threads: a fork copies only the thread that calls it.
        self._relatives = {"child": start_child(), "grandchild": start_grandchild()}
        self._store = {}
        self._lock = threading.Lock()
        self._jobs = queue.Queue()
        for number in range(WORKERS):
            threading.Thread(target=self._work, name=f"worker-{number}", daemon=True).start()

    def _work(self):
        while True:
            key, value, outcome = self._jobs.get()
            try:
                with self._lock:  # the relatives must see writes in one order
                    for relative in self._relatives.values():
                        relative.take(key, value)
                    if len({relative.state for relative in self._relatives.values()}) != 1:
                        raise RuntimeError("child and grandchild disagree")
                    self._store[key] = value
                outcome.put(None)
            except Exception as error:  # handed to whoever waits for the outcome
                outcome.put(error)

    def store(self, key, value):
        outcome = queue.Queue()
        self._jobs.put((key, value, outcome))
        error = outcome.get()
        if error is not None:
            raise error

    def fetch(self, key):
        with self._lock:
            return self._store.get(key)

    def digest(self):
        with self._lock:
            content = hashlib.sha256()
            for key in sorted(self._store):
                content.update(chain(b"", key, self._store[key]))
            return json.dumps({
                "keys": len(self._store), "store": content.hexdigest(),
                # Not those of connections, which end when they come to it.
                "threads": sum(thread.name.startswith("worker-")
                               for thread in threading.enumerate()),
                "chains": {name: one.state for name, one in self._relatives.items()},
                "pids": {"self": os.getpid(),
                         **{name: one.pid for name, one in self._relatives.items()}}})


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    RespServer(int(sys.argv[1]), Family()).serve()


if __name__ == "__main__":
    main()
