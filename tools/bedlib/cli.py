"""The command line of tools/bed."""

import argparse
import contextlib
import json
import os
import shutil
import signal
import sys
import time

from . import access, guests, image, network, state

DESCRIPTION = """\
Boots small QEMU guests on this machine that share its userland, each with SoftRoCE (rxe0), CRIU,
cgroup v2, a disk of its own at /var/lib/starling and an agent, and one folder that all of them
share at /shared. The agents know one another by certificates of the bed's own authority."""

EPILOG = """\
networks:
  10.77.0.0/24   data: node N is 10.77.0.N (eth0, rxe0, MTU 9000), the host's end is 10.77.0.254;
                 addresses from .50 on are for components
  10.78.0.0/24   management: carries `exec` only, and is never cut
Both live in a network namespace of the bed's own; `client` runs a command in it.

examples:
  tools/bed up
  tools/bed exec node1 -- ibv_devinfo
  tools/bed exec 2 -- sh -c 'cat >/tmp/file' <file
  tools/bed client -- ping -c 1 10.77.0.1
  tools/bed down

exit codes: that of the command for exec and client (255: the connection to the guest was lost);
otherwise 0 done, 1 failed, 2 wrong usage.
"""


class _Interrupted(Exception):
    """SIGINT, SIGTERM or SIGHUP came."""


def _node(text):
    digits = text.removeprefix("node")
    if not digits.isdigit() or int(digits) == 0:
        raise argparse.ArgumentTypeError(f"'{text}' is no node; say node1 or 1")
    return int(digits)


