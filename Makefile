# make demo   the main job on a bundled sample of real CouchDB files
# make test   all tests; says at the end which were skipped and why
# make soak   the same with many more rounds, for hours
# make race   with the race detector, where anything runs beside anything
# make lint   gofmt, golangci-lint, types as for other systems, govulncheck
# make fuzz   each fuzz target for FUZZTIME
# make packages  a deb and an rpm for this architecture, in build/
# make release   all that a release consists of, in build/release; release-check makes it twice
# make web    what browsers load of the dashboard, from its sources (needs Node); web-check compares
# make bench  side by side with tar, restic and Kopia

GO        ?= go
FUZZTIME  ?= 20s
TESTFLAGS ?=
TIMEOUT   ?= 30m
# Packages, and tests of each, at a time. With more the servers beside them answer too late for what tests have them prove.
JOBS      ?= $(shell getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2)
# Those that take longest begin first.
PACKAGES  ?= ./internal/cli/... ./internal/trove ./internal/backup ./internal/storage/swift ./internal/bus ./...
VERSION   ?= $(shell git describe --tags --always --dirty 2>/dev/null)
# Google's library brings gRPC along, which is never used: without it the program is a third smaller.
TAGS      := -tags=disable_grpc_modules
TOOL      := $(GO) tool -modfile=internal/devtools/go.mod
export CGO_ENABLED ?= 0

.PHONY: build demo test soak race lint fuzz bench packages release release-check web web-check clean

build:
	$(GO) build $(TAGS) -trimpath -ldflags '-s -w -X github.com/slipcover/slipcover/internal/cli/core.version=$(VERSION)' -o bin/slipcover ./cmd/slipcover

demo: build
	bin/slipcover demo

test:
	@mkdir -p build && rm -f build/skipped
	@SLIPCOVER_SKIP_LOG=$(CURDIR)/build/skipped $(GO) test $(TAGS) -vet=off -count=1 -shuffle=on -p $(JOBS) -parallel $(JOBS) -timeout $(TIMEOUT) $(RACE) $(TESTFLAGS) $(PACKAGES); status=$$?; \
	  $(GO) run ./internal/testenv/skipsummary build/skipped; exit $$status

# Twenty times the rounds of tests that get surer with each, and what the others leave out.
soak: export SLIPCOVER_ROUNDS ?= 20
soak: export SLIPCOVER_SCALE ?= full
soak: TIMEOUT = 12h
soak: test

race: PACKAGES = $$(.ci/concurrent)
race: export CGO_ENABLED = 1
race: RACE = -race
# A program that is built so waits at its end for what else it may find: tests that start it hundreds of times would wait a second each.
race: export GORACE ?= atexit_sleep_ms=50
race: test

lint:
	@files=$$(gofmt -l .); test -z "$$files" || { echo "gofmt -w $$files"; exit 1; }
	$(TOOL) golangci-lint run ./...
	$(GO) run ./internal/testenv/crosscheck linux/arm64 darwin/arm64 windows/amd64 -- ./...
	@mkdir -p build; $(TOOL) govulncheck $(TAGS) ./... > build/vuln.txt 2>&1; status=$$?; \
	  if grep -q 'fetching vulnerabilities\|no such host\|connection refused\|dial tcp\|proxyconnect\|Forbidden' build/vuln.txt; then echo 'govulncheck: not checked, its database could not be reached'; status=0; \
	  else cat build/vuln.txt; fi; exit $$status

fuzz:
	.ci/fuzz $(FUZZTIME)

bench: build
	$(GO) run ./internal/bench -slipcover bin/slipcover $(BENCHFLAGS)

# Times in the packages are those of the commit.
packages: export SOURCE_DATE_EPOCH ?= $(shell git log -1 --format=%ct 2>/dev/null || date +%s)
packages: export PACKAGE_ARCH = $(shell $(GO) env GOARCH)
packages: export PACKAGE_VERSION = $(shell sh packaging/version.sh '$(VERSION)' "$$(git rev-list --count HEAD 2>/dev/null)")
packages: export PACKAGE_PROGRAM = bin/slipcover
packages: export PACKAGE_FILES = build/package
packages: build
	@mkdir -p build/package && rm -f build/slipcover*.deb build/slipcover*.rpm
	bin/slipcover config example > build/package/slipcover.yml
	bin/slipcover completion bash > build/package/slipcover.bash
	bin/slipcover completion zsh > build/package/_slipcover
	bin/slipcover completion fish > build/package/slipcover.fish
	$(TOOL) nfpm package -f packaging/nfpm.yaml -p deb -t build/
	$(TOOL) nfpm package -f packaging/nfpm.yaml -p rpm -t build/

# Two runs for one commit with one Go give the same bytes. release-check makes it again elsewhere and compares.
release release-check: export SOURCE_DATE_EPOCH ?= $(shell git log -1 --format=%ct 2>/dev/null || date +%s)
release release-check: export RELEASE_VERSION = $(VERSION)
release release-check: export RELEASE_PACKAGE_VERSION = $(shell sh packaging/version.sh '$(VERSION)' "$$(git rev-list --count HEAD 2>/dev/null)")
release:
	@mkdir -p build/tools
	$(GO) build -modfile=internal/devtools/go.mod -o build/tools/nfpm github.com/goreleaser/nfpm/v2/cmd/nfpm
	$(GO) build -o build/tools/release ./packaging/release
	build/tools/release -nfpm $(CURDIR)/build/tools/nfpm $(RELEASEFLAGS) build/release

release-check: release
	@again=$$(mktemp -d) && trap 'rm -rf "$$again"' EXIT && git ls-files -z | tar -cf - --null -T - | tar -xf - -C "$$again" && cd "$$again" && \
	  umask 077 && find . -exec touch {} + && TZ=Asia/Kathmandu $(CURDIR)/build/tools/release -nfpm $(CURDIR)/build/tools/nfpm $(RELEASEFLAGS) out && \
	  diff -r out $(CURDIR)/build/release && echo 'release-check: the same bytes'

# What is built is committed: Go needs no Node. web-check says whether it is what the sources give.
web:
	cd internal/web && npm ci --no-audit --no-fund && npm run check && npm run build

web-check:
	@new=$$(mktemp -d) && trap 'rm -rf "$$new"' EXIT && cp internal/web/static/icon.svg "$$new" && cd internal/web && npm ci --no-audit --no-fund && npm run check && \
	  node build.mjs "$$new" && diff -r "$$new" static && echo 'web-check: the same bytes'

clean:
	rm -rf bin build
