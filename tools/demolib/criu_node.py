#!/usr/bin/python3
"""The guest's side of the CRIU rows: moves a component with nothing but the stock CRIU.

Runs in both guests for as long as a row lasts. Reads one JSON object a line from standard input
({"do": NAME, ...}) and answers each with one line: {"ok": true, ...} or {"ok": false, "error": ...}.

Source and target also hold two TCP connections between them, made before anything freezes: one
for control, one for images. So nothing outside the guests takes part in the blackout.

CRIU is run by a shell that waits inside the component's pid, mount and network namespaces; it
then has none of them to dump or restore. The component's network is a macvlan with a fixed
address, at the target made in advance and silent (it answers no ARP) until the restore is done.
"""

import ctypes
import fcntl
import json
import os
import shutil
import socket
import struct
import subprocess
import sys
import threading
import time

WORK = "/tmp/criu-rows"  # tmpfs
NETNS = "criu-row"
LINK = "criu-row"
CONTROL_PORT = 7501
IMAGES_PORT = 7502
PAGE_SERVER_PORT = 7510  # and on, one for each round
# Pids of the component start here, above those that CRIU and its helpers take at the target.
FIRST_PID = 500

MAX_ROUNDS = 12
# Another round would not pay if the last one was this small, or not smaller than that part of the
# one before it: what is left is then what the load dirties while CRIU itself works.
FEW_PAGES = 256
SHRINKING = 0.8

PIPE_BYTES = 1 << 20
SMALL_FILE = 64 << 10
CRIU_LOG = "-v1"  # errors only

F_SETPIPE_SZ = 1031
CLONE_NEWNET = 0x40000000
SIOCSIFFLAGS = 0x8914
ETH_P_ARP = 0x0806

_libc = ctypes.CDLL(None, use_errno=True)


class NodeError(Exception):
    """Something that the person at the demo has to be told."""


