#!/usr/bin/python3
"""The verbs provider between two guests with SoftRoCE: content, refusals, and peers that vanish.

Needs root (or sudo), QEMU and the guest kernels. fabric_beds.py has the environment.
"""

import os
import time

import fabric_beds
from fabric_beds import bed, indented

FABRIC_CHECK = ""


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

    def expect_loss_noticed(self, sender):
        started = time.monotonic()
        output, _ = sender.communicate(timeout=self.TIMEOUT_S + self.GRACE_S)
        print(f"\n  noticed {time.monotonic() - started:.1f} s after: {output.strip()}", flush=True)
        self.assertEqual(sender.returncode, 0, output)
        self.assertRegex(output, r"lost after \d+ passes")
        # Who, with whom, on which queue pair.
        self.assertRegex(output, r"10\.77\.0\.1:\d+ -> 10\.77\.0\.2:\d+ \(rxe0, queue pair \d+\)")

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

    def test_peer_killed(self):
        receiver = self.listener()
        sender = self.sender_until_loss()
        pid = bed("exec", "node2", "--", "pidof", "fabric_check").stdout.strip()
        self.assertRegex(pid, r"^\d+$")
        bed("exec", "node2", "--", "kill", "-9", pid)
        self.expect_loss_noticed(sender)
        receiver.wait(timeout=self.GRACE_S)

    def test_sender_killed(self):
        receiver = self.listener()
        self.sender_until_loss()
        pid = bed("exec", "node1", "--", "pidof", "fabric_check").stdout.strip()
        bed("exec", "node1", "--", "kill", "-9", pid)
        output, _ = receiver.communicate(timeout=self.TIMEOUT_S + self.GRACE_S)
        self.assertEqual(receiver.returncode, 0, output)
        self.assertIn("UNAVAILABLE", output)

    def test_link_cut(self):
        self.listener()
        sender = self.sender_until_loss()
        self.addCleanup(bed, "link", "node2", "up")
        bed("link", "node2", "down")
        self.expect_loss_noticed(sender)

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
        self.expect_loss_noticed(sender)


if __name__ == "__main__":
    fabric_beds.main(__doc__, "FABRIC_CHECK")
