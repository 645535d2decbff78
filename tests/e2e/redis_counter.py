"""Holds one connection to a Redis and counts up in it, until its standard input ends.

usage: redis_counter.py ADDRESS PORT

Prints one line of JSON at the end: how many increments were acknowledged, the counter's last value,
the longest gap between two replies, and the error that broke the connection, if any.
"""

import json
import select
import socket
import sys
import time


def main():
    connection = socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=10)
    connection.settimeout(120)
    replies = connection.makefile("rb")
    print("connected", flush=True)
    acknowledged = value = 0
    gap = 0.0
    error = None
    last = time.monotonic()
    while not select.select([sys.stdin], [], [], 0)[0]:
        try:
            connection.sendall(b"INCR counter\r\n")
            line = replies.readline()
            if not line.startswith(b":"):
                raise OSError(f"unexpected reply {line!r}")
        except OSError as broken:
            error = str(broken)
            break
        now = time.monotonic()
        gap, last = max(gap, now - last), now
        acknowledged += 1
        value = int(line[1:])
        time.sleep(0.002)
    print(json.dumps({"acknowledged": acknowledged, "value": value, "gap": gap, "error": error}))


if __name__ == "__main__":
    main()
