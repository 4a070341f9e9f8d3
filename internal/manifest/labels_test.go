package manifest_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"strings"
	"testing"

	"github.com/slipcover/slipcover/internal/manifest"
)

func TestLabels(t *testing.T) {
	many := map[string]string{}
	for i := range 16 {
		many[fmt.Sprintf("key-%d", i)] = ""
	}
	more := maps.Clone(many)
	more["one.more"] = ""
	for _, tt := range []struct {
		name   string
		labels map[string]string
		want   string // of the error; "" is none
	}{
		{"none", nil, ""},
		{"usual", map[string]string{"trove.project": "4f2a", "a": strings.Repeat("é", 128), "0-": ""}, ""},
		{"sixteen", many, ""},
		{"seventeen", more, "at most 16"},
		{"no key", map[string]string{"": "x"}, "a label's key"},
		{"long key", map[string]string{strings.Repeat("a", 64): "x"}, "a label's key"},
		{"capital", map[string]string{"Project": "x"}, "a label's key"},
		{"space", map[string]string{"a b": "x"}, "a label's key"},
		{"long value", map[string]string{"a": strings.Repeat("x", 257)}, "at most 256 bytes"},
		{"not UTF-8", map[string]string{"a": "\xff"}, "UTF-8"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m := sample(t)
			m.Labels = tt.labels
			holds(t, "check", m.Check(), tt.want)
			if tt.name == "not UTF-8" { // JSON can't say it
				return
			}
			var b bytes.Buffer
			if err := manifest.Encode(&b, m); err != nil {
				t.Fatal(err)
			}
			got, err := manifest.Decode(&b, plenty)
			holds(t, "manifest", err, tt.want)
			if err == nil && !maps.Equal(got.Labels, tt.labels) {
				t.Errorf("manifest: got %v, want %v", got.Labels, tt.labels)
			}
			line, err := json.Marshal(&manifest.Record{Format: 1, Summary: m.Summary})
			if err != nil {
				t.Fatal(err)
			}
			var rec manifest.Record
			holds(t, "record", json.Unmarshal(line, &rec), tt.want)
			if !maps.Equal(rec.Labels, tt.labels) {
				t.Errorf("record: got %v, want %v", rec.Labels, tt.labels)
			}
		})
	}
}

func holds(t *testing.T, what string, err error, want string) {
	t.Helper()
	if want == "" && err != nil || want != "" && (!errors.Is(err, manifest.ErrFormat) || !strings.Contains(err.Error(), want)) {
		t.Errorf("%s: got %v, want %q", what, err, want)
	}
}
