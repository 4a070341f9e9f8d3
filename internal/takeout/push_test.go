package takeout_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/slipcover/slipcover/internal/takeout"
	"github.com/slipcover/slipcover/internal/testenv"
)

// leaves are all leaves of all documents, deleted ones too, with their histories and attachments' bytes.
func leaves(t *testing.T, c *testenv.Couch, db string) map[string]any {
	t.Helper()
	var feed struct {
		Results []struct{ ID string }
	}
	must(t, c.Get(testenv.DBPath(db)+"/_changes", &feed))
	out := map[string]any{}
	for _, r := range feed.Results {
		var revs []struct {
			OK map[string]any `json:"ok"`
		}
		must(t, c.Get(testenv.DBPath(db, r.ID)+"?open_revs=all&revs=true&attachments=true", &revs))
		for _, x := range revs {
			out[fmt.Sprint(r.ID, " ", x.OK["_rev"])] = x.OK
		}
	}
	return out
}

// TestPush writes whole databases over HTTP, stopped again and again, and compares every leaf.
func TestPush(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(c *testenv.Couch) {
		fillDocs(t)(c)
		must(t, c.Put("/shop/_security", map[string]any{"members": map[string]any{"names": []string{"ann"}}}, nil))
		must(t, c.Put("/parted/_security", map[string]any{}, nil))
		must(t, c.Put("/shop/_revs_limit", 77, nil))
		var docs []any
		for i := range 1200 {
			docs = append(docs, map[string]any{"_id": fmt.Sprintf("m%04d", i), "n": i, "text": strings.Repeat("x", 500)})
		}
		must(t, c.Post("/shop/_bulk_docs", map[string]any{"docs": docs}, nil))
		// Attachments that were written without a position in the history have 0.
		must(t, c.Post("/shop/_bulk_docs", map[string]any{"new_edits": false, "docs": []any{map[string]any{"_id": "apart", "_rev": "1-" + strings.Repeat("a", 32),
			"_attachments": map[string]any{"a.txt": map[string]any{"content_type": "text/plain", "data": "aGVsbG8="}}}}}, nil))
		must(t, c.Put("/shop/gone", map[string]any{}, nil))
		must(t, c.Delete("/shop/gone?rev="+(&world{Couch: c}).rev(t, "shop", "gone")))
		must(t, c.Put("/shop/_design/no", map[string]any{"validate_doc_update": "function(d){ if (d.n > 5) throw({forbidden: 'no'}) }"}, nil))
	})
	for _, db := range []string{"shop", "parted"} {
		from := w.from(t, db)
		o := takeout.PushOptions{Server: w.srv, DB: db + "-copy", From: from, State: "s"}
		stops := 0
		var res *takeout.Pushed
		for i := range 20 { // a machine may be too busy for any of them, but the last
			wait := time.Duration(1+rand.IntN(50*(i+1))) * time.Millisecond
			if i == 19 {
				wait = time.Minute
			}
			ctx, cancel := context.WithTimeout(t.Context(), wait)
			got, err := takeout.Push(ctx, o)
			stopped := ctx.Err() != nil
			cancel()
			if res = got; err == nil {
				break
			}
			if !stopped {
				t.Fatalf("%s: %v", db, err)
			}
			stops++
		}
		if stops == 0 && db == "shop" {
			t.Error("it was never stopped: this proves nothing")
		}
		if res == nil || len(res.Refused) > 0 || res.Compared == 0 {
			t.Fatalf("%+v", res)
		}
		want, got := leaves(t, w.Couch, db), leaves(t, w.Couch, db+"-copy")
		for k, v := range want {
			if !reflect.DeepEqual(v, got[k]) {
				t.Errorf("%s: %s is not the same", db, k)
			}
		}
		if len(got) != len(want) {
			t.Errorf("%s: %d leaves, not %d", db, len(got), len(want))
		}
		for _, path := range []string{"/_security", "/_revs_limit", "/_design_docs"} {
			var a, b any
			must(t, w.Get(testenv.DBPath(db)+path, &a))
			must(t, w.Get(testenv.DBPath(db+"-copy")+path, &b))
			if !reflect.DeepEqual(a, b) {
				t.Errorf("%s%s: %v, not %v", db, path, b, a)
			}
		}
		var info struct{ Props struct{ Partitioned bool } }
		must(t, w.Get(testenv.DBPath(db+"-copy"), &info))
		if info.Props.Partitioned != (db == "parted") {
			t.Errorf("%s: %+v", db, info)
		}
		if _, err := takeout.Push(t.Context(), o); !errors.Is(err, takeout.ErrTaken) {
			t.Errorf("again: %v", err)
		}
	}
}

// TestPushEnds: stopped in its last step, or if the answer to that is lost, it isn't told as unfinished, since the next call would
// find a database that is whole and taken.
func TestPushEnds(t *testing.T) {
	t.Parallel()
	w := newWorld(t, fillDocs(t))
	front := testenv.NewFront(t, w.URL)
	srv, _, err := takeout.Open(t.Context(), front.URL, w.Admin, w.Password)
	must(t, err)
	for name, fault := range map[string]func(stop func()) testenv.Fault{
		"stopped": func(stop func()) testenv.Fault {
			return func(w http.ResponseWriter, r *http.Request, next http.Handler) {
				stop()
				time.Sleep(50 * time.Millisecond) // who would heed that is gone by then
				next.ServeHTTP(w, r)
			}
		},
		"lost": func(func()) testenv.Fault { return testenv.LoseAnswer },
	} {
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		deletes := 0
		front.Set(func(_ int, r *http.Request) testenv.Fault {
			if r.Method == http.MethodDelete {
				if deletes++; deletes == 1 {
					return fault(stop)
				}
			}
			return nil
		})
		o := takeout.PushOptions{Server: srv, DB: "end-" + name, From: w.from(t, "shop"), State: "s"}
		if res, err := takeout.Push(ctx, o); err != nil || res.Compared == 0 {
			t.Errorf("%s: %+v, %v", name, res, err)
		}
		if err := w.Get("/end-"+name+"/_local/slipcover-restore", nil); testenv.Status(err) != http.StatusNotFound {
			t.Errorf("%s: the checkpoint: %v", name, err)
		}
		if _, err := takeout.Push(t.Context(), o); !errors.Is(err, takeout.ErrTaken) {
			t.Errorf("%s, again: %v", name, err)
		}
	}
}
