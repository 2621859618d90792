# SPDX-License-Identifier: Apache-2.0
#
# Reads C headers of this project and prints one macro call for each constant, enumerator, struct, field and function;
# print_rows.h makes text of them. So a new one is in the golden text without being listed by hand.
# What the headers do not use (bit-fields, unions, nested structs, macros over several lines) is an error here.
#   awk -f rows.awk FILE...          paths as the golden text should name them

function refuse(what) {
  print FILENAME ":" FNR ": rows.awk cannot read this: " what > "/dev/stderr"
  failed = 1
  exit 1
}

function trim(text) {
  gsub(/[ \t]+/, " ", text)
  sub(/^ /, "", text)
  sub(/ $/, "", text)
  return text
}

function define(line,    name, value) {
  sub(/^[ \t]*#[ \t]*define[ \t]+/, "", line)
  match(line, /^[A-Za-z_0-9]+/)
  name = substr(line, 1, RLENGTH)
  value = substr(line, RLENGTH + 1)
  if (name == "KVT_API" || name == "KVT_NOEXCEPT" || name == "KVT_ABI_ASSERT") return  # words, not values
  if (value ~ /\\$/) refuse("a macro over several lines: " name)
  if (value ~ /^\(/) print "TEXT(\"" name trim(value) "\")"
  else if (trim(value) != "") print "CONSTANT(" name ")"
}

function enumeration(head, body,    i, n, part) {
  sub(/^enum */, "", head)
  if (head != "") print "ENUM(" head ")"
  n = split(body, part, ",")
  for (i = 1; i <= n; ++i) {
    sub(/=.*/, "", part[i])
    part[i] = trim(part[i])
    if (part[i] != "") print "ENUMERATOR(" part[i] ")"
  }
}

function structure(head, body,    i, n, part, field, type) {
  sub(/^(typedef )?struct */, "", head)
  print "STRUCT(" head ")"
  n = split(body, part, ";")
  for (i = 1; i <= n; ++i) {
    part[i] = trim(part[i])
    if (part[i] == "") continue
    if (part[i] !~ /^[A-Za-z_0-9 ]+ \**[A-Za-z_0-9]+(\[[^][]+\])?$/) refuse("field \"" part[i] "\" of " head)
    field = part[i]
    sub(/\[.*/, "", field)
    sub(/.*[ *]/, "", field)
    type = part[i]
    match(type, "[ *]" field)
    type = trim(substr(type, 1, RSTART)) (part[i] ~ /\[/ ? substr(part[i], index(part[i], "[")) : "")
    print "FIELD(" head ", " field ", \"" type "\")"
  }
  print "END(" head ")"
}

# One file's text without comments and preprocessor lines, taken apart statement by statement.
function statements(    head, body, brace, semicolon) {
  while (match(text, /[{;]/)) {
    head = trim(substr(text, 1, RSTART - 1))
    if (substr(text, RSTART, 1) == ";") {
      text = substr(text, RSTART + 1)
      if (head ~ /^KVT_API /) {
        sub(/^KVT_API /, "", head)
        sub(/ KVT_NOEXCEPT$/, "", head)
        body = head
        sub(/\(.*/, "", body)
        sub(/.*[ *]/, "", body)
        print "FUNCTION(" body ", \"" head "\")"
      } else if (head ~ /^typedef /) {
        print "TEXT(\"" head "\")"
      } else if (head != "" && head !~ /^KVT_ABI_ASSERT\(/ && head !~ /^kvt_[a-z_]+$/) {
        refuse(head)  # kvt_... alone: the name behind a typedef's brace
      }
      continue
    }
    text = substr(text, RSTART + 1)
    brace = index(text, "}")
    body = substr(text, 1, brace - 1)
    text = substr(text, brace + 1)
    if (brace == 0 || body ~ /{/) refuse("braces of " head)
    if (head ~ /^enum/) enumeration(head, body)
    else if (head ~ /^(typedef )?struct [a-z_0-9]+$/) structure(head, body)
    else refuse(head)
  }
  if (trim(text) != "") refuse(trim(text))
  text = ""
}

FNR == 1 {
  statements()
  in_comment = only_cplusplus = 0
  print "HEADING(\"" FILENAME "\")"
}
{
  line = $0
  if (in_comment) {
    if (!sub(/^.*\*\//, "", line)) next
    in_comment = 0
  }
  while (match(line, /\/\*/)) {
    rest = substr(line, RSTART)
    line = substr(line, 1, RSTART - 1)
    end = index(rest, "*/")
    if (end == 0) {
      in_comment = 1
      break
    }
    line = line substr(rest, end + 2)
  }
  sub(/\/\/.*/, "", line)
}
line ~ /^[ \t]*#[ \t]*ifdef __cplusplus/ { only_cplusplus = 1; next }
line ~ /^[ \t]*#[ \t]*(else|endif)/ { only_cplusplus = 0; next }
only_cplusplus { next }
line ~ /^[ \t]*#[ \t]*define/ { define(line); next }
line ~ /^[ \t]*#/ { next }
{ text = text " " line }
END { if (!failed) statements() }
