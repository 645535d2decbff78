#pragma once

// What `starling --help` and `starling COMMAND --help` say beyond the options; docs/cli.md says the
// same at length.

namespace starling::cli {

inline constexpr char kAbout[] =
    "Runs components and moves them, running, between hosts.\n"
    "Speaks with starlingd, the agent of this host; root or group starling may.";

inline constexpr char kFooter[] = R"(Examples:
  starling run redis --user redis --ip 10.77.0.50/24 -- /usr/bin/redis-server --save ''
  starling ps
  starling check redis --to node2
  starling migrate redis --to node2
  starling checkpoint redis --to /backup/redis
  starling events --follow

Exit codes:
    0  done
    1  failed
    2  wrong usage: an option or argument
    3  no component or host of that name
    4  refused: obstacles, its state, or no room; nothing was changed
    5  called off: the component runs where it ran
    6  in doubt: see `starling resolve --help`
    7  starlingd does not run here, or does not answer
    8  not permitted: neither root nor in the group
    9  another host does not answer
  130  interrupted; what was begun goes on

`starling COMMAND --help` says more about each.)";

inline constexpr char kRunFooter[] =
    R"(The program is given after --, by its absolute path or found in PATH. It runs until it
exits or is stopped; its output is in `starling logs NAME`. What cannot be moved later is said by
`starling check NAME --to HOST`, not here.

Examples:
  starling run redis --user redis --ip 10.77.0.50/24 -- /usr/bin/redis-server --save ''
  starling run solver --memory 8G --shared /shared/run7 -- /opt/solver/bin/solve case7
  starling run web --env LANG=C --directory /srv/www -- nginx -g 'daemon off;'
  starling run redis --ip 10.77.0.50/24 --probe 'redis-cli -h 10.77.0.50 ping' -- redis-server)";

inline constexpr char kPsFooter[] =
    R"(States: running; migrating (runs here, moves away); held (frozen, last steps of a move);
in-doubt (frozen, see `starling resolve --help`); arriving; exited; left (runs on another host);
lost (its host or keeper went down under it).)";

inline constexpr char kCheckFooter[] =
    R"(Names everything that stands in the way at once, with what can be done about it. Nothing is
started or changed. Exits with 0 when the component can be moved, 4 when not.)";

inline constexpr char kMigrateFooter[] =
    R"(The component runs on while its memory is copied in rounds, is frozen for the last of it, and
runs on at the other host, its connections with it. Until the other host has committed, any failure
calls the move off and the component runs on here.

Ctrl-C ends this command, not the migration: `starling cancel NAME` does that.

With --json each line is one object with "schema": 1; the last has "type": "report".

Examples:
  starling migrate redis --to node2
  starling migrate redis --to node2 --probe 'redis-cli -h 10.77.0.50 ping'
  starling migrate redis --to node2 --max-blackout 100 --json | jq .
  starling migrate --application shop --to node2)";

inline constexpr char kCheckpointFooter[] =
    R"(Memory, processes and the files that the component ships, all of one instant. It is frozen for
that instant and runs on, its connections with it. What did not change since the checkpoint before
is not written again.

Each component needs a folder of its own. A checkpoint appears under its name once all of it is on
the disk; with --keep the oldest go then. --every goes on until it is interrupted or one fails.

Examples:
  starling checkpoint redis --to /backup/redis
  starling checkpoint redis --to /backup/redis --every 300 --keep 5
  openssl rand -hex 32 > /root/key
  starling checkpoint redis --to /backup/redis --encrypt-key /root/key)";

inline constexpr char kRestoreFooter[] =
    R"(Every file of the checkpoint is read and checked before anything is started; what is damaged,
cut short, altered or of another checkpoint is refused. Connections that were established then are
closed: their other ends have gone on since.

Refused while the original runs on this host, or has left it for another one: --original-gone is a
person's word that it does not run there any more and never will.

Examples:
  starling restore /backup/redis
  starling restore /backup/redis --number 12 --encrypt-key /root/key)";

inline constexpr char kCancelFooter[] =
    R"(The component runs on here. Once the other host was asked to commit it is too late: then this is
refused (4).)";

inline constexpr char kResolveFooter[] =
    R"(A component is in doubt when the other host was asked to commit and cannot be reached since. It
is frozen here, and the agent keeps asking; when the link heals it ends by itself. Use this only
when the other host will never answer, or when you have looked there.

  --here   the copy on this host lives. Risk: if the other host did commit, there are two.
  --there  the copy on this host is killed. Risk: if the other host did not commit, there is none.

On a terminal it asks before it acts; --yes leaves that out.)";

inline constexpr char kEventsFooter[] = R"(Examples:
  starling events --follow
  starling events redis --json | jq -r .text)";

inline constexpr char kGhostFooter[] =
    R"(At the host where the component runs. A cold ghost is room that is kept for it, with connections
