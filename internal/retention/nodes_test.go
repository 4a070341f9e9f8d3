package retention_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/slipcover/slipcover/internal/retention"
)

// TestNodesApart decides about backups of several CouchDBs under one name, the newest
// first: node, maker, databases, and what is wanted of it.
func TestNodesApart(t *testing.T) {
	t.Parallel()
	tests := []struct{ name, backups, want string }{
		{"one node", "a m 9, a m 9, a m 9", "keep keep go"},
		{"two machines of one name", "b n 9, b n 9, b n 9, a m 9, a m 9, a m 9", "keep keep go keep keep go"},
		{"two machines, and old records of both", "a m 9, a m 9, - n 9, - m 9, - n 9, - n 9", "keep keep keep go keep go"},
		{"old records of a node that says now which it is", "a m 9, - m 9, - m 9, - m 9", "keep keep go go"},
		{"and of two that do", "a m 9, b m 9, - m 9, - m 9, - m 9", "keep keep keep keep go"},
		{"another state directory", "a n 9, a m 9, a m 9", "keep keep go"},
		{"fresh files in an unmounted directory, of old records", "- m 0, - m 0, - m 0, - m 9, - m 9, - m 9", "keep keep go keep keep go"},
		{"with the databases of a new cluster", "- m 2, - m 2, - m 2, - m 25, - m 25", "keep keep go keep go"},
		{"some databases were deleted", "a m 5, a m 5, a m 5, a m 9", "keep keep go go"},
		{"never had a database", "a m 0, a m 0, a m 0", "keep keep go"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			now := at(t, "2026-11-22T10:00Z")
			var list []retention.Backup
			for i, line := range strings.Split(tt.backups, ", ") {
				b := retention.Backup{ID: fmt.Sprint(100 - i), Time: now.Add(-time.Duration(i) * time.Hour)}
				if _, err := fmt.Sscan(line, &b.Node, &b.Maker, &b.Databases); err != nil {
					t.Fatal(err)
				}
				if b.Node == "-" {
					b.Node = ""
				}
				list = append(list, b)
			}
			decisions, err := retention.Decide(retention.Policy{KeepLast: 2}, list, now)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, d := range decisions {
				got = append(got, map[bool]string{true: "keep", false: "go"}[d.Keep])
			}
			if strings.Join(got, " ") != tt.want {
				t.Errorf("got %s, want %s\n%s", strings.Join(got, " "), tt.want, text(decisions))
			}
		})
	}
}
