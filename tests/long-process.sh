#!/bin/sh
# tests/long-process.sh - tests/test-process.sh with many random moments.
MOMENTS=40 exec sh tests/test-process.sh
