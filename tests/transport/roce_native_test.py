#!/usr/bin/python3
"""RoCEv2 in user space between two processes in two network namespaces: content, each port, faults.

Needs root and a build with DPDK. usage: roce_native_test.py FABRIC_CHECK
Environment: STARLING_ROCE_MIB is how much each transfer carries (default 64; the full size is 1024).
"""

import os
import re
import subprocess
import sys
import tempfile
import time
import unittest

MIB = int(os.environ.get("STARLING_ROCE_MIB", "64"))
# A machine that others use too may be slow; a transfer that hangs is noticed all the same.
TIMEOUT_S = 60
FABRIC_CHECK = ""


def run(*command):
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                          check=False)
    if done.returncode != 0:
        raise AssertionError(f"{command} ended with {done.returncode}: {done.stdout}")


class Namespaces:
    """Two network namespaces joined by two veth pairs: one for packets, where 10.91.0.1 and .2 are
    the kernels' addresses, .11 and .12 ours, and one for the TCP connection, 10.91.1.1 and .2."""

    def __init__(self, mtu):
        self.names = [f"roce{side}-{os.getpid()}" for side in "ab"]
        self.devices = [f"r{side}{os.getpid()}" for side in "ab"]
        for name in self.names:
            run("ip", "netns", "add", name)
        controls = [f"ctl{device}" for device in self.devices]
        for net, devices in enumerate((self.devices, controls)):
            run("ip", "link", "add", devices[0], "mtu", str(mtu), "netns", self.names[0],
                "type", "veth", "peer", "name", devices[1], "mtu", str(mtu), "netns",
                self.names[1])
            for side in range(2):
                self.inside(side, "ip", "addr", "add", f"10.91.{net}.{side + 1}/24", "dev",
                            devices[side])
                self.inside(side, "ip", "link", "set", devices[side], "up")
        for side in range(2):
            self.inside(side, "ip", "link", "set", "lo", "up")

    def command(self, side, *command):
        return ("ip", "netns", "exec", self.names[side], *command)

    def inside(self, side, *command):
        run(*self.command(side, *command))

    def netem(self, *faults):
        """False where the kernel has no netem."""
        for side in range(2):
            done = subprocess.run(self.command(side, "tc", "qdisc", "replace", "dev",
                                               self.devices[side], "root", "netem", "limit",
                                               "10000", *faults), capture_output=True, text=True,
                                  check=False)
            if "kind is unknown" in done.stderr:
                return False
            if done.returncode != 0:
                raise AssertionError(done.stderr)
        return True

    def remove(self):
        for name in self.names:
            subprocess.run(("ip", "netns", "delete", name), check=False)


