package web

import (
	"math"
	"strconv"
	"time"

	"github.com/slipcover/slipcover/internal/job"
)

// miniFor is how much of the past the small time lines of the overview show.
const miniFor = 14 * 24 * time.Hour

// mini is a small time line: what was backed up and shipped in the last days. Positions are
// per cent, heights pixels of 24.
type mini struct {
	Spines []spine
	Ship   *span // what was shipped without a gap
	Lag    *span // and what isn't yet
	Label  string
}

type spine struct {
	X    string
	Y, H int
}

type span struct{ X, Width string }

// minis are the small time lines of some instances, by id.
func (c *call) minis(list []*state) map[string]*mini {
	now := c.now()
	from := now.Add(-miniFor)
	out := map[string]*mini{}
	backups := map[string][]*job.Backup{}
	for _, i := range list {
		backups[i.ID] = nil
	}
	c.o.Server.EachBackup(c.who, c.all(), func(b *job.Backup) bool {
		if b.Updated.Before(from) {
			return false
		}
		if _, ok := backups[b.Instance]; ok && b.Status.Usable() {
			backups[b.Instance] = append(backups[b.Instance], b)
		}
		return true
	})
	for _, i := range list {
		m := &mini{Label: i.Name + ": " + plural(len(backups[i.ID]), "backup", "backups") + " in 14 days"}
		most := int64(1)
		for _, b := range backups[i.ID] {
			most = max(most, b.Stored)
		}
		for _, b := range backups[i.ID] {
			at := b.Updated
			if b.Finished != nil {
				at = *b.Finished
			}
			if at.Before(from) || at.After(now) {
				continue
			}
			h := 4 + int(math.Round(9*math.Log1p(float64(max(b.Stored, 0)))/math.Log1p(float64(most))))
			m.Spines = append(m.Spines, spine{percent(at, from, now), 13 - h, h})
		}
		if s := i.Ship; s != nil && !s.Newest.IsZero() && s.Newest.After(from) {
			begin := s.Window
			if begin.Before(from) {
				begin = from
			}
			m.Ship = between(begin, s.Newest, from, now)
			m.Label += ", shipped"
			if i.Behind {
				m.Lag = between(s.Newest, now, from, now)
				m.Label += " until " + Ago(s.Newest, now)
			}
		}
		out[i.ID] = m
	}
	return out
}

// percent is where a time is between two others. Five per cent are left for what is to come.
func percent(t, from, to time.Time) string {
	return number3(95 * t.Sub(from).Seconds() / to.Sub(from).Seconds())
}

func between(a, b, from, to time.Time) *span {
	return &span{percent(a, from, to), number3(max(0.4, 95*b.Sub(a).Seconds()/to.Sub(from).Seconds()))}
}

func number3(v float64) string { return strconv.FormatFloat(v, 'f', 2, 64) + "%" }
