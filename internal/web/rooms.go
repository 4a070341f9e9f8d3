package web

import (
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/slipcover/slipcover/internal/server"
)

// roomRow is the room in the place of a repository, in words.
type roomRow struct {
	*server.RoomInfo
	Place string // as a reader calls it: /mnt/vault
	Left  string // "12.3 GB of 500 GB left"
	Pill  *pill  // nil if all is well
	Note  string // "about 9 days", if it will be full
}

const (
	// fullSoon is how long before it is full a repository needs somebody, fullNow how long before that is urgent.
	fullSoon = 30 * 24 * time.Hour
	fullNow  = 3 * 24 * time.Hour
	// leastRoom is which part of the room must be left in any case.
	leastRoom = 0.02
)

// rooms are those that agents tell of, the one first that is full first. They are worked out once for a page.
func (c *call) rooms() []roomRow {
	if c.roomy != nil {
		return c.roomy
	}
	c.roomy = []roomRow{}
	for _, r := range c.o.Server.Rooms(c.who, c.all()) {
		c.roomy = append(c.roomy, c.roomRow(r))
	}
	return c.roomy
}

func (c *call) roomRow(r *server.RoomInfo) roomRow {
	row := roomRow{RoomInfo: r, Place: placeOf(r.URL), Left: Bytes(r.Free) + " of " + Bytes(r.Total) + " left"}
	left := r.Full.Sub(c.now())
	if !r.Full.IsZero() && left < 366*24*time.Hour {
		row.Note = "full in about " + aboutDays(left)
	}
	switch {
	case float64(r.Free) < leastRoom*float64(r.Total):
		row.Pill = &pill{"bad", "Almost full"}
	case r.Full.IsZero():
	case left < fullNow:
		row.Pill = &pill{"bad", "Almost full"}
	case left < fullSoon:
		row.Pill = &pill{"warn", "Full soon"}
	}
	return row
}

// aboutDays is a length of time that nobody knows exactly.
func aboutDays(d time.Duration) string {
	switch days := int(d.Hours()/24 + 0.5); {
	case days < 1:
		return "a day"
	case days < 60:
		return plural(days, "day", "days")
	default:
		return plural(days/30, "month", "months")
	}
}

// placeOf is a URL as a reader calls the place: a folder by its path.
func placeOf(text string) string {
	u, err := url.Parse(text)
	if err == nil && u.Scheme == "file" {
		return u.Path
	}
	return text
}

// roomTrouble are the repositories that need somebody.
func (c *call) roomTrouble() (out []trouble) {
	for _, r := range c.rooms() {
		if r.Pill == nil || !r.Online {
			continue
		}
		what := "the repository in "
		if r.Copy {
			what = "the copy in "
		}
		t := trouble{Level: r.Pill.State, Icon: r.Pill.Icon(), Name: r.Place, To: "/space#rp", Step: "Look at space",
			Text: r.Left + of(r.Agents) + "."}
		if r.Full.IsZero() {
			t.Head = "Almost full: " + what + r.Place + "."
			t.Text += " Backups fail when it is full."
		} else {
			t.Head = fmt.Sprintf("Soon: %s%s is full in about %s.", what, r.Place, aboutDays(r.Full.Sub(c.now())))
			t.Text += fmt.Sprintf(" %s a day went there since %s, whoever took it. Backups fail when it is full: make room, or keep fewer.", Bytes(r.Grows), r.Since.In(c.set.zone).Format("2 January"))
		}
		out = append(out, t)
	}
	return out
}

// of names the agents that use a repository.
func of(agents []string) string {
	switch {
	case len(agents) == 0:
		return ""
	case len(agents) > 3:
		return ", used by " + plural(len(agents), "agent", "agents")
	}
	return ", used by " + strings.Join(agents, ", ")
}
