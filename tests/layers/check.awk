# SPDX-License-Identifier: Apache-2.0
#
# awk -f check.awk RULES FILE...    in the top folder of the tree; one line for each violation, exit 1 if there is one

function folder_of(path) {
  return sub(/\/[^\/]*$/, "", path) ? path : "."
}

function violation(what) {
  print FILENAME (line_number > 0 ? ":" line_number : "") ": " what
  ++violations
}

# Whether `path` is one of the list's files, or in one of its folders (those below it too with `deep`).
function listed(list, path, deep,    item) {
  for (item in list)
    if (path == item || folder_of(path) == item || (deep && index(path, item "/") == 1)) return 1
  return 0
}

# The list of a row as an array.
function fill(list, key,    i, n, part) {
  split("", list)
  if (!(key in row)) return
  n = split(row[key], part, " ")
  for (i = 1; i <= n; ++i) list[part[i]] = 1
}

function may_see(folder, target,    list) {
  if (folder_of(target) == folder) return 1
  fill(list, "sees " folder)
  return listed(list, target, 0)
}

# A row that can reach itself through others.
function look_for_circles(    key, part, list, left, again, free) {
  for (key in row) if (key ~ /^sees /) left[substr(key, 6)] = 1
  do {
    again = 0
    for (key in left) {
      fill(list, "sees " key)
      free = 1
      for (part in list)
        if ((("sees " part) in row ? part : folder_of(part)) in left) free = 0
      if (free) {
        delete left[key]
        again = 1
      }
    }
  } while (again)
  for (key in left) {
    FILENAME = rules
    violation("the row of " key " is in a circle, or needs one that is")
  }
}

# What a file of `folder` includes in <> or "".
function check_include(folder, header, quoted,    target, box, list, key) {
  if (!quoted && header !~ /^kvtier\//) {
    if (("system " folder) in row || ("system " FILENAME) in row) {
      fill(list, "system " folder)
      if (!(header in list)) {
        fill(list, "system " FILENAME)
        if (!(header in list)) violation("<" header "> is not among the system headers of " (("system " folder) in row ? folder : FILENAME))
      }
    }
    for (key in row) {
      if (key !~ /^only / || index(header, substr(key, 6)) != 1) continue
      fill(list, key)
      if (!listed(list, FILENAME, 1)) violation("<" header "> is only for " row[key])
    }
    return
  }
  target = quoted ? header : "libclient/include/" header
  fill(list, "made")
  if (target in list) return
  if (!(target in is_file)) {
    violation("\"" header "\" is not a file; includes name paths from the top folder")
    return
  }
  if (may_see(folder, target)) return
  if (folder ~ /^tests\/unit\//) {
    box = substr(folder, 12)
    if (folder_of(target) == box || folder_of(target) == "tests/support" || may_see(box, target)) return
  } else if (!(("sees " folder) in row)) {
    violation("folder " folder " has no row in tests/layers/rules")
    return
  }
  violation(folder " may not include " target)
}

# Banned words in snake_case and CamelCase names.
function check_name(name, kind,    i, n, part, words, character) {
  words = ""
  for (i = 1; i <= length(name); ++i) {
    character = substr(name, i, 1)
    if (character ~ /[A-Z]/ && i > 1 && substr(name, i - 1, 1) !~ /[A-Z]/) words = words " "
    words = words (character ~ /[A-Za-z0-9]/ ? tolower(character) : " ")
  }
  n = split(words, part, " ")
  for (i = 1; i <= n; ++i)
    if (part[i] in banned) violation(kind " \"" name "\" has the word " part[i] ", which says nothing")
}

function check_identifiers(text,    word) {
  gsub(/std::[A-Za-z_0-9]+/, "", text)  # the library's names are not ours
  gsub(/"[^"]*"/, "", text)
  while (match(text, /[A-Za-z_][A-Za-z_0-9]*/)) {
    word = substr(text, RSTART, RLENGTH)
    text = substr(text, RSTART + RLENGTH)
    if (tolower(word) ~ banned_anywhere) check_name(word, "identifier")
  }
}

function begin_file(    i, n, part) {
  line_number = 0
  is_code = FILENAME ~ /\.(h|hpp|cc|c)$/
  is_header = FILENAME ~ /\.(h|hpp)$/
  is_build = FILENAME ~ /(CMakeLists\.txt|\.cmake)$/
  spdx = pragma = guard = guarded = in_comment = 0
  in_clockless = listed(clockless, FILENAME, 1) && !(FILENAME in tells_time)
  n = split(FILENAME, part, "/")
  for (i = 1; i <= n; ++i) check_name(part[i], i < n ? "folder" : "file")
  if (is_code && part[n] !~ /^[a-z][a-z0-9_]*\.(h|hpp|cc|c)$/) violation("names of files are snake_case")
}

