#!/usr/bin/python3
"""Damages memory on its way and where it waits, and kills keepers, and looks at what comes of it.

usage: memory_faults_test.py [--case NAME ...] [--list] [--kernel 6.12|6.1] [--keep] [--bed NAME]

In each case a program on node1 that writes to its memory at a steady rate is moved to node2; what
its memory has to be can be worked out from how many writes it says it has made. Ends with a table.
Exit code 0: all passed; 1: not.
"""

import json
import subprocess
import sys
import threading
import time

import beds
import cases
from beds import BINARIES, Failed, wait_until
from workloads_test import Line, Memory

ADDRESS = beds.ADDRESS


class Hog(Memory):
    mib = 48


class LargeHog(Memory):
    mib = 512


class Test:
    def __init__(self, bed, name, hog):
        self.bed = bed
        self.name = name
        self.one, self.two = bed.nodes[1], bed.nodes[2]
        self.hog = hog

    # What the cases are made of -----------------------------------------------------------------

    def start(self):
        self.one.starling("run", self.name, "--ip", f"{ADDRESS}/24", "--", *self.hog.command())

    def stop(self):
        self.one.starling("cancel", self.name, check=False)
        for node in (self.one, self.two):
            node.shell("rm -rf /run/starling/hold", check=False)
        self.bed.link(self.one, "up")
        self.port(self.one, "up")
        for node in (self.one, self.two):
            node.starling("stop", self.name, "--grace", "2", check=False)

    def port(self, node, state):
        """The data device itself, which the RDMA device tells of; a cut link leaves it as it is."""
        node.shell(f"ip link set eth0 {state}")

    def hold(self, node, point):
        node.shell(f"mkdir -p /run/starling/hold && touch /run/starling/hold/{point}")

    def release(self, node, point):
        node.shell(f"rm -f /run/starling/hold/{point}")

    def move(self, *options, there=None):
        there = there or self.two
        here = self.one if there is self.two else self.two
        return here.starling("migrate", self.name, "--to", there.name, "--json", *options, check=False)

    def moved(self, *options):
        done = self.move(*options)
        if done.code != 0:
            raise Failed(f"migrate ended with {done.code}: {done.err.strip()[-500:]}")
        return json.loads(done.out.strip().splitlines()[-1])["report"]

    def content_is_right(self):
        line = Line(self.bed, self.hog.port)
        try:
            steps, digest = line.ask("digest").split()
        finally:
            line.close()
        worked_out = subprocess.run(
            [self.hog.command()[0], "--mib", str(self.hog.mib), "--seed", str(self.hog.seed),
             "--expect", steps], capture_output=True, text=True, check=True).stdout.split()
        if [steps, digest] != worked_out:
            raise Failed(f"after {steps} steps the digest is {digest}, and has to be "
                         f"{worked_out[1]}")
        return steps

    def events(self, node, kind):
        said = [json.loads(line) for line in
                node.starling("events", self.name, "--json").out.splitlines()]
        return [event["text"] for event in said if event["kind"] == kind]

    def state(self, node):
        return node.components().get(self.name, {}).get("state")

    def processes(self, node):
        return node.shell(f"cat /sys/fs/cgroup/starling/{self.name}*/cgroup.procs", check=False).out.split()

    def kill_keeper(self, node):
        # The only component here, and so the only keeper.
        node.shell("kill -9 $(pgrep -x starling-keeper)")

    def dies_on(self, node):
        wait_until(f"the component is seen to have died on {node.name}",
                   lambda: not self.processes(node) and self.state(node) not in ("running", None))
        return self.state(node)

    # The cases ----------------------------------------------------------------------------------

    def a_page_damaged_in_a_round_is_sent_again(self):
        self.hold(self.one, "source-flip-page")
        self.moved()
        resent = self.events(self.one, "resent")
        if not resent:
            raise Failed("nothing was sent again")
        return f"{resent[-1]}; right after {self.content_is_right()} steps"

    def a_page_damaged_inside_the_freeze_is_sent_again(self):
        self.hold(self.one, "source-flip-last-page")
        self.moved()
        resent = self.events(self.one, "resent")
        if not resent:
            raise Failed("nothing was sent again")
        return f"{resent[-1]}; right after {self.content_is_right()} steps"

    def memory_altered_in_the_arena_calls_the_move_off(self):
        self.hold(self.two, "target-flip-arena")
        done = self.move("--verify")
        if done.code == 0 or "altered" not in done.out + done.err:
            raise Failed(f"migrate ended with {done.code}: {done.out} {done.err}")
        if self.state(self.one) != "running" or self.processes(self.two):
            raise Failed(f"{self.state(self.one)} on node1, {self.processes(self.two)} on node2")
        steps = self.content_is_right()
        # And it can still be moved.
        self.moved("--verify")
        return f"called off, runs on at the source; right after {steps} steps, then moved"

    def a_keeper_killed_during_the_drain_takes_the_component_along(self):
        self.hold(self.two, "keeper-fill")
        self.moved()
        line = Line(self.bed, self.hog.port)
        try:
            self.kill_keeper(self.two)
            state = self.dies_on(self.two)
            try:
                answer = line.ask("digest")
                raise Failed(f"the dead component answered {answer}")
            except (Failed, OSError) as broken:
                if "answered" in str(broken):
                    raise
        finally:
            line.close()
        if self.processes(self.one):
            raise Failed("a copy runs on node1")
        return f"{state} on node2, and no answer with zeros in it"

    def an_agent_killed_during_the_drain_does_no_harm(self):
        self.hold(self.two, "keeper-fill")
        self.moved()
        self.two.shell(f"kill -9 {self.two.agent_pid()}")
        steps = self.content_is_right()  # each page is given as it is touched
        self.two.wait_agent()
        self.release(self.two, "keeper-fill")
        self.content_is_right()
        wait_until("the component runs on node2", lambda: self.state(self.two) == "running")
        return f"right after {steps} steps with no agent there, and after the drain"

    # With --post-copy: each is held before the first page is fetched --------------------------------

    def start_post_copy(self):
        """Moves it, and returns once it runs on node2 without what was left behind."""
        self.hold(self.two, "target-fetch")
        self._said = None

        def follow():
            self._said = self.move("--post-copy")
        mover = threading.Thread(target=follow, daemon=True)
        mover.start()
        wait_until("it has left", lambda: self.state(self.one) == "left" or not mover.is_alive())
        away = self.two.components().get(self.name, {}).get("bytes_away", 0)
        if not mover.is_alive() or away == 0:
            raise Failed(f"nothing was left behind: {self._said and self._said.out}")
        return mover, away

    def ended_well(self, mover):
        mover.join(beds.PATIENCE_S)
        if self._said is None or self._said.code != 0:
            raise Failed(f"migrate ended with {self._said and (self._said.code, self._said.err)}")
        report = json.loads(self._said.out.strip().splitlines()[-1])["report"]
        wait_until("all of it is there", lambda: self.two.components()[self.name]["bytes_away"] == 0)
        if not self.events(self.two, "whole"):
            raise Failed("no event says that it is whole")
        return report

    def a_post_copy_brings_all_that_was_left_behind(self):
        mover, away = self.start_post_copy()
        self.release(self.two, "target-fetch")
        steps = self.content_is_right()
        report = self.ended_well(mover)
        # What waits at another host cannot be moved on before it is here.
        self.moved_back("--post-copy")
        self.content_is_right()
        return (f"{away >> 10} KiB were left behind, and fetched in {report['drain_s']:.2f} s; "
                f"right after {steps} steps, and after a move back")

    def moved_back(self, *options):
        done = self.move(*options, there=self.one)
        if done.code != 0:
            raise Failed(f"migrate back ended with {done.code}: {done.err.strip()[-500:]}")

    def an_agent_killed_while_it_fetches_is_followed_by_another(self):
        mover, away = self.start_post_copy()
        self.two.shell(f"kill -9 {self.two.agent_pid()}")
        self.release(self.two, "target-fetch")
        self.two.wait_agent()
        steps = self.content_is_right()
        self.ended_well(mover)
        return f"{away >> 10} KiB fetched by the next agent; right after {steps} steps"

    def an_agent_told_to_stop_waits_until_all_is_fetched(self):
        mover, away = self.start_post_copy()
        pid = self.one.agent_pid()
        self.one.shell(f"kill -TERM {pid}")
        time.sleep(3)
        if self.one.agent_pid() != pid:
            raise Failed("the agent did not wait")
        self.release(self.two, "target-fetch")
        steps = self.content_is_right()
        self.ended_well(mover)
        wait_until("another agent runs on node1", lambda: self.one.agent_pid() != pid)
        self.one.wait_agent()
        return f"{away >> 10} KiB fetched from an agent that was to stop; right after {steps} steps"

    def a_source_agent_killed_before_all_is_fetched_ends_the_component(self):
        _, away = self.start_post_copy()
        self.one.shell(f"kill -9 {self.one.agent_pid()}")
        self.one.wait_agent()
        self.release(self.two, "target-fetch")
        state = self.dies_on(self.two)
        lost = self.events(self.two, "memory-lost")
        status = self.two.components()[self.name]["exit_status"]
        if state != "exited" or status != 137 or not lost or self.processes(self.one):
            raise Failed(f"{state} with {status} on node2, which says {lost}")
        return f"{state} with status {status}, {away >> 10} KiB short; {lost[-1]}"

    def a_source_cut_off_for_three_seconds_is_waited_for(self):
        mover, away = self.start_post_copy()
        self.bed.link(self.one, "down")
        self.release(self.two, "target-fetch")
        time.sleep(3)
        if self.state(self.two) != "running":
            raise Failed(f"it is {self.state(self.two)} on node2")
        self.bed.link(self.one, "up")
        report = self.ended_well(mover)
        return (f"{away >> 10} KiB fetched in {report['drain_s']:.1f} s; right after "
                f"{self.content_is_right()} steps")

    def a_keeper_killed_while_it_is_copied_takes_the_component_along(self):
        self.hold(self.one, "source-freeze")
        mover = self.bed_thread()
        wait_until("the freeze is near", lambda: self.one.shell(
            "test -e /run/starling/hold/source-freeze.reached", check=False).code == 0)
        self.kill_keeper(self.one)
        self.release(self.one, "source-freeze")
        mover.join()
        state = self.dies_on(self.one)
        if self.processes(self.two) or self.state(self.two) is not None:
            raise Failed(f"node2 has {self.state(self.two)}")
        return f"{state} on node1, nothing on node2"

    def moving(self):
        """A move in its first round: the thread that waits for its end, and the list that it puts how it
        ended into."""
        done = []
        mover = threading.Thread(target=lambda: done.append(self.move()), daemon=True)
        mover.start()
        wait_until("a round has begun", lambda: any(
            "PRECOPY: round 1" in text for text in self.events(self.one, "migration-step")))
        time.sleep(2)
        if done:
            raise Failed("it was moved before anything could be done to it")
        return mover, done

    def after_three_seconds(self, lose, mend):
        mover, done = self.moving()
        lose()
        time.sleep(3)
        mend()
        mover.join()
        if done[0].code != 0:
            raise Failed(f"migrate ended with {done[0].code}: {done[0].err.strip()[-500:]}")
        report = json.loads(done[0].out.strip().splitlines()[-1])["report"]
        return (f"{report['provider']}, {int(report['wire_bytes']) >> 20} MiB for {self.hog.mib} "
                f"in {report['total_s']:.0f} s; right after {self.content_is_right()} steps")

    def a_link_cut_for_three_seconds_is_waited_for(self):
        return self.after_three_seconds(lambda: self.bed.link(self.one, "down"),
                                        lambda: self.bed.link(self.one, "up"))

    def a_port_down_for_three_seconds_has_the_stream_resumed(self):
        said = self.after_three_seconds(lambda: self.port(self.one, "down"),
                                        lambda: self.port(self.one, "up"))
        resumed = self.events(self.one, "stream-resumed")
        if not resumed:
            raise Failed("no data connection was made again")
        return f"{resumed[-1]}; {said}"

    def with_two_rails(self):
        """Gives each node a second RDMA device, on the device that otherwise carries `exec` alone, and
        its agent both."""
        for node in (self.one, self.two):
            node.shell("rdma link add rxe1 type rxe netdev mgmt0")
            node.shell("cp /etc/starling/starlingd.toml /run/starlingd.toml.one && cat >>"
                       "/etc/starling/starlingd.toml", given="\n[verbs]\nrails = "
                       f"[\"rxe1@10.78.0.{node.number}:7401\"]\n")
            node.agent("restart")
            node.wait_agent()

    def with_one_rail(self):
        for node in (self.one, self.two):
            # librdmacm holds every device, and this one does not go while somebody has it.
            node.agent("stop")
            node.shell("cp /run/starlingd.toml.one /etc/starling/starlingd.toml; "
                       "rdma link del rxe1", check=False)
            node.agent("start")
            node.wait_agent()

    def a_device_lost_for_good_leaves_its_connections_to_the_other(self):
        self.with_two_rails()
        try:
            mover, done = self.moving()
            before = self.one.shell("rdma resource show").out
            # Long after the move: what looks at it, and says how it went, comes over the same device.
            self.one.shell("(sleep 0.2; ip link set mgmt0 down; sleep 40; ip link set mgmt0 up) "
                           ">/dev/null 2>&1 </dev/null &")
            mover.join()
            if done[0].code != 0:
                raise Failed(f"migrate ended with {done[0].code}: {done[0].err.strip()[-500:]}")
            report = json.loads(done[0].out.strip().splitlines()[-1])["report"]
            if report["rails"] != 2 or report["resumed"] != 1:
                raise Failed(f"over {report['rails']} rails, {report['resumed']} resumed; {before}")
            return (f"{report['resumed']} of 2 connections went over to the other device; "
                    f"{report['granted']}; right after {self.content_is_right()} steps")
        finally:
            self.with_one_rail()

    def holdings(self, node):
        """What there is of the RDMA device, by kind, and the agent's descriptors."""
        rdma = node.shell("rdma resource show").out.split()
        descriptors = node.shell("ls /proc/$(cat /run/bed-agent/pid)/fd | wc -l").out.split()
        return rdma, int(descriptors[0])

    def a_port_down_for_ever_calls_the_move_off_and_leaves_nothing(self):
        before = [self.holdings(node) for node in (self.one, self.two)]
        self.hold(self.one, "source-precopy")
        done = []
        mover = threading.Thread(target=lambda: done.append(self.move()), daemon=True)
        mover.start()
        wait_until("the data connections are there", lambda: self.one.shell(
            "test -e /run/starling/hold/source-precopy.reached", check=False).code == 0)
        connected = self.holdings(self.one)[0]
        if connected == before[0][0]:
            raise Failed(f"a migration holds nothing of the RDMA device: {' '.join(connected)}")
        self.port(self.one, "down")
        self.release(self.one, "source-precopy")
        began = time.monotonic()
        mover.join()
        took = time.monotonic() - began
        if done[0].code == 0:
            raise Failed("it was moved without a link")
        if self.state(self.one) != "running" or not self.processes(self.one):
            raise Failed(f"it is {self.state(self.one)} on node1")
        self.port(self.one, "up")
        for node, (rdma, descriptors) in zip((self.one, self.two), before):
            # A connection between the agents may have been made meanwhile, on either side.
            wait_until(f"{node.name} holds what it held before", lambda: (
                self.holdings(node)[0] == rdma and self.holdings(node)[1] <= descriptors + 2))
        if self.processes(self.two):
            raise Failed("a copy is left on node2")
        return (f"called off {took:.0f} s after the loss, exit code {done[0].code}; node1 held "
                f"{' '.join(connected[2:])}, then again {' '.join(before[0][0][2:])}; right after "
                f"{self.content_is_right()} steps")

    def bed_thread(self):
        thread = threading.Thread(target=self.move, daemon=True)
        thread.start()
        return thread


