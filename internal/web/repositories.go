package web

import (
	"cmp"
	"slices"
	"strings"

	"github.com/slipcover/slipcover/internal/job"
)

// repositories are those that agents have in their settings, and those that backups are in.
func (c *call) repositories() []repositoryRow {
	type key struct{ id, url, storage string }
	rows := map[key]*repositoryRow{}
	of := func(r job.Repository) *repositoryRow {
		k := key{r.ID, r.URL, r.Storage}
		if r.ID != "" {
			k = key{id: r.ID, storage: r.Storage}
		}
		row := rows[k]
		if row == nil {
			row = &repositoryRow{URL: r.URL, Storage: r.Storage}
			rows[k] = row
		}
		row.URL = cmp.Or(row.URL, r.URL)
		return row
	}
	for _, a := range c.agents() {
		if r := a.Hello.Repository; r.URL != "" || r.ID != "" {
			row := of(r)
			row.Agents = append(row.Agents, a.Name)
		}
	}
	var row *repositoryRow // of the backup before, which mostly has the same repository
	var last job.Repository
	c.o.Server.EachBackup(c.who, c.all(), func(b *job.Backup) bool {
		if !b.Status.Usable() || b.Repository.URL == "" && b.Repository.ID == "" {
			return true
		}
		if r := &b.Repository; row == nil || r.ID != last.ID || r.URL != last.URL || r.Storage != last.Storage {
			row, last = of(*r), *r
		}
		row.Backups++
		row.Stored += b.Stored
		if b.Updated.After(row.Newest) {
			row.Newest = b.Updated
		}
		return true
	})
	var out []repositoryRow
	for _, row := range rows {
		out = append(out, *row)
	}
	slices.SortFunc(out, func(a, b repositoryRow) int {
		return cmp.Or(strings.Compare(a.URL, b.URL), strings.Compare(a.Storage, b.Storage))
	})
	return out
}
