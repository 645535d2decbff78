"""Charts of a sweep of migrations, drawn by gnuplot."""

import os
import subprocess

from demolib import bed as beds
from demolib import table

_HEAD = """
set terminal svg size 760,420 enhanced font "sans,12" background "white"
set output "%s"
set title "%s"
set grid ytics lc rgb "#dddddd"
set border 3
set tics nomirror
set yrange [0:*]
"""


def gnuplot(script):
    """Runs a script of gnuplot's. Raises DemoError when it fails, or there is none."""
    try:
        done = subprocess.run(["gnuplot"], input=script, text=True, capture_output=True,
                              check=False)
    except FileNotFoundError:
        raise beds.DemoError("there is no gnuplot; run tools/setup --no-build") from None
    if done.returncode != 0:
        raise beds.DemoError(f"gnuplot: {done.stderr.strip()}")


def _by_size(path, title, axis, rows):
    """`rows`: {row's name: [(size in MiB, median, least, greatest)]}."""
    blocks, plots = [], []
    for number, (name, points) in enumerate(rows.items()):
        lines = "\n".join(" ".join(f"{value:.6g}" for value in point) for point in points)
        blocks.append(f"$d{number} << EOD\n{lines}\nEOD\n")
        label = table.WHAT[name]
        plots.append(f'$d{number} using 1:2:3:4 with yerrorlines lw 2 pt 7 title "{label}"')
    gnuplot(_HEAD % (path, title) + "".join(blocks) +
         f'set xlabel "resident memory, MiB"\nset ylabel "{axis}"\nset key top left\n'
         f'set xrange [0:*]\nplot {", ".join(plots)}\n')


def _stacked(path, title, phases):
    """`phases`: [(name, milliseconds)], as one bar each, in their order."""
    lines = "\n".join(f'"{name}" {value:.6g}' for name, value in phases)
    gnuplot(_HEAD % (path, title) + f"$d << EOD\n{lines}\nEOD\n" +
         'set style fill solid 0.8\nset boxwidth 0.6\nset ylabel "ms"\n'
         "set xtics rotate by -40 noenhanced\nset rmargin 8\n"
         'plot $d using 0:2:xtic(1) with boxes lc rgb "#4477aa" notitle\n')


# The phases of a blackout, in the order of time; others lie within these or outside of it.
BLACKOUT_PHASES = ("freeze", "dump", "flush", "images", "restore", "commit")


def draw(folder, result):
    """Writes the charts into `folder`; returns their names."""
    made = []
    for metric, title, axis in (
            ("blackout_ms", "Blackout: no instruction of the component ran", "ms"),
            ("client_gap_ms", "Longest wait of a client between two answers", "ms"),
            ("total_ms", "From the command to the end of the move", "ms")):
        rows = {}
        for size, by_name in result["summary"].items():
            for name, metrics in by_name.items():
                if (one := metrics.get(metric)) is not None:
                    rows.setdefault(name, []).append(
                        (float(size), one["median"], one["min"], one["max"]))
        if rows:
            made.append(f"migrate-{metric.removesuffix('_ms').replace('_', '-')}.svg")
            _by_size(os.path.join(folder, made[-1]), title, axis, rows)
    phases = [(name, result["phases"][name + "_ms"]["median"]) for name in BLACKOUT_PHASES
              if name + "_ms" in result["phases"]]
    if phases:
        made.append("migrate-phases.svg")
        _stacked(os.path.join(folder, made[-1]),
                 f"What the blackout is made of, {max(result['parameters']['sizes_mib'])} MiB",
                 phases)
    return made
