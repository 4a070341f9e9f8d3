package contents

import (
	"context"
	"time"

	"github.com/slipcover/slipcover/internal/job"
	"github.com/slipcover/slipcover/internal/states"
)

// Moments is what can be had back of an instance.
type Moments struct {
	Windows   []Window       `json:"windows"`
	Gaps      []Gap          `json:"gaps"`
	Notes     []string       `json:"notes"`
	Backups   []Backup       `json:"backups"` // the newest first
	More      bool           `json:"more"`    // backups, behind these
	Databases []DatabaseLife `json:"databases,omitempty"`
}

// Window is a time in which moments follow each other without a gap, or one of which only backups are left.
type Window struct {
	From    time.Time `json:"from"`
	To      time.Time `json:"to"`
	Kind    string    `json:"kind"` // shipped or backups
	Moments int       `json:"moments"`
	Backups int       `json:"backups"`
	Exact   float64   `json:"exact_seconds,omitempty"`
}

// Gap is a time without moments.
type Gap struct {
	From time.Time `json:"from"`
	To   time.Time `json:"to,omitzero"` // missing where nothing is behind it
	Why  string    `json:"why"`
}

// Backup is one that can be opened.
type Backup struct {
	ID        string     `json:"id"`
	Name      string     `json:"name"`
	Type      string     `json:"type,omitempty"`
	Started   time.Time  `json:"started"`
	Finished  *time.Time `json:"finished,omitempty"`
	SizeBytes int64      `json:"size_bytes"`
	Damage    int        `json:"damage"`
	Schedule  string     `json:"schedule,omitempty"`
	Proof     *job.Proof `json:"proof,omitempty"`
}

// DatabaseLife is what happened to a database.
type DatabaseLife struct {
	Name    string          `json:"name"`
	First   time.Time       `json:"first"`
	Last    time.Time       `json:"last_commit"`
	There   bool            `json:"there"`
	Commits int             `json:"commits"`
	Events  []DatabaseEvent `json:"events"`
}

// DatabaseEvent is that it was made, dropped, made anew, compacted, split or went back.
type DatabaseEvent struct {
	At     time.Time `json:"at"`
	What   string    `json:"what"`
	Shards int       `json:"shards"`
	Note   string    `json:"note,omitempty"`
}

// MomentsQuery says which moments. Zero times are no bounds.
type MomentsQuery struct {
	From, To  time.Time
	Databases string // a glob: what happened to these is told, too, which reads the manifests of all backups
	Page             // of backups
}

// within reports whether a time of any length has to do with the query; a zero end is none.
func (q *MomentsQuery) within(from, to time.Time) bool {
	return (q.To.IsZero() || !from.After(q.To)) && (q.From.IsZero() || to.IsZero() || !to.Before(q.From))
}

// LookMoments lists what can be had back of an instance, but for the backups, which the catalog has: see Fill.
var LookMoments = newLook("moments", (*Reader).moments)

func (r *Reader) moments(ctx context.Context, of *states.Shelf, q MomentsQuery) (*Moments, error) {
	q.fill()
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
	var wanted func(string) bool
	if q.Databases != "" {
		wanted = glob(q.Databases)
	}
	p, err := v.Repo.Points(ctx, v.Name, wanted)
	if err != nil {
		return nil, fault(ctx, err)
	}
	out := &Moments{Windows: []Window{}, Gaps: []Gap{}, Notes: append([]string{}, p.Notes[max(0, len(p.Notes)-MostLimit):]...), Backups: []Backup{}}
	for _, w := range p.Windows {
		if q.within(w.From, w.To) {
			kind := "backups"
			if w.Shipped {
				kind = "shipped"
			}
			out.Windows = append(out.Windows, Window{w.From.UTC(), w.To.UTC(), kind, w.Moments, w.Backups, w.Every.Seconds()})
		}
	}
	for _, g := range p.Gaps {
		if q.within(g.From, g.To) {
			x := Gap{From: g.From.UTC(), Why: g.Why}
			if !g.To.IsZero() {
				x.To = g.To.UTC()
			}
			out.Gaps = append(out.Gaps, x)
		}
	}
	for _, d := range p.Databases {
		x := DatabaseLife{d.DB, d.First.UTC(), d.Last.UTC(), d.There, d.Commits, []DatabaseEvent{}}
		for _, e := range d.Events {
			if q.within(e.At, e.At) {
				x.Events = append(x.Events, DatabaseEvent{e.At.UTC(), string(e.What), e.Shards, e.Note})
			}
		}
		out.Databases = append(out.Databases, x)
	}
	return out, nil
}

// Fill adds a page of the backups of a query.
func (x *Moments) Fill(of *states.Shelf, q MomentsQuery) {
	q.fill()
	x.Backups = []Backup{}
	for _, b := range of.Beside(of.Backups[0]) {
		if y := viewBackup(b); q.within(y.Started, y.Started) {
			x.Backups = append(x.Backups, y)
		}
	}
	x.Backups, x.More = cut(x.Backups, q.Page)
}

func viewBackup(b *job.Backup) Backup {
	return Backup{ID: b.ID, Name: b.Name, Type: b.Type, Started: startOf(b), Finished: b.Finished, SizeBytes: b.Size, Damage: b.Damage, Schedule: b.Schedule, Proof: b.Proof}
}
