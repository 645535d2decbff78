"""Recorded loads: what a trace file says that components used, step by step.

A file's first line tells its format; they are those of `starling replay` (docs/predictor.md):

  ts,cores,...,cpu_pct,...        bitbrains: one machine, percent of its processors
  timestamp,value                 nab: one machine or service, any unit
  step,NAME,NAME,...              planetlab: a column for each machine, any unit
  owner,app,fn,...,minute_N,...   azure_functions: a row for each, invocations times mean duration
  pod,t,gpu_duty,...              alibaba_genai: rows of each pod, share of its time at work
"""

import csv
import dataclasses
import math
import os

from . import bed as beds

# A small one of our own: where it is from and under which licence stands in its first lines.
EXCERPT = os.path.join(os.path.dirname(os.path.realpath(__file__)), "excerpt.csv")
# Of a folder as `starling replay` takes it, what tells of processors; of nab only such files.
_FOLDERS = {"bitbrains": "", "nab": "cpu", "planetlab": "", "azure_functions": "",
            "alibaba_genai": "pods"}


@dataclasses.dataclass(frozen=True)
class Series:
    """One component's load: `values` in a unit of its own, none below 0, a value a step."""

    group: str  # the format's name
    name: str
    values: tuple


def read(paths):
    """Series of these trace files, or folders of them. Raises DemoError naming what is wrong."""
    series = []
    for path in paths:
        if os.path.isdir(path):
            found = _in_folder(path)
            if not found:
                raise beds.DemoError(f"{path}: there are no traces of processors in it; folders "
                                     f"are {', '.join(_FOLDERS)}")
            for file in found:
                series += _read_file(file)
        else:
            series += _read_file(path)
    return series


def _in_folder(folder):
    found = []
    for name, word in _FOLDERS.items():
        inside = os.path.join(folder, name)
        if os.path.isdir(inside):
            found += [os.path.join(inside, file) for file in sorted(os.listdir(inside))
                      if file.endswith(".csv") and word in file]
    return found


def _read_file(path):
    try:
        with open(path, encoding="utf-8", newline="") as source:
            rows = csv.reader(line for line in source if not line.startswith("#"))
            names = next(rows, [])
            group, reader = _format_of(names)
            if reader is None:
                raise beds.DemoError(
                    f"{path}: its first line is none of a trace that is known; it has to begin "
                    "with one of: ts,cores,... cpu_pct; timestamp,value; step,NAME,...; "
                    "owner,app,fn,... minute_N; pod,t,gpu_duty")
            stem = os.path.splitext(os.path.basename(path))[0]
            return [Series(group, name or stem, tuple(_filled(values)))
                    for name, values in reader(names, rows) if values]
    except OSError as error:
        raise beds.DemoError(f"{path}: {error.strerror}") from None
    except (IndexError, ValueError) as error:
        raise beds.DemoError(f"{path}: not what its first line announces: {error}") from None


def _format_of(names):
    if names[:1] == ["ts"] and {"cores", "cpu_pct"} <= set(names):
        return "bitbrains", _machine
    if names[:2] == ["timestamp", "value"]:
        return "nab", _values
    if names[:1] == ["step"] and len(names) > 1:
        return "planetlab", _columns
    if {"fn", "avg_dur_ms"} <= set(names) and _minutes(names):
        return "azure_functions", _functions
    if names[:3] == ["pod", "t", "gpu_duty"]:
        return "alibaba_genai", _pods
    return "", None


def _number(text):
    return float(text) if text.strip() else math.nan


def _filled(values):
    """What is missing takes the value before it, at the beginning 0; what is below 0 is 0."""
    last, filled = 0.0, []
    for value in values:
        last = max(0.0, value) if math.isfinite(value) else last
        filled.append(last)
    return filled


def _machine(names, rows):
    cores, used = names.index("cores"), names.index("cpu_pct")
    return [("", [_number(row[cores]) * _number(row[used]) / 100 for row in rows])]


def _values(names, rows):
    del names
    return [("", [_number(row[1]) for row in rows])]


def _columns(names, rows):
    table = [[_number(row[column]) for column in range(1, len(names))] for row in rows]
    return list(zip(names[1:], (list(column) for column in zip(*table)))) if table else []


def _minutes(names):
    return [index for index, name in enumerate(names) if name.startswith("minute_")]


def _functions(names, rows):
    function, duration = names.index("fn"), names.index("avg_dur_ms")
    minutes = _minutes(names)
    # How many of them ran at a time, in the mean of the minute.
    return [(row[function], [_number(row[minute]) * _number(row[duration]) / 60000
                             for minute in minutes]) for row in rows]


def _pods(names, rows):
    del names
    pods = {}
    for row in rows:
        pods.setdefault(row[0], []).append(_number(row[2]))
    return list(pods.items())
