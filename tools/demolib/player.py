#!/usr/bin/python3
"""Plays a load on components that answer as starling-service does: open loop, one connection each.

usage: player.py PLAN RESULT    (where clients are; prints "ready", waits for a line, plays)

PLAN (JSON): step_s, cost_s, drain_s, components (each address, port, demand: processors at each
step). A step of demand d asks for d / cost_s requests a second, evenly, each of cost_s of
processor. Requests are sent when they are due, whether others were answered or not, and a reply's
time counts from when its request was due. RESULT: began (time.monotonic() of the first step),
late_s (by how much a request was sent late, at worst), components, each with requests: a list of
[due, waited], both in seconds, due since the first step, waited null when no answer had come
drain_s after the last was due; and flaws, what must not be, in words.
"""

import json
import os
import select
import socket
import sys
import time

CONNECT_PATIENCE_S = 60


def due_times(demand, step_s, cost_s, phase=0.0):
    """When requests are due, in seconds from the first step: one whenever another `cost_s` of
    processor has been asked for. `phase`, 0 to 1: how much of the first is owed already, so that
    several components do not ask in step."""
    due, owed = [], phase * cost_s
    for step, processors in enumerate(demand):
        begin, at = step * step_s, 0.0
        while processors > 0:
            wait = (cost_s - owed) / processors
            if at + wait >= step_s:
                owed += processors * (step_s - at)
                break
            at += wait
            owed = 0.0
            due.append(begin + at)
    return due


class Connection:
    """One component's client."""

    def __init__(self, component, due, cost_s):
        self._cost_us = round(cost_s * 1e6)
        self.due = due
        self.waited = [None] * len(due)
        self.next = 0  # to be sent
        self.answered = 0
        self.late_s = 0.0
        self.flaws = []
        self._out, self._in = b"", b""
        self._served = None
        self._socket = _connect(component["address"], component["port"])

    def fileno(self):
        return self._socket.fileno()

    @property
    def open(self):
        return not self.flaws

    @property
    def wants_to_send(self):
        return bool(self._out)

    def send_due(self, now):
        """Sends what is due by now (since the first step)."""
        while self.next < len(self.due) and self.due[self.next] <= now:
            self._out += b"%d %d\n" % (self.next, self._cost_us)
            self.late_s = max(self.late_s, now - self.due[self.next])
            self.next += 1
        self.flush()

    def flush(self):
        try:
            while self._out:
                self._out = self._out[self._socket.send(self._out):]
        except BlockingIOError:
            pass
        except OSError as error:
            self.flaws.append(f"the connection broke: {error.strerror}")

    def receive(self, now):
        try:
            came = self._socket.recv(65536)
        except BlockingIOError:
            return
        except OSError as error:
            self.flaws.append(f"the connection broke: {error.strerror}")
            return
        if not came:
            self.flaws.append("the connection was closed")
            return
        *lines, self._in = (self._in + came).split(b"\n")
        for line in lines:
            number, served = map(int, line.split())
            # Of this connection in order, and of all that the component ever answered none missed.
            if number != self.answered or (self._served is not None and served != self._served + 1):
                self.flaws.append(f"reply {line.decode()} after {self.answered} answered, "
                                  f"{self._served} served")
                return
            self.waited[number] = now - self.due[number]
            self.answered, self._served = number + 1, served

    def close(self):
        self._socket.close()


def _connect(address, port):
    deadline = time.monotonic() + CONNECT_PATIENCE_S
    while True:
        try:
            made = socket.create_connection((address, port), timeout=5)
            made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            made.setblocking(False)
            return made
        except OSError as error:
            if time.monotonic() > deadline:
                sys.exit(f"player.py: {address}:{port} does not answer: {error}")
            time.sleep(0.2)


def play(connections, began, until_s):
    """Until all was answered, or until_s after `began`."""
    while True:
        now = time.monotonic() - began
        for one in connections:
            if one.open:
                one.send_due(now)
        alive = [one for one in connections if one.open]
        if now >= until_s or all(one.answered == len(one.due) for one in alive):
            return
        pending = [one.due[one.next] for one in alive if one.next < len(one.due)]
        pause = max(0.0, min([until_s, *pending]) - (time.monotonic() - began))
        readable, writable, _ = select.select(
            alive, [one for one in alive if one.wants_to_send], [], pause)
        now = time.monotonic() - began
        for one in readable:
            one.receive(now)
        for one in writable:
            if one.open:
                one.flush()


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    with open(sys.argv[1], encoding="utf-8") as source:
        plan = json.load(source)
    members = plan["components"]
    connections = [
        Connection(component, due_times(component["demand"], plan["step_s"], plan["cost_s"],
                                        index / len(members)), plan["cost_s"])
        for index, component in enumerate(members)]
    print("ready", flush=True)
    sys.stdin.readline()
    began = time.monotonic()
    last = max((one.due[-1] for one in connections if one.due), default=0.0)
    play(connections, began, last + plan["drain_s"])
    result = {"began": began, "late_s": max(one.late_s for one in connections), "components": [
        {"requests": [[round(due, 4), None if waited is None else round(waited, 4)]
                      for due, waited in zip(one.due, one.waited)], "flaws": one.flaws}
        for one in connections]}
    for one in connections:
        one.close()
    with open(sys.argv[2] + ".new", "w", encoding="utf-8") as out:
        json.dump(result, out)
    os.replace(sys.argv[2] + ".new", sys.argv[2])


if __name__ == "__main__":
    main()
