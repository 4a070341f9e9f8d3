package agent

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/slipcover/slipcover/internal/job"
	"github.com/slipcover/slipcover/internal/node"
	"github.com/slipcover/slipcover/internal/restore"
)

// The names of a restore's files are a server's, and lead nowhere but below the node's data.
func TestRestoredNamesStayInTheData(t *testing.T) {
	t.Parallel()
	located := errors.New("the node was looked for")
	for _, p := range []job.Part{
		{DB: "orders", As: "../../../etc/orders", Suffix: ".1750000000"},
		{DB: "orders", As: "a/../../b", Suffix: ".1750000000"},
		{DB: "orders", As: "_dbs", Suffix: ".1750000000"},
		{DB: "orders", As: "", Suffix: ".1750000000"},
		{DB: "orders", As: "orders", Suffix: "/../../x"},
		{DB: "orders", As: "orders", Suffix: ""},
		{DB: "orders", As: "orders", Suffix: ".175"},
	} {
		for _, step := range []job.Step{job.StepCheck, job.StepFiles, job.StepMap, job.StepAnswer} {
			p.Step = step
			a := &agent{o: Options{Locate: func(context.Context) (*node.Node, error) { return nil, located }}}
			c := &carrying{agent: a, w: &work{job: &job.Job{}}, p: &p}
			if r, err := c.databaseStep(t.Context()); err == nil || errors.Is(err, located) || step == job.StepMap && !r.Unwritten {
				t.Errorf("%+v: %v", p, err)
			}
		}
	}
	ok := job.Part{DB: "orders", As: "orders/of-2025", Suffix: ".1750000000", Step: job.StepCheck}
	a := &agent{o: Options{Locate: func(context.Context) (*node.Node, error) { return nil, located }}}
	if _, err := (&carrying{agent: a, w: &work{job: &job.Job{}}, p: &ok}).databaseStep(t.Context()); !errors.Is(err, located) {
		t.Errorf("a good name: %v", err)
	}
}

// An agent that was killed when a part was whole, before it said what is wrong with it and where that is which was there before, says so
// in the next attempt.
func TestProblemsOutliveAKill(t *testing.T) {
	t.Parallel()
	data := filepath.Join(t.TempDir(), "data")
	p := &job.Part{Replace: true, Round: time.Date(2026, 5, 4, 3, 2, 1, 0, time.UTC)}
	if err := errors.Join(os.Mkdir(data, 0o700), os.Mkdir(asideOf(data, p.Round), 0o700)); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile("../../testdata/couchdb-3.5.0/data/_dbs.couch")
	if err == nil {
		err = os.WriteFile(filepath.Join(data, "_dbs.couch"), b, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	c, part := &carrying{agent: &agent{dir: t.TempDir()}, p: p}, &restore.Part{}
	problems := []string{"a shard is not in the backup"}
	if err := c.noteRestored(part, data, problems); err != nil { // and no more than that
		t.Fatal(err)
	}
	r, err := c.finished(part, data, data)
	if err != nil || r == nil || !slices.Equal(r.Problems, problems) {
		t.Fatalf("%+v, %v", r, err)
	}
	if where := "what was in " + data + " before is in " + data + ".before-20260504T030201Z: remove it when nobody needs it"; len(r.Result.Notes) != 2 || r.Result.Notes[1] != where {
		t.Errorf("%q, want it to end with %q", r.Result.Notes, where)
	}
}
