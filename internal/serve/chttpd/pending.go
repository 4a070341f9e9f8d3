package chttpd

import (
	"github.com/slipcover/slipcover/internal/ejson"
	"github.com/slipcover/slipcover/internal/serve"
)

func (f *feed) parseSelector() error { return notImplemented("selectors are to come") }

func (h *Handler) view(*request, *serve.Database, ejson.Object) error {
	return notImplemented("views are to come")
}

func (h *Handler) designInfo(*request, *serve.Database, ejson.Object) error {
	return notImplemented("views are to come")
}
