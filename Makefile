# The thin front of the CMake build. `make help` lists the targets.
BUILD  ?= build
CUDA   ?= AUTO
JOBS   ?= $(shell nproc)
PREFIX ?= /usr/local
# For `make run`: ask once instead of chatting, another model than the demo, further arguments of l4-run.
PROMPT ?=
MODEL  ?=
ARGS   ?=
# For `make fuzz`: seconds for each fuzzer, and which (all).
FUZZ_SECONDS ?= 30
FUZZ   ?=

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := build
.PHONY: help deps configure build run test gpu-test cpu sanitize soak fuzz format format-check lint dist install clean

CONFIGURE = cmake -S . -B $(1) -G Ninja $(2) > $(1).log 2>&1 || { cat $(1).log; exit 1; }; \
            grep -E 'CUDA backend' $(1).log || true

help:  ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):[^#]*## /\1\t/' | expand -t 16
	@echo 'variables: CUDA=AUTO|ON|OFF  JOBS=n  BUILD=dir  PREFIX=dir (install)  PROMPT="..." MODEL=dir ARGS="..." (run)  FUZZ_SECONDS=30 (fuzz)'

run: build  ## install what is missing, build, chat with the demo model (PROMPT="..." answers once)
	@$(BUILD)/l4-run $(if $(MODEL),-m "$$MODEL") $(if $(PROMPT),--prompt="$$PROMPT") $(ARGS)
export PROMPT MODEL

test: build  ## install what is missing, build, run every test this machine can run
	@$(BUILD)/l4-tests

gpu-test: build  ## build, run the tests of the CUDA kernels on this machine's GPU
	@$(BUILD)/l4-run --list-devices  # "none" and why, where there is no GPU; the tests are skipped then
	@$(BUILD)/l4-tests -tc='cuda*'

build: deps configure  ## install what is missing, build
	@cmake --build $(BUILD) -j $(JOBS)

deps:  ## install the packages the build needs (apt-get, with sudo when not root)
	@scripts/install_deps.sh

configure: deps
	@$(call CONFIGURE,$(BUILD),-DL4_CUDA=$(CUDA))

cpu:  ## build and test without CUDA, in build-cpu
	@$(MAKE) --no-print-directory test BUILD=build-cpu CUDA=OFF

sanitize: deps  ## build and test with the address and undefined behaviour sanitizers, in build-sanitize
	@$(call CONFIGURE,build-sanitize,-DL4_CUDA=OFF -DL4_SANITIZE=ON -DCMAKE_BUILD_TYPE=RelWithDebInfo)
	@cmake --build build-sanitize -j $(JOBS)
	@LSAN_OPTIONS=print_suppressions=0:suppressions=$(CURDIR)/scripts/lsan.supp build-sanitize/l4-tests

soak: build  ## 1,000 streaming clients against l4-serve for 2 minutes, 10 % of which leave at random; 1 to 10 pictures at once
	@L4_SOAK_CLIENTS=1000 L4_SOAK_SECONDS=120 $(BUILD)/l4-tests -tc='serve soak*,l4-serve: pictures*,l4-serve: prompts at*'

fuzz: deps  ## build the fuzzers with clang, run each for FUZZ_SECONDS (FUZZ="http ..." picks some), in build-fuzz
	@FUZZ_SECONDS=$(FUZZ_SECONDS) JOBS=$(JOBS) scripts/fuzz.sh $(FUZZ)

format:  ## clang-format 14 over our sources
	@scripts/lint.sh format

format-check:  ## what `make format` would change
	@scripts/lint.sh format-check

lint: configure  ## clang-tidy 14 over our sources, and the include rule
	@scripts/lint.sh tidy $(BUILD)
	@cmake --build $(BUILD) -j $(JOBS) --target l4-tests
	@$(BUILD)/l4-tests -tc='include rule:*'

dist: build  ## a relocatable tarball in dist/, tried once unpacked
	@scripts/dist.sh $(BUILD)

install: build  ## install under PREFIX
	@cmake --install $(BUILD) --prefix '$(PREFIX)'

clean:  ## remove what was built
	rm -rf build build.log build-*/ build-*.log dist