def _parser():
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--name", default=os.environ.get("STARLING_BED_NAME", "default"),
                        help="which bed of this checkout (default: $STARLING_BED_NAME or "
                             "'default'); beds do not disturb each other")
    parser = argparse.ArgumentParser(prog="tools/bed", description=DESCRIPTION, epilog=EPILOG,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(name, function, text, node=False):
        command = commands.add_parser(name, parents=[common], help=text, description=text)
        command.set_defaults(function=function)
        if node:
            command.add_argument("node", type=_node, metavar="NODE", help="node1 or 1")
        return command

    up = add("up", _up, "boot a bed and wait until its nodes can be used")
    up.add_argument("--nodes", type=int, default=2, metavar="N", help="how many (default 2)")
    up.add_argument("--kernel", choices=("6.12", "6.1"), default="6.12", help="default 6.12")
    up.add_argument("--memory", type=int, default=1536, metavar="MIB",
                    help="memory of each node in MiB (default 1536)")
    up.add_argument("--cpus", type=int, default=1, metavar="N",
                    help="processors of each node (default 1; more seldom helps when emulating)")
    up.add_argument("--accel", choices=("auto", "kvm", "tcg"), default="auto",
                    help="auto (default): KVM if a trial boot under it succeeds, else emulation")
    up.add_argument("--build", metavar="DIR",
                    default=os.path.join(state.CHECKOUT, "build", "release"),
                    help="build whose bin/ the nodes use (default build/release)")
    execute = add("exec", _exec, "run a command in a node, as root", node=True)
    execute.add_argument("argv", nargs=argparse.REMAINDER, metavar="-- COMMAND...")
    client = add("client", _client, "run a command on the host, in the bed's network namespace")
    client.add_argument("argv", nargs=argparse.REMAINDER, metavar="-- COMMAND...")
    status = add("status", _status, "show the bed")
    status.add_argument("--json", action="store_true", help="for scripts (schema 1)")
    add("down", _down, "take the bed away, with all its files")
    add("power-off", _power_off, "cut a node's power: what it had not flushed is lost", node=True)
    add("boot", _boot, "boot a node again, with the disk it had", node=True)
    link = add("link", _link, "cut or mend a node's data link, both directions", node=True)
    link.add_argument("state", choices=("up", "down"))
    agent = add("agent", _agent, "control the supervisor that keeps a node's agent running",
                node=True)
    agent.add_argument("action", choices=("stop", "start", "restart", "status"))
    logs = add("logs", _logs, "print a node's console and its agent's log", node=True)
    logs.add_argument("--console", action="store_true", help="the console only")
    return parser


def _command_of(arguments):
    argv = arguments.argv[1:] if arguments.argv[:1] == ["--"] else arguments.argv
    if not argv:
        raise state.BedError(f"no command; usage: tools/bed {arguments.command} ... -- COMMAND")
    return argv


def _require_node(description, node):
    if node > description["nodes"]:
        raise state.BedError(f"there is no node{node}: the bed has {description['nodes']}")


def _note(text):
    print(f"bed: {text}", file=sys.stderr, flush=True)


# Commands ------------------------------------------------------------------------------------


def _up(bed, arguments):
    if not 1 <= arguments.nodes <= state.MAX_NODES:
        raise state.BedError(f"--nodes is from 1 to {state.MAX_NODES}, not {arguments.nodes}")
    if not 1 <= arguments.cpus <= 64:
        raise state.BedError(f"--cpus is from 1 to 64, not {arguments.cpus}")
    if arguments.memory < 512:
        raise state.BedError(f"--memory is at least 512 (MiB), not {arguments.memory}")
    for character in "\n,":
        if character in state.CHECKOUT:
            raise state.BedError(f"QEMU cannot share a checkout with {character!r} in its path: "
                                 f"{state.CHECKOUT}")
    for tool in ("qemu-system-x86_64", "dropbearkey", "ssh", "mke2fs", "cpio", "ip", "nsenter"):
        if shutil.which(tool) is None:
            raise state.BedError(f"{tool} is missing; run `tools/setup --no-build`")
    began = time.monotonic()
    kernel = image.Kernel(arguments.kernel)
    with bed.locked(create=True):
        description = bed.load()
        if description is not None:
            if description["state"] == "up" and any(
                    guests.is_running(bed, node) for node in range(1, description["nodes"] + 1)):
                raise state.BedError(f"bed '{bed.name}' is up already; `{bed.hint('status')}` "
                                     f"shows it, `{bed.hint('down')}` takes it away")
            _note("taking away what an earlier bed left")
            bed.remove(keep_lock=True)
        try:
            _make(bed, arguments, kernel)
        except BaseException:
            # Cleaning up must come to its end, whatever else is pressed.
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                signal.signal(number, signal.SIG_IGN)
            _keep_console(bed, arguments.nodes)
            bed.remove()
            raise
    description = bed.require()
    kind = "KVM" if description["accelerated"] else "emulated"
    _note(f"{arguments.nodes} nodes with Linux {kernel.version} ({kind}) are up after "
          f"{time.monotonic() - began:.1f} s")
    return 0


def _make(bed, arguments, kernel):
    bed.record_tool()
    description = {
        "schema": 1, "state": "starting", "name": bed.name, "netns": bed.netns,
        "nodes": arguments.nodes, "kernel": kernel.version, "kernel_series": kernel.series,
        "kernel_image": kernel.image, "memory_mib": arguments.memory,
        "cpus": arguments.cpus,
        "build": os.path.realpath(arguments.build), "shared": bed.shared,
        "authority": bed.authority,
        "run_folder": bed.run_folder, "data_net": f"{state.DATA_NET}.0/24"}
    bed.save(description)
    description["initrd"] = image.initrd(kernel, bed.folder)
    if arguments.accel == "auto":
        works, reason = guests.kvm_works(bed, kernel, description["initrd"])
        description["accelerated"] = works
        if not works:
            _note(f"emulating the processors: {reason}")
    else:
        description["accelerated"] = arguments.accel == "kvm"
    bed.save(description)
    os.makedirs(bed.run_folder, mode=0o700)
    network.make(bed, arguments.nodes)
    guests.prepare(bed, kernel, arguments.nodes, description["build"])
    access.make_keys(bed)
    nodes = range(1, arguments.nodes + 1)
    for node in nodes:
        guests.start(bed, node, description)
    guests.wait_ready(bed, nodes, description["accelerated"])
    for node in nodes:
        access.open_master(bed, node)
    description["state"] = "up"
    bed.save(description)
    bed.forget("tool")


def _keep_console(bed, nodes):
    """Shows the end of the consoles of a bed that failed, since its files go."""
    for node in range(1, nodes + 1):
        with contextlib.suppress(OSError):
            with open(guests.console(bed, node), encoding="utf-8", errors="replace") as source:
                lines = source.read().splitlines()
            if not any("starling-bed: ready" in line for line in lines):
                for line in lines[-12:]:
                    _note(f"node{node} console: {line}")


def _down(bed, arguments):
    del arguments
    # An `up` that still runs holds the lock; it is to end.
    bed.kill("tool")
    with bed.locked() as there:
        if there or os.path.exists(f"/run/netns/{bed.netns}"):
            bed.remove()
            _note(f"'{bed.name}' is down")
        else:
            _note(f"'{bed.name}' was not up")
    return 0


def _exec(bed, arguments):
    command = _command_of(arguments)
    _require_node(bed.require(), arguments.node)
    access.become(bed, arguments.node, command)


def _client(bed, arguments):
    command = _command_of(arguments)
    bed.require()
    if shutil.which(command[0]) is None:
        raise state.BedError(f"there is no command {command[0]}")
    network.replace_process(network.inside(bed, *command))


def _status(bed, arguments):
    description = bed.load()
    if description is None:
        if arguments.json:
            print(json.dumps({"schema": 1, "name": bed.name, "state": "down"}))
        else:
            print(f"bed '{bed.name}' is not up")
        return 0
    processes = bed.processes()
    description["node"] = []
    for node in range(1, description["nodes"] + 1):
        description["node"].append({
            "name": f"node{node}", "address": f"{state.DATA_NET}.{node}",
            "running": f"qemu{node}" in processes, "pid": processes.get(f"qemu{node}"),
            "shared": f"virtiofsd{node}" in processes,
            "link": "up" if network.data_link_is_up(bed, node) else "down",
            "console": guests.console(bed, node)})
    if arguments.json:
        print(json.dumps(description, indent=2))
        return 0
    kind = {True: "KVM", False: "emulated", None: "?"}[description.get("accelerated")]
    print(f"bed '{bed.name}': {description['state']}, Linux {description['kernel']}, {kind}, "
          f"{description['memory_mib']} MiB each, shared folder {bed.shared}")
    for node in description["node"]:
        print(f"  {node['name']}  {node['address']}  {'on' if node['running'] else 'off'}, "
              f"data link {node['link']}"
              + ("" if node["shared"] or not node["running"] else ", shared folder lost"))
    return 0


@contextlib.contextmanager
def _changing(bed, node):
    with bed.locked() as there:
        if not there:
            raise state.BedError(f"bed '{bed.name}' is not up; run `{bed.hint('up')}`")
        description = bed.require()
        _require_node(description, node)
        yield description


def _power_off(bed, arguments):
    with _changing(bed, arguments.node):
        if not guests.is_running(bed, arguments.node):
            raise state.BedError(f"node{arguments.node} is off already")
        guests.power_off(bed, arguments.node)
    return 0


def _boot(bed, arguments):
    node = arguments.node
    with _changing(bed, node) as description:
        if guests.is_running(bed, node):
            raise state.BedError(f"node{node} is on already")
        guests.power_off(bed, node)  # what else the node had
        try:
            guests.start(bed, node, description)
            guests.wait_ready(bed, [node], description["accelerated"])
            access.open_master(bed, node)
        except BaseException:
            guests.power_off(bed, node)
            raise
    return 0


def _link(bed, arguments):
    with _changing(bed, arguments.node):
        network.set_data_link(bed, arguments.node, arguments.state == "up")
    return 0


def _agent(bed, arguments):
    _require_node(bed.require(), arguments.node)
    access.become(bed, arguments.node,
                  ["bash", "/run/bed/supervisor.sh", f"--{arguments.action}"])


def _logs(bed, arguments):
    description = bed.require()
    _require_node(description, arguments.node)
    with open(guests.console(bed, arguments.node), encoding="utf-8", errors="replace") as source:
        shutil.copyfileobj(source, sys.stdout)
    if not arguments.console and guests.is_running(bed, arguments.node):
        sys.stdout.flush()
        access.become(bed, arguments.node,
                      ["sh", "-c", "tail -n +1 /var/log/starling/*.log 2>/dev/null || true"])
    return 0


# The way in ----------------------------------------------------------------------------------


def _become_root():
    if os.geteuid() == 0:
        return
    if shutil.which("sudo") is None:
        raise state.BedError("network namespaces and taps need root, and there is no sudo; "
                             "run this as root")
    if not os.environ.get("SUDO_UID"):
        _note("network namespaces and taps need root: going on with sudo")
    os.execvp("sudo", ["sudo", "--preserve-env=STARLING_BED_NAME", "--",
                       os.path.realpath(sys.argv[0]), *sys.argv[1:]])


def _interrupt(number, frame):
    del frame
    raise _Interrupted(number)


def main():
    arguments = _parser().parse_args()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    try:
        _become_root()
        return arguments.function(state.Bed(arguments.name), arguments)
    except state.BedError as error:
        print(f"bed: error: {error}", file=sys.stderr)
        return 1
    except _Interrupted as interrupted:
        print("bed: interrupted", file=sys.stderr)
        return 128 + interrupted.args[0]
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