class RoceNativeTest(unittest.TestCase):
    port = 7600

    def wait_for(self, process, words):
        """Reads until these words; drivers have things to say before them."""
        seen = ""
        for line in process.stdout:
            seen += line
            if words in line:
                return
        self.fail(f"ended without {words!r}: {seen}")

    def transfer(self, places, ports, address, more=(), sender_more=()):
        """One transfer; `places` gives each side's command prefix, `ports` its --roce-port."""
        RoceNativeTest.port += 1
        processes = []
        for side, role in ((1, "listen"), (0, "connect")):
            command = [*places[side], FABRIC_CHECK, role, "--provider", "roce", "--roce-port",
                       ports[side], "--roce-ip", f"10.91.0.{side + 11}", "--address", address,
                       "--port", str(self.port), "--timeout", str(TIMEOUT_S), *more]
            if role == "connect":
                command += ["--mib", str(MIB), *sender_more]
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                       text=True)
            processes.append(process)
            self.addCleanup(process.stdout.close)
            self.addCleanup(process.wait)
            self.addCleanup(process.kill)
            if role == "listen":
                self.wait_for(process, "listening on")
        listener, sender = processes
        output, _ = sender.communicate(timeout=1800)
        print("\n  " + output.strip().replace("\n", "\n  "), flush=True)
        if sender.returncode != 0:
            listener.kill()
            output += "\nthe other side: " + listener.communicate()[0]
        self.assertEqual(sender.returncode, 0, output)
        self.assertEqual(len(re.findall("content arrived as sent", output)), 2)
        self.assertEqual(len(re.findall("content came back as sent", output)), 1)
        heard, _ = listener.communicate(timeout=TIMEOUT_S)
        self.assertEqual(listener.returncode, 0, heard)
        return output

    def veth(self, mtu):
        namespaces = Namespaces(mtu)
        self.addCleanup(namespaces.remove)
        return namespaces

    def each_way(self, namespaces, kind, sender_more=()):
        for listening in (1, 0):
            with self.subTest(listening=listening):
                sides = (1 - listening, listening)
                self.transfer([namespaces.command(side) for side in sides],
                              [f"{kind}:{namespaces.devices[side]}" for side in sides],
                              f"10.91.1.{listening + 1}", sender_more=sender_more)

    def test_af_packet(self):
        self.each_way(self.veth(9000), "af_packet", ("--queue-pairs", "2"))

    def test_af_packet_small_path_mtu(self):
        namespaces = self.veth(1500)
        self.transfer([namespaces.command(0), namespaces.command(1)],
                      [f"af_packet:{device}" for device in namespaces.devices], "10.91.1.2",
                      ("--traffic-class", "104", "--partition", "32775"))

    def test_af_packet_faults(self):
        namespaces = self.veth(9000)
        if not namespaces.netem("delay", "50us", "loss", "1%", "reorder", "1%", "duplicate", "0.1%"):
            self.skipTest("this kernel has no netem (sch_netem)")
        self.each_way(namespaces, "af_packet")

    def test_af_xdp(self):
        # The most that a device with XDP carries in a page.
        self.each_way(self.veth(3400), "af_xdp")

    def test_memif(self):
        with tempfile.TemporaryDirectory() as folder:
            socket = os.path.join(folder, "memif")
            self.transfer(((), ()), (f"memif:{socket}", f"memif:{socket},server"), "127.0.0.1")

    def test_contract(self):
        """What every provider promises, between the two ends of a veth pair."""
        devices = [f"c{side}{os.getpid()}" for side in "ab"]
        namespaces = self.veth(9000)
        namespaces.inside(0, "ip", "link", "add", devices[0], "mtu", "9000", "type", "veth", "peer",
                          "name", devices[1], "mtu", "9000")
        for device in devices:
            namespaces.inside(0, "ip", "link", "set", device, "up")
        program = os.path.join(os.path.dirname(FABRIC_CHECK), "fabric_contract_test")
        done = subprocess.run(
            (*namespaces.command(0), "env", "STARLING_CONTRACT_ROCE="
             f"af_packet:{devices[0]} af_packet:{devices[1]}", program,
             "--gtest_filter=*/roce_dpdk"), stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, check=False, timeout=1800)
        self.assertEqual(done.returncode, 0, done.stdout)
        self.assertRegex(done.stdout, r"\[  PASSED  \] [12]\d tests")

    def test_unknown_device_says_so(self):
        done = subprocess.run((FABRIC_CHECK, "listen", "--provider", "roce", "--roce-port",
                               "af_packet:nothere0", "--roce-ip", "10.91.0.11", "--address",
                               "127.0.0.1"), stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                              text=True, check=False, timeout=TIMEOUT_S)
        self.assertEqual(done.returncode, 1, done.stdout)
        self.assertIn("port af_packet:nothere0: open it", done.stdout)

    def test_peer_that_disappears(self):
        namespaces = self.veth(9000)
        RoceNativeTest.port += 1
        common = ("--provider", "roce", "--address", "10.91.1.2", "--port", str(self.port),
                  "--timeout", "5")
        processes = []
        for side, role in ((1, ("listen",)), (0, ("connect", "--until-loss", "--mib", "16"))):
            command = [*namespaces.command(side), FABRIC_CHECK, *role, *common, "--roce-port",
                       f"af_packet:{namespaces.devices[side]}", "--roce-ip",
                       f"10.91.0.{side + 11}"]
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                       text=True)
            self.addCleanup(process.stdout.close)
            self.addCleanup(process.wait)
            self.addCleanup(process.kill)
            processes.append(process)
            if role[0] == "listen":
                self.wait_for(process, "listening on")
        sender = processes[1]
        self.wait_for(sender, "writing until")
        time.sleep(2)
        self.assertIsNone(sender.poll(), "the sender ended while its peer was there")
        # Cut, not closed: nobody says goodbye.
        namespaces.inside(1, "ip", "link", "set", namespaces.devices[1], "down")
        output, _ = sender.communicate(timeout=TIMEOUT_S)
        self.assertEqual(sender.returncode, 0, output)
        self.assertRegex(output, r"lost after \d+ passes")


if __name__ == "__main__":
    if len(sys.argv) < 2 or not os.access(sys.argv[1], os.X_OK):
        sys.exit(__doc__)
    if os.geteuid() != 0:
        sys.exit(77)  # skipped: namespaces and ports need root
    FABRIC_CHECK = os.path.realpath(sys.argv.pop(1))
    unittest.main(verbosity=2)
