#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# finds_fault.sh FAULT COMMAND...: the command orders FAULT, must say that it has found it, and must exit with 1.
fault="$1"
shift
output="$("$@" --inject "$fault" 2>&1)"
code=$?
printf '%s\n' "$output"
if [ "$code" -ne 1 ]; then
  echo "exit code $code; expected 1: \"$fault\" was ordered"
  exit 1
fi
case "$output" in
  *"fault \"$fault\" was ordered: found"*) exit 0 ;;
esac
echo "the report does not say that \"$fault\" was found"
exit 1
