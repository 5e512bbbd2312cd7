# `make demo` and `make test` do everything on a Debian 12 machine with Rust and root. `make help` lists the rest.

CACHE := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/anchorhold
export CARGO_TARGET_DIR ?= $(CACHE)/target/host
export ANCHORHOLD_IMAGE_DIR ?= $(CACHE)/images
BIN := $(CARGO_TARGET_DIR)/release
# Programs of others, from PyPI and npm: clients, and what is measured beside us.
CLIENTS := $(CACHE)/mcp-clients
CARGO_FLAGS := --release --locked

.PHONY: help demo test run bench load fuzz-api fuzz-egress browser-clients browser-apps mcp-clients mcp-conformance suites kernels setup images build ready own check clean
.DEFAULT_GOAL := help

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 18

demo: ready ## set up, build, do the real job, show the bill
	@$(BIN)/anchorhold-demo

# Boa's last step uses one core for minutes: the tests are compiled beside it.
test: ready ## set up, build, pass every test
	@./images/build.sh & images=$$!; \
	nice cargo test $(CARGO_FLAGS) --workspace --no-run; tests=$$?; \
	wait $$images && exit $$tests
	cargo test $(CARGO_FLAGS) --workspace --lib --bins --tests

run: ready ## serve on http://127.0.0.1:8080, state in /var/lib/anchorhold
	$(BIN)/anchorhold serve --data-dir /var/lib/anchorhold

bench: ready images $(CLIENTS)/installed $(CACHE)/beside/installed ## the numbers of SPECIFICATION.md, with a budget per step
	@$(BIN)/anchorhold-bench
	@cd tests/bench && PYTHONDONTWRITEBYTECODE=1 $(CLIENTS)/venv/bin/python browsers.py
	@cargo test $(CARGO_FLAGS) -q -p anchorhold-egress --test all -- --ignored --nocapture figures
	@cd tests/bench && PYTHONDONTWRITEBYTECODE=1 PYTHONPATH=../mcp $(CACHE)/beside/venv/bin/python beside.py
	@cargo test $(CARGO_FLAGS) -q -p anchorhold-tests --test all -- neighbours::a_hostile

# What native sessions are measured beside.
$(CACHE)/beside/installed: tests/bench/requirements.txt
	rm -rf $(CACHE)/beside
	/usr/bin/python3 -m venv $(CACHE)/beside/venv
	$(CACHE)/beside/venv/bin/python -m pip install -q --disable-pip-version-check --no-deps --require-hashes -r $<
	command -v bwrap >/dev/null || { apt-get update -qq && apt-get install -y -qq --no-install-recommends bubblewrap; }
	touch $@

# A package of its own, so that a load library is not built for `make demo`. It finds the programs by the path.
load: ready ## load: how many, how fast, at what cost; ARGUMENTS="--only idle --idle 1000", or "--help"
	cargo build $(CARGO_FLAGS) --manifest-path tests/load/Cargo.toml --target-dir $(CACHE)/target/load
	@PATH="$(BIN):$$PATH" $(CACHE)/target/load/release/anchorhold-load $(ARGUMENTS)

fuzz-api: ready ## requests of all kinds against the API's document, for five minutes at most
	@./tests/schemathesis.sh

# They speak to what was built, not to a model of it; what they need comes from PyPI and npm, once. node, too: the one of
# Debian is too old for them.
mcp-clients: ready $(CLIENTS)/installed ## the official MCP clients (Python, TypeScript) and an agent, against a server
	@cd tests/mcp && export PYTHONDONTWRITEBYTECODE=1; \
	$(CLIENTS)/venv/bin/python clients.py && $(CLIENTS)/venv/bin/python agent.py

browser-clients: ready $(CLIENTS)/installed ## stock Playwright and Puppeteer, against a session's browser
	@cd tests/mcp && export PYTHONDONTWRITEBYTECODE=1; $(CLIENTS)/venv/bin/python browsers.py

APPS := $(CACHE)/browser-apps

