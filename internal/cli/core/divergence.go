package core

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/slipcover/slipcover/internal/cluster"
	"github.com/slipcover/slipcover/internal/diverge"
)

// NamesShown is how many documents of each kind are named where people read what differs.
const NamesShown = 10

// PrintDivergence tells what the copies of a range disagree about: in numbers, and the first documents of each kind by name.
func PrintDivergence(w io.Writer, d *cluster.Divergence) error {
	if _, err := fmt.Fprintf(w, "%s %s: %s\n", Clean(d.Database), d.Range, strings.Join(headline(d), ", ")); err != nil {
		return err
	}
	if d.Report != nil {
		if err := printCopies(w, d.Report); err != nil {
			return err
		}
	}
	for _, n := range d.NotCompared {
		if _, err := fmt.Fprintf(w, "not compared: %s: %s\n", Clean(n.Node), Clean(n.Why)); err != nil {
			return err
		}
	}
	return nil
}

// Differ is the verb of so many.
func Differ(n uint64) string {
	if n == 1 {
		return "differs"
	}
	return "differ"
}

// headline says in short what differs.
func headline(d *cluster.Divergence) []string {
	r := d.Report
	if r == nil {
		return []string{"not compared"}
	}
	of := func(n, all uint64, noun string) string {
		return fmt.Sprintf("%d of %s %s", n, Count(int(all), noun), Differ(n))
	}
	out := []string{of(r.Different, r.Documents, "document")}
	if r.Local.Different > 0 {
		out = append(out, of(r.Local.Different, r.Local.Documents, "local document"))
	}
	for _, s := range r.Settings {
		out = append(out, s.Name+" differs")
	}
	if n := r.Unread + r.Local.Unread; n > 0 {
		out = append(out, fmt.Sprintf("%d could not be compared everywhere", n))
	}
	return out
}

// kinds are what a report lists of a copy, in the words of the tables.
var kinds = []struct {
	head string
	list func(*diverge.CopyReport) diverge.List
}{
	{"MISSING", func(c *diverge.CopyReport) diverge.List { return c.Missing }},
	{"BEHIND", func(c *diverge.CopyReport) diverge.List { return c.Behind }},
	{"PURGED", func(c *diverge.CopyReport) diverge.List { return c.Purged }},
	{"ONLY HERE", func(c *diverge.CopyReport) diverge.List { return c.Only }},
	{"LOCAL MISSING", func(c *diverge.CopyReport) diverge.List { return c.LocalMissing }},
	{"LOCAL DIFFERS", func(c *diverge.CopyReport) diverge.List { return c.LocalDiffers }},
}

const onlyHere = 3 // of kinds

func printCopies(w io.Writer, r *diverge.Report) error {
	head := []string{"NODE", "DOCUMENTS"}
	var shown []int
	for i, k := range kinds {
		if slices.ContainsFunc(r.Copies, func(c diverge.CopyReport) bool { return k.list(&c).Count > 0 }) {
			head, shown = append(head, k.head), append(shown, i)
		}
	}
	unread := slices.ContainsFunc(r.Copies, func(c diverge.CopyReport) bool { return c.Unread > 0 })
	if unread {
		head = append(head, "UNREAD")
	}
	var rows, names [][]string
	for i := range r.Copies {
		c := &r.Copies[i]
		row := []string{c.Node, Num(c.Documents)}
		for _, k := range shown {
			list := kinds[k].list(c)
			row = append(row, Num(list.Count))
			if k != onlyHere || len(r.Copies) > 2 { // of two the other one lacks them
				names = append(names, namesOf(c.Node, strings.ToLower(kinds[k].head), list)...)
			}
		}
		if unread {
			row = append(row, Num(c.Unread))
		}
		rows = append(rows, row)
	}
	if err := Table(w, head, rows); err != nil {
		return err
	}
	if len(names) > 0 {
		if err := Table(w, []string{"NODE", "WHAT", "DOCUMENT", "REVISIONS"}, names); err != nil {
			return err
		}
	}
	for _, s := range r.Settings {
		for i, v := range s.Values {
			if v == nil {
				v = json.RawMessage("can't be read")
			}
			if _, err := fmt.Fprintf(w, "%s of %s: %s\n", s.Name, Clean(r.Copies[i].Node), Clean(string(v))); err != nil {
				return err
			}
		}
	}
	return printDamage(w, r)
}

func namesOf(node, what string, l diverge.List) [][]string {
	var rows [][]string
	shown := l.First[:min(len(l.First), NamesShown)]
	for _, d := range shown {
		rows = append(rows, []string{node, what, d.ID, strings.Join(d.Revs, ", ")})
	}
	if more := l.Count - uint64(len(shown)); more > 0 {
		rows = append(rows, []string{node, what, "...", fmt.Sprintf("and %d more", more)})
	}
	return rows
}

func printDamage(w io.Writer, r *diverge.Report) error {
	for _, c := range r.Copies {
		for i, d := range c.Damage {
			if i == NamesShown {
				break
			}
			where := ""
			switch {
			case d.After != "" && d.Last != "":
				where = fmt.Sprintf(" behind %s up to %s", d.After, d.Last)
			case d.After != "":
				where = " behind " + d.After
			case d.Last != "":
				where = " up to " + d.Last
			}
			if _, err := fmt.Fprintf(w, "can't be read: %s of %s%s: %s\n", Clean(d.Part), Clean(c.Node), Clean(where), Clean(d.Error)); err != nil {
				return err
			}
		}
		if more := int(c.Damaged) - min(len(c.Damage), NamesShown); more > 0 {
			if _, err := fmt.Fprintf(w, "can't be read: %s of %s\n", Count(more, "more part"), Clean(c.Node)); err != nil {
				return err
			}
		}
	}
	return nil
}
