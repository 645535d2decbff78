"""What tools/demo and perf/run share: the bed, the witness, and the ways to move a component."""
