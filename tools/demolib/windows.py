"""Which stretches of recorded loads are played, and how they are scaled: pure functions.

A window is three series of one group over the same steps: first `warm` steps, which the
forecasters see, then `steps` that are judged. Each series is divided by its own 95th percentile
over the whole trace, so that no component is nearly all of the load; then the sum is scaled to
one processor of the host. Whether anybody could foresee what happens in it plays no part in the
choice."""

import dataclasses
import random
import statistics

COMPONENTS = 3
# The shortage: the sum's highest mean over so many steps, and what it is scaled to, as a share of
# the processor.
SHORT_STEPS = 10
SHORT_LEVEL = 1.25
# From the first step above 1 until its end so large a share of the steps is, and nowhere in the
# window the sum is above this: more would be a spike and not a level.
SHORT_SHARE = 0.8
SPIKE_MOST = 2
# Without one: the sum's highest step.
CALM_LEVEL = 0.65
# Before the window begins, and right after, there is room.
WARM_MOST = 0.75
# The shortage begins so many steps after the window does, at the least.
LEAST_LEAD = 6
# One component's leaving must end it: what the others use then, and what it uses elsewhere, at the
# most. A host needs a tenth for itself, and the default policy's rule begins at 0.8.
LEFT_MOST = 0.7
# A rise of at least so many steps from WARM_MOST to 1 is gradual; else it is sudden.
GRADUAL_STEPS = 4


@dataclasses.dataclass(frozen=True)
class Window:
    group: str
    names: tuple  # of the series
    begin: int  # first step of the warm-up in them
    warm: int
    short: bool  # whether it is scaled to be short
    demand: tuple  # for each component its share of the host at each step, warm-up and window
    short_from: int  # first step above 1, from the window's begin; None without a shortage
    rise_steps: int  # from the last step at WARM_MOST or less to short_from; None without one

    @property
    def sum(self):
        return [sum(step) for step in zip(*self.demand)]

    @property
    def sudden(self):
        return self.rise_steps is not None and self.rise_steps < GRADUAL_STEPS


def normalised(values):
    """Divided by their 95th percentile; None when that is 0, as of a series that hardly does
    anything."""
    top = sorted(values)[int(0.95 * (len(values) - 1))]
    return [value / top for value in values] if top > 0 else None


def highest_mean(values, width):
    """(greatest mean of so many neighbours, where they begin)."""
    total = sum(values[:width])
    best, at = total, 0
    for i in range(width, len(values)):
        total += values[i] - values[i - width]
        if total > best + 1e-12:
            best, at = total, i - width + 1
    return best / width, at


def fitting(demand, group, names, begin, warm):
    """The Window of these three loads (any unit, same length) scaled so that they are short, or
    None when they do not do what a window is to do."""
    total = [sum(step) for step in zip(*demand)]
    level, at = highest_mean(total[warm:], SHORT_STEPS)
    if level <= 0:
        return None
    scale = SHORT_LEVEL / level
    scaled = [scale * value for value in total]
    above = [step for step, value in enumerate(scaled[warm:]) if value > 1]
    if not above or above[0] < LEAST_LEAD or max(scaled[:warm]) > WARM_MOST:
        return None
    if max(scaled) > SPIKE_MOST:
        return None
    # From its first step on, which is no lone one before it.
    length = at + SHORT_STEPS - above[0]
    if sum(step < at + SHORT_STEPS for step in above) < SHORT_SHARE * length:
        return None
    mean = [scale * statistics.fmean(one[warm + at:warm + at + SHORT_STEPS]) for one in demand]
    if not any(SHORT_LEVEL - one <= LEFT_MOST and one <= LEFT_MOST for one in mean):
        return None
    first = warm + above[0]
    calm = max(step for step in range(first) if scaled[step] <= WARM_MOST)
    return Window(group, names, begin, warm, True,
                  tuple(tuple(scale * value for value in one) for one in demand),
                  above[0], first - calm)


def scaled(window, processors):
    """What each component is asked for at each step, where the host gives its components so much."""
    return [[processors * value for value in one] for one in window.demand]


def calmed(window):
    """The same stretch scaled so that it is never short."""
    scale = CALM_LEVEL / max(window.sum)
    return dataclasses.replace(
        window, short=False, short_from=None, rise_steps=None,
        demand=tuple(tuple(scale * value for value in one) for one in window.demand))


def all_of(series, *, warm, steps):
    """Every window with a shortage of three series, the earliest first."""
    names = tuple(one.name for one in series)
    values = [normalised(one.values) for one in series]
    if None in values:
        return
    for begin in range(min(map(len, values)) - warm - steps + 1):
        window = fitting([one[begin:begin + warm + steps] for one in values], series[0].group,
                         names, begin, warm)
        if window is not None:
            yield window


def choose(series, *, count, calm, warm, steps, seed):
    """`count` windows, `calm` of them without a shortage, drawn at random; fewer where the traces
    have no more. Groups take turns, so that one with many series is not all there is."""
    draw = random.Random(seed)
    groups = {}
    for one in series:
        if len(one.values) >= warm + steps and (values := normalised(one.values)) is not None:
            groups.setdefault(one.group, []).append((one.name, values))
    groups = {name: members for name, members in groups.items() if len(members) >= COMPONENTS}
    chosen = []
    while groups and len(chosen) < count:
        for group in list(groups):
            window = _draw_one(draw, group, groups[group], warm, steps, chosen)
            if window is None:
                del groups[group]
            elif len(chosen) < count:
                chosen.append(window)
    # Spread over the run, so that one that is cut short has some of both.
    quiet = {int((i + 0.5) * len(chosen) / calm) for i in range(calm)} if calm else set()
    return [calmed(window) if i in quiet else window for i, window in enumerate(chosen)]


# Draws for one window, before its group is taken to have no more.
ATTEMPTS = 20000


def _draw_one(draw, group, members, warm, steps, before):
    for _ in range(ATTEMPTS):
        three = draw.sample(members, COMPONENTS)
        length = min(len(values) for _, values in three)
        begin = draw.randrange(length - warm - steps + 1)
        window = fitting([values[begin:begin + warm + steps] for _, values in three], group,
                         tuple(name for name, _ in three), begin, warm)
        if window is not None and not any(_same(window, one) for one in before):
            return window
    return None


def _same(one, other):
    """Whether two windows show the same."""
    return (one.group == other.group and set(one.names) == set(other.names) and
            abs(one.begin - other.begin) < len(one.demand[0]) - one.warm)
