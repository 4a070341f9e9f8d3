package web

import (
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/slipcover/slipcover/internal/contents"
	"github.com/slipcover/slipcover/internal/states"
	"github.com/slipcover/slipcover/internal/words"
)

// oneBytes is where the bytes of one database are, by the newest backup of its instance.
type oneBytes struct {
	Name    string
	Asked   bool
	Note    string // why it can't be told
	Partly  string // what was not looked at
	At      time.Time
	Size    int64
	Kinds   []bytesKind
	Label   string // of the bar
	Leaves  int64  // about what a compaction leaves
	Frees   int64
	Indexes []indexRow
	Index   string // in a sentence
	To      string // its page in the moment
}

// bytesKind is one of those that the bytes of a database are of.
type bytesKind struct {
	Class, Name, What string
	Bytes             int64
	Share, X, Width   string // per cent
}

type indexRow struct {
	Name, What  string
	Size, Frees int64
}

// fillOne looks where the bytes of the database are that is asked for: that takes a walk through its trees.
func (c *call) fillOne(d *spaceData) {
	name := strings.TrimSpace(c.r.URL.Query().Get("db"))
	d.One = &oneBytes{Name: name, Asked: name != ""}
	if name == "" {
		return
	}
	who, err := c.as(d.Chosen.ID)
	if err != nil {
		return
	}
	x, err := c.reader.Space(c.r.Context(), who, d.Chosen.ID, states.State{Backup: "latest"}, name)
	if err != nil {
		d.One.Note = sentenceOf(err)
		return
	}
	d.One.fill(x)
	if c.has("/instances/{id}/moment") {
		d.One.To = pathOf("instances", d.Chosen.ID, "moment") + "?" + url.Values{"s": {"latest"}, "db": {name}}.Encode()
	}
}

func (o *oneBytes) fill(x *contents.DatabaseSpace) {
	o.At, o.Size, o.Leaves, o.Frees = x.State.State, x.FileBytes, x.LiveBytes(), x.OldBytes()
	from := 0.0
	var label []string
	for _, k := range []bytesKind{
		{Class: "f1", Name: "Live documents", What: "the revisions that win, without attachments", Bytes: x.DocumentBytes},
		{Class: "f2", Name: "Attachments", What: "of these revisions", Bytes: x.AttachmentBytes},
		{Class: "f4", Name: "Conflicts", What: "revisions that did not win and were not resolved, with their attachments", Bytes: x.ConflictBytes},
		{Class: "f5", Name: "Tombstones", What: "what is kept of deleted documents", Bytes: x.TombstoneBytes},
		{Class: "f6", Name: "Trees", What: "by id and by sequence, with revision histories, local documents and purges", Bytes: x.TreeBytes},
		{Class: "bg", Name: "Not looked at", What: "live, but the time for a look was over", Bytes: x.UnreadBytes},
		{Class: "f3", Name: "Superseded revisions", What: "that were replaced, as far as the trees still name them: a compaction frees them", Bytes: x.OldRevisionBytes},
		{Class: "f3", Name: "Superseded trees, and the rest", What: "earlier states of the trees, their headers, and what nothing names any more: a compaction frees it", Bytes: x.OldOtherBytes},
	} {
		if k.Class == "bg" && k.Bytes == 0 {
			continue
		}
		share := 0.0
		if x.FileBytes > 0 {
			share = 100 * float64(k.Bytes) / float64(x.FileBytes)
		}
		k.Share, k.X, k.Width = percentOf(share), fmt.Sprintf("%.3f%%", from), fmt.Sprintf("%.3f%%", share)
		from += share
		label = append(label, strings.ToLower(k.Name)+" "+k.Share)
		o.Kinds = append(o.Kinds, k)
	}
	o.Label = o.Name + ": " + strings.Join(label, ", ")
	switch {
	case x.Problem != "":
		o.Partly = words.UpperFirst(x.Problem) + "."
	case !x.Complete:
		o.Partly = fmt.Sprintf("Of %s documents, %s were looked at before the time for it was over: the rest is in “Not looked at”.", Number(int(x.Documents)), Number(int(x.Looked)))
	case x.MissingShards > 0:
		o.Partly = plural(x.MissingShards, "shard was", "shards were") + " missing on the node: it is of the others."
	}
	for _, i := range x.Indexes {
		row := indexRow{Name: strings.Join(i.Designs, ", "), Size: i.FileBytes, Frees: i.FileBytes - i.LiveBytes}
		if row.Name == "" {
			row.Name, row.What = i.Signature, "of no design document as it is now: a view cleanup frees all of it"
		}
		o.Indexes = append(o.Indexes, row)
	}
	switch {
	case x.NoIndexes:
		o.Index = "The backup has no indexes: they aren't backed up, or there are none."
	case len(x.Indexes) == 0:
		o.Index = "It has no indexes."
	}
}

// percentOf is a share in words: 12 %, and what is little but there isn't 0 %.
func percentOf(v float64) string {
	switch {
	case v > 0 && v < 0.5:
		return "< 1 %"
	case v < 100 && v >= 99.5:
		return "> 99 %"
	}
	return fmt.Sprintf("%.0f %%", v)
}
