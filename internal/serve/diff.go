package serve

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// Change is what differs between two states of a document, at one place.
type Change struct {
	Path string `json:"path"`           // JSON Pointer (RFC 6901)
	From any    `json:"from,omitempty"` // json.Number for numbers; nil if it wasn't there
	To   any    `json:"to,omitempty"`   // nil if it isn't there any more

	Added   bool `json:"added,omitempty"`   // it wasn't there; From null is a value else
	Removed bool `json:"removed,omitempty"` // it isn't there any more
}

// Diff returns what differs between two documents, as the server's JSON, in the order of paths; nil is one that isn't there.
// Attachments are the same if their digests and types are: what else a stub says changes with every revision.
func Diff(from, to []byte) ([]Change, error) {
	a, err := parseDocument(from)
	if err != nil {
		return nil, err
	}
	b, err := parseDocument(to)
	if err != nil {
		return nil, err
	}
	return differ(nil, "", a, b), nil
}

// parseDocument reads a document, nil if there is none.
func parseDocument(b []byte) (map[string]any, error) {
	if b == nil {
		return nil, nil
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber() // CouchDB keeps numbers as they were written
	var doc map[string]any
	if err := d.Decode(&doc); err != nil {
		return nil, fmt.Errorf("read a document: %w", err)
	}
	if atts, ok := doc["_attachments"].(map[string]any); ok {
		for name, att := range atts {
			if stub, ok := att.(map[string]any); ok {
				atts[name] = map[string]any{"content_type": stub["content_type"], "digest": stub["digest"], "length": stub["length"]}
			}
		}
	}
	return doc, nil
}

var escapePointer = strings.NewReplacer("~", "~0", "/", "~1")

// differ appends what differs between two values at a path.
func differ(out []Change, path string, a, b any) []Change {
	switch x := a.(type) {
	case map[string]any:
		if y, ok := b.(map[string]any); ok {
			keys := slices.AppendSeq(slices.Collect(maps.Keys(x)), maps.Keys(y))
			slices.Sort(keys)
			for _, k := range slices.Compact(keys) {
				p, q := has(x, k), has(y, k)
				out = member(out, path+"/"+escapePointer.Replace(k), x[k], y[k], p, q)
			}
			return out
		}
	case []any:
		if y, ok := b.([]any); ok {
			for i := range max(len(x), len(y)) {
				var p, q any
				if i < len(x) {
					p = x[i]
				}
				if i < len(y) {
					q = y[i]
				}
				out = member(out, path+"/"+strconv.Itoa(i), p, q, i < len(x), i < len(y))
			}
			return out
		}
	}
	if same(a, b) {
		return out
	}
	return append(out, Change{Path: path, From: a, To: b})
}

// member appends what differs at a place that only one of the two may have.
func member(out []Change, path string, a, b any, inA, inB bool) []Change {
	switch {
	case inA && inB:
		return differ(out, path, a, b)
	case inA:
		return append(out, Change{Path: path, From: a, Removed: true})
	}
	return append(out, Change{Path: path, To: b, Added: true})
}

func has(m map[string]any, k string) bool {
	_, ok := m[k]
	return ok
}

// same reports whether two values that are not both objects, nor both lists, are the same.
func same(a, b any) bool {
	switch a.(type) {
	case map[string]any, []any:
		return false
	}
	switch b.(type) {
	case map[string]any, []any:
		return false
	}
	return a == b
}
