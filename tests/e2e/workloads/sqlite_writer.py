#!/usr/bin/python3
"""A workload whose state is a file: numbered rows in SQLite, each acknowledged once it is on disk.

usage: sqlite_writer.py PORT DATABASE [--reopen]

Speaks Redis' protocol on PORT (see resp.py). SET appends a numbered row and returns after the
commit (synchronous=FULL: rollback journal, fsync). GET answers from the file, not from memory.
DIGEST says how many rows there are, whether their numbers are without a gap, what SQLite's own
integrity check says, and the hash of it all.

SQLite remembers its file by the inode number and writes no more to one that has another. With
--reopen, for a shipped file, it is opened again then; without, the client sees the error.
"""

import hashlib
import json
import sqlite3
import sys
import threading

from resp import RespServer


class Rows:
    """The table `row(number, key, value)`."""

    def __init__(self, path, reopen):
        self._lock = threading.Lock()
        self._path = path
        self._reopen = reopen
        self._open()

    def _open(self):
        self._database = sqlite3.connect(self._path, isolation_level=None,
                                         check_same_thread=False, timeout=30)
        # A rollback journal: WAL wants shared memory, which shared file systems do not offer.
        self._database.execute("PRAGMA journal_mode=DELETE")
        self._database.execute("PRAGMA synchronous=FULL")
        self._database.execute("CREATE TABLE IF NOT EXISTS row(number INTEGER PRIMARY KEY, "
                               "key BLOB NOT NULL, value BLOB NOT NULL)")
        self._database.execute("CREATE INDEX IF NOT EXISTS by_key ON row(key, number)")

    def store(self, key, value):
        with self._lock:
            try:
                self._insert(key, value)
            except sqlite3.OperationalError as error:
                if not self._reopen or "readonly" not in str(error):
                    raise sqlite3.OperationalError(f"{error}: {error.sqlite_errorname}") from error
                self._database.close()
                self._open()
                self._insert(key, value)

    def _insert(self, key, value):
        self._database.execute("INSERT INTO row(key, value) VALUES(?, ?)", (key, value))

    def fetch(self, key):
        with self._lock:
            found = self._database.execute(
                "SELECT value FROM row WHERE key = ? ORDER BY number DESC LIMIT 1",
                (key,)).fetchone()
        return found[0] if found else None

    def digest(self):
        with self._lock:
            content = hashlib.sha256()
            rows, gapless = 0, True
            for number, key, value in self._database.execute(
                    "SELECT number, key, value FROM row ORDER BY number"):
                rows += 1
                gapless = gapless and number == rows
                content.update(b"%d\0%s\0%s" % (number, key, value))
            check = self._database.execute("PRAGMA integrity_check").fetchone()[0]
        return json.dumps({"rows": rows, "gapless": gapless, "integrity": check,
                           "content": content.hexdigest()})


def main():
    if len(sys.argv) not in (3, 4) or sys.argv[3:] not in ([], ["--reopen"]):
        sys.exit(__doc__)
    RespServer(int(sys.argv[1]), Rows(sys.argv[2], reopen=len(sys.argv) == 4)).serve()


if __name__ == "__main__":
    main()
