#!/bin/bash
# Keeps the agent running, as systemd would with Restart=always and RestartSec=1.
# usage: supervisor.sh                    runs for as long as the guest does
#        supervisor.sh --stop|--start|--restart|--status
folder=/run/bed-agent
log=/var/log/starling/starlingd.log
group=/sys/fs/cgroup/starlingd

pid_now() { # prints the agent's pid if it runs
  local pid
  pid=$(cat $folder/pid 2>/dev/null) && [[ -n $pid ]] && kill -0 "$pid" 2>/dev/null && echo "$pid"
}

stop() {
  local pid i
  touch $folder/down
  pid=$(pid_now) || return 0
  kill -TERM "$pid"
  for ((i = 0; i < 100; i++)); do
    pid_now >/dev/null || return 0
    sleep 0.1
  done
  echo "the agent ignores SIGTERM; killing it" >&2
  kill -KILL "$pid"
}

start() {
  local i
  rm -f $folder/down
  pid_now >/dev/null || echo start >$folder/wake
  for ((i = 0; i < 50; i++)); do
    pid_now >/dev/null && return
    sleep 0.1
  done
  echo "the agent does not start; see $log" >&2
  return 1
}

case ${1:-} in
  --stop) stop; exit ;;
  --start) start; exit ;;
  --restart) stop && start; exit ;;
  --status)
    if pid=$(pid_now); then
      echo "running $pid"
    elif [[ -e $folder/down ]]; then
      echo stopped
    elif [[ ! -x $(<$folder/program) ]]; then
      echo absent
    else
      echo restarting
    fi
    exit
    ;;
esac

program=$(<$folder/program)
. /etc/bed-environment
mkdir -p $group
exec 9<>$folder/wake
while :; do
  if [[ -e $folder/down || ! -x $program ]]; then
    # Woken by `start`; a look now and then costs little.
    read -r -t 5 <&9
    continue
  fi
  (
    echo $BASHPID >$group/cgroup.procs
    echo $BASHPID >$folder/pid
    # A `--stop` that came just now has seen no pid to stop.
    [[ ! -e $folder/down ]] || exit 0
    exec "$program" --config /etc/starling/starlingd.toml 9>&- </dev/null >>$log 2>&1
  )
  echo "$(date +%FT%T.%3N) agent ended with status $?" >>$log
  rm -f $folder/pid
  [[ -e $folder/down ]] || read -r -t 1 <&9
done
