"""What iperf3 carries by TCP."""

import json
import subprocess
import time

from demolib import bed as beds


TRIES = 5


def bytes_per_s(address, port, seconds, *, streams=1, server=(), client=()):
    """Runs both of its ends; `server` and `client` are what each command is run with, such as `ip netns exec`."""
    for left in reversed(range(TRIES)):
        try:
            return _once(address, port, seconds, streams, server, client)
        except beds.DemoError:
            if left == 0:
                raise


def _once(address, port, seconds, streams, server, client):
    serving = subprocess.Popen([*server, "iperf3", "-s", "-1", "-B", address, "-p", str(port)],
                               stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                               stderr=subprocess.DEVNULL)
    try:
        for _ in range(100):
            done = subprocess.run([*client, "iperf3", "-c", address, "-p", str(port), "-P",
                                   str(streams), "-t", str(seconds), "-J"], capture_output=True,
                                  text=True, check=False, timeout=120, stdin=subprocess.DEVNULL)
            said = json.loads(done.stdout or "{}")
            # On a busy machine it may end well and have no figure.
            if done.returncode == 0 and "sum_received" in said.get("end", {}):
                return said["end"]["sum_received"]["bits_per_second"] / 8
            if serving.poll() is not None:
                break
            time.sleep(0.1)
        raise beds.DemoError(f"iperf3: {said.get('error', done.stdout[-400:] + done.stderr)}")
    finally:
        serving.kill()
        serving.wait()
