package job_test

import (
	"testing"

	"github.com/slipcover/slipcover/internal/job"
)

// A location is the same whether it was shortened or not.
func TestLocation(t *testing.T) {
	const name = "/manifest.json.zst.age"
	s3 := job.Repository{URL: "s3://bucket/couchdb"}
	swift := job.Repository{URL: "swift://box", Storage: "https://swift/v1/AUTH_p/"}
	for _, c := range []struct {
		in              job.Repository
		location, short string
	}{
		{s3, "s3://bucket/couchdb/backups/db1/r1" + name, name},
		{swift, "https://swift/v1/AUTH_p/box/backups/db1/r1" + name, name},
		{s3, "s3://bucket/couchdb/backups/db1/r1" + name + "?region=x", name + "?region=x"},
		{s3, "s3://bucket/couchdb/backups/db1/r11" + name, "s3://bucket/couchdb/backups/db1/r11" + name},
		{s3, "s3://other/backups/db1/r1" + name, "s3://other/backups/db1/r1" + name},
		{s3, "", ""},
	} {
		b := job.Backup{RepoName: "db1", Repository: c.in, Result: job.Result{RepoID: "r1", LocationRef: c.location}}
		if b.Location() != c.location {
			t.Errorf("%s: it is at %s", c.location, b.Location())
		}
		for range 2 {
			if b.ShortenLocation(); b.LocationRef != c.short || b.Location() != c.location {
				t.Errorf("%s: shortened to %s, which is at %s", c.location, b.LocationRef, b.Location())
			}
		}
	}
}
