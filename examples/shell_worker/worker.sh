#!/bin/sh
# A worker without Python: HTTP calls made with curl. docs/workers.md explains each step.
#
# Names with characters that have a meaning in an address would have to be percent-encoded here.
set -u

execution="$CONTROL_PLANE_API_URL/projects/$CONTROL_PLANE_PROJECT_NAME"
execution="$execution/versions/$CONTROL_PLANE_VERSION_ID/functions/$CONTROL_PLANE_FUNCTION_NAME"
execution="$execution/invocations/$CONTROL_PLANE_INVOCATION_ID"
execution="$execution/executions/$CONTROL_PLANE_EXECUTION_ID"
answer=$(mktemp) || exit 5
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

# give_up: a call has failed for good. After a 409 the execution is not, or no longer, this worker's.
give_up() {
  [ "$code" = 409 ] && exit 4
  exit 5
}

# A cancel, or the time limit. From here on nothing may interrupt the report.
aborted() {
  trap '' TERM
  echo "asked to stop"
  call finish '{"outcome": "ABORTED"}'
  exit 143
}

trap aborted TERM
call start || { [ "$code" = 409 ] && exit 3; give_up; }

# The input is a text, the field "input" of the answer; here JSON text: how many steps to take.
# Without jq: whatever number is in it, else three.
steps=$(sed -n 's/.*"input": *"\([0-9]*\)".*/\1/p' "$answer")
steps=${steps:-3}

step=0
while [ "$step" -lt "$steps" ]; do
  step=$((step + 1))
  echo "step $step"
  call progress "{\"progress\": {\"done\": $step, \"total\": $steps}}" || give_up
  call update "{\"latest_output\": \"{\\\"step\\\": $step}\"}" || give_up
  # The shell looks for signals only between commands, or in `wait`.
  sleep "${STEP_SECONDS:-0.2}" &
  wait $!
done

trap '' TERM
call finish '{"outcome": "SUCCEEDED", "final_output": "\"done by a shell script\""}' || give_up
