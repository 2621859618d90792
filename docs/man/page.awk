# SPDX-License-Identifier: Apache-2.0
#
# awk -v source=SOURCE_DIR -v programs=PATH:... -f page.awk PAGE.scd: the page as scdoc takes it. What is written
# elsewhere is taken from there:
#   @table FILE HEAD             a table of a document, the one whose first column is called HEAD
#   @options PROGRAM             what --help lists, and says behind it
#   @commands PROGRAM            each command, with its options
#   @header FILE, @codes FILE, @functions FILE     the first comment of a C header, its results, its functions

function escape(text) {
  gsub(/[\\*_]/, "\\\\&", text)
  return text
}
# A line of text: some characters mean something at its beginning.
function line(text) {
  if (text ~ /^[-.#|:\[\]<;@`]/) text = "\\" text
  return text
}
function fail(what) {
  print FILENAME ":" FNR ": " what > "/dev/stderr"
  exit 1
}

# Markdown of one line.
function markdown(text,    out, i, n, part) {
  while (match(text, /\[[^]]*\]\([^)]*\)/)) {
    part = substr(text, RSTART + 1, RLENGTH - 1)
    sub(/\]\(.*/, "", part)
    text = substr(text, 1, RSTART - 1) part substr(text, RSTART + RLENGTH)
  }
  n = split(text, cell_part, "`")
  for (i = 1; i <= n; ++i) {
    part = cell_part[i]
    if (i % 2) {
      gsub(/\*\*/, "", part)
      out = out escape(part)
    } else if (part != "") {
      out = out "*" escape(part) "*"
    }
  }
  return out
}

