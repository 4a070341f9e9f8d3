package contents

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"

	"github.com/slipcover/slipcover/internal/refusal"
	"github.com/slipcover/slipcover/internal/states"
)

// Look is one that can be asked for: here by Do, and elsewhere by its name.
type Look[Q, A any] struct {
	Name string
	Do   func(r *Reader, ctx context.Context, of *states.Shelf, q Q) (*A, error) // with a *refusal.Error
}

// looks are all by name, with queries and answers as JSON.
var looks = map[string]func(r *Reader, ctx context.Context, of *states.Shelf, query []byte) ([]byte, error){}

func newLook[Q, A any](name string, do func(*Reader, context.Context, *states.Shelf, Q) (*A, error)) Look[Q, A] {
	looks[name] = func(r *Reader, ctx context.Context, of *states.Shelf, query []byte) ([]byte, error) {
		var q Q
		if err := Decode(query, &q); err != nil {
			return nil, fmt.Errorf("the query of %s: %w", name, err)
		}
		a, err := do(r, ctx, of, q)
		if err != nil {
			return nil, err
		}
		return Encode(a)
	}
	return Look[Q, A]{name, do}
}

// Answer does the look of a name, with query and answer as Encode writes them.
func (r *Reader) Answer(ctx context.Context, of *states.Shelf, name string, query []byte) ([]byte, error) {
	do := looks[name]
	if do == nil {
		return nil, refusal.New(refusal.Unsupported, "The agent doesn't know the look %q: update it to the server's version.", name)
	}
	return do(r, ctx, of, query)
}

// Encode writes a query or an answer. Documents stay as they are but for white space: no character of them is escaped anew.
func Encode(v any) ([]byte, error) {
	var out bytes.Buffer
	e := json.NewEncoder(&out)
	e.SetEscapeHTML(false)
	err := e.Encode(v)
	return out.Bytes(), err
}

// Decode reads what Encode wrote. Numbers in values of no type stay as they are.
func Decode(text []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	return d.Decode(v)
}
