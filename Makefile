# `make demo` and `make test` do everything on a Debian 12 machine with Rust and root. `make help` lists the rest.

CACHE := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/anchorhold
export CARGO_TARGET_DIR ?= $(CACHE)/target/host
export ANCHORHOLD_IMAGE_DIR ?= $(CACHE)/images
BIN := $(CARGO_TARGET_DIR)/release
CARGO_FLAGS := --release --locked

.PHONY: help demo test run bench setup images build check clean
.DEFAULT_GOAL := help

help: ## this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

demo: setup images build ## set up, build, do the real job, show the bill
	@$(BIN)/anchorhold-demo

test: setup images build ## set up, build, pass every test
	cargo test $(CARGO_FLAGS) --workspace --no-run
	cargo test $(CARGO_FLAGS) --workspace --lib --bins --tests

run: setup images build ## serve on http://127.0.0.1:8080, state in /var/lib/anchorhold
	$(BIN)/anchorhold serve --data-dir /var/lib/anchorhold

bench: setup images build ## the numbers of SPECIFICATION.md, with a budget per step
	@$(BIN)/anchorhold-bench

setup: ## what the machine needs (Debian packages), if it is missing
	@./setup.sh

images: setup ## build what is missing in the image store
	@./images/build.sh

build: setup ## the programs
	@echo "building the programs (a few minutes the first time) ..."
	cargo build $(CARGO_FLAGS) --workspace --bins

check: ## format and lints
	cargo fmt --all --check
	cargo clippy --locked --workspace --all-targets -- -D warnings

clean: ## forget built programs and images
	rm -rf $(CACHE)/target $(CACHE)/images
