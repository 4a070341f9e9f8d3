package contents

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/slipcover/slipcover/internal/job"
	"github.com/slipcover/slipcover/internal/manifest"
	"github.com/slipcover/slipcover/internal/repo"
	"github.com/slipcover/slipcover/internal/states"
)

// Damage is what was found damaged in the source of an instance, as its newest backups tell it.
type Damage struct {
	Findings []Finding `json:"findings"` // those that the newest backup has first, then by database and document
	// Looked is how many backups were looked at, the newest; More says that there are others, older ones.
	Looked int  `json:"looked"`
	More   bool `json:"more"`
}

// Finding is something that couldn't be read in the source.
type Finding struct {
	Database string `json:"database"`
	Document string `json:"document,omitempty"` // missing where it hurts more than one, or none
	Path     string `json:"path"`
	What     string `json:"what"`
	Error    string `json:"error"`
	Now      bool   `json:"now"` // the newest backup has it
	// Since is the oldest backup in a row that has it, Last the newest one.
	Since Backed `json:"since"`
	Last  Backed `json:"last"`
	// Whole is the newest backup before those that has no such finding; missing if none of those looked at.
	Whole *Backed `json:"whole,omitempty"`
}

// Backed is a backup and when it was begun.
type Backed struct {
	Backup string    `json:"backup"`
	At     time.Time `json:"at"`
}

const (
	// mostLooked is how many backups are looked at, and mostFindings how many findings are told.
	mostLooked   = 60
	mostFindings = 1000
)

// DamageQuery is of all.
type DamageQuery struct{}

// LookDamage tells of the damage that an instance's backups found in its source: what, since when, and which backup has it whole.
// The records of those that are damaged are read, no files.
var LookDamage = newLook("damage", (*Reader).damage)

func (r *Reader) damage(ctx context.Context, of *states.Shelf, _ DamageQuery) (*Damage, error) {
	v, err := r.views.Repository(ctx, of)
	if err != nil {
		return nil, err
	}
	defer v.Close()
	ctx, done, err := r.walk(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	list := v.Backups[:min(len(v.Backups), mostLooked)]
	found := make([][]manifest.Damage, len(list))
	for i, b := range list {
		if b.Damage == 0 {
			continue
		}
		rec, err := v.Repo.Record(ctx, v.Name, manifest.BackupID(b.RepoID))
		if err != nil {
			return nil, fault(ctx, err)
		}
		m, err := v.Repo.Manifest(ctx, rec)
		if err != nil {
			return nil, fault(ctx, err)
		}
		found[i] = m.Damage
	}
	return &Damage{Findings: findings(list, found), Looked: len(list), More: len(v.Backups) > len(list)}, nil
}

// findings puts together what backups, the newest first, have found.
func findings(list []*job.Backup, found [][]manifest.Damage) []Finding {
	type key struct{ path, doc, what string }
	at := map[key]int{}
	out := []Finding{}
	lastSeen := map[key]int{} // index of the backup that had it, the oldest so far
	for i, damage := range found {
		here := Backed{list[i].ID, startOf(list[i])}
		for _, d := range damage {
			k := key{d.Path, d.Doc, d.What}
			n, known := at[k]
			switch {
			case known && lastSeen[k] == i-1:
				out[n].Since = here
				lastSeen[k] = i
			case known: // it had healed in between
			case len(out) < mostFindings:
				at[k], lastSeen[k] = len(out), i
				out = append(out, Finding{Database: repo.DatabaseName(d.Path), Document: d.Doc, Path: d.Path, What: d.What, Error: d.Error, Now: i == 0, Since: here, Last: here})
			}
		}
	}
	for k, n := range at {
		if i := lastSeen[k] + 1; i < len(list) {
			out[n].Whole = &Backed{list[i].ID, startOf(list[i])}
		}
	}
	slices.SortStableFunc(out, func(a, b Finding) int {
		if a.Now != b.Now {
			if a.Now {
				return -1
			}
			return 1
		}
		return cmp.Or(cmp.Compare(a.Database, b.Database), cmp.Compare(a.Document, b.Document), cmp.Compare(a.Path, b.Path))
	})
	return out
}

func startOf(b *job.Backup) time.Time { return b.MadeAt().UTC() }
