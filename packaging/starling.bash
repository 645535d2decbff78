# bash completion for starling: commands, options, component and host names.

# Names that the agent knows; none when it does not answer.
_starling_names() {
  local socket=()
  local i
  for ((i = 1; i < COMP_CWORD; i++)); do
    case ${COMP_WORDS[i]} in
      # bash splits words at "=".
      --socket) [[ ${COMP_WORDS[i + 1]} == = ]] && ((i++)); socket=(--socket "${COMP_WORDS[i + 1]}") ;;
    esac
  done
  "${COMP_WORDS[0]}" "${socket[@]}" "$@" 2>/dev/null
}

_starling() {
  local current=${COMP_WORDS[COMP_CWORD]}
  local previous=${COMP_WORDS[COMP_CWORD - 1]}
  [[ $current == = ]] && current=
  [[ $previous == = ]] && previous=${COMP_WORDS[COMP_CWORD - 2]}
  COMPREPLY=()

  local command='' name='' i
  for ((i = 1; i < COMP_CWORD; i++)); do
    case ${COMP_WORDS[i]} in
      --) # What follows is the component's own command.
        compopt -o default
        return ;;
      --socket | --user | --ip | --memory | --io-max | --shared | --directory | --env | --to | --probe | \
      --probe-timeout | --max-blackout | --max-rounds | --max-rate | --grace | --tail | --after | \
      --summary-tolerance | --half | --hosts | --components | --steps | --seed | --policy | --ship | --every | --checkpoint-every | --rate | --keep | --encrypt-key | --number | --name | --transport | \
      --out | --authority | --address | --days | --provider | --svg | --priority | --bears-blackout | \
      --near | --apart | --prefers | --on | --last | --application)
        ((i++))
        [[ ${COMP_WORDS[i]} == = ]] && ((i++)) ;;
      -*) ;;
      *) if [[ -z $command ]]; then command=${COMP_WORDS[i]}; else name=${COMP_WORDS[i]}; fi ;;
    esac
  done

  case $previous in
    --socket | --shared | --ship | --encrypt-key | --directory | --traces | --decision | --out | --plots | --policy | --svg | --authority) compopt -o filenames; mapfile -t COMPREPLY < <(compgen -f -- "$current"); return ;;
    --user) mapfile -t COMPREPLY < <(compgen -u -- "$current"); return ;;
    --transport | --provider) mapfile -t COMPREPLY < <(compgen -W "verbs roce tcp" -- "$current"); return ;;
    --to) if [[ $command == checkpoint ]]; then
        compopt -o filenames
        mapfile -t COMPREPLY < <(compgen -d -- "$current")
        return
      fi
      mapfile -t COMPREPLY < <(compgen -W "$(_starling_names info --peers)" -- "$current"); return ;;
    --ip | --memory | --io-max | --env | --probe | --probe-timeout | --max-blackout | --max-rounds | --max-rate | --grace | \
    --tail | --after | --summary-tolerance | --half | --hosts | --components | --steps | --seed | --every | --checkpoint-every | --rate | --keep | --number | --name | \
    --address | --days | --priority | --bears-blackout | --last | --application) return ;;
    --near | --apart) mapfile -t COMPREPLY < <(compgen -W "$(_starling_names ps --names)" -- "$current"); return ;;
    --prefers | --on) mapfile -t COMPREPLY < <(compgen -W "$(_starling_names info --peers)" -- "$current"); return ;;
  esac

  local options="--help --socket"
  case $command in
    "")
      options="$options --version"
      if [[ $current != -* ]]; then
        mapfile -t COMPREPLY < <(compgen -W \
          "run ps check migrate checkpoint restore cancel resolve stop logs events ghost failover report forecast leases why park unpark profile info bench cert replay" -- "$current")
        return
      fi ;;
    run) options="$options --user --ip --memory --io-max --shared --ship --directory --env --priority --bears-blackout --application --near --apart --prefers --probe --probe-timeout" ;;
    ps) options="$options --json --names --application" ;;
    check) options="$options --to --transport --json" ;;
    migrate) options="$options --application --to --transport --probe --probe-timeout --max-blackout --max-rounds --max-rate --eager --auto-converge --only-if-fits --post-copy --verify --park --json --quiet" ;;
    checkpoint) options="$options --to --every --keep --encrypt-key --json" ;;
    restore) options="$options --name --number --original-gone --encrypt-key --json" ;;
    resolve) options="$options --here --there --yes" ;;
    stop) options="$options --application --grace" ;;
    logs) options="$options --follow --tail" ;;
    events) options="$options --follow --after --json" ;;
    ghost) options="$options --on --cold --warm --rate --every --checkpoint-every --json" ;;
    failover) options="$options --fenced --probe --probe-timeout --json" ;;
    report) options="$options --json" ;;
    forecast) options="$options --pool --experts --json" ;;
    leases) options="$options --json" ;;
    why) options="$options --last --replay --json" ;;
    profile) options="$options --on --off --out --json" ;;
    info) options="$options --json --peers" ;;
    bench) options="$options --to --provider --no-tools --svg --json" ;;
    cert) options="$options --address --out --authority --days" ;;
    replay) options="$options --traces --decision --out --plots --ablations --summary-tolerance --half --cluster \
                    --hosts --components --steps --seed --policy --forecast-only" ;;
  esac
  if [[ $command == restore && $current != -* && -z $name ]]; then
    compopt -o filenames
    mapfile -t COMPREPLY < <(compgen -d -- "$current")
  elif [[ $command == cert && -z $name && $current != -* ]]; then
    mapfile -t COMPREPLY < <(compgen -W "authority host" -- "$current")
  elif [[ $command == profile && -z $name && $current != -* ]]; then
    mapfile -t COMPREPLY < <(compgen -W "list show export delete consent calendar" -- "$current")
  elif [[ $command == profile && $previous != calendar && $current != -* && ${COMP_WORDS[COMP_CWORD - 2]} == calendar ]]; then
    compopt -o filenames
    mapfile -t COMPREPLY < <(compgen -f -- "$current")
  elif [[ $command == ghost && -z $name && $current != -* ]]; then
    mapfile -t COMPREPLY < <(compgen -W "add list drop" -- "$current")
  elif [[ $command == ghost && $name =~ ^(add|list|drop)$ && $current != -* ]]; then
    mapfile -t COMPREPLY < <(compgen -W "$(_starling_names ps --names)" -- "$current")
  elif [[ $current == -* || -n $name || $command == ps || $command == info || $command == run || $command == bench || $command == leases ||
    $command == replay ]]; then
    mapfile -t COMPREPLY < <(compgen -W "$options" -- "$current")
  else
    mapfile -t COMPREPLY < <(compgen -W "$(_starling_names ps --names)" -- "$current")
  fi
}

complete -F _starling starling
