/*
 * convert/base64.c - bytes as text in JSON
 */
#include "convert/base64.h"

static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

static int value_of(char c) {
    if (c >= 'A' && c <= 'Z') return c - 'A';
    if (c >= 'a' && c <= 'z') return c - 'a' + 26;
    if (c >= '0' && c <= '9') return c - '0' + 52;
    return c == '+' ? 62 : c == '/' ? 63 : -1;
}

size_t cbm_base64_decode(const char *text, size_t length, uint8_t *bytes) {
    size_t n = 0;
    uint32_t bits = 0;
    if (length % 4) return SIZE_MAX;
    for (int i = 0; i < 2 && length && text[length - 1] == '='; i++) length--;
    for (size_t i = 0; i < length; i++) {
        int value = value_of(text[i]);
        if (value < 0) return SIZE_MAX;
        bits = bits << 6 | (uint32_t)value;
        if (i % 4) bytes[n++] = (uint8_t)(bits >> (6 - 2 * (i % 4)));
    }
    return n;
}

void cbm_base64_encode(const uint8_t *bytes, size_t n, char *text) {
    for (size_t i = 0; i < n; i += 3) {
        uint32_t bits = (uint32_t)bytes[i] << 16;
        if (i + 1 < n) bits |= (uint32_t)bytes[i + 1] << 8;
        if (i + 2 < n) bits |= bytes[i + 2];
        for (int d = 0; d < 4; d++) *text++ = i + (size_t)d > n ? '=' : digits[bits >> (18 - 6 * d) & 63];
    }
    *text = 0;
}