def _run(*argv):
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise NodeError(f"{' '.join(argv)}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


def _now_ms():
    return time.monotonic() * 1000


# The component's network -----------------------------------------------------------------------


def _in_netns(function):
    """Runs `function` in a thread that has entered the component's network namespace: sockets and
    /proc/sys/net files that it opens stay with that namespace."""
    result = []

    def enter():
        try:
            with open(f"/run/netns/{NETNS}", "rb") as namespace:
                if _libc.setns(namespace.fileno(), CLONE_NEWNET) != 0:
                    raise OSError(ctypes.get_errno(), "setns")
            result.append(function())
        except OSError as error:
            result.append(error)

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    if isinstance(result[0], OSError):
        raise result[0]
    return result[0]


class Network:
    """A network namespace whose eth0 is a macvlan with the component's address."""

    def __init__(self, device, address, mac, client, client_mac, silent):
        self.address = address
        self.mac = mac
        _run("ip", "netns", "add", NETNS)
        _run("ip", "link", "add", "link", device, "name", LINK, "address", mac, "type", "macvlan",
             "mode", "bridge")
        _run("ip", "link", "set", LINK, "netns", NETNS, "name", "eth0")
        # IPv6 would announce the address on its own, and with it where the bridge should look.
        for sysctl in ("net.ipv6.conf.all.disable_ipv6=1",
                       f"net.ipv4.conf.all.arp_ignore={8 if silent else 0}"):
            _run("ip", "netns", "exec", NETNS, "sysctl", "-qw", sysctl)
        _run("ip", "-n", NETNS, "address", "add", address, "dev", "eth0")
        _run("ip", "-n", NETNS, "link", "set", "lo", "up")
        _run("ip", "-n", NETNS, "link", "set", "eth0", "up")
        _run("ip", "-n", NETNS, "neighbour", "replace", client, "lladdr", client_mac, "dev", "eth0",
             "nud", "reachable")
        # All that is done while the component is frozen is prepared here.
        self._control = _in_netns(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        self._packets = _in_netns(self._open_packets)
        self._arp_ignore = _in_netns(
            lambda: os.open("/proc/sys/net/ipv4/conf/all/arp_ignore", os.O_WRONLY))

    @staticmethod
    def _open_packets():
        packets = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        packets.bind(("eth0", 0))
        return packets

    def cut(self):
        """Takes the link down: the held copy neither hears nor says anything any more."""
        request = struct.pack("16sh14x", b"eth0", 0)
        fcntl.ioctl(self._control, SIOCSIFFLAGS, request)

    def announce(self):
        """Answers ARP from now on, and sends a gratuitous one."""
        os.write(self._arp_ignore, b"0")
        mac = bytes.fromhex(self.mac.replace(":", ""))
        ip = socket.inet_aton(self.address.split("/")[0])
        everyone = b"\xff" * 6
        for operation in (1, 2):  # as request and as reply: hosts differ in which they heed
            self._packets.send(everyone + mac + struct.pack("!H", ETH_P_ARP) +
                               struct.pack("!HHBBH", 1, 0x0800, 6, 4, operation) +
                               mac + ip + everyone + ip)

    def close(self):
        os.close(self._arp_ignore)
        self._control.close()
        self._packets.close()
        _run("ip", "netns", "delete", NETNS)


class Inside:
    """A shell inside the component's namespaces (as their first process) that runs what it is
    told. Its death ends everything in them."""

    SCRIPT = """
        mount -t proc proc /proc
        while read -r line; do eval "$line"; echo "$?"; done"""

    def __init__(self):
        self._shell = subprocess.Popen(
            ["nsenter", f"--net=/run/netns/{NETNS}", "unshare", "--pid", "--mount", "--fork",
             "--kill-child", "--propagation", "private", "bash", "-c", self.SCRIPT],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)
        self.run("true")

    def run(self, line):
        """Runs one line of shell; returns its exit code."""
        self._shell.stdin.write(line + "\n")
        answer = self._shell.stdout.readline().strip()
        if not answer:
            raise NodeError("the shell in the component's namespaces has died")
        return int(answer)

    def close(self):
        self._shell.kill()  # and with it, by --kill-child, all of its namespace
        self._shell.wait()
        self._shell.stdin.close()
        self._shell.stdout.close()


# Images ----------------------------------------------------------------------------------------


def _send_images(connection, folder):
    """Sends a folder's images: the small files in one piece, then each large one straight from the
    page cache. Measured between these guests: sendfile and splice carry more than twice what
    socat, netcat or tar do."""
    small, large = [], []
    for entry in os.scandir(folder):
        if not entry.is_file(follow_symlinks=False) or entry.name.endswith(".log"):
            continue
        (small if entry.stat().st_size <= SMALL_FILE else large).append(entry)
    head = [struct.pack("<II", len(small), len(large))]
    for entry in small:
        with open(entry.path, "rb") as source:
            content = source.read()
        head.append(struct.pack("<HQ", len(entry.name), len(content)) + entry.name.encode() +
                    content)
    blob = b"".join(head)
    connection.sendall(struct.pack("<Q", len(blob)) + blob)
    for entry in large:
        source = os.open(entry.path, os.O_RDONLY)
        size = os.fstat(source).st_size
        connection.sendall(struct.pack("<HQ", len(entry.name), size) + entry.name.encode())
        done = 0
        while done < size:
            done += os.sendfile(connection.fileno(), source, done, size - done)
        os.close(source)


def _receive(connection, size):
    data = bytearray(size)
    view = memoryview(data)
    while view:
        count = connection.recv_into(view)
        if count == 0:
            raise NodeError("the source closed the connection in the middle of the images")
        view = view[count:]
    return data


def _receive_images(connection, folder):
    """Writes what _send_images() sends into `folder`. The wait for the first byte is part of it."""
    (size,) = struct.unpack("<Q", _receive(connection, 8))
    blob = _receive(connection, size)
    small, large = struct.unpack_from("<II", blob)
    at = 8
    for _ in range(small):
        name_size, content_size = struct.unpack_from("<HQ", blob, at)
        at += 10
        name = blob[at:at + name_size].decode()
        at += name_size
        with open(os.path.join(folder, name), "wb") as target:
            target.write(blob[at:at + content_size])
        at += content_size
    reader, writer = os.pipe()
    fcntl.fcntl(writer, F_SETPIPE_SZ, PIPE_BYTES)
    for _ in range(large):
        name_size, left = struct.unpack("<HQ", _receive(connection, 10))
        name = _receive(connection, name_size).decode()
        target = os.open(os.path.join(folder, name), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        while left:
            piped = os.splice(connection.fileno(), writer, min(left, PIPE_BYTES))
            if piped == 0:
                raise NodeError("the source closed the connection in the middle of the images")
            left -= piped
            while piped:
                piped -= os.splice(reader, target, piped)
        os.close(target)
    os.close(reader)
    os.close(writer)


def _pages_written(folder):
    """From CRIU's stats-dump image: two magic numbers, a size, then a StatsEntry whose field 1 is a
    DumpStatsEntry whose field 7 is pages_written (images/stats.proto)."""
    with open(os.path.join(folder, "stats-dump"), "rb") as source:
        data = source.read()[12:]
    for number, value in _fields(data):
        if number == 1:
            return dict(_fields(value)).get(7, 0)
    raise NodeError(f"{folder}/stats-dump says nothing of a dump")


def _fields(data):
    """Field numbers and values of a protobuf message of varints and messages."""
    at = 0

    def varint():
        nonlocal at
        value, shift = 0, 0
        while True:
            byte = data[at]
            at += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    while at < len(data):
        tag = varint()
        if tag & 7 == 2:
            size = varint()
            yield tag >> 3, data[at:at + size]
            at += size
        else:
            yield tag >> 3, varint()


def _log_tail(path):
    try:
        with open(path, encoding="utf-8", errors="replace") as source:
            return "; ".join(line.strip() for line in source.readlines()[-6:])
    except FileNotFoundError:
        return "no log"


# Moving ----------------------------------------------------------------------------------------


class Lines:
    """JSON objects, one a line, over a TCP connection."""

    def __init__(self, connection):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._file = connection.makefile("rwb", buffering=0)
        self._reader = connection.makefile("rb")

    def send(self, **message):
        self._file.write(json.dumps(message).encode() + b"\n")

    def receive(self):
        line = self._reader.readline()
        if not line:
            raise NodeError("the other node closed the control connection")
        message = json.loads(line)
        if "error" in message:
            raise NodeError(f"the other node: {message['error']}")
        return message


CRIU_COMMON = f"--network-lock nftables --manage-cgroups=ignore --tcp-established {CRIU_LOG}"


class Node:
    """One guest, as source or as target of a row."""

    def __init__(self):
        self._forget()

    def _forget(self):
        self.network = None
        self.inside = None
        self.pid = None
        self.serving = None
        self.page_server = None
        self.listeners = []

    # Both sides

    def prepare(self, device, address, mac, client, client_mac, target):
        """Makes the component's namespaces; at the target silent ones, and listens there."""
        self.clean()
        os.makedirs(WORK)
        self.network = Network(device, address, mac, client, client_mac, silent=target)
        self.inside = Inside()
        if target:
            for port in (CONTROL_PORT, IMAGES_PORT):
                listener = socket.create_server(("", port))
                self.listeners.append(listener)
            self.serving = threading.Thread(target=self._serve, daemon=True)
            self.serving.start()
        return {}

    def clean(self):
        """Ends the component and takes away everything of the row."""
        if self.inside is not None:
            self.inside.close()
        if self.network is not None:
            self.network.close()
        if self.page_server is not None:
            self.page_server.kill()
            self.page_server.wait()
        for listener in self.listeners:
            # A thread that waits in accept() is not woken by close() alone.
            listener.shutdown(socket.SHUT_RDWR)
            listener.close()
        self._forget()
        shutil.rmtree(WORK, ignore_errors=True)
        return {}

    def shape(self, device, rate_bytes_per_s, ports):
        """Holds what is sent to and from these TCP ports below a rate; all else passes unshaped."""
        self.unshape(device)
        tc = ("tc", "qdisc", "add", "dev", device)
        _run(*tc, "root", "handle", "1:", "prio", "bands", "2", "priomap", *["0"] * 16)
        burst = max(int(rate_bytes_per_s / 200), 64 << 10)  # 5 ms, and not below one segment
        _run(*tc, "parent", "1:2", "handle", "20:", "tbf", "rate", f"{int(rate_bytes_per_s * 8)}bit",
             "burst", str(burst), "latency", "100ms")
        for direction in ("dport", "sport"):
            for port in ports:
                _run("tc", "filter", "add", "dev", device, "parent", "1:", "protocol", "ip",
                     "u32", "match", "ip", "protocol", "6", "0xff", "match", "ip", direction,
                     str(port), "0xffff", "flowid", "1:2")
        return {}

    @staticmethod
    def unshape(device):
        subprocess.run(["tc", "qdisc", "delete", "dev", device, "root"], capture_output=True,
                       check=False)
        return {}

    # The source

    def launch(self, command):
        """Starts the component; `command` is a line of shell."""
        pid_file = f"{WORK}/pid"
        self.inside.run(f"echo {FIRST_PID - 1} >/proc/sys/kernel/ns_last_pid")
        self.inside.run(f"setsid {command} </dev/null >/dev/null 2>&1 & echo $! >{pid_file}")
        with open(pid_file, encoding="ascii") as source:
            self.pid = int(source.read())
        return {"pid": self.pid}

    def move(self, target, precopy):
        """Moves the component to `target`; returns once it runs there and is gone here."""
        control = Lines(socket.create_connection((target, CONTROL_PORT)))
        images = socket.create_connection((target, IMAGES_PORT))
        images.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        began = _now_ms()
        rounds = self._precopy(target, control) if precopy else []
        last = len(rounds)
        folder = self._folder(last)
        control.send(do="receive", round=last)
        control.receive()
        dumping = _now_ms()
        self._criu(f"dump -t {self.pid} -D {folder} --leave-stopped {CRIU_COMMON}" +
                   (self._to_page_server(target, last) if precopy else ""), f"{folder}/criu.log")
        self.network.cut()
        sending = _now_ms()
        _send_images(images, folder)
        sent = _now_ms()
        restored = control.receive()
        done = _now_ms()
        rounds.append({"pages": _pages_written(folder), "ms": sending - dumping})
        self.clean()
        return {"total_ms": done - began, "dump_ms": sending - dumping, "send_ms": sent - sending,
                "restore_ms": restored["restore_ms"], "rounds": rounds}

    def _precopy(self, target, control):
        rounds = []
        while len(rounds) < MAX_ROUNDS:
            number = len(rounds)
            folder = self._folder(number)
            self._start_page_server(control, number)
            began = _now_ms()
            self._criu(f"pre-dump -t {self.pid} -D {folder} {CRIU_COMMON}" +
                       self._to_page_server(target, number), f"{folder}/criu.log")
            rounds.append({"pages": _pages_written(folder), "ms": _now_ms() - began})
            pages = rounds[-1]["pages"]
            if pages <= FEW_PAGES or (number > 0 and pages > SHRINKING * rounds[-2]["pages"]):
                break
        self._start_page_server(control, len(rounds))
        return rounds

    @staticmethod
    def _start_page_server(control, number):
        control.send(do="page_server", round=number)
        control.receive()

    @staticmethod
    def _folder(number):
        folder = f"{WORK}/{number}"
        os.makedirs(folder, exist_ok=True)
        return folder

    @staticmethod
    def _to_page_server(target, number):
        parent = f" --prev-images-dir ../{number - 1}" if number > 0 else ""
        return (f" --track-mem --page-server --address {target} "
                f"--port {PAGE_SERVER_PORT + number}{parent}")

    def _criu(self, arguments, log):
        code = self.inside.run(f"criu {arguments} -o {log} </dev/null >/dev/null 2>&1")
        if code != 0:
            raise NodeError(f"criu {arguments.split()[0]} ended with {code}: {_log_tail(log)}")

    # The target

    def _serve(self):
        listeners = self.listeners
        try:
            connection, _ = listeners[0].accept()
            images, _ = listeners[1].accept()
        except OSError:
            return  # clean() came first
        control = Lines(connection)
        try:
            while True:
                message = control.receive()
                if message["do"] == "page_server":
                    self._page_server(message["round"])
                    control.send(done=True)
                else:
                    folder = self._folder(message["round"])
                    control.send(done=True)
                    _receive_images(images, folder)
                    began = _now_ms()
                    self._criu(f"restore -D {folder} -d {CRIU_COMMON}", f"{folder}/criu.log")
                    self.network.announce()
                    control.send(restore_ms=_now_ms() - began)
                    return
        except (NodeError, OSError) as error:
            try:
                control.send(error=str(error))
            except OSError:
                pass  # the source is gone; it knows

    def _page_server(self, number):
        if self.page_server is not None:
            self.page_server.wait()
        folder = self._folder(number)
        parent = ["--prev-images-dir", f"../{number - 1}"] if number > 0 else []
        reader, writer = os.pipe()
        self.page_server = subprocess.Popen(
            ["criu", "page-server", "-D", folder, "--port", str(PAGE_SERVER_PORT + number),
             "--status-fd", str(writer), CRIU_LOG, "-o", "page-server.log", *parent],
            pass_fds=[writer], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL)
        os.close(writer)
        listening = os.read(reader, 1)
        os.close(reader)
        if not listening:
            raise NodeError(f"criu page-server: {_log_tail(folder + '/page-server.log')}")


def main():
    node = Node()
    for line in sys.stdin:
        request = json.loads(line)
        name = request.pop("do")
        try:
            answer = {"ok": True, **getattr(node, name)(**request)}
        except (NodeError, OSError) as error:
            answer = {"ok": False, "error": str(error)}
        print(json.dumps(answer), flush=True)
    node.clean()


if __name__ == "__main__":
    main()
