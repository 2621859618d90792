#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# promotes_by_readers.sh COMMAND...: the replay must be right, and its readers must have promoted pages.
output="$("$@" 2>&1)"
code=$?
printf '%s\n' "$output"
[ "$code" -eq 0 ] || exit "$code"
taken="$(printf '%s\n' "$output" | sed -n 's/^moves .* promoted, \([0-9]*\) of them by their readers;.*/\1/p')"
if [ -z "$taken" ] || [ "$taken" -eq 0 ]; then
  echo "the report says that ${taken:-an unknown number of} pages were promoted by their readers"
  exit 1
fi
