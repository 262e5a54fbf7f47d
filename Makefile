# What a person may want. `make` alone lists it.
.DEFAULT_GOAL := help
CARGO ?= cargo
PREFIX ?= /usr/local
TARGET = $(abspath $(or $(CARGO_TARGET_DIR),target))
TEST_PACKAGES = busybox-static nftables iproute2 docker-registry apache2-utils python3-minimal curl gcc libc6-dev git openssh-client openssh-server runc

.PHONY: help build demo test test-clients lint bench chaos fuzz install test-packages

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

build: ## the binary, target/release/wharf (or where CARGO_TARGET_DIR says)
	$(CARGO) build --release

demo: build ## WordPress and its database, on http://127.0.0.1:8000
	@command -v curl >/dev/null || { apt-get update -q && apt-get install -y -q --no-install-recommends curl; }
	examples/wordpress-mysql/demo $(TARGET)/release/wharf

# What runs in the background of a shell ignores Ctrl-C, and so would all that the tests start.
test: test-packages ## every test, containers included; as root
	env --default-signal=INT,QUIT,HUP $(CARGO) test

test-clients: build test-packages ## Docker's own clients, fetched in pinned versions, against an engine; as root
	tests/clients/run target/release/wharf

lint: ## formatting and clippy, and whether the fuzz targets compile
	$(CARGO) fmt --check
	$(CARGO) clippy --all-targets -- -D warnings
	CARGO_TARGET_DIR=$(TARGET) $(CARGO) check -q --manifest-path fuzz/Cargo.toml --no-default-features

bench: build ## wharf and, where it is set up, Docker Compose (PEER=COMMAND), side by side
	@command -v wrk >/dev/null && [ -x /bin/busybox ] || { apt-get update -q && apt-get install -y -q --no-install-recommends wrk busybox-static docker-registry gcc libc6-dev; }
	$(if $(PEER),PEER="$(PEER)") WHARF=$(TARGET)/release/wharf $(CARGO) bench --bench stacks

MINUTES ?= 10
SEED ?= 1

chaos: build test-packages ## crashes, full disks and power cuts against a model; MINUTES=10 SEED=1
	WHARF=$(TARGET)/release/wharf python3 tests/chaos/run.py minutes=$(MINUTES) seed=$(SEED)

install: build ## into $(PREFIX)/bin, with a systemd unit
	install -D -m 755 $(TARGET)/release/wharf $(DESTDIR)$(PREFIX)/bin/wharf
	install -d $(DESTDIR)$(PREFIX)/lib/systemd/system
	sed 's|/usr/local|$(PREFIX)|' dist/wharf.service > $(DESTDIR)$(PREFIX)/lib/systemd/system/wharf.service

test-packages:
	@for p in $(TEST_PACKAGES); do dpkg -s $$p >/dev/null 2>&1 || missing="$$missing $$p"; done; \
	[ -z "$$missing" ] || { apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends $$missing; }

FUZZ_FLAGS = -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
	-Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1 --cfg fuzzing
RUNS ?= 1000000
HOST = $(shell rustc -vV | sed -n 's/^host: //p')

fuzz: ## a million executions of each fuzz target (RUNS=N); needs a C++ compiler
	@command -v c++ >/dev/null || { apt-get update -q && apt-get install -y -q --no-install-recommends g++; }
	cd fuzz && RUSTFLAGS="$(FUZZ_FLAGS)" RUSTC_WORKSPACE_WRAPPER= $(CARGO) build --release --target $(HOST)
	@sh fuzz/seeds.sh
	@for target in $(basename $(notdir $(wildcard fuzz/targets/*.rs))); do \
		mkdir -p fuzz/corpus/$$target fuzz/artifacts/$$target; \
		[ $$target != layer ] || (cd tests && tar cf ../fuzz/corpus/layer/seed scenarios dockerfiles); \
		[ $$target != dockerfile ] || cp tests/dockerfiles/cases.txt fuzz/corpus/dockerfile/cases; \
		[ $$target != yaml ] || for f in tests/scenarios/*/compose.yaml; do cp $$f fuzz/corpus/yaml/$$(basename $$(dirname $$f)); done; \
		echo "== $$target"; \
		fuzz/target/$(HOST)/release/$$target -runs=$(RUNS) -max_len=4096 -timeout=10 -rss_limit_mb=1024 -verbosity=0 -print_final_stats=1 \
			-artifact_prefix=fuzz/artifacts/$$target/ fuzz/corpus/$$target || exit 1; \
	done