browser-apps: ready $(APPS)/installed ## real web apps (npm: TodoMVC, a kitchen sink), used as agents do; PICTURES=directory
	@cd tests/apps && RUST_LOG=warn PYTHONDONTWRITEBYTECODE=1 /usr/bin/python3 apps.py $(APPS)/node_modules $(abspath $(PICTURES))

mcp-conformance: ready $(CLIENTS)/installed ## the protocol's own test suite against the door for agents
	@PATH="$(CLIENTS)/venv/bin:$$PATH" MCP_CONFORMANCE=$(CLIENTS)/node_modules/@modelcontextprotocol/conformance/dist/index.js \
	cargo test $(CARGO_FLAGS) --workspace --lib -- --ignored --exact mcp::tests::conformance --nocapture

$(CLIENTS)/installed: tests/mcp/requirements.txt tests/mcp/package-lock.json
	rm -rf $(CLIENTS)
	/usr/bin/python3 -m venv $(CLIENTS)/venv
	$(CLIENTS)/venv/bin/python -m pip install -q --disable-pip-version-check -r tests/mcp/requirements.txt
	cp tests/mcp/package.json tests/mcp/package-lock.json $(CLIENTS)/
	cd $(CLIENTS) && PATH="$(CLIENTS)/venv/bin:$$PATH" npm ci --silent --ignore-scripts --no-audit --no-fund
	touch $@

# Only their files are used: no script of theirs runs outside of a session's browser.
$(APPS)/installed: tests/apps/package-lock.json $(CLIENTS)/installed
	rm -rf $(APPS)
	mkdir -p $(APPS)
	cp tests/apps/package.json tests/apps/package-lock.json $(APPS)/
	cd $(APPS) && PATH="$(CLIENTS)/venv/bin:$$PATH" npm ci --silent --ignore-scripts --no-audit --no-fund
	touch $@

suites: ready $(CACHE)/suites/fetched ## tests of CPython, numpy, pandas, scikit-learn and matplotlib, in native cells
	@cd tests/suites && PYTHONDONTWRITEBYTECODE=1 PYTHONPATH=../mcp /usr/bin/python3 suites.py $(CACHE)/suites $(ARGUMENTS)

$(CACHE)/suites/fetched: tests/suites/fetch.sh tests/suites/requirements.txt images/code/requirements.txt
	@tests/suites/fetch.sh $(CACHE)/suites
	@touch $@

kernels: ready ## tests on the kernel of this Debian, emulated: control groups v2 alone, v1 alone, no Landlock; TESTS="..."
	@program=$$(cargo test $(CARGO_FLAGS) --workspace --no-run --message-format=json | \
		sed -n 's/.*"executable":"\([^"]*\/deps\/all-[^"]*\)".*/\1/p' | while read one; do \
			"$$one" --list 2>/dev/null | grep -q kernels:: && echo "$$one"; done); \
	tests/kernels/kernels.sh $(CACHE) $(CACHE)/images "$$program" $(TESTS)

fuzz-egress: setup ## hosts, policies, addresses and TLS greetings of all kinds; CASES=1000000
	PROPTEST_CASES=$(or $(CASES),1000000) cargo test $(CARGO_FLAGS) -p anchorhold-egress --lib

setup: ## what the machine needs (Debian packages), if it is missing
	@./setup.sh

images: setup ## build what is missing in the image store
	@./images/build.sh

build: setup own ## the programs
	cargo build $(CARGO_FLAGS) --workspace --lib --bins

# Images and programs side by side: both have long stretches that use one core. What makes images goes first: they cannot
# be made without it, and cargo builds one thing of a directory at a time.
# Boa is left out: it takes minutes, and only who asks for it needs it (`make images`).
ready: setup own
	@echo "building images and programs (half an hour the first time) ..."
	@./images/build.sh chromium code python-wasm javascript-wasm & images=$$!; \
	./images/builder.sh >/dev/null && cargo build $(CARGO_FLAGS) --workspace --lib --bins; programs=$$?; \
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
	cargo fmt --manifest-path tests/load/Cargo.toml --check
	cargo clippy --locked --manifest-path tests/load/Cargo.toml --target-dir $(CACHE)/target/load --all-targets -- -D warnings

clean: ## forget built programs and images
	rm -rf $(CACHE)/target $(CACHE)/images
