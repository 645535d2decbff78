"""What the tests of providers between two guests share: the bed, and programs that run in its nodes.

Environment: STARLING_BED_KERNEL is the guests' kernel series (default 6.12); STARLING_BED_NAME a bed
of this checkout that is up already and is used instead of one of our own.
"""

import os
import re
import subprocess
import sys
import time
import unittest

CHECKOUT = os.path.realpath(os.path.join(os.path.dirname(__file__), "..", ".."))
BED = os.path.join(CHECKOUT, "tools", "bed")
KERNEL = os.environ.get("STARLING_BED_KERNEL", "6.12")
GIVEN = os.environ.get("STARLING_BED_NAME")
NAME = GIVEN or f"fabric-{os.getpid()}"


def bed(command, *arguments, check=True):
    done = subprocess.run([BED, command, "--name", NAME, *arguments], stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
                          timeout=400)
    if check and done.returncode != 0:
        raise AssertionError(f"bed {command} {arguments} ended with {done.returncode}: {done.stdout}")
    return done


def indented(output):
    return "\n  " + output.strip().replace("\n", "\n  ")


class FabricBedTest(unittest.TestCase):
    # How long an operation may take before a program gives it up, and how much later at most its
    # process has to have ended. Generous, since emulated guests on a busy machine are slow.
    TIMEOUT_S = 20
    GRACE_S = 40

    _ports = iter(range(7500, 7600))

    @classmethod
    def setUpClass(cls):
        if not GIVEN:
            cls.addClassCleanup(bed, "down", check=False)
            bed("up", "--kernel", KERNEL)

    def setUp(self):
        self.port = next(self._ports)

    def start(self, node, program, *arguments):
        """Starts fabric_check, or one like it, in a guest; it is ended with the test."""
        process = subprocess.Popen([BED, "exec", "--name", NAME, f"node{node}", "--", program,
                                    "--timeout", str(self.TIMEOUT_S), *arguments],
                                   stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                   stderr=subprocess.STDOUT, text=True)

        def end():
            process.kill()
            process.wait()
            process.stdout.close()
        self.addCleanup(end)
        return process

    def listen(self, node, program, *arguments):
        """Starts it as `listen` and returns once it does."""
        process = self.start(node, program, "listen", "--address", f"10.77.0.{node}", "--port",
                             str(self.port), *arguments)
        self.read_until(process, f"listening on 10.77.0.{node}")
        return process

    def connect(self, node, to, program, *arguments):
        return self.start(node, program, "connect", "--address", f"10.77.0.{to}", "--port",
                          str(self.port), *arguments)

    def read_until(self, process, words):
        """Returns what it printed, once these words are among it."""
        seen = ""
        for line in process.stdout:
            seen += line
            if words in line:
                return seen
        self.fail(f"ended without {words!r}: {seen}")

    def check_content(self, output):
        """That fabric_check's two passes and its reading back were told of."""
        self.assertEqual(len(re.findall("content arrived as sent", output)), 2, output)
        self.assertEqual(len(re.findall("content came back as sent", output)), 1, output)

    def wait_until_under_way(self, sender):
        """Of a sender with --until-loss: it has begun to write, and goes on."""
        self.read_until(sender, "writing until")
        time.sleep(3)
        self.assertIsNone(sender.poll(), "the sender ended while its peer was there")

    def expect_loss_noticed(self, sender, where):
        """Of such a sender, whose peer has gone. `where`: a pattern of its own words for the connection."""
        started = time.monotonic()
        output, _ = sender.communicate(timeout=self.TIMEOUT_S + self.GRACE_S)
        print(f"\n  noticed {time.monotonic() - started:.1f} s after: {output.strip()}", flush=True)
        self.assertEqual(sender.returncode, 0, output)
        self.assertRegex(output, r"lost after \d+ passes")
        self.assertRegex(output, where)

    def kill_in(self, node, program):
        pids = bed("exec", f"node{node}", "--", "pidof", program).stdout.strip()
        self.assertRegex(pids, r"^\d+( \d+)*$")
        bed("exec", f"node{node}", "--", "kill", "-9", *pids.split())


def main(documentation, *programs):
    """Runs the tests of the calling script; its first arguments are the paths of `programs`."""
    paths = sys.argv[1:1 + len(programs)]
    if len(paths) < len(programs) or not all(os.access(path, os.X_OK) for path in paths):
        sys.exit(f"{documentation}\nusage: {os.path.basename(sys.argv[0])} {' '.join(programs)}")
    module = sys.modules["__main__"]
    for name, path in zip(programs, paths):
        setattr(module, name, os.path.realpath(path))
    del sys.argv[1:1 + len(programs)]
    unittest.main(verbosity=2)
