"""Texts that are hard for tokenizers: of every common block of Unicode, emoji, combining marks, controls, white space."""

import random
import unicodedata

# First and last code point of blocks that texts have, and of some that few have.
BLOCKS = [
    (0x20, 0x7E), (0xA0, 0xFF), (0x100, 0x17F), (0x180, 0x24F), (0x250, 0x2AF), (0x2B0, 0x2FF), (0x300, 0x36F), (0x370, 0x3FF),
    (0x400, 0x52F), (0x530, 0x58F), (0x590, 0x5FF), (0x600, 0x6FF), (0x700, 0x77F), (0x900, 0x97F), (0x980, 0x9FF), (0xA00, 0xBFF),
    (0xC00, 0xDFF), (0xE00, 0xE7F), (0xE80, 0xFFF), (0x1000, 0x109F), (0x10A0, 0x11FF), (0x1200, 0x139F), (0x13A0, 0x17FF),
    (0x1800, 0x1CFF), (0x1D00, 0x1DFF), (0x1E00, 0x1FFF), (0x2000, 0x206F), (0x2070, 0x20CF), (0x20D0, 0x20FF), (0x2100, 0x21FF),
    (0x2200, 0x23FF), (0x2400, 0x25FF), (0x2600, 0x27BF), (0x27C0, 0x2BFF), (0x2C00, 0x2DFF), (0x2E00, 0x2E7F), (0x2E80, 0x2FFF),
    (0x3000, 0x30FF), (0x3100, 0x33FF), (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xA000, 0xA6FF), (0xA700, 0xABFF), (0xAC00, 0xD7A3),
    (0xF900, 0xFAFF), (0xFB00, 0xFDFF), (0xFE00, 0xFE6F), (0xFE70, 0xFEFF), (0xFF00, 0xFFEF), (0xFFF0, 0xFFFD), (0x10000, 0x100FF),
    (0x10280, 0x103DF), (0x10400, 0x107BF), (0x10800, 0x10FFF), (0x11000, 0x11FFF), (0x12000, 0x123FF), (0x13000, 0x1342F),
    (0x16800, 0x16FFF), (0x1B000, 0x1B2FF), (0x1D000, 0x1D7FF), (0x1E000, 0x1EEFF), (0x1F000, 0x1F2FF), (0x1F300, 0x1F5FF),
    (0x1F600, 0x1F64F), (0x1F680, 0x1F9FF), (0x1FA00, 0x1FAFF), (0x20000, 0x2A6DF), (0x2F800, 0x2FA1F), (0xE0000, 0xE007F),
    (0xE0100, 0xE01EF), (0xF0000, 0xF0010),
]
EMOJI = ["👩‍👩‍👧‍👦", "🏳️‍🌈", "👍🏽", "🇩🇪🇫🇷", "❤️", "1️⃣", "🏴\U000E0067\U000E0062\U000E0065\U000E006E\U000E0067\U000E007F", "☺︎", "🤷🏿‍♀️"]
SPACES = [" ", "  ", "   ", "\t", "\n", "\r\n", "\u00a0", "\u2003", "\u200b", "\u3000", "\u0085", "\u2028", "\u1680", "\u202f",
          "\x0b", "\x0c", "\ufeff", "\u180e", "\u2060"]
ENDS = ["'s", "'t", "'re", "'ve", "'m", "'ll", "'d", "'S", "’s", "'", "''s", " 's", "n't"]
WORDS = ("the food was Great and we'll see 123 4,567.89 http://a.b/c?d=e foo_bar don't I'm ÄÖÜ straße naïve Ǆ ﬁne İstanbul "
         "½ ² Ⅻ ٣٤ 好吃 みず 한국어 हिन्दी ไทย עברית العربية").split(" ")


def piece(rng):
    kind = rng.random()
    if kind < 0.35:
        return rng.choice(WORDS)
    if kind < 0.5:
        first, last = rng.choice(BLOCKS)
        return "".join(chr(rng.randint(first, last)) for _ in range(rng.randint(1, 6)))
    if kind < 0.6:
        return rng.choice("aeoAñ가好") + "".join(chr(rng.randint(0x300, 0x36F)) for _ in range(rng.randint(1, 4)))
    if kind < 0.68:
        return rng.choice(EMOJI)
    if kind < 0.86:
        return rng.choice(SPACES) * rng.choice([1, 1, 1, 2, 3])
    if kind < 0.94:
        return rng.choice(ENDS)
    if kind < 0.97:
        return chr(rng.choice([*range(1, 32), 0x7F, *range(0x80, 0xA0), 0x200D, 0x202E, 0xFFFD]))
    return rng.choice("!?.,;:-()[]{}\"#$%&*+/<=>@\\^`|~") * rng.randint(1, 5)


def make_texts(n, seed, also=()):
    """The first ones are no text at all, white space alone, very long words; `also` are put into some of the others."""
    rng = random.Random(seed)
    texts = ["", " ", "\n", " \n ", "\t\t", "a" * 3000, "ab" * 2500, "é" * 900, "好" * 700, "1" * 999, "!?" * 800,
             " " * 500 + "x", "x" + " " * 500, "👩‍👩‍👧‍👦" * 60, "e\u0301" * 300]
    while len(texts) < n:
        parts = [piece(rng) for _ in range(rng.randint(1, 14))]
        if also and rng.random() < 0.3:
            parts.insert(rng.randrange(len(parts) + 1), rng.choice(also))
        texts.append(rng.choice(["", " "]).join(parts))
    return texts[:n]


def every_character():
    """Each assigned code point between letters, and behind a space."""
    for c in [*range(1, 0xD800), *range(0xE000, 0x110000)]:
        if unicodedata.category(chr(c)) not in ("Cn", "Co"):
            yield f"a{chr(c)}1 {chr(c)}!"
