"""Commands in the guests, by SSH over the management network. Nothing in ~/.ssh is read or written.

One master connection for each node is opened when it has booted; a command then costs one channel
of it, not a key exchange, which is slow in an emulated guest.
"""

import contextlib
import os
import shlex
import subprocess
import sys
import time

from . import guests, network, state


def make_keys(bed):
    """Makes the bed's host key and user key."""
    guest = os.path.join(bed.folder, "guest")
    state.run("dropbearkey", "-t", "ed25519", "-f", os.path.join(guest, "host_key"))
    key = os.path.join(bed.folder, "user_key")
    state.run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", bed.id, "-f", key)
    os.replace(key + ".pub", os.path.join(guest, "authorized_keys"))
    shown = state.run("dropbearkey", "-y", "-f", os.path.join(guest, "host_key"))
    host_key = next(line for line in shown.stdout.splitlines() if line.startswith("ssh-"))
    with open(os.path.join(bed.folder, "known_hosts"), "w", encoding="ascii") as out:
        out.write(f"{state.MANAGEMENT_NET}.* {' '.join(host_key.split()[:2])}\n")


def _control(bed, node):
    return os.path.join(bed.run_folder, f"ssh{node}")


def _options(bed):
    return ["-F", "none", "-i", os.path.join(bed.folder, "user_key"), "-o", "IdentitiesOnly=yes",
            "-o", "IdentityAgent=none", "-o", f"UserKnownHostsFile={bed.folder}/known_hosts",
            "-o", "GlobalKnownHostsFile=/dev/null", "-o", "StrictHostKeyChecking=yes",
            "-o", "BatchMode=yes", "-o", "LogLevel=ERROR", "-o", "ForwardX11=no"]


def open_master(bed, node, timeout=60):
    """Opens the node's master connection if it is not open."""
    deadline = time.monotonic() + timeout
    control = _control(bed, node)
    while True:
        if f"ssh{node}" not in bed.processes():
            with contextlib.suppress(FileNotFoundError):
                os.unlink(control)
            bed.spawn(f"ssh{node}", network.inside(
                bed, "ssh", *_options(bed), "-M", "-N", "-T", "-S", control,
                "-o", "ControlPersist=no", "-o", "ConnectTimeout=10",
                "-o", "ServerAliveInterval=15", "-o", "ServerAliveCountMax=8",
                f"root@{state.MANAGEMENT_NET}.{node}"), os.path.join(bed.node_folder(node), "ssh.log"))
        while f"ssh{node}" in bed.processes():
            if os.path.exists(control):
                return
            if time.monotonic() > deadline:
                break
            time.sleep(0.02)
        if time.monotonic() > deadline:
            raise state.BedError(f"no SSH connection to node{node} within {timeout} s; see "
                                 f"{bed.node_folder(node)}/ssh.log")
        time.sleep(0.2)


def _argv(bed, node, command, terminal):
    remote = f". /etc/bed-environment; exec {shlex.join(command)}"
    # The master carries everything; without one, fail instead of asking the host's own network.
    return ["ssh", *_options(bed), "-S", _control(bed, node), "-o", "ControlMaster=no",
            "-o", "ProxyCommand=false", "-tt" if terminal else "-T",
            f"root@{state.MANAGEMENT_NET}.{node}", remote]


def _ensure_master(bed, node):
    if f"ssh{node}" not in bed.processes() or not os.path.exists(_control(bed, node)):
        with bed.locked() as there:
            if not there:
                raise state.BedError(f"bed '{bed.name}' went down")
            if f"qemu{node}" not in bed.processes():
                said = guests.last_words(bed, node)
                raise state.BedError(f"node{node} is off; run `{bed.hint('boot')} {node}`" +
                                     (f"\nit went off by itself, saying:\n{said}" if said else ""))
            open_master(bed, node)


def become(bed, node, command):
    """Replaces this process by the command in the guest. Returns only by an exception."""
    _ensure_master(bed, node)
    terminal = sys.stdin.isatty() and sys.stdout.isatty()
    argv = _argv(bed, node, command, terminal)
    network.replace_process(argv)


def call(bed, node, command):
    """Runs a command in the guest; returns its exit code, output and error output."""
    _ensure_master(bed, node)
    done = subprocess.run(_argv(bed, node, command, False), stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, check=False)
    return done.returncode, done.stdout, done.stderr
