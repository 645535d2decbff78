"""What happened in a window, over time: one chart, drawn by gnuplot."""

from demolib import slo

from . import plots

_COLOURS = {"predictive": "#228833", "reactive": "#ee6677", "none": "#999999"}
_LANES = ("reserved", "ghost", "move")
_LANE_COLOURS = {"reserved": "#ccbb44", "ghost": "#66ccee", "move": "#aa3377"}

_HEAD = """
set terminal svg size 900,640 enhanced font "sans,11" background "white"
set output "%s"
set grid ytics lc rgb "#dddddd"
set border 3
set tics nomirror
"""


def spans(played, end_s):
    """[(lane, component, from, to)] in seconds: reservations that waited for their component, ghosts that
    node 2 kept, and moves from their decision to their end."""
    found, open_since = [], {}
    for one in played["events"]:
        key = one["component"]
        if one["kind"] == "loop-reserved":
            open_since.setdefault(key, one["at_s"])
        elif one["kind"] in ("loop-gave-back", "left") and key in open_since:
            found.append(("reserved", key, open_since.pop(key), one["at_s"]))
    found += [("reserved", key, since, end_s) for key, since in open_since.items()]
    seen = {}
    for look in played["looks"]:
        for ghost in look["ghosts"]:
            seen.setdefault((ghost["name"], ghost["migration_id"]), []).append(look["at_s"])
    found += [("ghost", name, times[0], times[-1]) for (name, _), times in seen.items()]
    found += [("move", one["component"],
               one["decided_s"] if one["decided_s"] is not None else one["left_s"], one["left_s"])
              for one in played["moves"]]
    return sorted(found, key=lambda one: (_LANES.index(one[0]), one[2]))


def _block(name, rows):
    lines = "\n".join(" ".join(f"{value:.6g}" for value in row) for row in rows) or "nan nan nan nan"
    return f"${name} << EOD\n{lines}\nEOD\n"


def _foreseen(played, horizon):
    """[(for when, P50, P90, low, high)] of what node 1 foresaw of its processor."""
    rows = []
    for look in played["looks"]:
        if horizon < len(look["ahead"]):
            one = look["ahead"][horizon]
            rows.append((look["at_s"] + one["ahead_s"], one["p50"], one["p90"], one["low"],
                         one["high"]))
    return rows


def draw(path, window, played, plan):
    """Writes the chart of `played` ({rule: what deciding.play() returned}), of which the upper
    part is of the predictive one."""
    mine = played["predictive"]
    total = window.sum
    script = [_HEAD % path, f"set xrange [0:{plan.end_s:g}]\n"]
    script.append(_block("demand", [(step * plan.period_s, value)
                                    for step, value in enumerate([*total, total[-1]])]))
    script.append(_block("used", [(look["at_s"], look["cpu_now"]) for look in mine["looks"]]))
    script.append(_block("foreseen", _foreseen(mine, 1)))
    for rule, one in played.items():
        longest = {}
        for component in one["components"]:
            for second, waited in slo.longest_by_second(component["requests"]):
                longest[second] = max(longest.get(second, 0.0), waited)
        script.append(_block(f"wait_{rule}", [(second, max(1.0, 1000 * waited))
                                              for second, waited in sorted(longest.items())]))
    most = max(1.6, *total)
    marks = [f"set arrow 1 from {plan.window_from_s:g}, graph 0 to {plan.window_from_s:g}, graph 1 "
             'nohead dt 3 lc rgb "#555555"\n']
    for number, (lane, component, begin, end) in enumerate(spans(mine, plan.end_s)):
        top = most * (1.12 + 0.13 * _LANES.index(lane))
        marks.append(f"set object {number + 1} rect from {begin:.2f},{top - 0.045 * most:.4f} to "
                     f"{max(end, begin + 0.4):.2f},{top + 0.045 * most:.4f} "
                     f'fc rgb "{_LANE_COLOURS[lane]}" fs solid 0.8 noborder\n')
        marks.append(f'set label {number + 1} "{component}" at {begin:.2f},{top:.4f} offset 0.3,0 '
                     'font "sans,8" noenhanced front\n')
    for number, lane in enumerate(_LANES):
        marks.append(f'set label {900 + number} "{lane}" at graph 1.01, first '
                     f'{most * (1.12 + 0.13 * number):.4f} font "sans,9" '
                     f'tc rgb "{_LANE_COLOURS[lane]}"\n')
    script += [
        "set multiplot layout 2,1\n", "set rmargin 12\nset lmargin 9\n", *marks,
        f"set yrange [0:{1.48 * most:g}]\n", 'set ylabel "share of node 1"\n',
        "set key top left horizontal font \",9\"\n",
        'plot $foreseen using 1:4:5 with filledcurves lc rgb "#dddddd" title "foreseen 6 steps '
        'before: 90 % interval", $foreseen using 1:3 with lines dt 2 lc rgb "#4477aa" title "P90", '
        '$demand using 1:2 with steps lw 2 lc rgb "black" title "asked for, all components", '
        '$used using 1:2 with points pt 7 ps 0.5 lc rgb "#aa3377" title "used (predictive)", '
        '1 with lines lc rgb "#bb0000" notitle\n',
        "unset object\nunset label\n",
        "set yrange [1:*]\nset logscale y\n", 'set ylabel "longest reply time in each second, ms"\n',
        'set xlabel "s"\n',
        "plot " + ", ".join(f'$wait_{rule} using 1:2 with steps lw 1.5 lc rgb "{_COLOURS[rule]}" '
                            f'title "{rule}"' for rule in played) +
        f', {1000 * plan.bound_s:g} with lines dt 2 lc rgb "#bb0000" title "bound"\n',
        "unset multiplot\n"]
    plots.gnuplot("".join(script))
