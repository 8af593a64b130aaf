#!/bin/sh
# A worker without Python: three HTTP calls, made with curl.
#
# A worker is told by its environment which execution it is for, calls `start`, may call `update`
# as often as it likes, and ends with `finish`. The control plane asks it to stop with SIGTERM.
#
# The input: the answer of `start` (in "$answer") is a JSON object with the key "input", a string.
# With jq at hand:  input=$(jq --raw-output .input "$answer")
#
# Names with characters that have a meaning in an address would have to be percent-encoded here.
set -u

execution="$CONTROL_PLANE_API_URL/projects/$CONTROL_PLANE_PROJECT_NAME"
execution="$execution/versions/$CONTROL_PLANE_VERSION_ID/functions/$CONTROL_PLANE_FUNCTION_NAME"
execution="$execution/invocations/$CONTROL_PLANE_INVOCATION_ID"
execution="$execution/executions/$CONTROL_PLANE_EXECUTION_ID"
answer=$(mktemp) || exit 1
trap 'rm -f "$answer"' EXIT

# call VERB [JSON]: repeat until the API answers. A 409 after an earlier try means that this try did
# its work and only its answer was lost.
call() {
  tries=0
  while true; do
    # The key goes in by stdin: the arguments of a program are visible to others on the machine.
    code=$(printf 'header = "Authorization: Bearer %s"\n' "$CONTROL_PLANE_API_KEY" |
      curl --config - --fail --silent --show-error --max-time 10 --request PUT \
        --header "Content-Type: application/json" --data "${2:-}" \
        --output "$answer" --write-out '%{http_code}' "$execution/$1") && return 0
    case $code in
      409) [ "$tries" -gt 0 ] && return 0 ;;
    esac
    case $code in
      000 | 429 | 5??) ;;
      *) return 1 ;;
    esac
    tries=$((tries + 1))
    [ "$tries" -lt 20 ] || return 1
    sleep "$tries" &
    wait $!
  done
}

aborted() {
  trap '' TERM
  echo "asked to stop"
  call finish '{"outcome": "ABORTED"}'
  exit 143
}

trap aborted TERM
call start || exit 3

for step in 1 2 3; do
  echo "step $step"
  call update "{\"latest_output\": \"{\\\"step\\\": $step}\"}" || exit 4
  # The shell looks for signals only between commands, or in `wait`.
  sleep "${STEP_SECONDS:-0.2}" &
  wait $!
done

trap '' TERM
call finish '{"outcome": "SUCCEEDED", "final_output": "\"done by a shell script\""}' || exit 4
