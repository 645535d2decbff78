#!/usr/bin/python3
"""The verbs provider between two guests with SoftRoCE: content, refusals, and peers that vanish.

Needs root (or sudo), QEMU and the guest kernels. fabric_beds.py has the environment.
"""

import json
import os
import subprocess
import time

import fabric_beds
from fabric_beds import bed, indented

FABRIC_CHECK = ""
# Who, with whom, on which queue pair.
WHERE = r"10\.77\.0\.1:\d+ -> 10\.77\.0\.2:\d+ \(rxe0, queue pair \d+\)"

# Run in a guest: the traffic classes of the RoCEv2 packets that leave and reach it, until it is told to
# end, and how many there were of each.
SNIFF = """
import collections, json, signal, socket, sys
seen = {"sent": collections.Counter(), "heard": collections.Counter()}
def end(*_):
    print(json.dumps(seen))
    sys.exit()
signal.signal(signal.SIGTERM, end)
raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
raw.bind(("eth0", 0))
print("sniffing", flush=True)
while True:
    frame, where = raw.recvfrom(64)
    if frame[12:14] == bytes([8, 0]) and frame[23] == 17 and frame[36:38] == (4791).to_bytes(2, "big"):
        seen["sent" if where[2] == socket.PACKET_OUTGOING else "heard"][frame[15]] += 1
"""


