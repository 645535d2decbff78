"""The bed's network namespace: a data bridge, a management bridge, two taps for each node.

The data bridge learns addresses as any switch does, so that a component's address can move from
one node's port to another's. The management bridge carries SSH alone and is never cut.
"""

import os
import signal
import sys

from . import state

MTU = 9000


def data_tap(node):
    return f"data{node}"


def management_tap(node):
    return f"mgmt{node}"


def inside(bed, *argv):
    """The command line that runs `argv` in the bed's network namespace (and no other)."""
    return ["nsenter", f"--net=/run/netns/{bed.netns}", "--", *argv]


def replace_process(argv):
    """Goes on as another program. Python ignores SIGPIPE, which that program should not."""
    sys.stdout.flush()
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    os.execvp(argv[0], argv)


def make(bed, nodes):
    """Makes the namespace with its bridges and taps; `ip netns delete` takes all of it away."""
    state.run("ip", "netns", "add", bed.netns)
    lines = ["link set lo up"]
    for bridge, net, mtu in (("br0", state.DATA_NET, MTU), ("br1", state.MANAGEMENT_NET, 1500)):
        lines += [f"link add {bridge} type bridge forward_delay 0 mcast_snooping 0",
                  f"link set {bridge} mtu {mtu} up",
                  f"addr add {net}.254/24 dev {bridge}"]
    for node in range(1, nodes + 1):
        for tap, bridge, mtu in ((data_tap(node), "br0", MTU), (management_tap(node), "br1", 1500)):
            lines += [f"tuntap add {tap} mode tap",
                      f"link set {tap} mtu {mtu} master {bridge} up"]
    # Bridges do not need IPv6, and its router solicitations would only be noise on the wire.
    state.run(*inside(bed, "sh", "-c",
                      "for f in /proc/sys/net/ipv6/conf/*/disable_ipv6; do echo 1 >$f; done;"
                      " printf '%s\\n' \"$@\" | ip -batch -", "sh", *lines))


def set_data_link(bed, node, up):
    """Cuts or mends a node's data link, both directions; the guest keeps its carrier."""
    state.run(*inside(bed, "ip", "link", "set", data_tap(node), "up" if up else "down"))


def data_link_is_up(bed, node):
    shown = state.run(*inside(bed, "ip", "-o", "link", "show", data_tap(node)), check=False)
    flags = shown.stdout.partition("<")[2].partition(">")[0].split(",")
    return shown.returncode == 0 and "UP" in flags
