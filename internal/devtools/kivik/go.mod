// A program that reads a served backup with go-kivik, for tests of internal/serve/chttpd. It is a module of its own so that
// what it needs is never chosen for the product.
module github.com/slipcover/slipcover/internal/devtools/kivik

go 1.26.0

require github.com/go-kivik/kivik/v4 v4.5.2

require (
	github.com/google/uuid v1.6.0 // indirect
	golang.org/x/net v0.35.0 // indirect
	golang.org/x/sync v0.11.0 // indirect
)
