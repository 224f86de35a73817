"""Prints models/tokenizers/letters.c: which characters are letters and numbers to the pattern of byte-level BPE.

    build/venv/bin/python tests/parity/make_letters.py > models/tokenizers/letters.c

They are asked of the `tokenizers` package itself, one character after the other.
"""

from tokenizers import __version__, pre_tokenizers

splitter = pre_tokenizers.ByteLevel(add_prefix_space=False)
CODE_POINTS = [c for c in range(1, 0x110000) if not 0xD800 <= c < 0xE000]


def is_whole(text):
    return len(splitter.pre_tokenize_str(text)) == 1


def ranges(belongs):
    found = []
    for c in CODE_POINTS:
        if not belongs(chr(c)):
            continue
        if found and found[-1][1] == c - 1:
            found[-1][1] = c
        else:
            found.append([c, c])
    return found


def print_table(name, found):
    print(f"static const cbm_code_range {name}[] = {{")
    for i in range(0, len(found), 5):
        print("    " + " ".join(f"{{0x{a:X}, 0x{b:X}}}," for a, b in found[i:i + 5]))
    print("};\n")


if __name__ == "__main__":
    print(f"""/*
 * models/tokenizers/letters.c - letters and numbers, as the pattern of byte-level BPE has them
 *
 * Made by tests/parity/make_letters.py of tokenizers {__version__}, so that no system's Unicode tables change a text's tokens.
 */
#include "models/tokenizers/unicode.h"

/* clang-format off */""")
    print_table("letters", ranges(lambda c: is_whole("a" + c)))
    print_table("numbers", ranges(lambda c: is_whole("1" + c)))
    print("""/* clang-format on */

int cbm_is_letter(int32_t c) {
    if (c < 0x80) return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
    return CBM_IN_RANGES(letters, c);
}

int cbm_is_number(int32_t c) {
    if (c < 0x80) return c >= '0' && c <= '9';
    return CBM_IN_RANGES(numbers, c);
}""")
