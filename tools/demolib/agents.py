"""How much memory the agents and their keepers take around a move."""

import time

from . import bed as beds

# Sizes in KiB of the agent and, all together, of its keepers.
_SIZES = """
agent=$(pidof starlingd | cut -d' ' -f1)
size() { sed -n "s/^$1:[^0-9]*\\([0-9]*\\).*/\\1/p" "/proc/$2/status"; }
keepers=0
for pid in $(pidof starling-keeper); do keepers=$((keepers + $(size VmHWM $pid))); done
echo $(size VmHWM $agent) $(size VmRSS $agent) $keepers
"""
_RESET = """
for pid in $(pidof starlingd starling-keeper); do echo 5 >/proc/$pid/clear_refs; done
"""
BACK_KIB = 32 << 10  # what an allocator may keep for the next time
PATIENCE_S = 60


class Memory:
    """Peaks count from when this is made: the kernel's own marks are set back."""

    def __init__(self, bed):
        self._bed = bed
        for node in (1, 2):
            bed.execute(node, "sh", "-c", _RESET)
        self._before = self._sizes(2)[1]

    def _sizes(self, node):
        said = self._bed.execute(node, "sh", "-c", _SIZES).split()
        if len(said) != 3:
            raise beds.DemoError(f"{self._bed.node_name(node)} does not tell its agent's memory: "
                                 f"{said}")
        return [int(word) for word in said]

    def figures(self):
        """Once the target's agent is back to what it was, or will not be: peak resident sizes of
        source and target, and the target's before and after, in bytes."""
        source_peak, _, _ = self._sizes(1)
        target_peak, after, keepers_peak = self._sizes(2)
        deadline = time.monotonic() + PATIENCE_S
        while after > self._before + BACK_KIB and time.monotonic() < deadline:
            time.sleep(1)
            _, after, _ = self._sizes(2)
        return {"source_agent_peak_bytes": source_peak << 10,
                "target_agent_peak_bytes": target_peak << 10,
                "target_keeper_peak_bytes": keepers_peak << 10,
                "target_agent_before_bytes": self._before << 10,
                "target_agent_after_bytes": after << 10}
