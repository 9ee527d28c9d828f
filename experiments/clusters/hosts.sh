#!/usr/bin/env bash
# Trains on several hosts by ssh, one worker each:
#
#   HOSTS="gpu0 gpu1" experiments/clusters/hosts.sh --model=dcgan --run_dir=/shared/runs/dcgan
#
# HOSTS      as ssh and each other know them, the chief first; ssh must not ask for a password
# DIRECTORY  of the zoo on every host (default: this one's name)
# PYTHON     there (default: .venv/bin/python)
# PORT       of the first worker, one more for each other (default: 12345)
# RESTARTS   how often all are started again after one failed (default: 100)
#
# --run_dir must be one directory that all hosts share. Ctrl-C or SIGTERM, or the loss of this
# shell, stops all, saving. Ends with 0 when training is finished, 2 for wrong flags, 143 when it
# was stopped.
set -u
read -ra hosts <<< "${HOSTS:?names of the hosts, as in HOSTS=\"gpu0 gpu1\"}"
directory=${DIRECTORY:-$PWD} python=${PYTHON:-.venv/bin/python} port=${PORT:-12345}
restarts=${RESTARTS:-100} patience=120

addresses=
for number in "${!hosts[@]}"; do
  addresses+="${addresses:+, }\"${hosts[number]#*@}:$((port + number))\""
done

# Over there: the worker, and what stops it once nobody holds the line any more. A worker that
# waits for another does not listen to SIGTERM.
read -r -d '' remote << 'END'
"$@" < /dev/null & worker=$!
{ read -r _; kill -TERM $worker; sleep 60; kill -KILL $worker; } <&0 > /dev/null 2>&1 & watch=$!
wait $worker; code=$?
kill $watch
exit $code
END

folder=$(mktemp -d) && mkfifo "$folder/line" || exit 1
trap 'rm -rf "$folder"' EXIT
stopping=
trap 'stopping=yes; exec 9>&-' INT TERM

for ((attempt = 0; attempt <= restarts; attempt++)); do
  exec 9<> "$folder/line"  # held open by this shell alone
  running=()
  for number in "${!hosts[@]}"; do
    config="{\"cluster\": {\"worker\": [$addresses]}, \"task\": {\"type\": \"worker\", \"index\": $number}}"
    printf -v command '%q ' env "TF_CONFIG=$config" bash -c "$remote" worker "$python" -m zoo.train "$@"
    ssh -o BatchMode=yes -o ServerAliveInterval=15 "${hosts[number]}" \
      "cd $(printf %q "$directory") && exec $command" < "$folder/line" 9>&- &
    running+=($!)
  done
  codes=() timer=
  while ((${#codes[@]} < ${#hosts[@]})); do
    ended=
    wait -n -p ended "${running[@]}" $timer
    code=$?
    [ -n "${ended:-}" ] || continue  # a signal, not an end
    if [ "$ended" = "$timer" ]; then
      timer=
      exec 9>&-
      continue
    fi
    for index in "${!running[@]}"; do
      [ "${running[index]}" = "$ended" ] && unset "running[index]"
    done
    codes+=("$code")
    # The others end by themselves, soon; from wrong flags they may be waiting for this one.
    ((code != 2)) || exec 9>&-
    [ -n "$timer" ] || { sleep $patience 9>&- & timer=$!; }
  done
  [ -z "$timer" ] || kill "$timer"
  exec 9>&-
  case " ${codes[*]} " in
    *" 2 "*) exit 2 ;;
    *" 143 "* | *" 130 "*) exit 143 ;;
  esac
  [ -z "$stopping" ] || exit 143
  [[ " ${codes[*]} " =~ [1-9] ]] || exit 0
  echo "workers ended with ${codes[*]}: starting all again" >&2
  sleep 3 &
  wait $!
  [ -z "$stopping" ] || exit 143
done
exit 1