function table(file, head,    row, n, cells, inside, rows, i, text) {
  while ((getline row < (source "/" file)) > 0) {
    if (row !~ /^\|/) {
      if (inside) break
      continue
    }
    gsub(/\\\|/, "\001", row)
    n = split(row, cells, / *\| */)
    for (i = 1; i <= n; ++i) gsub("\001", "|", cells[i])
    if (!inside) {
      if (cells[2] == head) inside = 1
      continue
    }
    if (cells[2] ~ /^-+$/) continue
    ++rows
    text = ""
    # Columns between the first and the last: such as defaults.
    if (n == 5 && cells[3] != "") text = (cells[4] ~ /\.$/ ? " " : ". ") "Default: " markdown(cells[3])
    if (cells[2] !~ /`/) cells[2] = "`" cells[2] "`"
    print markdown(cells[2])
    print "\t" line(markdown(cells[n - 1]) text) "\n"
  }
  close(source "/" file)
  if (!rows) fail("no table \"" head "\" in " file)
}

# ---- --help ----

# What stands before the text of an option: names and a word for its value.
function option_names(names,    value, extra) {
  extra = ""
  if (match(names, /=[^ =]+$/)) extra = "=" substr(names, RSTART + 1)
  sub(/,/, ", ", names)
  if (match(names, / (TEXT|UINT|INT|FLOAT|NUMBER)[^-]*/)) {
    value = substr(names, RSTART + 1, RLENGTH - 1)
    names = substr(names, 1, RSTART - 1)
    sub(/[ :=].*/, "", value)
    if (names ~ /^-/) names = names " " value
  }
  sub(/ (Excludes|Needs|REQUIRED).*/, "", names)
  option_default = extra == "" ? "" : substr(extra, 2)
  return names
}
function print_option(names, text,    shown, more) {
  ++n_options
  if (in_commands && names ~ /^-h,/) return # every one has it
  shown = option_names(names)
  more = option_default == "" ? "" : (text == "" ? "D" : "; d") "efault " escape(option_default)
  print "*" escape(shown) "*"
  print "\t" line(escape(text) more) "\n"
}

# Options and, behind them, what --help says at its end.
function help(command,    text, names, inside, end, pending) {
  n_options = 0
  names = ""
  while ((command | getline text) > 0) {
    if (text == "" && names != "") {
      print_option(names, "")
      names = ""
    }
    if (text ~ /^ *[A-Z][A-Za-z]*:$/ || text ~ /^\[Option Group/) { # groups of options have names
      inside = text != "Subcommands:"
      end = 0
      continue
    }
    if (inside && text ~ /^ +(-|[A-Z]+ [A-Z])/ && text !~ /^              /) {
      if (names != "") print_option(names, "")
      sub(/^ +/, "", text)
      names = text
      if (match(text, /  +/) || (match(text, /^[^ ]+ [A-Z]+:\{[^ ]+\} /) && RLENGTH == 28 && substr(text, 29) !~ /^ *REQUIRED$/)) {
        names = substr(text, 1, RSTART + (RSTART > 1 ? 0 : RLENGTH) - 1)
        print_option(names, substr(text, RSTART + RLENGTH))
        names = ""
      }
      continue
    }
    if (inside && names != "" && text ~ /^              /) {
      sub(/^ +/, "", text)
      print_option(names, text)
      names = ""
      continue
    }
    if (text == "") {
      if (inside) { inside = 0; end = 1 }
      pending = end
      continue
    }
    if (end && text != "") {
      if (pending || text ~ /^ /) print ""
      pending = 0
      if (sub(/^ +/, "", text)) print "\t" line(escape(text)) "\n" # an example
      else print line(escape(text))
    }
  }
  print ""
  if (close(command) != 0 || n_options == 0) fail("no options: " command)
}
function program(name,    i, n, paths) {
  n = split(programs, paths, ":")
  for (i = 1; i <= n; ++i) if (paths[i] ~ "/" name "$") return "'" paths[i] "'"
  fail("no program " name)
}
function commands(name,    text, inside, n, i, list, what, command) {
  command = program(name) " --help"
  while ((command | getline text) > 0) {
    if (text == "Subcommands:") { inside = 1; continue }
    if (!inside || text !~ /^  [a-z]/) continue
    match(text, /^  [a-z-]+/)
    list[++n] = substr(text, 3, RLENGTH - 2)
    sub(/^  [a-z-]+ +/, "", text)
    what[n] = text
  }
  close(command)
  if (!n) fail("no commands of " name)
  for (i = 1; i <= n; ++i) {
    print "## " list[i] "\n"
    print line(escape(toupper(substr(what[i], 1, 1)) substr(what[i], 2))) ".\n"
    in_commands = 1
    help(program(name) " " list[i] " --help")
    in_commands = 0
  }
}

# ---- a C header ----

# The words of a comment's line.
function comment_text(text) {
  sub(/^ *\/\* ?/, "", text)
  sub(/^ *\*($| )/, "", text)
  sub(/ *\*\/ *$/, "", text)
  return text
}
function header(file,    text, n) {
  while ((getline text < (source "/" file)) > 0) {
    if (++n == 1) continue # SPDX
    if (text ~ /\*\/ *$/) break
    text = comment_text(text)
    if (text ~ /^ /) {
      sub(/^ +/, "", text)
      print "\t" line(escape(text))
    } else {
      text = escape(text)
      while (match(text, /\\\*[a-z]+\\\*/)) # *word*
        text = substr(text, 1, RSTART - 1) "*" substr(text, RSTART + 2, RLENGTH - 4) "*" substr(text, RSTART + RLENGTH)
      print line(text)
    }
  }
  print ""
  close(source "/" file)
}
function codes(file,    text, name, what, n) {
  while ((getline text < (source "/" file)) > 0) {
    if (text !~ /^ +KVT_(OK|E_[A-Z_]+) = /) continue
    name = text
    sub(/^ +/, "", name)
    sub(/ .*/, "", name)
    if (text !~ /\/\*/) continue
    what = text
    sub(/.*\/\* */, "", what)
    sub(/ *\*\/.*/, "", what)
    print "*" escape(name) "*\n\t" line(escape(what)) "\n"
    ++n
  }
  close(source "/" file)
  if (!n) fail("no codes in " file)
}
function functions(file,    text, comment, prototype, in_comment, n, fresh) {
  while ((getline text < (source "/" file)) > 0) {
    if (text ~ /^\/\* ---- /) {
      sub(/^\/\* ---- /, "", text)
      sub(/ -+ \*\/.*$/, "", text)
      section = text
      comment = ""
      continue
    }
    if (text ~ /^\/\* / || in_comment) {
      if (!in_comment) comment = ""
      in_comment = text !~ /\*\//
      comment = comment (comment == "" ? "" : " ") comment_text(text)
      continue
    }
    if (text ~ /^KVT_API / || prototype != "") {
      sub(/^ +/, "", text)
      prototype = prototype (prototype == "" ? "" : " ") text
      if (prototype !~ /;/) continue
      sub(/^KVT_API /, "", prototype)
      sub(/ KVT_NOEXCEPT.*/, ";", prototype)
      if (section != "") print "## " section "\n"
      section = ""
      print "*" escape(prototype) "*"
      if (comment != "") print "\t" line(escape(comment))
      print ""
      comment = prototype = ""
      ++n
      continue
    }
    if (text != "") comment = "" # of something else
  }
  close(source "/" file)
  if (!n) fail("no functions in " file)
}

/^@table / { file = $2; $1 = $2 = ""; sub(/^ +/, ""); table(file, $0); next }
/^@options / { help(program($2) " --help"); next }
/^@commands / { commands($2); next }
/^@header / { header($2); next }
/^@codes / { codes($2); next }
/^@functions / { functions($2); next }
/^@/ { fail("unknown: " $0) }
{ print }
