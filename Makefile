# `make help` lists the verbs. Everything that a verb needs, it installs or names.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

# One target folder for all verbs: RocksDB's C++ build takes minutes and is paid once a profile.
export CARGO_TARGET_DIR ?= $(HOME)/.cache/quoin/target
CARGO := cargo
ROOT := $(dir $(abspath $(lastword $(MAKEFILE_LIST))))

.PHONY: help deps build run test verify fix fmt-check clippy golden sessions sim sim-scheduler sim-qualify compat compat-test bench bench-scheduler docs fuzz

help: ## List the verbs
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  \1\t\2/' | expand -t 18

deps: ## Install the system packages that building and testing need
	@$(ROOT)scripts/deps

build: deps ## Build the release binary
	$(CARGO) build --release --locked

run: build ## Start a three-member cluster on loopback until Ctrl-C
	@$(ROOT)scripts/run "$(CARGO_TARGET_DIR)/release/quoin"

test: deps ## Run all tests
	$(CARGO) test --locked

verify: deps fmt-check clippy test sim sim-scheduler docs compat-test ## All checks; changes nothing
	@echo "verify: all checks passed"

fmt-check:
	$(CARGO) fmt --check

clippy:
	$(CARGO) clippy --locked --all-targets -- -D warnings

fix: ## Format, and apply what clippy can mend by itself
	$(CARGO) clippy --fix --allow-dirty --allow-staged --locked --all-targets
	$(CARGO) fmt

# The simulation is built with optimisation and all checks; the memory engine is all it needs.
SIM := test --quiet --locked --no-default-features --profile sim --test sim

sim: ## Simulate clusters: SEEDS=3000 of them, or one with SEED=n
	$(CARGO) $(SIM) -- $(if $(SEED),--seed $(SEED) --trace,--seeds $(or $(SEEDS),3000))

sim-scheduler: ## Simulate the test scheduler: SEEDS=3000, or one with SEED=n
	$(CARGO) $(SIM) -- --scheduler $(if $(SEED),--seed $(SEED) --trace,--seeds $(or $(SEEDS),3000))

sim-qualify: ## Show that the simulation finds each planted bug (BUG=name SEED=n: run one)
	$(CARGO) $(SIM) --features planted-bugs -- $(if $(BUG),--bug $(BUG) $(if $(SEED),--seed $(SEED)),--qualify)

golden: ## Record the golden scripts anew; review the difference like code
	UPDATE_GOLDENFILES=1 $(CARGO) test --locked --lib

sessions: ## Record tests/ctl/sessions anew, with etcdctl 3.7.1 (scripts/etcd builds it)
	QUOIN_RECORD_ETCDCTL=$(or $(ETCDCTL),$(or $(QUOIN_CACHE),$(HOME)/.cache/quoin)/bin/etcdctl) \
		$(CARGO) test --locked --no-default-features --test ctl session::

docs: ## Build the API documentation, warnings denied
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked --no-deps --quiet

bench: build ## Measure against etcd on this machine
	@$(ROOT)scripts/bench

bench-scheduler: build ## Measure the test scheduler beside the least possible time
	@$(ROOT)scripts/bench-scheduler

# With what `test` has built: a release build of its own would take as long as all other checks.
compat-test: deps ## Run other clients against the debug binary that `test` has built
	$(CARGO) build --locked --bin quoin --example scenario
	@QUOIN_BIN=$(CARGO_TARGET_DIR)/debug/quoin $(ROOT)scripts/compat

compat: build ## Run other clients and etcd's own tools against Quoin
	@COMPAT_CARGO_FLAGS=--release COMPAT_SOAK=1 $(ROOT)scripts/compat

fuzz: ## Feed each reader random bytes for FUZZ_SECONDS=30 (needs cargo fuzz and a nightly compiler)
	@$(ROOT)scripts/fuzz
