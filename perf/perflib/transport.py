"""The transports, each beside what it is to be compared with: the bare port, iperf3, perftest."""

from . import processors, roce_stream, sealed_stream, tcp_stream, verbs_stream

LOCAL = True
# Each has run(arguments, note) -> samples, summary, ratios, failures; roce also the profile that was asked for.
SECTIONS = {"roce": roce_stream, "tcp": tcp_stream, "sealed": sealed_stream,
            "verbs": verbs_stream}


def add_options(parser):
    group = parser.add_argument_group("transport")
    group.add_argument("--sections", metavar="NAME,...", default=",".join(SECTIONS),
                       help="measure these only: " + ", ".join(SECTIONS))
    group.add_argument("--profile", action="store_true",
                       help="of section roce: where the processors are meanwhile (linux-perf)")


def run(machines, arguments, note):
    """Returns the result's parts: parameters, samples, summary, ratios, failures."""
    del machines
    names = arguments.sections.split(",")
    unknown = sorted(set(names) - set(SECTIONS))
    if unknown:
        raise SystemExit(f"perf/run: there is no section {unknown[0]!r}; sections are "
                         f"{', '.join(SECTIONS)}")
    result = {"parameters": {"sections": names}, "provider": None, "encrypted": False,
              "samples": [], "summary": {}, "ratios": {}, "failures": [], "profile": None}
    for name in names:
        note(f"section {name}")
        part = SECTIONS[name].run(arguments, note)
        for key in ("samples", "failures"):
            result[key] += part[key]
        for key in ("summary", "ratios"):
            result[key].update(part[key])
        result["profile"] = part.get("profile") or result["profile"]
    return result


def text(result):
    told = [f"{name:28} {value:.3f}" for name, value in result["ratios"].items()]
    if result["profile"]:
        told += ["", "processors during roce:", *processors.lines(result["profile"])]
    return "\n".join(told)
