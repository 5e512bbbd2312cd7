# `make demo` and `make test` do everything on a Debian 12 machine with Rust and root. `make help` lists the rest.

CACHE := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/anchorhold
export CARGO_TARGET_DIR ?= $(CACHE)/target/host
export ANCHORHOLD_IMAGE_DIR ?= $(CACHE)/images
BIN := $(CARGO_TARGET_DIR)/release
CARGO_FLAGS := --release --locked

.PHONY: help demo test run bench mcp-clients setup images build ready own check clean
.DEFAULT_GOAL := help

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

demo: ready ## set up, build, do the real job, show the bill
	@$(BIN)/anchorhold-demo

test: ready ## set up, build, pass every test
	cargo test $(CARGO_FLAGS) --workspace --no-run
	cargo test $(CARGO_FLAGS) --workspace --lib --bins --tests

run: ready ## serve on http://127.0.0.1:8080, state in /var/lib/anchorhold
	$(BIN)/anchorhold serve --data-dir /var/lib/anchorhold

bench: ready ## the numbers of SPECIFICATION.md, with a budget per step
	@$(BIN)/anchorhold-bench

# They speak to what was built, not to a model of it; what they need comes from PyPI, once.
CLIENTS := $(CACHE)/mcp-clients

mcp-clients: ready $(CLIENTS)/installed ## the official Python MCP client and an agent, against a server
	@cd tests/mcp && python=$(CLIENTS)/venv/bin/python; export PYTHONDONTWRITEBYTECODE=1; \
	$$python clients.py && $$python agent.py

$(CLIENTS)/installed: tests/mcp/requirements.txt
	python3 -m venv $(CLIENTS)/venv
	$(CLIENTS)/venv/bin/pip install -q -r tests/mcp/requirements.txt
	touch $@

setup: ## what the machine needs (Debian packages), if it is missing
	@./setup.sh

images: setup ## build what is missing in the image store
	@./images/build.sh

build: setup own ## the programs
	cargo build $(CARGO_FLAGS) --workspace --bins

# Images and programs side by side: both have long stretches that use one core.
ready: setup own
	@echo "building images and programs (some twenty minutes the first time) ..."
	@./images/build.sh & images=$$!; \
	cargo build $(CARGO_FLAGS) --workspace --bins; programs=$$?; \
	wait $$images && exit $$programs

# Checkouts share the build directory for the sake of the dependencies. cargo goes by dates, so without this it could
# take the programs of another checkout for ours.
own: setup
	@if [ "$$(cat $(CARGO_TARGET_DIR)/checkout 2>/dev/null)" != "$(CURDIR)" ]; then \
		mkdir -p $(CARGO_TARGET_DIR) && cargo clean -q --workspace --release && \
		echo "$(CURDIR)" > $(CARGO_TARGET_DIR)/checkout; \
	fi

check: ## format and lints
	cargo fmt --all --check
	cargo clippy --locked --workspace --all-targets -- -D warnings

clean: ## forget built programs and images
	rm -rf $(CACHE)/target $(CACHE)/images
