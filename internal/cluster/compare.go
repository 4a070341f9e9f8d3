package cluster

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/slipcover/slipcover/couchfile"
	"github.com/slipcover/slipcover/internal/diverge"
	"github.com/slipcover/slipcover/internal/manifest"
	"github.com/slipcover/slipcover/internal/repo"
	"github.com/slipcover/slipcover/internal/shard"
	"github.com/slipcover/slipcover/internal/topology"
)

// Compared is what is compared of a node.
type Compared struct {
	Node     string            `json:"node"`     // Erlang's name
	Instance string            `json:"instance"` // as the repository has it
	Backup   manifest.BackupID `json:"backup"`   // or the one that a moment stands on
	// From and Until are when its files were cut: each is as it was at some time between the two. All that was written
	// before From is in it.
	From  time.Time `json:"from"`
	Until time.Time `json:"until"`
}

// Newest is the member that a node's backup is.
func Newest(ctx context.Context, r *repo.Repo, node string, rec *manifest.Record) (Member, Compared, error) {
	m, err := r.Manifest(ctx, rec)
	return Member{Record: rec, Manifest: m, Repo: r}, Compared{node, rec.Instance, rec.ID, rec.Started, rec.Finished}, err
}

// Moment is the member that the newest moment of a node up to a time is, zero being no bound; instance is its name in the
// repository.
func Moment(ctx context.Context, r *repo.Repo, node, instance string, at time.Time) (Member, Compared, error) {
	m, moment, err := r.At(ctx, instance, at)
	if err != nil {
		return Member{}, Compared{}, err
	}
	c := Compared{node, instance, moment.Base.ID, moment.Base.Started, moment.Base.Finished}
	if moment.Chain != "" {
		c.From, c.Until = moment.At, moment.At
	}
	return Member{Record: moment.Base, Manifest: m, Repo: r}, c, nil
}

// Span is when the files of all nodes were cut.
func Span(nodes []Compared) (from, until time.Time) {
	for _, n := range nodes {
		if from.IsZero() || n.From.Before(from) {
			from = n.From
		}
		if n.Until.After(until) {
			until = n.Until
		}
	}
	return from, until
}

// Comparison compares the copies of ranges that members hold.
type Comparison struct {
	nodes  []Compared
	copies *Copies
}

// Compare begins a comparison; nodes are those of the members. Close ends it.
func (c *Cluster) Compare(r *repo.Repo, nodes []Compared) *Comparison {
	return &Comparison{nodes, c.Copies(r)}
}

// Close ends the comparison.
func (k *Comparison) Close() { k.copies.Close() }

// Divergence is what the copies of a range of a database disagree about.
type Divergence struct {
	Database string `json:"database"`
	Range    string `json:"range"`
	*diverge.Report
	NotCompared []NotCompared `json:"not_compared"`

	damaged bool // a copy is there and can't be opened
}

// NotCompared is a copy of a range that could not be compared.
type NotCompared struct {
	Node string `json:"node"`
	Why  string `json:"why"`
}

// Agrees says that there is nothing to be told of a range.
func (d *Divergence) Agrees() bool {
	return len(d.NotCompared) == 0 && (d.Report == nil || d.Report.Agrees())
}

// Unread says that something of a range could not be read.
func (d *Divergence) Unread() bool { return d.damaged || d.Report != nil && d.Report.Damaged() }

// Range compares the copies of a range, those that there are; first is how many documents of each kind are named, see
// diverge.Options. If ctx ends it returns its error, with what was found before if that is something.
func (k *Comparison) Range(ctx context.Context, db *topology.Database, rg shard.Range, first int) (*Divergence, error) {
	d := &Divergence{Database: db.Map.DB, Range: rg.String(), NotCompared: []NotCompared{}}
	left := func(node, why string, args ...any) {
		d.NotCompared = append(d.NotCompared, NotCompared{node, fmt.Sprintf(why, args...)})
	}
	name := shard.Name{Range: rg, DB: db.Map.DB, Suffix: db.Map.Suffix}
	var copies []diverge.Copy
	var holders []string
	for node, ranges := range db.Map.ByNode {
		if slices.Contains(ranges, rg) {
			holders = append(holders, node)
		}
	}
	slices.Sort(holders)
	for _, node := range holders {
		i := slices.IndexFunc(k.nodes, func(n Compared) bool { return n.Node == node })
		if i < 0 {
			left(node, "it has no backup, or only damaged ones")
			continue
		}
		f := k.copies.File(i, name)
		if f == nil {
			left(node, "its backup has no copy")
			continue
		}
		if f.Header == nil {
			d.damaged = true
			left(node, "its copy has no valid header, by the backup")
			continue
		}
		opened, done, err := k.copies.Open(ctx, i, name)
		if err == nil {
			defer done()
			copies = append(copies, diverge.Copy{Node: node, Moment: k.nodes[i].From, DB: opened})
			continue
		}
		if !unopenable(err) {
			return nil, err
		}
		d.damaged = true
		left(node, "its copy can't be opened: %v", err)
	}
	if len(copies) < 2 {
		for _, one := range copies {
			if len(holders) > 1 {
				left(one.Node, "there is no other copy to compare it with")
			}
		}
		return d, nil
	}
	var err error
	d.Report, err = diverge.Compare(ctx, copies, diverge.Options{First: first, Gone: repo.Damaged})
	if d.Report == nil {
		return nil, err
	}
	return d, err
}

// unopenable says that an error of opening a copy is one of its bytes, and none of what they are read from.
func unopenable(err error) bool {
	return repo.Damaged(err) || errors.Is(err, couchfile.ErrCorrupt) || errors.Is(err, couchfile.ErrNoHeader) ||
		errors.Is(err, couchfile.ErrNotDatabase) || errors.Is(err, couchfile.ErrUnsupportedVersion)
}

// Holding is what backups hold of a database.
type Holding struct {
	Name    string   `json:"name"`
	Q       int      `json:"q"`
	N       int      `json:"n"`
	Copies  int      `json:"copies"`  // of ranges, that the map names
	Held    int      `json:"held"`    // of them, that the backups hold
	Docs    uint64   `json:"docs"`    // of the fullest copy of each range
	Missing []string `json:"missing"` // ranges of which no backup has a copy
	// Lacks are, by node, how many copies that the map names there its backup doesn't hold.
	Lacks map[string]int `json:"-"`
}

// Holdings says what the members hold of the databases that are wanted, and how many shards of these each member; nodes are
// those of the members.
func (c *Cluster) Holdings(nodes []string, wanted func(string) bool) (list []Holding, held []int) {
	held = make([]int, len(c.Members))
	for i := range c.Databases {
		d := &c.Databases[i]
		if !wanted(d.Map.DB) {
			continue
		}
		line := Holding{Name: d.Map.DB, Q: len(d.Ranges), N: d.N(), Missing: []string{}, Lacks: map[string]int{}}
		for node, ranges := range d.Map.ByNode {
			line.Copies += len(ranges)
			line.Lacks[node] = len(ranges)
		}
		for _, rg := range d.Ranges {
			line.Held += len(rg.Copies)
			docs := uint64(0)
			for _, copied := range rg.Copies {
				held[copied.Backup]++
				line.Lacks[nodes[copied.Backup]]--
				docs = max(docs, copied.Docs)
			}
			line.Docs += docs
			if len(rg.Copies) == 0 {
				line.Missing = append(line.Missing, rg.Range.String())
			}
		}
		for _, gap := range d.Gaps() {
			line.Missing = append(line.Missing, gap.String())
		}
		list = append(list, line)
	}
	return list, held
}