class VerbsBedTest(fabric_beds.FabricBedTest):
    def listener(self):
        return self.listen(2, FABRIC_CHECK)

    def sender(self, *arguments):
        return self.connect(1, 2, FABRIC_CHECK, *arguments)

    def sender_until_loss(self):
        """A sender that has begun to write and goes on until its peer is lost."""
        sender = self.sender("--mib", "8", "--queue-pairs", "2", "--until-loss")
        self.wait_until_under_way(sender)
        return sender

    def finish(self, sender):
        output, _ = sender.communicate(timeout=300)
        self.assertEqual(sender.returncode, 0, output)
        self.check_content(output)
        return output

    def test_content_arrives(self):
        for queue_pairs in (1, 2):
            with self.subTest(queue_pairs=queue_pairs):
                self.port = next(self._ports)
                self.listener()
                output = self.finish(self.sender("--mib", "32", "--queue-pairs", str(queue_pairs)))
                print(indented(output), flush=True)

    def test_contract(self):
        """What every provider promises, of the device with itself."""
        program = os.path.join(os.path.dirname(FABRIC_CHECK), "fabric_contract_test")
        done = bed("exec", "node1", "--", "env", "STARLING_CONTRACT_VERBS=10.77.0.1", program,
                   "--gtest_filter=*/verbs", check=False)
        self.assertEqual(done.returncode, 0, done.stdout)
        self.assertRegex(done.stdout, r"\[  PASSED  \] [12]\d tests")

    def test_small_slabs(self):
        # Many messages: credit has to come back again and again.
        self.listener()
        self.finish(self.sender("--mib", "4", "--slab-kib", "4", "--slabs", "256"))

    def test_nobody_listens(self):
        sender = self.sender("--mib", "1")
        output, _ = sender.communicate(timeout=self.TIMEOUT_S + self.GRACE_S)
        self.assertEqual(sender.returncode, 1)
        self.assertIn("nobody listens there", output)

    def test_attributes(self):
        self.listener()
        output = self.finish(self.sender("--mib", "1", "--verbose"))
        self.assertRegex(output, "path MTU 4096, GID [0-9]+, timeout 18, retries 7, RNR retries 7, "
                                 "min RNR timer 12")

    def test_traffic_class(self):
        """Each side's own, on every data packet, with the connection manager and without."""
        for provider in ((), ("--provider", "roce", "--roce-port", "verbs:rxe0")):
            with self.subTest(provider=provider):
                self.port = next(self._ports)
                sniffer = subprocess.Popen(
                    [fabric_beds.BED, "exec", "--name", fabric_beds.NAME, "node1", "--", "sh", "-c",
                     "echo $$ >/run/sniffer; exec python3 -B -"], stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE, text=True)
                self.addCleanup(sniffer.kill)
                sniffer.stdin.write(SNIFF)
                sniffer.stdin.close()
                self.read_until(sniffer, "sniffing")
                self.listen(2, FABRIC_CHECK, *provider, "--traffic-class", "40")
                output = self.finish(self.sender(*provider, "--mib", "1", "--verbose",
                                                 "--traffic-class", "104"))
                self.assertIn("partition 65535, traffic class 104", output)
                bed("exec", "node1", "--", "sh", "-c", "kill -TERM $(cat /run/sniffer)")
                seen = json.loads(sniffer.stdout.read())
                sniffer.wait()
                sniffer.stdout.close()
                print(f"\n  traffic classes {seen}", flush=True)
                # Beside them the connection managers say a few words, with the class that was asked for.
                self.assertGreater(seen["sent"]["104"], 250)
                self.assertGreater(seen["heard"]["40"], 10)
                self.assertLess(seen["heard"].get("104", 0), 10)
                self.assertLess(seen["sent"].get("0", 0), 10)

    def test_partition(self):
        self.listen(2, FABRIC_CHECK, "--partition", "65535")
        self.finish(self.sender("--mib", "1", "--partition", "65535"))
        output, _ = self.sender("--mib", "1", "--partition", "32775").communicate(
            timeout=self.TIMEOUT_S + self.GRACE_S)
        self.assertIn("rxe0, port 1, is not in partition 32775 (it is in: 65535)", output)

    def test_peer_killed(self):
        receiver = self.listener()
        sender = self.sender_until_loss()
        self.kill_in(2, "fabric_check")
        self.expect_loss_noticed(sender, WHERE)
        receiver.wait(timeout=self.GRACE_S)

    def test_sender_killed(self):
        receiver = self.listener()
        self.sender_until_loss()
        self.kill_in(1, "fabric_check")
        output, _ = receiver.communicate(timeout=self.TIMEOUT_S + self.GRACE_S)
        self.assertEqual(receiver.returncode, 0, output)
        self.assertIn("UNAVAILABLE", output)

    def test_link_cut(self):
        self.listener()
        sender = self.sender_until_loss()
        self.addCleanup(bed, "link", "node2", "up")
        bed("link", "node2", "down")
        self.expect_loss_noticed(sender, WHERE)

    def test_port_down(self):
        """The device's word ends a connection at once, before any retry has run out."""
        self.listener()
        sender = self.sender_until_loss()
        self.addCleanup(bed, "exec", "node1", "--", "ip", "link", "set", "eth0", "up")
        bed("exec", "node1", "--", "ip", "link", "set", "eth0", "down")
        output, _ = sender.communicate(timeout=self.TIMEOUT_S + self.GRACE_S)
        self.assertEqual(sender.returncode, 0, output)
        self.assertRegex(output, r"lost after \d+ passes")
        self.assertIn("its port went down", output)

    def test_short_cuts(self):
        """A link that comes back within the deadline costs time, nothing else."""
        self.listener()
        sender = self.sender("--mib", "192", "--queue-pairs", "2")
        seen = self.read_until(sender, "message there and back")
        self.addCleanup(bed, "link", "node2", "up")
        cuts = 0
        while sender.poll() is None and cuts < 4:
            bed("link", "node2", "down")
            time.sleep(3)
            bed("link", "node2", "up")
            cuts += 1
            time.sleep(5)
        output, _ = sender.communicate(timeout=400)
        output = seen + output
        print(f"\n  {cuts} cuts: {output.strip()}", flush=True)
        self.assertEqual(sender.returncode, 0, output)
        self.check_content(output)

    def test_zz_power_off(self):
        self.listener()
        sender = self.sender_until_loss()
        bed("power-off", "node2")
        self.addCleanup(bed, "boot", "node2")
        self.expect_loss_noticed(sender, WHERE)


if __name__ == "__main__":
    fabric_beds.main(__doc__, "FABRIC_CHECK")
