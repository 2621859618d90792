# SPDX-License-Identifier: Apache-2.0
#
# The commands that Markdown files show: lines of fenced blocks without a language (or sh, console), and code in
# `backticks`. Prints FILE:LINE TAB COMMAND, one command a line ("a && b" is two), without prompt and comment.

function commands(text,    i, n, part) {
  sub(/^\$ /, "", text)
  sub(/[ \t]+# .*/, "", text)
  n = split(text, part, / && |; /)
  for (i = 1; i <= n; ++i) {
    sub(/^[ \t]+/, "", part[i])
    while (sub(/^[A-Z_]+=[^ ]* +/, "", part[i])) {}  # variables in front
    if (part[i] != "") print FILENAME ":" FNR "\t" part[i]
  }
}

FNR == 1 { inside = 0 }
/^```/ {
  shown = !inside && ($0 == "```" || $0 == "```sh" || $0 == "```console")
  inside = !inside
  next
}
inside {
  if (shown) commands($0)
  next
}
{
  text = $0
  while (match(text, /`[^`]+`/)) {
    commands(substr(text, RSTART + 1, RLENGTH - 2))
    text = substr(text, RSTART + RLENGTH)
  }
}