function end_file(    item, list, exempt) {
  line_number = 0
  exempt = 0
  fill(list, "no-spdx")
  if (FILENAME !~ /CMakeLists\.txt$/)
    for (item in list)
      if (substr(FILENAME, length(FILENAME) - length(item) + 1) == item) exempt = 1
  if (!spdx && !exempt) violation("has no SPDX-License-Identifier in its first three lines")
  if (!is_header) return
  fill(list, "c-header")
  if (listed(list, FILENAME, 0)) {
    if (!guarded) violation("is a header for C and has no include guard")
  } else if (!pragma) {
    violation("has no #pragma once")
  }
}

# Comments, tags, identifiers and includes of one line of code.
function check_code(line,    rest, end, comment, tag, header) {
  comment = ""
  if (in_comment) {
    end = index(line, "*/")
    comment = end ? substr(line, 1, end - 1) : line
    line = end ? substr(line, end + 2) : ""
    in_comment = !end
  }
  if (match(line, /\/\//) && line !~ /"[^"]*\/\/[^"]*"/) {
    comment = comment substr(line, RSTART)
    line = substr(line, 1, RSTART - 1)
  }
  while (match(line, /\/\*/)) {
    rest = substr(line, RSTART + 2)
    end = index(rest, "*/")
    comment = comment (end ? substr(rest, 1, end - 1) : rest)
    line = substr(line, 1, RSTART - 1) (end ? substr(rest, end + 2) : "")
    in_comment = !end
  }
  for (tag in tags)
    if (comment ~ ("(^|[^A-Za-z])" tag "([^A-Za-z]|$)")) violation("the tag " tag ": an issue, or nothing")
  if (line ~ /^[ \t]*#[ \t]*pragma once/) pragma = 1
  if (line ~ /^[ \t]*#[ \t]*ifndef / && guard == 0) {
    guard = line
    sub(/^[ \t]*#[ \t]*ifndef +/, "", guard)
  } else if (guard != 0 && line ~ /^[ \t]*#[ \t]*define / && !guarded) {
    sub(/^[ \t]*#[ \t]*define +/, "", line)
    guarded = line == guard
  }
  if (line ~ /^[ \t]*#[ \t]*include/) {
    header = line
    if (match(line, /<[^>]*>/) || match(line, /"[^"]*"/))
      check_include(folder_of(FILENAME), substr(line, RSTART + 1, RLENGTH - 2), substr(line, RSTART, 1) == "\"")
    return
  }
  check_identifiers(line)
  if (in_clockless)
    for (word in wall_clocks)
      if (index(line, word)) violation("uses " word ", which jumps when somebody sets the time")
}

BEGIN {
  rules = ARGV[1]
  for (i = 2; i < ARGC; ++i) is_file[ARGV[i]] = 1
}
FILENAME == rules {
  sub(/[ \t]*#.*/, "")
  if ($0 == "") next
  if ($0 ~ /^[ \t]/) {
    row[key] = row[key] " " $0
    next
  }
  if (!match($0, /:( |$)/)) {
    print rules ":" FNR ": a row without a colon"
    exit failed = 1
  }
  key = substr($0, 1, RSTART - 1)
  if (key in row) {
    print rules ":" FNR ": a second row of \"" key "\""
    exit failed = 1
  }
  row[key] = substr($0, RSTART + 1)
  next
}
FNR == 1 && !prepared {
  prepared = 1
  fill(banned, "banned")
  fill(tags, "tags")
  fill(paths, "machine-paths")
  fill(may_name, "may-name-them")
  fill(wall_clocks, "wall-clocks")
  fill(clockless, "never-in")
  fill(tells_time, "may-tell-the-time")
  for (word in banned) banned_anywhere = banned_anywhere (banned_anywhere == "" ? "" : "|") word
  current = FILENAME
  look_for_circles()
  FILENAME = current
  begin_file()
}
FNR == 1 && FILENAME != current {
  next_file = FILENAME
  FILENAME = current
  end_file()
  FILENAME = current = next_file
  begin_file()
}
{
  line_number = FNR
  if (FNR <= 3 && /SPDX-License-Identifier: Apache-2\.0/) spdx = 1
  if (!(FILENAME in may_name))
    for (path in paths)
      if ((at = index($0, path)) && (at == 1 || substr($0, at - 1, 1) !~ /[A-Za-z0-9_]/))
        violation("names " path ", which is on one machine")
  if (is_code) check_code($0)
  else if (is_build && match($0, /add_(library|executable|custom_target)\([A-Za-z_0-9-]+/)) {
    sub(/.*\(/, "", $0)
    sub(/[ )].*/, "", $0)
    check_name($0, "target")
  }
}
END {
  if (failed) exit 1
  if (current != "") end_file()
  print "layers: " ARGC - 2 " files, " (violations ? violations : "no") " violation" (violations == 1 ? "" : "s")
  exit violations != 0
}
