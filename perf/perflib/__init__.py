"""The benchmarks behind perf/run, one file each, and what they share."""
