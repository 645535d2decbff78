"""Two real machines with agents, reached over ssh, with what bed.Bed offers of two guests."""

import ipaddress
import json
import os
import shlex
import subprocess

from . import bed as beds


class Hosts:
    """Machines A and B by the names under which their agents and ssh know them.

    They are in one Ethernet network with this host, which is the client; `component` is a free
    address in it, such as 192.168.7.50/24. Starling and its tools are installed on both, ssh logs
    in as root without asking, and `ssh` is the command line to use for it.
    """

    def __init__(self, names, component, ssh="ssh"):
        if len(names) != 2 or not all(names):
            raise beds.DemoError("two machines are needed: A,B")
        try:
            address = ipaddress.IPv4Interface(component)
        except ValueError as error:
            raise beds.DemoError(f"the component's address: {error}") from None
        self._names = names
        self._ssh = shlex.split(ssh)
        self.component_address = str(address.ip)
        self.component_prefix = address.network.prefixlen
        route = self._route([], self.component_address)
        self.client_address = route["prefsrc"]
        self._client_device = route["dev"]
        routes = [self._route(self._over(number), self.client_address) for number in (1, 2)]
        self._addresses = [route["prefsrc"] for route in routes]
        if routes[0]["dev"] != routes[1]["dev"]:
            raise beds.DemoError(f"the data network is on {routes[0]['dev']} of {names[0]} and on "
                                 f"{routes[1]['dev']} of {names[1]}: it must have one name")
        self.device = routes[0]["dev"]
        self._scripts = {}

    @staticmethod
    def _route(prefix, target):
        (route,) = json.loads(beds.run([*prefix, "ip", "-j", "route", "get", target], 30))
        if "gateway" in route:
            raise beds.DemoError(f"{target} is behind the router {route['gateway']}; an open "
                                 "connection moves within one network only")
        return route

    def _over(self, number):
        return [*self._ssh, self._names[number - 1], "--"]

    def node_name(self, number):
        return self._names[number - 1]

    def node_address(self, number):
        return self._addresses[number - 1]

    @staticmethod
    def node_binary(name):
        """A binary of ours as a node finds it: installed, on its path."""
        return name

    def node_script(self, path):
        """Copies a script of ours to both machines; returns where it is there."""
        if path not in self._scripts:
            with open(path, encoding="utf-8") as source:
                text = source.read()
            target = f"/run/starling-perf-{os.path.basename(path)}"
            for number in (1, 2):
                subprocess.run([*self._over(number), f"cat >{target}"], input=text, text=True,
                               check=True)
            self._scripts[path] = target
        return self._scripts[path]

    def execute(self, node, *command, timeout=120):
        return beds.run([*self._over(node), shlex.join(command)], timeout)

    def start_in(self, node, *command, **options):
        return subprocess.Popen([*self._over(node), shlex.join(command)], **options)

    @staticmethod
    def client(*command, timeout=120):
        return beds.run(command, timeout)

    @staticmethod
    def start_client(*command, **options):
        return subprocess.Popen(command, **options)

    def client_mac(self):
        (link,) = json.loads(beds.run(["ip", "-j", "link", "show", self._client_device], 30))
        return link["address"]

    def wire_bytes(self):
        """What both machines have sent into the data network, by their own cards' counters."""
        sent = 0
        for number in (1, 2):
            (link,) = json.loads(self.execute(number, "ip", "-j", "-s", "link", "show", self.device))
            sent += link["stats64"]["tx"]["bytes"]
        return sent

    def status(self):
        return {"kernel": self.execute(1, "uname", "-r").strip(), "accelerated": None}

    @staticmethod
    def consoles():
        """They stay with real machines."""
        return []

    def down(self):
        for path in self._scripts.values():
            for number in (1, 2):
                self.execute(number, "rm", "-f", path)
