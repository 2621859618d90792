#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# real_trace.sh REPLAY KVTIERD: the main job on a real trace. KVTIER_DATA names the folder that has it; 77 (skipped)
# without. The hits found must be those that the trace has: nothing is evicted before it is asked for again.
replay="$1"
kvtierd="$2"
trace="${KVTIER_DATA:-}/mooncake/conversation_0-30min.jsonl"
if [ ! -f "$trace" ]; then
  echo "SKIPPED: KVTIER_DATA does not name a folder with mooncake/conversation_0-30min.jsonl"
  exit 77
fi
exec "$replay" --start-daemon "$kvtierd" --trace "$trace" --seconds 8 --processes 3 --policy churn
