package web

import (
	"strings"
	"time"

	"github.com/slipcover/slipcover/internal/access"
	"github.com/slipcover/slipcover/internal/job"
)

// moreMenu is what else can be done with a backup, each with what it costs or frees. Addresses are empty of what isn't offered.
type moreMenu struct {
	ID                                 string // of the backup; "" is no menu
	Instance                           string
	At                                 time.Time
	Prove, Pin, Unpin, Restore, Delete string
	PinText, RestoreText, DeleteText   string
	Pinning, Closed                    string // why neither Pin nor Unpin is offered, or no deletion
}

func (c *call) moreOf(b *job.Backup, instance string) moreMenu {
	if !c.who.May(access.Operator) || !b.Status.Usable() {
		return moreMenu{}
	}
	m := moreMenu{ID: b.ID, Instance: instance, At: b.MadeAt(), Prove: pathOf("backups", b.ID, "prove"), Restore: pathOf("backups", b.ID, "restore"),
		DeleteText: "Frees at most " + Bytes(b.Stored) + "; says first what depends on it, and asks for its name", PinText: "Nothing deletes it until it is unpinned; asks for the reason"}
	switch {
	case b.Pinning != "":
		m.Pinning = pinningWords(b)
	case b.Pin != nil:
		m.Unpin, m.PinText = pathOf("backups", b.ID, "unpin"), "Pinned: "+b.Pin.Reason+". Unpinned, retention decides about it again"
	default:
		m.Pin = pathOf("backups", b.ID, "pin")
	}
	if b.Held() {
		m.Closed = "Refused: it is pinned. Unpin it, then this opens"
	} else {
		m.Delete = pathOf("backups", b.ID, "delete")
	}
	return m
}

// pinningWords says that a pin is under way.
func pinningWords(b *job.Backup) string {
	if b.Pin != nil {
		return "Its pin is being changed: the job says how far that is. Until then nothing deletes it"
	}
	return "It is being pinned: the job says how far that is. Nothing here deletes it from now on"
}

// pinPage asks for a reason.
type pinPage struct {
	listedBackup
	Reason, Problem string
	Points          []point
}

func (c *call) pinForm(b *job.Backup, who *access.Caller) pinPage {
	p := pinPage{listedBackup: c.listBackup(b, c.names()), Reason: strings.TrimSpace(c.r.FormValue("reason"))}
	if p.Reason == "" && b.Pin != nil {
		p.Reason = b.Pin.Reason
	}
	p.Points = []point{{"ok", "ok", "No retention and no deletion removes it,", "here or on the command line, until it is unpinned. That is a mark in the repository, which its agent sets."}}
	if set := c.setOf(b, who); set != nil {
		p.Points = append(p.Points, point{"ok", "ok", "All of its set stays with it:", "the " + plural(len(set.Members), "backup", "backups") + " of " + set.Name + ", of the cluster " + set.Cluster + "."})
	}
	p.Points = append(p.Points, point{"info", "info", "What it needs stays stored:", "it added " + Bytes(b.Stored) + ", and shares the rest with other backups. It counts for the rules like all others, so no other goes or stays for it."},
		point{"info", "info", "Who can write in the storage can unpin it.", "Object Lock (immutable_for) protects against that, where the storage has it."})
	return p
}

func (c *call) askPin() (*answer, error) {
	b, who, err := c.findBackup()
	if err != nil {
		return nil, err
	}
	return c.page("Pin backup", "backup-pin", c.pinForm(b, who)), nil
}

func (c *call) pinBackup() (*answer, error) {
	b, who, err := c.findBackup()
	if err != nil {
		return nil, err
	}
	_, err = c.o.Server.Pin(c.r.Context(), who, b.ID, strings.TrimSpace(c.r.FormValue("reason")))
	if problem, ok := theirs(err); ok {
		p := c.pinForm(b, who)
		p.Reason, p.Problem = c.r.FormValue("reason"), problem
		return c.again("Pin backup", "backup-pin", p), nil
	}
	if err != nil {
		return nil, err
	}
	return c.see(pathOf("backups", b.ID), "The backup is being pinned. From now on nothing here deletes it."), nil
}

func (c *call) unpinBackup() (*answer, error) {
	b, who, err := c.findBackup()
	if err != nil {
		return nil, err
	}
	_, err = c.o.Server.Unpin(c.r.Context(), who, b.ID)
	if problem, ok := theirs(err); ok {
		return c.see(pathOf("backups", b.ID), problem), nil
	}
	if err != nil {
		return nil, err
	}
	return c.see(pathOf("backups", b.ID), "The backup is being unpinned."), nil
}
