#!/bin/sh
# Who may include whom: every #include of models/, convert/ and the runtime against the arrows below, libraries too; and
# that no folder of models/ has more than some twenty files, no file of it more than some six hundred lines.
# Each violation is one line with file and line.
set -u

# A room (a folder, or a file that stands for itself), and what it may include: that, and what that may include.
arrows='
sparsecbm.h:
sparsecbm.c:              sparsecbm.h
sparsecbm-cuda.cu:        sparsecbm.h
models/cbm.h:             sparsecbm.h
models/cbm-data.h:        models/cbm.h
models/cbm-train.h:       models/cbm-data.h
models/base/:             models/cbm.h
models/tokenizers/:       models/base/
models/backbones/:        models/base/
models/data/:             models/base/ models/cbm-train.h
models/core/:             models/tokenizers/ models/backbones/ models/cbm.h
models/explain/:          models/core/ models/data/
models/intervene/:        models/core/ models/data/
models/prune/:            models/core/ models/data/
models/train/:            models/core/ models/data/ models/prune/
models/report/:           models/cbm-train.h
models/program/:          models/cbm-train.h
models/main.c:            models/program/
convert/:                 models/core/ models/cbm-train.h
convert/convert-hf.c:     models/program/
'

# A library, and who may include it. Everyone may include the C standard library and POSIX; the public headers the
# former alone.
libraries='
utf8proc.h:     models/tokenizers/ models/base/ models/report/
cjson/cJSON.h:  models/data/ models/program/ convert/
csv.h:          models/data/
stb/:           models/report/
omp.h:          sparsecbm.c
immintrin.h:    sparsecbm.c models/program/
cpuid.h:        sparsecbm.c
arm_neon.h:     sparsecbm.c
cuda:           sparsecbm-cuda.cu
cublas:         sparsecbm-cuda.cu
'
standard='assert complex ctype errno fenv float inttypes iso646 limits locale math setjmp signal stdalign stdarg stdatomic
stdbool stddef stdint stdio stdlib stdnoreturn string tgmath threads time uchar wchar wctype'
posix='dirent dlfcn fcntl poll pthread sched strings sys/ unistd'

most_files=25 most_lines=620

list=$(mktemp) || exit 1
trap 'rm -f "$list"' EXIT
find sparsecbm.h sparsecbm.c sparsecbm-cuda.cu models convert -type f 2>/dev/null |
    grep -E '\.(c|h|cu|css|html)$' | LC_ALL=C sort >"$list"

arrows=$arrows libraries=$libraries standard=$standard posix=$posix awk -v most_files=$most_files \
    -v most_lines=$most_lines '
# The room of a file: the longest entry that it is, or lies under. "" where there is none.
function room_of(file,    room, best) {
    best = ""
    for (room in is_room)
        if ((file == room || (room ~ /\/$/ && index(file, room) == 1)) && length(room) > length(best)) best = room
    return best
}

# Whether `from` may include what lies in `to`.
function may(from, to,    i, n, next_room) {
    if (from == to) return 1
    n = split(arrow[from], next_room, " ")
    for (i = 1; i <= n; i++)
        if (may(next_room[i], to)) return 1
    return 0
}

# Whether a room is one of those in the list, or lies in one.
function is_one_of(room, rooms,    i, n, one) {
    n = split(rooms, one, " ")
    for (i = 1; i <= n; i++)
        if (room == one[i] || (one[i] ~ /\/$/ && index(room, one[i]) == 1)) return 1
    return 0
}

# Whether a header is one of those in the list, which has no ".h"; "sys/" is for all that lie under it.
function is_header_of(header, headers,    i, n, one) {
    n = split(headers, one, " ")
    for (i = 1; i <= n; i++)
        if (header == one[i] ".h" || (one[i] ~ /\/$/ && index(header, one[i]) == 1)) return 1
    return 0
}

function is_public(room) { return room == "sparsecbm.h" || room == "models/cbm.h" || room == "models/cbm-data.h" || room == "models/cbm-train.h" }

function violation(what) {
    failed++
    print "fail: " where ": " what
}

function check_own(header,    to, beside) {
    beside = file
    sub(/[^\/]*$/, header, beside)
    if (is_public(room) && is_public(beside)) header = beside # installed, they lie in one folder
    if (header ~ /\.(css|html)\.h$/) sub(/\.h$/, "", header) # what the Makefile makes of it
    if (!(header in is_file)) violation("includes \"" header "\", which is no file of this tree, written from its root")
    else {
        to = room_of(header)
        if (may(room, to)) passed++
        else violation("includes " header ", which is not for " room)
    }
}

function check_library(header,    library) {
    if (is_header_of(header, standard)) return passed++
    if (!is_public(room) && is_header_of(header, posix)) return passed++
    for (library in users)
        if (index(header, library) == 1 && is_one_of(room, users[library])) return passed++
    violation("includes <" header ">, which is not for " room)
}

function check_file(    line, n, parts) {
    room = room_of(file)
    where = file
    if (room == "") {
        violation("lies in no room")
        return
    }
    for (n = 0; (getline line < file) > 0;) {
        n++
        if (line !~ /^[ \t]*#[ \t]*include[ \t]/) continue
        where = file ":" n
        split(line, parts, /["<>]/)
        if (room == "sparsecbm.c" && line ~ /SCBM_SELF/) continue # its kernels, once for each tier
        if (line ~ /include[ \t]*"/) check_own(parts[2])
        else check_library(parts[2])
    }
    close(file)
    where = file ":" n
    if (file !~ /^models\//) return
    if (n > most_lines) violation("has more than " most_lines " lines")
    else passed++
    sub(/[^\/]*$/, "", file)
    in_folder[file]++
}

BEGIN {
    n = split(ENVIRON["arrows"], line, "\n")
    for (i = 1; i <= n; i++)
        if (split(line[i], part, ":") == 2) {
            is_room[part[1]] = 1
            arrow[part[1]] = part[2]
        }
    for (room in is_room) {
        n = split(arrow[room], next_room, " ")
        for (i = 1; i <= n; i++) {
            where = "the arrows"
            if (!(next_room[i] in is_room)) violation(room " points to " next_room[i] ", which is no room")
            else if (may(next_room[i], room)) violation(room " and " next_room[i] " include each other")
        }
    }
    n = split(ENVIRON["libraries"], line, "\n")
    for (i = 1; i <= n; i++)
        if (split(line[i], part, ":") == 2) users[part[1]] = part[2]
    standard = ENVIRON["standard"]
    posix = ENVIRON["posix"]
    gsub(/\n/, " ", standard)
}

{ is_file[$0] = 1; files[NR] = $0 }

END {
    for (i = 1; i <= NR; i++) {
        file = files[i]
        check_file()
    }
    for (where in in_folder)
        if (in_folder[where] > most_files) violation("has more than " most_files " files")
        else passed++
    printf "%d passed, %d failed, 0 skipped\n", passed, failed
    exit failed > 0
}' "$list"
