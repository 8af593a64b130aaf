#!/bin/sh
# The worker that the conformance tests have started. What it does is in its function's name. It
# makes no call to the API.
case ${CONTROL_PLANE_FUNCTION_NAME:-${MULTINODE_FUNCTION_NAME:-$FUNCTION_NAME}} in
  print)
    i=0
    while [ $i -lt 600 ]; do
      echo "line $i"
      i=$((i + 1))
    done
    ;;
  wait)
    trap 'echo "asked to stop"; exit 0' TERM
    echo "ready"
    i=0
    while [ $i -lt 600 ]; do
      sleep 0.2
      i=$((i + 1))
    done
    ;;
  *)
    echo "unknown function"
    exit 2
    ;;
esac
