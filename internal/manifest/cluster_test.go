package manifest_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/slipcover/slipcover/internal/manifest"
)

func TestCluster(t *testing.T) {
	var many []string
	for i := range 1024 {
		many = append(many, fmt.Sprintf("couchdb@n%04d", i))
	}
	for _, tt := range []struct {
		name    string
		cluster string
		nodes   []string
		want    string // of the error; "" is none
	}{
		{"none", "", nil, ""},
		{"a name alone", "Prod_1.eu", nil, ""},
		{"nodes alone", "", []string{"a@h", "b@h", "é@h"}, ""},
		{"both", "prod", []string{"a@h", "b@h"}, ""},
		{"as many as there can be", "", many, ""},
		{"too many", "", append(slices.Clone(many), "z@h"), "at most 1024"},
		{"blank", "a b", nil, "letters, digits"},
		{"path", "../a", nil, "letters, digits"},
		{"long", strings.Repeat("a", 64), nil, "at most 63"},
		{"without a name", "", []string{"", "a@h"}, "1 to 255 bytes"},
		{"long name", "", []string{strings.Repeat("a", 256)}, "1 to 255 bytes"},
		{"twice", "", []string{"a@h", "a@h"}, "come after"},
		{"out of order", "", []string{"b@h", "a@h"}, "come after"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m := sample(t)
			m.Cluster, m.Nodes = tt.cluster, tt.nodes
			holds(t, "check", m.Check(), tt.want)
			var b bytes.Buffer
			if err := manifest.Encode(&b, m); err != nil {
				t.Fatal(err)
			}
			got, err := manifest.Decode(&b, plenty)
			holds(t, "manifest", err, tt.want)
			if err == nil && (got.Cluster != tt.cluster || !slices.Equal(got.Nodes, tt.nodes)) {
				t.Errorf("manifest: got %q %v", got.Cluster, got.Nodes)
			}
			line, err := json.Marshal(&manifest.Record{Format: 1, Summary: m.Summary})
			if err != nil {
				t.Fatal(err)
			}
			if alone := tt.cluster == "" && tt.nodes == nil; alone && (bytes.Contains(line, []byte("cluster")) || bytes.Contains(line, []byte("nodes"))) {
				t.Errorf("a node that is alone has a record that earlier versions don't know: %s", line)
			}
			var rec manifest.Record
			holds(t, "record", json.Unmarshal(line, &rec), tt.want)
			if tt.want == "" && (rec.Cluster != tt.cluster || !slices.Equal(rec.Nodes, tt.nodes)) {
				t.Errorf("record: got %q %v", rec.Cluster, rec.Nodes)
			}
		})
	}
}
