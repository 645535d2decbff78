#!/usr/bin/python3
"""Checkpoints to storage, and files that move with their component, between two nodes of a bed.

usage: storage_test.py [--case NAME ...] [--list] [--kernel 6.12|6.1] [--keep] [--bed NAME]

checkpoint   a Redis under the witness, whose connection lives on through two checkpoints; one
             without load writes hardly anything; killed and restored, with every key; the original
             running, damaged, altered, mixed and encrypted checkpoints are refused as they have to
             be; and on the other node, from shared storage, under another name
power-off    the node of a checkpointed Redis loses its power, boots, and restores it
agent-killed the agent is killed while the component is held for a checkpoint: it runs on
ship-sqlite  a database in a shipped folder under load, there and back; a move that is called off
             leaves the target as it was; a checkpoint has the files of its instant
postgresql   a PostgreSQL with its data in a shipped folder, under pgbench, there and back

Exit code 0: all passed; 1: not.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
import time

import beds
import cases
from beds import ADDRESS, BINARIES, Failed, wait_until
from workloads_test import ask, flaws

PORT = 7777
# On the disk of the node itself, which outlives its power.
STORE = "/var/lib/starling/checkpoints"
SHIPPED = "/var/lib/starling/ship/data"
POSTGRESQL = "/usr/lib/postgresql/15/bin"


def expect(condition, what):
    if not condition:
        raise Failed(what)


class Test:
    def __init__(self, bed, folder):
        self.bed, self.folder = bed, folder
        self.one, self.two = bed.nodes[1], bed.nodes[2]

    # Parts -------------------------------------------------------------------------------------

    def run(self, node, name, *command, options=()):
        node.starling("run", name, "--ip", f"{ADDRESS}/24", *options, "--",
                      os.path.join(BINARIES, "starling-heartbeat"), "--to", beds.OBSERVER, "--",
                      *command)

    def redis(self, node, name="redis"):
        self.run(node, name, "/usr/bin/redis-server", "--port", str(PORT), "--bind", "0.0.0.0",
                 "--protected-mode", "no", "--save", "", "--appendonly", "no",
                 "--enable-debug-command", "yes", "--dir", "/")

    def ask(self, line):
        return ask(self.bed, PORT, line)

    def answers(self):
        wait_until("the component answers", lambda: self.bed.client(
            "bash", "-c", f"exec 3<>/dev/tcp/{ADDRESS}/{PORT}", check=False).code == 0)

    def checkpoint(self, node, name, store, *options):
        return json.loads(node.starling("checkpoint", name, "--to", store, "--json",
                                        *options).out)

    def refused(self, node, words, code, *command):
        done = node.starling(*command, check=False)
        expect(done.code == code and words in done.err,
               f"{' '.join(command)} ended with {done.code} and not {code}, or without "
               f"'{words}': {done.err.strip()}")

    def kill(self, node, name):
        """As if all of it had crashed at once."""
        node.shell(f"for group in /sys/fs/cgroup/starling/{name}*; do "
                   "echo 1 >$group/cgroup.kill; done")
        wait_until(f"{name} has ended", lambda: node.components()[name]["state"] in
                   ("exited", "lost"))

    def runs(self, node, name):
        expect(node.components().get(name, {}).get("state") == "running",
               f"{name} does not run on {node.name}: {node.components().get(name)}")

    def stop(self, *names):
        for node in (self.one, self.two):
            for name in names:
                node.starling("stop", name, "--grace", "2", check=False)

    def move(self, name, there, here, *options):
        done = here.starling("migrate", name, "--to", there.name, "--json", *options, check=False)
        lines = [json.loads(line) for line in done.out.splitlines() if line.startswith("{")]
        expect(done.code == 0, f"migrate {name} to {there.name} ended with {done.code}: "
                               f"{done.err.strip() or lines[-1:]}")
        return lines[-1]["report"]

    # Cases -------------------------------------------------------------------------------------

    def checkpoint_redis(self):
        name, store = "redis", f"{STORE}/redis"
        self.one.shell(f"rm -rf {STORE}")
        self.redis(self.one)
        self.answers()
        witness = beds.Witness(self.bed, self.folder, PORT, "--preload-mib", "8", "--value-size",
                               "1024")
        try:
            witness.wait_ready()
            first = self.checkpoint(self.one, name, store)
            second = self.checkpoint(self.one, name, store, "--keep", "2")
            time.sleep(2)
            report = witness.report()
        finally:
            witness.kill()
        flaws(report)
        expect(first["connections"] >= 1, f"no connection was seen: {first}")
        self.ask("SET greeting hello")
        digest = self.ask("DEBUG DIGEST")
        third = self.checkpoint(self.one, name, store, "--keep", "2")
        expect(third["number"] == 3 and third["dropped"] == 1, f"the oldest was to go: {third}")
        # What is left of packs that the load has made useless by half is written anew, once.
        fourth = self.checkpoint(self.one, name, store, "--keep", "2")
        # Nothing happens between these two, but what Redis does by itself.
        fifth = self.checkpoint(self.one, name, store, "--keep", "2")
        expect(fifth["bytes_written"] < first["bytes_written"] / 4,
               f"without load hardly anything is to be written: {first} {fourth} {fifth}")
        self.ask("SET greeting later")
        # One copy at a time.
        self.refused(self.one, "only one copy", 4, "restore", store)
        self.kill(self.one, name)

        # What is damaged is refused by name, and nothing is started.
        files = self.one.shell(f"ls -S {store}/pack-*; ls {store}/checkpoint-*").out.split()
        pack, manifest = files[0], files[-1]
        older = files[-2]
        for path, harm in ((pack, f"truncate -s -1 {pack}"),
                           (pack, f"printf x | dd of={pack} bs=1 seek=5000 conv=notrunc"),
                           (manifest, f"truncate -s 100 {manifest}"),
                           (manifest, f"printf x | dd of={manifest} bs=1 seek=200 conv=notrunc"),
                           (manifest, f"cp {older} {manifest}"),
                           (pack, f"rm {pack}")):
            self.one.shell(f"cp -a {path} /tmp/whole; {harm} 2>&1")
            self.refused(self.one, path, 1, "restore", store)
            self.one.shell(f"cp -a /tmp/whole {path}")
            expect(self.one.components()[name]["state"] != "running", "something was started")
        restored = json.loads(self.one.starling("restore", store, "--json").out)
        expect(restored["number"] == 5, f"not the newest: {restored}")
        self.runs(self.one, name)
        self.answers()
        expect(self.ask("GET greeting") == "hello", "not the value of the checkpoint's instant")
        expect(self.ask("DEBUG DIGEST") == digest, "the digest is another than at the checkpoint")
        # It is a component as any other: it moves.
        self.move(name, self.two, self.one)
        expect(self.ask("GET greeting") == "hello", "lost on a move after the restore")
        self.refused(self.one, "has left for host node2", 4, "restore", store)

        # Encrypted, on storage that both share, and restored on the other host under another name.
        self.one.shell("umask 077; head -c 32 /dev/urandom >/tmp/key; cp /tmp/key /shared/key")
        self.move(name, self.one, self.two)
        self.one.shell("rm -rf /shared/store")
        self.checkpoint(self.one, name, "/shared/store", "--encrypt-key", "/tmp/key")
        leak = self.one.shell("grep -rl greeting /shared/store", check=False).out
        expect(not leak, f"readable without the key: {leak}")
        self.one.starling("stop", name)
        self.refused(self.two, "is encrypted", 4, "restore", "/shared/store")
        self.refused(self.two, "has left for host node1", 4, "restore", "/shared/store",
                     "--encrypt-key", "/shared/key")
        self.two.starling("restore", "/shared/store", "--encrypt-key", "/shared/key", "--name",
                          "again", "--original-gone")
        self.runs(self.two, "again")
        self.answers()
        expect(self.ask("GET greeting") == "hello", "not the value of the encrypted checkpoint")
        self.two.shell("rm -rf /shared/store /shared/key")
        taken = (first, second, third, fourth, fifth)
        return (f"held {', '.join('%.2f' % one['held_s'] for one in taken)} s; wrote "
                f"{', '.join(str(one['bytes_written']) for one in taken)} bytes")

    def power_off(self):
        store = f"{STORE}/power"
        self.one.shell(f"rm -rf {store}")
        self.redis(self.one, "power")
        self.answers()
        for number in range(200):
            self.ask(f"SET key{number} value{number}")
        digest = self.ask("DEBUG DIGEST")
        self.checkpoint(self.one, "power", store)
        for action in ("power-off", "boot"):
            subprocess.run(self.bed.argv(action, self.one.name), check=True,
                           stdin=subprocess.DEVNULL, timeout=beds.PATIENCE_S)
        self.one.wait_agent()
        expect(self.one.components()["power"]["state"] == "lost", "it is not lost")
        self.one.starling("restore", store)
        self.answers()
        expect(self.ask("DEBUG DIGEST") == digest, "the digest is another than at the checkpoint")
        return "restored after the power came back, digest equal"

    def agent_killed(self):
        store = f"{STORE}/held"
        self.redis(self.one, "held")
        self.answers()
        self.one.shell("mkdir -p /run/starling/hold; touch /run/starling/hold/checkpoint-capture")
        taking = self.one.start("starling", "checkpoint", "held", "--to", store,
                                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                stderr=subprocess.DEVNULL)
        wait_until("it is held", lambda: self.one.shell(
            "test -e /run/starling/hold/checkpoint-capture.reached", check=False).code == 0)
        frozen = self.one.shell("cat /sys/fs/cgroup/starling/held/cgroup.freeze").out.strip()
        expect(frozen == "1", "it is not frozen at the point where it has to be")
        self.one.shell(f"kill -9 {self.one.agent_pid()}; rm -r /run/starling/hold")
        taking.wait(timeout=beds.PATIENCE_S)
        self.one.wait_agent()
        expect(self.ask("SET alive yes") == "+OK", "it does not run on")
        left = self.one.shell(f"ls {store} | grep -c checkpoint-", check=False).out.strip()
        expect(left == "0", "a checkpoint is there that was never whole")
        self.checkpoint(self.one, "held", store)
        return "runs on after the agent's end, and the next checkpoint is whole"

    def look(self, node):
        """What is beside the shipped path."""
        return sorted(node.shell(f"ls -A {os.path.dirname(SHIPPED)}").out.split())

    def ship_sqlite(self):
        name, database = "sqlite", f"{SHIPPED}/rows.db"
        for node in (self.one, self.two):
            node.shell(f"rm -rf {os.path.dirname(SHIPPED)}; mkdir -p {os.path.dirname(SHIPPED)}")
        self.one.shell(f"mkdir -m 750 {SHIPPED}; cd {SHIPPED}; truncate -s 64M sparse; "
                       "echo note >note; ln note twin; ln -s note link; chown 7:8 note; "
                       "python3 -c 'import os; os.setxattr(\"note\", \"user.kind\", b\"test\")'")
        shape = (f"cd {SHIPPED} && ls -lnR --time-style=+%s note twin link sparse | "
                 "awk '{print $1,$2,$3,$4,$5,$6,$7}' && readlink link && du -k sparse && "
                 "python3 -c 'import os; print(os.getxattr(\"note\", \"user.kind\"))'")
        self.run(self.one, name, os.path.join(beds.WORKLOADS, "sqlite_writer.py"), str(PORT),
                 database, "--reopen", options=("--ship", SHIPPED))
        self.answers()
        seen = self.one.shell(shape).out
        # Something of others stands in the way, and is named.
        self.two.shell(f"mkdir {SHIPPED}; touch {SHIPPED}/theirs")
        self.refused(self.one, "shipped-path-taken", 4, "migrate", name, "--to", "node2")
        self.two.shell(f"rm {SHIPPED}/theirs")
        # A move that is called off leaves the target as it was: an empty folder.
        done = self.one.starling("migrate", name, "--to", "node2", "--probe", "false", check=False)
        expect(done.code == 5, f"the failed probe ended with {done.code}: {done.err}")
        expect(self.look(self.two) == ["data"], f"left at the target: {self.look(self.two)}")
        expect(not self.two.shell(f"ls -A {SHIPPED}").out, "the target's folder is not empty")
        self.runs(self.one, name)
        witness = beds.Witness(self.bed, self.folder, PORT, "--keys", "50", "--value-size", "256")
        try:
            witness.wait_ready()
            there = self.move(name, self.two, self.one)
            time.sleep(2)
            report = witness.report()
        finally:
            witness.kill()
        flaws(report)
        digest = json.loads(self.ask("DIGEST"))
        whole = digest["gapless"] and digest["integrity"] == "ok"
        expect(whole and digest["rows"] >= report["writes_acknowledged"],
               f"the database is damaged: {digest}")
        expect(self.two.shell(shape).out == seen, f"not the same files: {seen} and "
                                                  f"{self.two.shell(shape).out}")
        expect(self.look(self.one) == [".starling.sqlite.data.left"],
               f"at the source: {self.look(self.one)}")
        expect(self.look(self.two) == ["data"], f"at the target: {self.look(self.two)}")
        back = self.move(name, self.one, self.two)
        expect(json.loads(self.ask("DIGEST")) == digest, "the digest is another after the way back")
        expect(self.look(self.one) == ["data"], f"left behind: {self.look(self.one)}")
        # A checkpoint has the files of its instant.
        store = f"{STORE}/sqlite"
        self.one.shell(f"rm -rf {store}")
        self.ask("SET first row")
        digest = json.loads(self.ask("DIGEST"))
        self.checkpoint(self.one, name, store)
        self.ask("SET second row")
        self.kill(self.one, name)
        self.one.starling("restore", store)
        self.answers()
        expect(json.loads(self.ask("DIGEST")) == digest, "the files are not those of the instant")
        self.ask("SET third row")
        expect(json.loads(self.ask("DIGEST"))["rows"] == digest["rows"] + 1, "it writes no more")
        expect(".starling.sqlite.data.left" in self.look(self.one), "what was replaced is gone")
        return f"held {there['held_s']:.2f} and {back['held_s']:.2f} s, digests equal"


    def sql(self, query):
        return self.bed.client(f"{POSTGRESQL}/psql", "-h", ADDRESS, "-p", str(PORT), "-U",
                               "postgres", "-d", "postgres", "-Atc", query).out.strip()

    def postgresql(self):
        name = "pg"
        for node in (self.one, self.two):
            node.shell(f"rm -rf {os.path.dirname(SHIPPED)}; mkdir -p {os.path.dirname(SHIPPED)}")
        self.one.shell(
            f"install -d -m 700 -o postgres {SHIPPED}; cd {SHIPPED}; "
            f"su postgres -c '{POSTGRESQL}/initdb -D {SHIPPED} --no-sync --auth=trust' >/dev/null; "
            f"echo 'host all all 0.0.0.0/0 trust' >>{SHIPPED}/pg_hba.conf")
        # Its dynamic shared memory is in the data's folder instead of /dev/shm, which stays behind.
        self.run(self.one, name, f"{POSTGRESQL}/postgres", "-D", SHIPPED, "-h", "0.0.0.0", "-p",
                 str(PORT), "-k", "", "-c", "dynamic_shared_memory_type=mmap", "-c",
                 "shared_buffers=32MB", options=("--user", "postgres", "--ship", SHIPPED))
        # It answers long before it takes anybody in.
        wait_until("PostgreSQL takes connections", lambda: self.bed.client(
            f"{POSTGRESQL}/pg_isready", "-h", ADDRESS, "-p", str(PORT), check=False).code == 0)
        pgbench = [f"{POSTGRESQL}/pgbench", "-h", ADDRESS, "-p", str(PORT), "-U", "postgres"]
        self.bed.client(*pgbench, "-i", "-q", "postgres")
        load = self.bed.start_client(*pgbench, "-c", "3", "-T", "60", "postgres",
                                     stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                     stderr=subprocess.STDOUT, text=True)
        try:
            wait_until("pgbench has begun", lambda: int(self.sql(
                "SELECT count(*) FROM pgbench_history")) > 20)
            there = self.move(name, self.two, self.one)
            said = load.communicate(timeout=beds.PATIENCE_S)[0]
        finally:
            load.kill()
            load.wait()
        expect(load.returncode == 0 and "failed transactions: 0 " in said,
               f"pgbench ended with {load.returncode}: {said.strip()}")
        acknowledged = int(re.search(r"actually processed: (\d+)", said)[1])
        # Each transaction adds the same amount to four tables, and one row to the history.
        sums = self.sql(
            "SELECT (SELECT count(*) FROM pgbench_history), (SELECT sum(delta) FROM "
            "pgbench_history), (SELECT sum(abalance) FROM pgbench_accounts), (SELECT sum(bbalance) "
            "FROM pgbench_branches), (SELECT sum(tbalance) FROM pgbench_tellers)").split("|")
        expect(sums[0] == str(acknowledged) and len(set(sums[1:])) == 1,
               f"{acknowledged} transactions were acknowledged, and the tables say {sums}")
        digest = ("SELECT md5(string_agg(a::text, ',' ORDER BY aid)) FROM pgbench_accounts a")
        before = self.sql(digest)
        back = self.move(name, self.one, self.two)
        expect(self.sql(digest) == before, "the accounts are others after the way back")
        self.sql("VACUUM")
        return (f"held {there['held_s']:.2f} and {back['held_s']:.2f} s, {acknowledged} "
                "transactions acknowledged and found, tables agree")


CASES = {"checkpoint": Test.checkpoint_redis, "power-off": Test.power_off,
         "agent-killed": Test.agent_killed, "ship-sqlite": Test.ship_sqlite,
         "postgresql": Test.postgresql}
NAMES = ("redis", "again", "power", "held", "sqlite", "pg")


def main():
    options = cases.parser(__doc__, list(CASES), "storage").parse_args()
    if options.list:
        print("\n".join(CASES))
        return 0
    with tempfile.TemporaryDirectory() as folder, \
            beds.Bed(options.bed, options.kernel, options.keep) as bed:
        test = Test(bed, folder)

        def after(_, passed):
            if not passed:
                cases.show_logs((test.one, test.two), "/var/log/starling/*.log")
            test.stop(*NAMES)

        rows = cases.run(options.case or list(CASES), lambda name: CASES[name](test), after)
    return cases.close(rows, options.json)


if __name__ == "__main__":
    sys.exit(main())
