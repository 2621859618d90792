# SPDX-License-Identifier: Apache-2.0
#
# Prints the NUMBER-th fenced block of LANGUAGE of a Markdown file, under a line that says where it is from.
#   awk -v language=c -v number=1 -f block.awk FILE        (number=0: prints how many there are)

/^```/ {
  if (inside) {
    inside = 0
    next
  }
  inside = 1
  mine = $0 == "```" language
  count += mine
  if (mine && count == number) printf "#line %d \"%s\"\n", FNR + 1, FILENAME
  next
}
inside && mine && count == number { print }
END {
  if (number == 0) print count + 0
  else if (count < number) {
    print FILENAME ": there is no block " number " of " language > "/dev/stderr"
    exit 1
  }
}
