# make demo   the main job on a bundled sample of real CouchDB files
# make test   all tests; says at the end which were skipped and why
# make race   the same with the race detector
# make lint   gofmt, vet, golangci-lint, cross builds, govulncheck
# make fuzz   each fuzz target for FUZZTIME
# make packages  a deb and an rpm for this architecture, in build/
# make bench  side by side with tar, restic and Kopia

GO        ?= go
FUZZTIME  ?= 20s
TESTFLAGS ?=
VERSION   ?= $(shell git describe --tags --always --dirty 2>/dev/null)
# Google's library brings gRPC along, which is never used: without it the program is a third smaller.
TAGS      := -tags=disable_grpc_modules
TOOL      := $(GO) tool -modfile=internal/devtools/go.mod
export CGO_ENABLED ?= 0

.PHONY: build demo test race lint fuzz bench packages clean

build:
	$(GO) build $(TAGS) -trimpath -ldflags '-s -w -X github.com/slipcover/slipcover/internal/cli.version=$(VERSION)' -o bin/slipcover ./cmd/slipcover

demo: build
	bin/slipcover demo

test:
	@mkdir -p build && rm -f build/skipped
	@SLIPCOVER_SKIP_LOG=$(CURDIR)/build/skipped $(GO) test $(TAGS) -count=1 -shuffle=on -timeout 30m $(RACE) $(TESTFLAGS) ./... ; status=$$?; \
	  $(GO) run ./internal/testenv/skipsummary build/skipped; exit $$status

race: export CGO_ENABLED = 1
race: RACE = -race
race: test

lint:
	@files=$$(gofmt -l .); test -z "$$files" || { echo "gofmt -w $$files"; exit 1; }
	$(GO) vet ./...
	$(TOOL) golangci-lint run ./...
	GOOS=linux GOARCH=arm64 $(GO) build ./...
	GOOS=darwin GOARCH=arm64 $(GO) vet ./couchfile/... ./cmd/...
	GOOS=windows GOARCH=amd64 $(GO) vet ./couchfile/... ./cmd/...
	@mkdir -p build; $(TOOL) govulncheck ./... > build/vuln.txt 2>&1; status=$$?; \
	  if grep -q 'fetching vulnerabilities\|no such host\|connection refused\|dial tcp\|proxyconnect\|Forbidden' build/vuln.txt; then echo 'govulncheck: not checked, its database could not be reached'; status=0; \
	  else cat build/vuln.txt; fi; exit $$status

# Shrinking each input that finds a new path would take most of the time. At its end Go 1.26 can report "context deadline
# exceeded" though nothing was found (go.dev/issue/75804): then the target runs again.
fuzz:
	@mkdir -p build; set -e; for file in $$(grep -rl '^func Fuzz' --include='*_test.go' .); do \
	  for target in $$(sed -n 's/^func \(Fuzz[A-Za-z0-9_]*\)(.*/\1/p' $$file); do \
	    for try in 1 2 3; do \
	      if $(GO) test $(TAGS) -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 1x -parallel 2 $$(dirname $$file) > build/fuzz.log 2>&1; then \
	        echo "$$target in $$(dirname $$file), $(FUZZTIME): nothing found"; break; fi; \
	      if [ $$try = 3 ] || grep -q 'Failing input' build/fuzz.log || ! grep -q 'context deadline exceeded' build/fuzz.log; then cat build/fuzz.log; exit 1; fi; \
	    done; \
	  done; done

bench: build
	$(GO) run ./internal/bench -slipcover bin/slipcover $(BENCHFLAGS)

# Times in the packages are those of the commit.
packages: export SOURCE_DATE_EPOCH ?= $(shell git log -1 --format=%ct 2>/dev/null || date +%s)
packages: export PACKAGE_ARCH = $(shell $(GO) env GOARCH)
packages: export PACKAGE_VERSION = $(shell sh packaging/version.sh '$(VERSION)' "$$(git rev-list --count HEAD 2>/dev/null)")
packages: build
	@mkdir -p build/package && rm -f build/slipcover*.deb build/slipcover*.rpm
	bin/slipcover config example > build/package/slipcover.yml
	$(TOOL) nfpm package -f packaging/nfpm.yaml -p deb -t build/
	$(TOOL) nfpm package -f packaging/nfpm.yaml -p rpm -t build/

clean:
	rm -rf bin build