made. A warm one has its memory as well: each round brings what was written since the one before.
`starling migrate` to that host starts from it. A component has one at each of several hosts, and
instants (below) at one of them.

With --checkpoint-every the component is frozen for a moment each time, and the host that keeps the
ghost has twice its memory: the last whole instant, and the next one. `starling failover` there
starts from the former when this host has died.

`drop` is done when the other host has let go of it. With --on this host it drops one that is kept
here.

Examples:
  starling ghost add redis --on node2 --rate 50M
  starling ghost add redis --on node2 --checkpoint-every 30
  starling ghost list
  starling ghost drop redis --on node2)";

inline constexpr char kFailoverFooter[] =
    R"(At the host that keeps the ghost. The component goes on from the last whole instant: what it did
since is lost, and its connections are closed.

Refused while the host that it ran on answers, unless that host says itself that the component is
lost. A host that does not answer may only be cut off, so something has to make sure that it can do
nothing any more: the program failover.fence_command, or, with --fenced, you.

Examples:
  starling failover redis
  starling failover redis --fenced)";

inline constexpr char kReportFooter[] =
    R"(Each host keeps the reports of moves away from it, of those that were called off too: every
phase, every round, what went over the wire, and what was expected.

Examples:
  starling report redis
  starling report redis --json | jq .phases)";

inline constexpr char kForecastFooter[] =
    R"(What each component uses now, and will use 1, 6 and 12 periods (loop.period_s) from now: P50 is as
likely too low as too high; P90 and P99 are exceeded once in 10 and in 100 times. HELD is how often
the interval that should hold nine of ten outcomes did so lately. --pool adds the demand of all
hosts together, as they tell one another, and by how much it was off.

Examples:
  starling forecast
  starling forecast redis --json | jq '.components[0].metrics'
  starling forecast --pool)";

inline constexpr char kLeasesFooter[] =
    R"(What this host promised to others, and what others promised to it. A soft lease is counted and not
used yet; a firm one is; where a component runs by one, it lasts as long as the component.)";

inline constexpr char kParkFooter[] =
    R"(Freezes the component and pages its memory out, until its user is there (an activity hint, from
whoever acts for it), a packet comes for its address, or `starling unpark`. The policy's [idle] has
the agent do so by itself. Should the agent die, the component runs on by itself within half a
minute.

Examples:
  starling park editor
  starling unpark editor)";

inline constexpr char kWhyFooter[] =
    R"(The last decisions of this host's agent, oldest first: which shortage was expected and by which
rule, and what was to be done about it, and why that. A decision is told again when it is another
one. docs/policy.md says how they are made.

Examples:
  starling why redis
  starling why --last 50 --json | jq '.decisions[].reason')";

inline constexpr char kProfileFooter[] =
    R"(What this host remembers over weeks: when a user is there, from when to when, and with which
components; when a component is worked with. NAME is a user's; a component is component:NAME. What
is usual at this hour goes before other things when room is short.

Of a user nothing is kept before `consent --on`; `consent --off` deletes what there is. Days that
have a whole-day event in the user's calendar (an iCalendar file) are exceptions: nothing is
expected on them and nothing learned from them. What the events are called is not kept.

  list              of whom and what there is a profile
  show NAME         one of them
  export NAME       all that is kept of it, as JSON
  delete NAME       forget it; a user's consent stays
  consent NAME      a user's word: --on or --off
  calendar NAME FILE

Examples:
  starling profile consent ann --on
  starling profile calendar ann holidays.ics
  starling profile show ann
  starling profile export component:desk --out desk.json)";

inline constexpr char kBenchFooter[] =
    R"(Measures between the agents of the two hosts, over data connections as a migration has them
(data.queue_pairs of them): the rate of writes of 4 KiB to 8 MiB, and how long a small message takes
there and back. Unless --no-tools is given, ib_write_bw, ib_send_lat and iperf3 are run beside it
where both hosts have them. Takes some seconds for each transport, and all of the link.

Examples:
  starling bench --to node2
  starling bench --to node2 --provider tcp --json --svg bench.svg)";

inline constexpr char kCertFooter[] =
    R"(Needs no agent. `cert authority` makes the authority of a pool of hosts, once; its key stays on
a safe machine. `cert host NAME` makes a host's certificate and key, signed by it; NAME is that
host's `host` in its configuration. Nothing is ever written over.

Examples:
  starling cert authority --out /root/starling-ca
  starling cert host node1 --address 10.77.0.1 --out /root/starling-ca)";

inline constexpr char kReplayFooter[] =
    R"(Needs no agent. The folder holds traces as docs/predictor.md describes; what is missing of them
is left out. Tables go to standard output.

Examples:
  starling replay --traces traces --out replay.json
  starling replay --traces traces --out replay.json --plots plots --ablations
  starling replay --traces traces --cluster --out cluster.json
  starling replay --decision /var/lib/starling/loop/decisions.jsonl)";

}  // namespace starling::cli
