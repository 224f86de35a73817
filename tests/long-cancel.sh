#!/bin/sh
# tests/test-cancel at every call of every hook, not at some of them
EVERY=1 "${BUILD:-build}/tests/test-cancel"
