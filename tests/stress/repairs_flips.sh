#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# repairs_flips.sh COMMAND...: every copy has a wrong bit at first; checksums must find all of them, and no reader any.
output="$("$@" --inject flip 2>&1)"
code=$?
printf '%s\n' "$output"
if [ "$code" -ne 0 ]; then
  echo "exit code $code; expected 0: what was wrong was to be repaired"
  exit 1
fi
case "$output" in
  *"checksums found 0 copies"*) echo "nothing was found"; exit 1 ;;
  *"checksums found "*"fault \"flip\" was ordered: found"*) exit 0 ;;
esac
echo "the report does not say that checksums found it"
exit 1
