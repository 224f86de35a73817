/*
 * convert/base64.h - bytes as text in JSON
 */
#ifndef CONVERT_BASE64_H
#define CONVERT_BASE64_H

#include <stddef.h>
#include <stdint.h>

/* The bytes that text[0 … length) stands for, into `bytes`, which has room for 3 · length / 4 of them; returns how many, or
 * SIZE_MAX where it is no base64. */
size_t cbm_base64_decode(const char *text, size_t length, uint8_t *bytes);
/* Writes 4 · ⌈n / 3⌉ characters and a NUL. */
void cbm_base64_encode(const uint8_t *bytes, size_t n, char *text);

#endif
