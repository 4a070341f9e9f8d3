package chttpd_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"testing"

	"github.com/slipcover/slipcover/internal/couchgen"
	"github.com/slipcover/slipcover/internal/serve"
	"github.com/slipcover/slipcover/internal/serve/chttpd"
	"github.com/slipcover/slipcover/internal/serve/servetest"
	"github.com/slipcover/slipcover/internal/storage/file"
	"github.com/slipcover/slipcover/internal/testenv"
)

// BenchmarkBesideCouchDB asks a CouchDB and a backup of it, in a folder, for the same: documents by id, all ids, all changes,
// all documents. The database has 256 MiB, or 10 GiB with SLIPCOVER_SCALE=full.
func BenchmarkBesideCouchDB(b *testing.B) {
	size := int64(256 << 20)
	if os.Getenv("SLIPCOVER_SCALE") == "full" {
		size = 10 << 30
	}
	data := b.TempDir()
	dir, err := couchgen.DataDir(data, couchgen.DirOptions{Q: 2, BytesPerDB: size, NodeName: testenv.DefaultNode})
	must(b, err)
	store, err := file.Open(b.TempDir())
	must(b, err)
	r, m := servetest.BackupTo(b, store, data)
	opened, err := serve.OpenNode(context.Background(), r, m)
	must(b, err)
	defer opened.Close()
	live := testenv.CouchDB(b, testenv.Options{DataDir: data})
	served := httptest.NewServer(chttpd.New(context.Background(), opened, chttpd.Options{Auth: chttpd.OneUser{Name: live.Admin, Password: live.Password}}))
	defer served.Close()
	db := testenv.DBPath(dir.Databases[0].Name)
	var list struct {
		Rows []struct {
			ID string `json:"id"`
		} `json:"rows"`
	}
	request(b, served.URL+db+"/_all_docs?limit=2000", live.Password, func(r io.Reader) error { return json.NewDecoder(r).Decode(&list) })
	for _, side := range []struct{ name, url string }{{"couchdb", live.URL}, {"backup", served.URL}} {
		b.Run("by-id/"+side.name, func(b *testing.B) {
			for i := 0; b.Loop(); i++ {
				request(b, side.url+db+"/"+list.Rows[i%len(list.Rows)].ID, live.Password, discard)
			}
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "docs/s")
		})
		for name, path := range map[string]string{"ids": "/_all_docs", "changes": "/_changes", "documents": "/_all_docs?include_docs=true"} {
			b.Run(name+"/"+side.name, func(b *testing.B) {
				rows := 0
				for b.Loop() {
					request(b, side.url+db+path, live.Password, func(r io.Reader) error {
						buf := make([]byte, 1<<20)
						for {
							n, err := r.Read(buf)
							rows += bytes.Count(buf[:n], []byte{'\n'})
							if err != nil {
								return err
							}
						}
					})
				}
				b.ReportMetric(float64(rows)/b.Elapsed().Seconds(), "rows/s")
			})
		}
	}
}

func discard(r io.Reader) error {
	_, err := io.Copy(io.Discard, r)
	return err
}

// request sends a request and gives its answer to read, which ends at io.EOF.
func request(b *testing.B, url, password string, read func(io.Reader) error) {
	b.Helper()
	req, err := http.NewRequestWithContext(b.Context(), http.MethodGet, url, nil)
	must(b, err)
	req.SetBasicAuth("admin", password)
	resp, err := http.DefaultClient.Do(req)
	must(b, err)
	defer resp.Body.Close()
	if err := read(resp.Body); err != nil && err != io.EOF {
		b.Fatal(err)
	}
	if resp.StatusCode != http.StatusOK {
		b.Fatal(fmt.Sprint(url, ": ", resp.Status))
	}
}
