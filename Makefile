# The targets a user needs are demo, test and run; each installs the system packages that it misses (Debian, Ubuntu).

CARGO ?= cargo
SUDO := $(shell [ "$$(id -u)" = 0 ] || echo sudo)
SEEDS ?= 200
SECONDS_EACH ?= 30

# What building needs, and what the tests and the demo need besides: a package that is missing here makes tests skip, and
# they say so.
BUILD_PACKAGES := clang gcc libbpf-dev libc6-dev linux-libc-dev make pkg-config
TEST_PACKAGES := baresip-core iproute2 openssl sip-tester stunnel4
# Of these only the programs are used: installed, Debian would start a server for each.
UNPACKED_PACKAGES := prometheus
TOOLS := $(CURDIR)/target/tools
# Servers that are only run by hand are in a user's path nowhere on Debian.
export PATH := $(PATH):$(TOOLS)/usr/bin:/usr/sbin:/sbin

# Of the packages, their checks and their smoke test.
PACKAGING_PACKAGES := binutils dpkg-dev file lintian man-db rpm rpmlint systemd
SMOKE_PACKAGES := mmdebstrap util-linux
CARGO_DEB_VERSION := 3.8.0
VERSION := $(shell sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)

# `make deb PROFILE=dev` packages the debug build.
PROFILE ?= release
BUILT := target/$(if $(filter dev,$(PROFILE)),debug,$(PROFILE))
PACKAGES := target/packages
STAGE := $(PACKAGES)/stage

# What the benches compare us with, and what they build their network with.
BENCH_PACKAGES := iproute2 sip-tester util-linux
BENCH_SERVERS := kamailio rtpengine-daemon
BENCHES = $(or $(CARGO_TARGET_DIR),target)/release
# QUICK=1 only shows that the benches run.
QUICK ?=

.PHONY: deb rpm stage deb-tools packaging-packages smoke smoke-deb smoke-rpm smoke-tools
.PHONY: help demo test run bench check-cargo build-packages test-packages lint unit sim fuzz clean

help:
	@echo "make demo   a call is answered, transferred by REFER and bridged, between real SIPp endpoints on loopback"
	@echo "make test   everything that CI runs"
	@echo "make deb, make rpm   packages in target/packages (PROFILE=dev: of the debug build)"
	@echo "make smoke  both packages in a clean Debian with systemd: install, call, transfer, upgrade during a call, remove"
	@echo "make run    the edge in the foreground with config/sip-edge.toml"
	@echo "make bench  RTP relays, access and signalling into bench/report/ (about 30 minutes; QUICK=1: few, to see that it runs)"
	@echo "make sim    SEEDS=$(SEEDS) seeded simulations of misbehaving peers"
	@echo "make fuzz   SECONDS_EACH=$(SECONDS_EACH) of each fuzz target"

check-cargo:
	@command -v $(CARGO) >/dev/null || { \
	  echo "cargo is missing. Install Rust by rustup (https://rustup.rs), then run make again."; \
	  exit 1; }

