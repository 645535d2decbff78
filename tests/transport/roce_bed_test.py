#!/usr/bin/python3
"""RoCEv2 in user space in one guest against SoftRoCE in the other, in both directions.

Needs root (or sudo), QEMU, the guest kernels and a build with DPDK. fabric_beds.py has the environment, and
STARLING_ROCE_MIB is how much each transfer carries (default 32; the full size is 1024).
"""

import os

import fabric_beds
from fabric_beds import bed, indented

MIB = int(os.environ.get("STARLING_ROCE_MIB", "32"))
FABRIC_CHECK = ""
QUEUE_PAIR_CHECK = ""

OURS = ("--provider", "roce", "--roce-port", "af_packet:eth0", "--roce-ip", "10.77.0.101")
KERNELS = ("--provider", "roce", "--roce-port", "verbs:rxe0")
# 1 % loss, 1 % reordering, 0.1 % duplication.
FAULTS = ("limit", "10000", "delay", "1ms", "loss", "1%", "reorder", "1%", "duplicate", "0.1%")


class RoceBedTest(fabric_beds.FabricBedTest):
    TIMEOUT_S = 60

    def lose(self, sender_is_ours, how):
        """Whoever writes notices that its peer has gone: `how` takes it away. Ours is in node 1."""
        self.port = next(self._ports)
        # SoftRoCE sends again for ever: then it is the deadline that tells, of two operations.
        self.TIMEOUT_S = fabric_beds.FabricBedTest.TIMEOUT_S
        sender, receiver = (1, 2) if sender_is_ours else (2, 1)
        sides = {1: OURS, 2: KERNELS}
        listening = self.listen(receiver, FABRIC_CHECK, *sides[receiver])
        sending = self.connect(sender, receiver, FABRIC_CHECK, *sides[sender], "--mib", "8",
                               "--until-loss")
        self.wait_until_under_way(sending)
        how(receiver)
        self.expect_loss_noticed(sending, r"10\.77\.0\.\d+\S* -> 10\.77\.0\.\d+\S* .*queue pair \d+")
        listening.kill()

    def both(self, sender_is_ours, program, sides, *more):
        """Ours is in node 1, the kernel's in node 2. Returns what the connecting side printed."""
        self.port = next(self._ports)
        sender, receiver = (1, 2) if sender_is_ours else (2, 1)
        listening = self.listen(receiver, program, *sides[receiver])
        sending = self.connect(sender, receiver, program, *sides[sender], *more)
        output, _ = sending.communicate(timeout=3000)
        if sending.returncode != 0:
            listening.terminate()
        heard, _ = listening.communicate(timeout=self.TIMEOUT_S)
        print(f"{indented(output)}\n  the other side: {indented(heard)}", flush=True)
        self.assertEqual(sending.returncode, 0, output)
        return output

    def transfer(self, sender_is_ours, *more, mib=MIB):
        self.check_content(self.both(
            sender_is_ours, FABRIC_CHECK, {1: (*OURS, "--verbose"), 2: (*KERNELS, "--verbose")},
            "--mib", str(mib), "--pings", "50", *more))

    def test_ours_to_the_kernels(self):
        self.transfer(True)

    def test_the_kernels_to_ours(self):
        self.transfer(False)

    def test_every_operation(self):
        for ours in (True, False):
            with self.subTest(connects="ours" if ours else "the kernel's"):
                output = self.both(ours, QUEUE_PAIR_CHECK, {1: OURS, 2: ("--provider", "verbs")})
                self.assertIn("every operation, both ways, at 9 lengths: as sent", output)

    def test_small_writes(self):
        # A message and a write of one packet each, in turn.
        for ours in (True, False):
            with self.subTest(ours=ours):
                self.transfer(ours, "--slab-kib", "4", mib=2)

    def test_with_faults(self):
        for node in (1, 2):
            bed("exec", f"node{node}", "--", "tc", "qdisc", "replace", "dev", "eth0", "root",
                "netem", *FAULTS)
            self.addCleanup(bed, "exec", f"node{node}", "--", "tc", "qdisc", "delete", "dev",
                            "eth0", "root")
        for ours in (True, False):
            with self.subTest(ours=ours):
                self.transfer(ours)

    def test_peer_that_is_cut_off(self):
        # Nobody says goodbye. The link of a node carries packets and introductions alike.
        def cut(receiver):
            self.addCleanup(bed, "link", f"node{receiver}", "up")
            bed("link", f"node{receiver}", "down")
        for ours in (True, False):
            with self.subTest(ours=ours):
                self.lose(ours, cut)
                self.doCleanups()

    def test_peer_that_is_killed(self):
        for ours in (True, False):
            with self.subTest(ours=ours):
                self.lose(ours, lambda receiver: self.kill_in(receiver, "fabric_check"))


if __name__ == "__main__":
    fabric_beds.main(__doc__, "FABRIC_CHECK", "QUEUE_PAIR_CHECK")