# What has to be under way for long enough that something can be done to it, and room for it.
LARGE = ["a_link_cut_for_three_seconds_is_waited_for",
         "a_device_lost_for_good_leaves_its_connections_to_the_other",
         "a_port_down_for_three_seconds_has_the_stream_resumed"]
LARGE_GUESTS_MIB = 1792
# In a bed of their own, and only when they are asked for: a device that does not come back as it was
# would be held against the others.
LINKS = [*LARGE, "a_port_down_for_ever_calls_the_move_off_and_leaves_nothing"]
CASES = [name for name in vars(Test) if name.startswith(("a_", "an_", "memory_"))]


def main():
    options = cases.parser(__doc__, CASES, "memfaults").parse_args()
    if options.list:
        print("\n".join(CASES))
        return 0
    names = options.case or [name for name in CASES if name not in LINKS]
    room = {"memory_mib": LARGE_GUESTS_MIB} if set(names) & set(LARGE) else {}
    with beds.Bed(options.bed, options.kernel, options.keep, **room) as bed:
        test = None

        def act(name):
            nonlocal test
            hog = LargeHog() if name in LARGE else Hog()
            test = Test(bed, f"damaged-{CASES.index(name)}", hog)
            test.start()
            return getattr(test, name)()

        def after(_, passed):
            if not passed:
                cases.show_logs((test.one, test.two))
            test.stop()

        rows = cases.run(names, act, after)
    return cases.close(rows, options.json)


if __name__ == "__main__":
    sys.exit(main())