# Installs what of $(1) dpkg does not know. Where there is no dpkg, says what to install instead.
define install
	@if command -v dpkg-query >/dev/null; then \
	  missing=""; \
	  for p in $(1); do dpkg-query -W -f='$${Status}' $$p 2>/dev/null | grep -q 'ok installed' || missing="$$missing $$p"; done; \
	  if [ -n "$$missing" ]; then \
	    echo "installing:$$missing"; \
	    $(SUDO) apt-get update -qq && \
	    $(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing >/dev/null; \
	  fi; \
	else echo "not a Debian system; needed: $(1)"; fi
endef

# The same, of servers of which only the programs are used: none is started, now or when the machine starts.
define install-stopped
	@policy=/usr/sbin/policy-rc.d; \
	if command -v dpkg-query >/dev/null; then \
	  missing=""; made=""; \
	  for p in $(1); do dpkg-query -W -f='$${Status}' $$p 2>/dev/null | grep -q 'ok installed' || missing="$$missing $$p"; done; \
	  if [ -n "$$missing" ]; then \
	    echo "installing:$$missing"; \
	    [ -e $$policy ] || { made=1; printf '#!/bin/sh\nexit 101\n' | $(SUDO) tee $$policy >/dev/null; $(SUDO) chmod 755 $$policy; }; \
	    $(SUDO) apt-get update -qq && \
	    $(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing >/dev/null; \
	    status=$$?; \
	    [ -z "$$made" ] || $(SUDO) rm -f $$policy; \
	    for p in $$missing; do $(SUDO) systemctl disable --quiet $$p 2>/dev/null || true; done; \
	    exit $$status; \
	  fi; \
	else echo "not a Debian system; needed: $(1)"; fi
endef

build-packages: check-cargo
	$(call install,$(BUILD_PACKAGES))

test-packages: build-packages $(UNPACKED_PACKAGES:%=$(TOOLS)/%.unpacked)
	$(call install,$(TEST_PACKAGES))

# Tests that need such a program skip where it cannot be had.
$(TOOLS)/%.unpacked: | build-packages
	@mkdir -p $(TOOLS)/$*.deb && cd $(TOOLS)/$*.deb && \
	if command -v apt-get >/dev/null && { apt-get download -qq $* 2>/dev/null || \
	  { $(SUDO) apt-get update -qq && apt-get download -qq $*; }; }; then \
	  dpkg-deb -x ./$*_*.deb $(TOOLS) && touch $@; \
	else echo "$* could not be downloaded; tests that need it will skip"; fi

demo: test-packages
	$(CARGO) build --quiet --package sip-edge --bin sip-edge --example demo
	$(CARGO) run --quiet --package sip-edge --example demo

run: build-packages
	$(CARGO) run --quiet --package sip-edge -- run --config config/sip-edge.toml

test: test-packages lint unit

lint:
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --locked -- -D warnings

# nextest where it is installed: it gives each test a process of its own and shows what was slow. A test that cannot run on this
# machine says so and passes; its report tells which did.
unit:
	@if $(CARGO) nextest --version >/dev/null 2>&1; then \
	  status=0; $(CARGO) nextest run --workspace --locked --no-fail-fast || status=$$?; \
	  skipped=$$(grep -o 'SKIPPED.*' $(or $(CARGO_TARGET_DIR),target)/nextest/default/junit.xml | sort | uniq -c); \
	  if [ -n "$$skipped" ]; then echo "skipped, and how many tests:"; echo "$$skipped"; else echo "no test was skipped"; fi; \
	  [ $$status = 0 ] || exit $$status; \
	else \
	  $(CARGO) test --workspace --locked --no-fail-fast; \
	fi
	$(CARGO) test --workspace --locked --doc --quiet

# Namespaces, packet sockets and real-time priority need root; what is built stays the user's. A part that fails is told at the end
# and keeps none of the others from its report.
bench: build-packages
	$(call install,$(BENCH_PACKAGES))
	$(call install-stopped,$(BENCH_SERVERS))
	$(CARGO) build --release --quiet --locked --package sip-edge --package edge-bench
	mkdir -p bench/report
	@failed=""; \
	for part in "relay compare" access signalling; do \
	  echo "bench: $$part"; \
	  $(SUDO) $(BENCHES)/$$part $(if $(QUICK),--quick) --report bench/report || failed="$$failed $${part%% *}"; \
	done; \
	echo "reports: bench/report/{relay,access,signalling}.md"; \
	[ -z "$$failed" ] || { echo "FAILED, in whole or in part:$$failed"; exit 1; }

sim: check-cargo
	SEEDS=$(SEEDS) $(CARGO) run --quiet --package edge-sim -- --seeds $(SEEDS)

fuzz: build-packages
	@for t in $$(ls edge/fuzz/seeds); do echo "fuzzing $$t for $(SECONDS_EACH) s"; edge/fuzz/run $$t $(SECONDS_EACH) || exit 1; done

packaging-packages: build-packages
	$(call install,$(PACKAGING_PACKAGES))

# Their own speed does not matter: built fast.
define install-tool
	@if [ "$$($(CARGO) $(1) --version 2>/dev/null | sed 's/.* //')" != $(2) ]; then \
	  echo "installing cargo-$(1) $(2)"; \
	  CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_OPT_LEVEL=1 CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16 \
	    $(CARGO) install --quiet --locked cargo-$(1) --version $(2) $(3); \
	fi
endef

deb-tools: packaging-packages
	$(call install-tool,deb,$(CARGO_DEB_VERSION),--no-default-features --features gzip)

# What the packages hold besides files of the tree: completions come from the program itself, and the configuration differs
# from config/sip-edge.toml in where records go.
stage: packaging-packages
	$(CARGO) build --quiet --locked --package sip-edge --bin sip-edge --profile $(PROFILE)
	mkdir -p $(STAGE)
	for shell in bash zsh fish; do $(BUILT)/sip-edge completions $$shell > $(STAGE)/sip-edge.$$shell || exit 1; done
	sed 's|^path = "cdr.jsonl"  *|path = "/var/lib/sip-edge/cdr.jsonl" |' config/sip-edge.toml > $(STAGE)/sip-edge.toml
	grep -q '^path = "/var/lib/sip-edge/cdr.jsonl"' $(STAGE)/sip-edge.toml
	cp "$$(ls -t $(BUILT)/build/sip-edge-*/out/access.bpf.o | head -n 1)" $(STAGE)/access.bpf.o
	for page in sip-edge.8 sip-edge.toml.5; do gzip -9nc packaging/man/$$page > $(STAGE)/$$page.gz || exit 1; done
	CARGO=$(CARGO) packaging/third-party-licences.sh | gzip -9nc > $(STAGE)/third-party-licences.txt.gz

deb: stage deb-tools
	$(CARGO) deb --quiet --package sip-edge --no-build --profile $(PROFILE) --output $(PACKAGES)/
	lintian --fail-on error $$(ls -t $(PACKAGES)/*.deb | head -n 1)

rpm: stage
	strip -o $(STAGE)/sip-edge $(BUILT)/sip-edge
	$(call build-rpm,1,$(PACKAGES),$(STAGE))
	rpmlint --rpmlintrc packaging/rpm/rpmlintrc $(PACKAGES)/sip-edge-$(VERSION)-1.$(shell uname -m).rpm

# $(1): the release. $(2): where to. $(3): the directory with what was built.
define build-rpm
	rpmbuild -bb --quiet --define '_topdir $(CURDIR)/target/rpmbuild' --define '_rpmdir $(abspath $(2))' \
	  --define '_rpmfilename %{NAME}-%{VERSION}-%{RELEASE}.%{ARCH}.rpm' --define 'edge_version $(VERSION)' \
	  --define 'edge_release $(1)' --define 'tree $(CURDIR)' --define 'stage $(abspath $(3))' packaging/rpm/sip-edge.spec
endef

smoke: smoke-deb smoke-rpm

smoke-tools: packaging-packages
	$(call install,$(SMOKE_PACKAGES))
	$(CARGO) build --quiet --locked --package sip-edge --bin sip-edge --example demo
	mkdir -p target/smoke

smoke-deb: deb smoke-tools
	$(SUDO) packaging/smoke/deb $$(ls -t $(PACKAGES)/*.deb | head -n 1) target/debug/examples/demo

# The release after this one has another configuration.
smoke-rpm: rpm smoke-tools
	rm -rf target/smoke/next && cp -r $(STAGE) target/smoke/next
	echo "# Of the next version." >> target/smoke/next/sip-edge.toml
	$(call build-rpm,2,target/smoke,target/smoke/next)
	$(SUDO) packaging/smoke/rpm $(PACKAGES)/sip-edge-$(VERSION)-1.*.rpm target/smoke/sip-edge-$(VERSION)-2.*.rpm target/debug/examples/demo

clean:
	$(CARGO) clean
