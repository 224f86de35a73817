# models/report/templates/embed.awk - writes a C header that holds the reports' style and templates: awk -f embed.awk FILE > FILE.h
#
# Of page.css it makes css_page, an array of lines that ends with NULL; lines from one that begins with /* to one that ends
# with */ are left out. Of an .html file it makes a string for each fragment. A fragment goes from below the line with its
# name, <!-- class-words -->, to above the next such line, and is called html_class_words. What stands above the first one is
# a comment. The last line break is no part of a fragment, so an empty line at its end leaves it one; indentation is dropped.

function quoted(text,    i, c, result) {
    for (i = 1; i <= length(text); i++) {
        c = substr(text, i, 1)
        result = result (c ~ /[\\"?]/ ? "\\" c : c) # ? lest two of them begin a trigraph
    }
    return result
}

function end_fragment(    i) {
    if (name == "") return
    printf "static const char %s[] =", name
    for (i = 1; i <= n_lines; i++) printf "\n    \"%s%s\"", quoted(line[i]), (i < n_lines ? "\\n" : "")
    if (n_lines == 0) printf " \"\""
    print ";"
}

FNR == 1 {
    print "/* Made of " FILENAME " by embed.awk. */"
    is_style = FILENAME ~ /\.css$/
    if (is_style) print "#include <stddef.h>\n\nstatic const char *const css_page[] = {"
}

is_style && /^\/\*/ { is_comment = 1 }
is_style && !is_comment && NF { print "    \"" quoted($0) "\\n\"," }
is_style && /\*\/$/ { is_comment = 0 }

!is_style && /^<!-- [a-z0-9-]+ -->$/ {
    end_fragment()
    name = "html_" $2
    gsub(/-/, "_", name)
    n_lines = 0
    next
}
!is_style && name != "" {
    sub(/^ +/, "")
    line[++n_lines] = $0
}

END {
    if (is_style) print "    NULL,\n};"
    else end_fragment()
}
