package core

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/slipcover/slipcover/internal/manifest"
	"github.com/slipcover/slipcover/internal/restore"
)

// SummaryJSON is a backup in the output of all commands.
type SummaryJSON struct {
	manifest.Summary
	Writer string `json:"writer,omitempty"` // public key of the node that signed it
}

// SummaryOf is a record's.
func SummaryOf(r *manifest.Record) SummaryJSON { return SummaryJSON{r.Summary, r.Writer} }

// PrintGrouped groups paths by reason, the largest group first.
func PrintGrouped(w io.Writer, word string, list []manifest.LeftOut, verbose bool) {
	byReason := map[string][]string{}
	var reasons []string
	for _, l := range list {
		if byReason[l.Reason] == nil {
			reasons = append(reasons, l.Reason)
		}
		byReason[l.Reason] = append(byReason[l.Reason], l.Path)
	}
	slices.SortStableFunc(reasons, func(a, b string) int { return cmp.Compare(len(byReason[b]), len(byReason[a])) })
	for _, reason := range reasons {
		paths := byReason[reason]
		line := fmt.Sprintf("%s: %s", word, Clean(paths[0]))
		if len(paths) > 1 {
			line = fmt.Sprintf("%s: %s", word, Count(len(paths), "path"))
			if !verbose {
				line += ", such as " + Clean(paths[0])
			}
		}
		if reason != "" {
			line += ": " + Clean(reason)
		}
		fmt.Fprintln(w, line)
		if verbose && len(paths) > 1 {
			for _, p := range paths {
				fmt.Fprintf(w, "  %s\n", Clean(p))
			}
		}
	}
}

// DamageText says where the damage is, what it is and what it hurts.
func DamageText(d manifest.Damage) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s at %d", Clean(d.Path), d.Offset)
	if d.Doc != "" {
		fmt.Fprintf(&b, ", document %s", Clean(d.Doc))
	}
	if d.Rev != "" {
		fmt.Fprintf(&b, " rev %s", d.Rev)
	}
	fmt.Fprintf(&b, ": %s", Clean(d.What))
	// The cause of a CorruptError repeats what and where.
	if d.Error != "" && d.Error != d.What && !strings.Contains(d.Error, fmt.Sprintf(" at %d: ", d.Offset)) {
		fmt.Fprintf(&b, ": %s", Clean(d.Error))
	}
	return b.String()
}

// VerifyJSON is what verifying a backup tells.
type VerifyJSON struct {
	OK     bool        `json:"ok"`
	Backup SummaryJSON `json:"backup"`
	*restore.VerifyReport
	Took    float64      `json:"took_seconds"`
	NoNS    *struct{}    `json:"took_ns,omitempty"` // hides the report's
	Storage *TrafficJSON `json:"storage"`
}
